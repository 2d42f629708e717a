"""What type checkers must refuse: run by ``make lint``, never by pytest.

Each mistake carries the comments that silence both checkers. A comment that nothing needs is an error itself,
so a mistake that is no longer found fails the check.
"""

import klerk
from klerk import Args, Context, JobRun, Klerk, Model, Ref, User


class Name(klerk.Text, min=1, max=80): ...


class Title(klerk.Text, min=1, max=200): ...


class Cents(klerk.Int, ge=0): ...


class Member(Model):
    name: Name


class Loan(Model):
    member: Ref[Member]
    title: Title
    fee: Cents = Cents(0)


class Ctx(klerk.Context):
    tenant: str


app = klerk.App("library")
member, loan = app.machine(Member), app.machine(Loan)
(active,) = member.states("active")
out, returned = loan.states("out", "returned", final=("returned",))
by_name = member.index(lambda m: m.name)


@member.create(into=active)
def join(a: Args, name: Name) -> Member:
    return Member(name=name)


@loan.create(into=out)
def lend(a: Args[Loan, Ctx], member: Ref[Member], title: Title) -> Loan:
    return Loan(member=member, title=title)


@loan.event(out, to=returned)
def give_back(a: Args[Loan]) -> None: ...


@loan.event(out)
def add_fee(a: Args[Loan], amount: Cents) -> Loan:
    return a.model.replace(fee=amount)


@app.job()
async def remind(job: JobRun, loan: Ref[Loan]) -> None: ...


@app.job()
def welcome(job: JobRun, member: Ref[Member], text: str) -> None: ...


ada, dune = Ref[Member](1), Ref[Loan](2)


def commands() -> None:
    lend(ada, Name("Dune"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lend(ada, "Dune")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lend(dune, Title("Dune"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lend(ada)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    lend(ada, Title("Dune"), days=14)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    give_back(ada)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    give_back(2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    give_back()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    add_fee(dune, 50)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    add_fee(dune, amount=Name("50"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    join(Name(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def models() -> None:
    Loan(member=ada, title=Title("Dune"), state=out)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Loan(member=dune, title=Title("Dune"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Loan(ada, Title("Dune"))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    late = Loan(member=ada, title=Title("Dune"))
    late.fee = Cents(1)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    late.due  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    Ctx(User("ada"))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@loan.create(into=active)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def lend_as_member(a: Args, member: Ref[Member]) -> Loan:
    return Loan(member=member, title=Title("Dune"))


@loan.create(into=out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def lend_a_member(a: Args) -> Member:
    return Member(name=Name("Ada"))


@loan.event(active)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def happen_to_member(a: Args[Loan]) -> None: ...


@loan.event(out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def with_args_of_member(a: Args[Member]) -> None: ...


@add_fee.rule  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def of_member(a: Args[Member], amount: Cents) -> bool:
    return True


@add_fee.rule  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def without_verdict(a: Args[Loan]) -> str:
    return ""


@add_fee.rule(path="amount")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def about_a_field_of_member(a: Args[Member], amount: Cents) -> bool:
    return True


@loan.rule(path="fee")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def of_another_model(model: Member) -> bool:
    return True


@lend.validator  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
def says_nothing(title: Title) -> str:
    return ""


def parameters() -> None:
    add_fee.rule(path=1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    lend.valid(member=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    add_fee.from_json(1, dune)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    add_fee.from_json({}, ada)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    lend.from_form("title=Dune")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Context(User("ada"), translation="sv")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@app.allow.command(join)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportUntypedFunctionDecorator]
def with_parameters(a: Args, name: Name) -> bool:
    return True


@lend.rule
def with_fields_of_another_context(a: Args) -> bool:
    return a.context.tenant == ""  # type: ignore[attr-defined, no-any-return]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]


@loan.event(out, visibility="internal")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def with_visibility_as_text(a: Args[Loan]) -> None: ...


def blocks() -> None:
    out.on(add_fee).to_when({lambda a: a.model.fee > 1: returned}, when=True)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    out.on(add_fee).to(active)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    active.on(add_fee)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    out.on_enter.job(welcome)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    out.on_enter.job(lambda a: a.model.title)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
    out.on_enter.update(lambda a: a.model.member)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
    active.on_enter.job(remind)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    out.at(lambda a: a.model.title)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]
    out.at(lambda a: a.model.due)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType]
    out.after(14)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    out.on_exit.commands(remind)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    out.on(add_fee).to_when({lambda a: a.model.fee > 1: active})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType, reportCallIssue]


def handling(k: Klerk, desk: Context) -> None:
    k.handle(join, desk)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.handle(join(Name("Ada")), User("desk"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.handle(remind(dune), desk)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.submit([join(Name("Ada"))], desk)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.handle_all(join(Name("Ada")), desk)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.handle_all([remind(dune)], desk)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    k.handle_all(lambda a: [a.now], desk)  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    give_back(k.handle(join(Name("Ada")), desk).id)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    k.jobs.schedule(join(Name("Ada")))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    remind(ada)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    welcome(ada)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def reading(k: Klerk, desk: Context) -> None:
    with k.read(desk) as r:
        r.get(dune).name  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        r.get(Name("Ada"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        r.list(out)[0].name  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        r.list(Loan)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        r.log(color=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        r.log(limit="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        r.find(out, Name("Ada"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        wrong: Loan | None = r.find(by_name, Name("Ada"))  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        print(wrong)
        r.possible_events(Loan)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        r.possible_events(dune)[0](ada)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        r.possible_creations(out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def price_below(m: Loan, fee: Cents) -> bool:
    return m.fee < fee


def views() -> None:
    cheap = out.where(price_below)
    cheap(Name("1"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    cheap()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    out.where(lambda m: m.due)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType]
    out.where(lambda m: "yes")  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType, reportCallIssue]
    loan.order(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    out.in_states(active)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    active.where(price_below)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


def querying(k: Klerk, desk: Context) -> None:
    with k.read(desk) as r:
        r.query(out, where=lambda m: m.due)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownLambdaType, reportUnknownMemberType]
        r.query(out, sort=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        r.query(out, limit="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        r.query(out, after=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        r.query(by_name)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        r.query(out).items[0].name  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        r.related(out)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        r.list(out.where(price_below))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with k.snapshot(desk) as s:
        s.first(out).title  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
        s.get(Title("x"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
