"""Running migrations when a store is opened: everything is tried in memory before anything is written.

1. All models and the jobs that have not ended are loaded, brought up to date, and held against the declared
   types, the rules of their classes, unique indexes and references. Every problem is collected.
2. When there is none, one write replaces the catalog. From then on the store has the new version.
3. Old records are stored anew in small batches. This may end at any point: each record says what version it
   has, loading brings those up to date that are still old, and the next opening goes on.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import msgspec

from klerk import limits
from klerk._dispatch import ClassPlan, RefField, microseconds
from klerk._image import outdated
from klerk._table import IdSet
from klerk.codec import CATALOG_KEY, encode, write_catalog
from klerk.errors import FunctionFailed, KlerkError, MigrationFailed, Problem, SchemaChanged, listed
from klerk.job_manager.job_rows import DUE, READY, JobRows, scan_rows
from klerk.jobs import JobRecord
from klerk.migration.schema import Plan
from klerk.migration.upcasting import JobUpcaster
from klerk.processing import Clock, Program
from klerk.storage.contract import Delete, Family, Put, Storage
from klerk.values import Model

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done and how much there is (0: not known)."""


class Migrating:
    """The opening of one store with a design.

    Parameters:
        storage: with its families up to the end of the commit log.
        program: which the models are loaded into.
        plan: what the design changes.
        rows: stores jobs.

    Attributes:
        job_up_to_date: gives a stored job that has not ended as the design has it; see `JobUpcaster.upcast`.
    """

    def __init__(self, storage: Storage, program: Program, plan: Plan, rows: JobRows) -> None:
        self._storage = storage
        self._program = program
        self._plan = plan
        self._rows = rows
        self.job_up_to_date = JobUpcaster(plan.catalog, program.spec).upcast
        self._problems: list[Problem] = []
        self._refused = IdSet()
        self._count = 0
        self._unfit: dict[str, int] = {}

    # --- before the write -------------------------------------------------------------------------

    def refuse(self, id: int, error: Exception) -> None:
        """Note why a model cannot be brought up to date.

        Raises:
            FunctionFailed: a function of the application raised, which says nothing about other models.
        """
        if isinstance(error, FunctionFailed):
            raise error
        found = error.problems if isinstance(error, KlerkError) else (_unreadable(error),)
        self._refused.add(id)
        self._note(f"model {id}", found)

    @property
    def concerns_jobs(self) -> bool:
        """Whether every job that has not ended has to be looked at before the store can be opened."""
        return self._plan.is_migrating or bool(self._plan.unfit_jobs)

    def up_to_date(self, record: JobRecord) -> JobRecord | None:
        """Return a stored job as the design has it; None when it is deleted, or cannot be.

        Raises:
            FunctionFailed: a function of the application raised.
        """
        try:
            found = self.job_up_to_date(record)
        except FunctionFailed:
            raise
        except KlerkError as error:
            found = record
            if record.kind not in self._plan.unfit_jobs:
                self._note(f"job {record.id}", error.problems)
        if found is not None and found.kind in self._plan.unfit_jobs:
            self._unfit[found.kind] = self._unfit.get(found.kind, 0) + 1
        return found

    def _note(self, whose: str, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._count += 1
            if len(self._problems) < limits.PROBLEMS_MAX:
                path = f"{whose}, {problem.path}" if problem.path else whose
                self._problems.append(replace(problem, path=path))

    def check(self) -> None:
        """Refuse what was noted, once everything has been loaded.

        Raises:
            SchemaChanged: jobs wait that the design cannot run.
            MigrationFailed: with the first problems, and how many there are.
        """
        if self._unfit:
            lines = [
                f"- {self._plan.unfit_jobs[kind]} ({count:,} waiting)" for kind, count in self._unfit.items()
            ]
            raise SchemaChanged(
                "the design does not fit the store:\n  " + "\n  ".join(lines),
                hint="Undo these changes, or declare a migration: after the colon is what covers them.",
            )
        if self._plan.is_migrating:
            self._check_references()
        if self._problems:
            more = self._count - len(self._problems)
            raise MigrationFailed(
                f"what is stored does not fit the design after the migrations: {listed(self._problems)}"
                + (f"\n  - and {more:,} more" if more else ""),
                hint="Nothing was changed. Let a migration mend these, or mend them with the old design.",
                problems=self._problems,
            )

    def _check_references(self) -> None:
        """Note every model that refers to one that there is not, or that is of another class."""
        for plan in self._program.plans:
            for field in plan.references:
                if field.check.target is None:
                    self._check_nested(plan, field)
                    continue
                for target, referrers in field.referrers.items():
                    if not self._is_good(target, field.check.target):
                        for id in referrers:
                            self._note_broken(plan, field, field.check.target, target, id)

    def _check_nested(self, plan: ClassPlan, field: RefField) -> None:
        """Check a field of references inside of tuples or structs, which may be to several classes."""
        assert field.check.nested is not None, "a field without a target holds its references inside"
        for id in plan.ids:
            value = getattr(self._program.table.get(id), field.check.name)
            for target, model_class in field.check.nested(value):
                if not self._is_good(target, model_class):
                    self._note_broken(plan, field, model_class, target, id)

    def _is_good(self, target: int, model_class: type[Model]) -> bool:
        return type(self._program.table.get(target)) is model_class or target in self._refused

    def _note_broken(
        self, plan: ClassPlan, field: RefField, model_class: type[Model], target: int, id: int
    ) -> None:
        text = f"there is no {model_class.__name__} {target}, which this {plan.name} refers to"
        self._note(f"model {id}", [Problem(code="broken_reference", message=text, path=field.check.name)])

    # --- the write and after it -------------------------------------------------------------------

    def commit(self, clock: Clock, progress: Progress) -> None:
        """Make the design's version that of the store, and store anew what is old.

        Parameters:
            clock: gives the time that the migrations are recorded with.
        """
        now_us = microseconds(clock()) if self._plan.pending else 0
        catalog = self._plan.catalog_at(now_us, self._program.processor.published_sequence)
        if catalog != self._plan.known:
            self._storage.write([(Family.META, CATALOG_KEY, write_catalog(catalog))], [])
            self._storage.sync()
        if catalog.rewritten < catalog.version:
            self._rewrite_models(progress)
            self._rewrite_jobs(progress)
            self._storage.sync()
            done = msgspec.structs.replace(catalog, rewritten=catalog.version)
            self._storage.write([(Family.META, CATALOG_KEY, write_catalog(done))], [])

    def _rewrite_models(self, progress: Progress) -> None:
        total = self._storage.estimated_count(Family.MODELS)
        rows = self._storage.scan(Family.MODELS)
        batch = _Batch(self._storage)
        plans = self._program.plan_of_code
        for count, (key, stored) in enumerate(outdated(self._program.table, rows, plans, encode)):
            if count % limits.MIGRATION_BATCH_RECORDS == 0:
                progress("rewriting models", count, total)
            if stored is None:
                batch.delete(Family.MODELS, key)
            elif stored:
                batch.put(Family.MODELS, key, stored)
        batch.write()

    def _rewrite_jobs(self, progress: Progress) -> None:
        count = 0
        for prefix in (READY, DUE):
            rewritten: list[tuple[JobRecord, bytes]] = []
            deleted: list[int] = []
            for record in scan_rows(self._storage, prefix):
                count += 1
                record_now = self.job_up_to_date(record)
                if record_now is None:
                    deleted.append(record.id)
                elif record.schema < self._plan.catalog.version:
                    rewritten.append((record_now, encode(record_now)))
                if count % limits.MIGRATION_BATCH_RECORDS == 0:
                    progress("rewriting jobs", count, 0)
                    self._rows.write(rewritten)
                    self._rows.remove(deleted)
                    rewritten, deleted = [], []
            self._rows.write(rewritten)
            self._rows.remove(deleted)


class _Batch:
    """Collects what is to be written, and writes it when there is enough."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._puts: list[Put] = []
        self._deletes: list[Delete] = []

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        self._puts.append((family, key, value))
        self._write_if_full()

    def delete(self, family: Family, key: bytes) -> None:
        self._deletes.append((family, key))
        self._write_if_full()

    def _write_if_full(self) -> None:
        if len(self._puts) + len(self._deletes) >= limits.MIGRATION_BATCH_RECORDS:
            self.write()

    def write(self) -> None:
        if self._puts or self._deletes:
            self._storage.write(self._puts, self._deletes)
            self._puts, self._deletes = [], []


def _unreadable(error: Exception) -> Problem:
    return Problem(code="unreadable", message=f"cannot be read: {error!r}")
