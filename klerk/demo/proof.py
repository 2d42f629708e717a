"""What a store holds, so that two moments can be compared: every model, its state and meta, and all jobs."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

import klerk
from klerk.demo import design
from klerk.demo.show import Column, Row, Table

# Digests are compared whole; so many digits of them are shown.
SHOWN_DIGITS = 10

_MACHINES: Mapping[str, klerk.Machine[Any]] = {
    "airlines": design.airline,
    "airports": design.airport,
    "planes": design.plane,
    "flights": design.flight,
    "notices": design.notice,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Digests of the models, and counts, by machine and state; counts of jobs by state."""

    digests: Mapping[str, str]
    counts: Mapping[str, int]
    jobs: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was compared: what it was before, and after."""

    what: str
    before: str
    after: str

    @property
    def is_same(self) -> bool:
        """Whether nothing changed."""
        return self.before == self.after


def snapshot(k: klerk.Klerk, context: klerk.Context) -> Snapshot:
    """Read every model, in one consistent moment, and count the jobs."""
    digests, counts = {}, {}
    with k.read(context) as r:
        for name, machine in _MACHINES.items():
            for state in machine.all_states:
                models = r.list(state)
                digests[f"{name}, {state.name}"] = _digest(models)
                counts[f"{name}, {state.name}"] = len(models)
    # Those that ended are counted whether or not they are kept.
    jobs = {**k.jobs.counts(), **k.jobs.totals()}
    return Snapshot(
        digests=digests, counts=counts, jobs={state.value: count for state, count in jobs.items()}
    )


def compare(before: Snapshot, after: Snapshot) -> list[Check]:
    """Return one check for each kind of model in each state, and for the jobs in each state."""
    checks = [
        Check(
            what=what,
            before=f"{before.counts[what]:,} {before.digests[what]}",
            after=f"{after.counts[what]:,} {after.digests[what]}",
        )
        for what in before.digests
    ]
    for state in sorted(before.jobs.keys() | after.jobs.keys()):
        was, became = before.jobs.get(state, 0), after.jobs.get(state, 0)
        if was or became:
            checks.append(Check(what=f"jobs, {state}", before=f"{was:,}", after=f"{became:,}"))
    return checks


def table_of(title: str, checks: list[Check]) -> Table:
    """Return the checks as a table."""
    rows = [
        Row(
            cells=[check.what, _short(check.before), _short(check.after), _verdict(check)],
            style="" if check.is_same else "bold red",
        )
        for check in checks
    ]
    columns = [Column(heading=heading) for heading in ("What", "Before", "After", "")]
    return Table(title=title, columns=columns, rows=rows)


def _short(found: str) -> str:
    """Return a count and the first digits of a digest, if there is one."""
    count, _, digest = found.partition(" ")
    return f"{count} {digest[:SHOWN_DIGITS]}".rstrip()


def _verdict(check: Check) -> str:
    return "same" if check.is_same else "DIFFERENT"


def _digest(models: Sequence[klerk.Model]) -> str:
    """Return a digest of the models with their ids, states, versions and times, in whatever order."""
    digest = hashlib.sha256()
    for model in sorted(models, key=lambda model: model.meta.id):
        meta = model.meta
        moments = (meta.created_at, meta.updated_at, meta.entered_at)
        content = (meta.id, meta.state.name, meta.version, moments, model.as_dict())
        digest.update(msgspec.msgpack.encode(content))
    return digest.hexdigest()
