"""What a command and a page cost as the number of models grows: nothing more.

A warehouse of boxes, each on a shelf, with everything that has to be kept when one changes: a unique index,
an index, a filtered and an ordered view, and who refers to whom. Kept in memory, so that only Klerk's own
work is measured. Of every warehouse 1,000 boxes are changed, spread over all: what differs is how many others
there are. One contender changes all of a million, which the processor's caches do not hold.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from benches.harness import Contender, Sample, Workspace
from klerk import App, Args, Context, Klerk, Model, Ref, System

GROUP_SIZE = 100
PAGE_LENGTH = 50
PER_SHELF = 20
WORKING_SET = 1_000
BUILD_TRANSACTION = 10_000
_SEED = 2
# Authorization costs the same at every size; the system is not asked.
KEEPER = Context(System("bench"))


class Shelf(Model):
    number: int


class Box(Model):
    code: str
    weight: int
    owner: int
    shelf: Ref[Shelf]


class Warehouse:
    """The declared application."""

    def __init__(self) -> None:
        self.app = App("warehouse")
        shelves, boxes = self.app.machine(Shelf), self.app.machine(Box)
        (there,) = shelves.states("there")
        stored, moved = boxes.states("stored", "moved")
        boxes.index(lambda box: box.code, unique=True)
        boxes.index(lambda box: box.owner)
        boxes.where(lambda box: box.weight > 500)
        self.by_weight = boxes.order("weight")

        @shelves.create(into=there)
        def build(a: Args, number: int) -> Shelf:
            return Shelf(number=number)

        @boxes.create(into=stored)
        def store(a: Args, code: str, weight: int, owner: int, shelf: Ref[Shelf]) -> Box:
            return Box(code=code, weight=weight, owner=owner, shelf=shelf)

        @boxes.event(stored, to=moved)
        def move(a: Args[Box], weight: int, shelf: Ref[Shelf]) -> Box:
            return a.model.replace(weight=weight, shelf=shelf)

        moved.on(move).to(stored)
        self.build, self.store, self.move = build, store, move


@contextmanager
def _filled(workspace: Workspace, boxes: int) -> Iterator[tuple[Warehouse, Klerk, list[Any], list[Any]]]:
    """A warehouse in memory, with the references of its shelves and boxes."""
    warehouse, random = Warehouse(), Random(_SEED)
    with warehouse.app.open() as k:
        shelf_count = boxes // PER_SHELF
        built = k.handle_all([warehouse.build(number) for number in range(shelf_count)], KEEPER)
        shelves = [result.id for result in built]
        ids: list[Any] = []
        for first in range(0, boxes, BUILD_TRANSACTION):
            numbers = range(first, min(first + BUILD_TRANSACTION, boxes))
            stored = k.handle_all(
                [
                    warehouse.store(f"box {n}", random.randrange(1_000), n % 1_000, random.choice(shelves))
                    for n in numbers
                ],
                KEEPER,
            )
            ids += [result.id for result in stored]
            workspace.announce(f"klerk: filling {numbers.stop:,}/{boxes:,}")
        yield warehouse, k, shelves, ids


def command(boxes: int, *, changed: int = WORKING_SET) -> Contender:
    """Commands that change a state, a reference, and what every index and view goes by, in transactions.

    Parameters:
        changed: how many boxes are changed, spread evenly over all.
    """

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        with _filled(workspace, boxes) as (warehouse, k, shelves, ids):
            random = Random(_SEED)
            ids, shelves = ids[:: boxes // changed], shelves[:: boxes // changed]

            def sample(operations: int) -> None:
                for _ in range(operations // GROUP_SIZE):
                    k.handle_all(
                        [
                            warehouse.move(
                                random.choice(ids), random.randrange(1_000), random.choice(shelves)
                            )
                            for _ in range(GROUP_SIZE)
                        ],
                        KEEPER,
                    )

            yield sample

    return contender


def page(boxes: int) -> Contender:
    """A page from the middle of an ordered view, and the boxes on a shelf."""

    @contextmanager
    def contender(workspace: Workspace) -> Iterator[Sample]:
        with _filled(workspace, boxes) as (warehouse, k, shelves, _):
            random = Random(_SEED)
            with k.read(KEEPER) as r:
                # A cursor half-way through: pages in front of it are not read.
                ahead = r.query(warehouse.by_weight, limit=min(10_000, boxes // 2))

            def sample(operations: int) -> None:
                with k.read(KEEPER) as r:
                    for _ in range(operations):
                        r.query(warehouse.by_weight, limit=PAGE_LENGTH, after=ahead.next)
                        r.related(random.choice(shelves), Box.shelf)

            yield sample

    return contender
