"""Jobs that act as somebody else: rules are asked about that actor, and the commit log names it.

An app permits each thing to one role alone, so every test fails if the system acted instead, or nobody asked.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from designs import Account, eventually

import klerk
from klerk import App, Args, Context, Denied, JobRun, JobState, Ref, System, User

CLERK = User("billing", roles=frozenset({"clerk"}))
GUEST = User("guest")
BOSS = Context(User("boss", roles=frozenset({"boss"})))


class Office:
    """Accounts that clerks may pay into and see without their owner; a boss may do and see everything."""

    def __init__(self) -> None:
        self.app = app = App("office")
        accounts = self.accounts = app.machine(Account)
        (active,) = accounts.states("active")
        self.asked: list[str] = []
        self.seen: list[Any] = []

        @accounts.create(into=active)
        def enter(a: Args, owner: str) -> Account:
            return Account(owner=owner)

        @accounts.event(active)
        def deposit(a: Args[Account], amount: int) -> Account:
            return a.model.replace(balance=a.model.balance + amount)

        @accounts.event(active)
        def remove(a: Args[Account]) -> None: ...

        active.on(remove).delete()
        self.enter, self.deposit, self.remove = enter, deposit, remove

        def boss(a: Args) -> bool:
            return "boss" in a.context.actor.roles

        @app.allow.command(deposit)
        def clerks_pay(a: Args) -> bool:
            self.asked.append(str(a.context.actor))
            return "clerk" in a.context.actor.roles

        @app.allow.read()
        def clerks_read(a: Args) -> bool:
            return bool({"clerk", "boss"} & a.context.actor.roles)

        @app.allow.field()
        def all_but_the_owner(a: Args) -> bool:
            return a.field != "owner" or boss(a)

        app.allow.command()(boss)
        app.allow.log()(boss)

    def job(self, kind: str, body: Callable[[JobRun, Any, Any], Any], **options: Any) -> Any:
        """Return a job, plain or a coroutine, whose body gets a way to handle commands."""
        if kind == "plain":

            @self.app.job(**options)
            def work(job: JobRun, account: Ref[Account]) -> Any:
                return body(job, account, job.handle)

            return work

        @self.app.job(**options)
        async def work_async(job: JobRun, account: Ref[Account]) -> Any:
            loop = asyncio.get_running_loop()

            def handle(command: Any) -> Any:
                return asyncio.run_coroutine_threadsafe(job.handle_async(command), loop).result(20)

            return await asyncio.to_thread(body, job, account, handle)

        return work_async


BOTH = pytest.mark.parametrize("kind", ["plain", "coroutine"])


def idle(k: klerk.Klerk) -> None:
    assert k.jobs.wait_until_idle(20)


def ended(k: klerk.Klerk) -> tuple[int, int, int]:
    counts = k.jobs.counts()
    return counts[JobState.COMPLETED], counts[JobState.DISCARDED], counts[JobState.CANCELLED]


def balance(k: klerk.Klerk, account: Any) -> int:
    with k.read(BOSS) as r:
        found: int = r.get(account).balance
        return found


def log_of(k: klerk.Klerk) -> list[tuple[str, str, int]]:
    """Who did what since the account was made, on whose behalf, and with how many commands; oldest first."""
    return [
        (str(each.actor), "" if each.on_behalf_of is None else str(each.on_behalf_of), len(each.commands))
        for each in k.log(BOSS, newest_first=False).entries
        if each.sequence > 1
    ]


@BOTH
def test_commands_of_a_job_are_those_of_its_actor(kind: str) -> None:
    office = Office()

    def body(job: JobRun, account: Any, handle: Any) -> None:
        handle(office.deposit(account, 7))
        with pytest.raises(Denied, match="user billing"):
            handle(office.remove(account))

    work = office.job(kind, body, run_as=CLERK, max_attempts=1)
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), BOSS).id
        k.jobs.schedule(work(ada))
        idle(k)
        assert (ended(k), balance(k, ada)) == ((1, 0, 0), 7)
        assert office.asked == ["user billing"]
        itself = f"system job {work} 1"
        assert log_of(k) == [("system schedule", "", 0), ("user billing", itself, 1), ("system jobs", "", 0)]


@BOTH
def test_a_job_whose_actor_may_not_has_failed(kind: str) -> None:
    office = Office()
    work = office.job(
        kind, lambda job, account, handle: handle(office.deposit(account, 7)), run_as=GUEST, max_attempts=2
    )
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), BOSS).id
        k.jobs.schedule(work(ada))
        eventually(lambda: k.jobs.get(1).attempt == 1)
        assert k.jobs.get(1).error.startswith("Denied: Account.deposit is not allowed for user guest")
        assert balance(k, ada) == 0


@BOTH
def test_what_a_job_reads_is_what_its_actor_may_see(kind: str) -> None:
    office = Office()

    def body(job: JobRun, account: Any, handle: Any) -> None:
        with job.read() as r:
            office.seen.append((r.get(account).owner, r.get(account).balance, str(r.context.actor)))
        with job.snapshot() as s:
            office.seen.append((s.get(account).owner, s.get(account).balance, str(s.context.actor)))

    work = office.job(kind, body, run_as=CLERK)
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), BOSS).id
        k.jobs.schedule(work(ada))
        idle(k)
    assert office.seen == 2 * [(klerk.MASKED, 0, "user billing")]


def test_a_job_whose_actor_may_see_nothing() -> None:
    office = Office()

    def body(job: JobRun, account: Any, handle: Any) -> None:
        for reading in (job.read(), job.snapshot()):
            with reading as r, pytest.raises(Denied):
                r.get(account)
        office.seen.append("denied")

    work = office.job("plain", body, run_as=GUEST)
    with office.app.open() as k:
        k.jobs.schedule(work(k.handle(office.enter("Ada"), BOSS).id))
        idle(k)
    assert office.seen == ["denied"]


@BOTH
def test_the_commands_with_which_a_job_ends_are_those_of_its_actor(kind: str) -> None:
    office = Office()
    work = office.job(
        kind,
        lambda job, account, handle: job.complete_with(
            office.deposit(account, 3), office.deposit(account, 4)
        ),
        run_as=CLERK,
    )
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), BOSS).id
        k.jobs.schedule(work(ada))
        idle(k)
        assert (ended(k), balance(k, ada)) == ((1, 0, 0), 7)
        assert office.asked == ["user billing"] * 2
        # One transaction: both commands and the completion.
        assert log_of(k) == [("system schedule", "", 0), ("user billing", f"system job {work} 1", 2)]


@BOTH
def test_a_job_that_may_not_end_like_that_has_failed(kind: str) -> None:
    """All commands or none; that it failed is recorded by the job manager, whatever the actor may."""
    office = Office()
    work = office.job(
        kind,
        lambda job, account, handle: job.complete_with(office.deposit(account, 3), office.remove(account)),
        run_as=CLERK,
        max_attempts=1,
    )
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), BOSS).id
        k.jobs.schedule(work(ada))
        idle(k)
        assert (ended(k), balance(k, ada)) == ((0, 1, 0), 0)
        assert log_of(k) == [("system schedule", "", 0), (f"system job {work} 1", "", 0)]
        assert k.jobs.live() == ()


def test_rules_are_not_asked_about_the_system() -> None:
    office = Office()

    def body(job: JobRun, account: Any, handle: Any) -> Any:
        handle(office.deposit(account, 1))
        return job.complete_with(office.deposit(account, 2))

    default = office.job("plain", body)
    other = office.job("coroutine", body, run_as=System("night shift"))
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), BOSS).id
        k.jobs.schedule(default(ada))
        idle(k)
        k.jobs.schedule(other(ada))
        idle(k)
        assert (ended(k), balance(k, ada), office.asked) == ((2, 0, 0), 6, [])
        itself, night = "system job work 1", ("system night shift", "system job work_async 2", 1)
        assert [each for each in log_of(k) if each[2]] == [(itself, "", 1), (itself, "", 1), night, night]


class Branch(Context):
    city: str


@BOTH
def test_the_apps_own_contexts_are_used(kind: str) -> None:
    office = Office()

    @office.app.context_provider
    def provide(actor: klerk.Actor, now: datetime) -> Context:
        return Branch(actor, now, city="Brno" if actor is CLERK else "Praha")

    @office.deposit.rule
    def note(a: Args[Account], amount: int) -> bool:
        context: Any = a.context
        office.seen.append((context.city, str(context.actor), str(context.on_behalf_of)))
        return True

    def body(job: JobRun, account: Any, handle: Any) -> Any:
        handle(office.deposit(account, 1))
        with job.read() as r:
            assert isinstance(r.context, Branch)
        return job.complete_with(office.deposit(account, 2))

    work = office.job(kind, body, run_as=CLERK)
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), BOSS).id
        k.jobs.schedule(work(ada))
        idle(k)
        assert (ended(k), balance(k, ada)) == ((1, 0, 0), 3)
    assert office.seen == 2 * [("Brno", "user billing", f"system job {work} 1")]


@BOTH
def test_what_caused_a_job_caused_what_its_actor_did(kind: str) -> None:
    office = Office()

    def body(job: JobRun, account: Any, handle: Any) -> Any:
        handle(office.deposit(account, 1))
        return job.complete_with(office.deposit(account, 2))

    work = office.job(kind, body, run_as=CLERK)
    office.enter.job(lambda a: work(a.model.meta.id))
    with office.app.open() as k:
        k.handle(office.enter("Eve"), BOSS)
        sequence = k.handle(office.enter("Ada"), BOSS).sequence
        idle(k)
        clerks = [each for each in k.log(BOSS).entries if each.actor.id == "billing"]
        assert sorted(each.cause for each in clerks) == [1, 1, sequence, sequence]


def test_a_context_on_behalf_of_somebody_stays_so() -> None:
    office = Office()

    @office.app.context_provider
    def provide(actor: klerk.Actor, now: datetime) -> Context:
        return Context(actor, now, on_behalf_of=GUEST if actor is CLERK else None)

    work = office.job(
        "plain", lambda job, account, handle: handle(office.deposit(account, 1)) and None, run_as=CLERK
    )
    with office.app.open() as k:
        k.jobs.schedule(work(k.handle(office.enter("Ada"), BOSS).id))
        idle(k)
        assert ("user billing", "user guest", 1) in log_of(k)


@BOTH
def test_a_job_without_a_context_to_end_in_has_failed(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    office = Office()

    @office.app.context_provider
    def provide(actor: klerk.Actor, now: datetime) -> Context:
        if actor is CLERK:
            raise ZeroDivisionError("no context for a clerk")
        return Context(actor, now)

    work = office.job(
        kind,
        lambda job, account, handle: job.complete_with(office.deposit(account, 1)),
        run_as=CLERK,
        max_attempts=1,
    )
    with office.app.open() as k:
        ada = k.handle(office.enter("Ada"), BOSS).id
        k.jobs.schedule(work(ada))
        idle(k)
        assert (ended(k), balance(k, ada)) == ((0, 1, 0), 0)
    assert "ZeroDivisionError: no context for a clerk" in caplog.text


def test_the_job_itself_saves_its_state_whatever_its_actor_may() -> None:
    office = Office()

    def body(job: JobRun, account: Any, handle: Any) -> None:
        job.checkpoint(1)
        office.seen.append(job.state)

    work = office.job("plain", body, run_as=GUEST)
    with office.app.open() as k:
        k.jobs.schedule(work(k.handle(office.enter("Ada"), BOSS).id))
        idle(k)
        assert office.seen == [1]
        assert {each[0] for each in log_of(k)} == {"system schedule", "system job work 1", "system jobs"}


@pytest.mark.parametrize("wrong", ["billing", User, 5, {"id": "billing"}])
def test_only_an_actor_can_act(wrong: Any) -> None:
    with pytest.raises(klerk.ConfigError, match="K017"):
        Office().app.job(run_as=wrong)(lambda job: None)
