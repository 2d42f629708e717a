"""A lending library: one file, runs as it is."""
import asyncio
from datetime import datetime, timedelta
import klerk
from klerk import Args, Context, JobRun, Model, Ref, User

class Name(klerk.Text, min=1, max=80): ...
class Email(klerk.Text, max=254, pattern=r"[^@\s]+@[^@\s]+", tags={"pii"}): ...
class Title(klerk.Text, min=1, max=200): ...
class Cents(klerk.Int, ge=0, le=100_000): ...

class Member(Model):
    name: Name
    email: Email

class Loan(Model):
    member: Ref[Member]
    title: Title
    due: datetime
    fee: Cents = Cents(0)

app = klerk.App("library")
member, loan = app.machine(Member), app.machine(Loan)
active, suspended = member.states("active", "suspended")
out, overdue, returned = loan.states("out", "overdue", "returned", final=("returned",))
by_email = member.index(lambda m: m.email, unique=True)

@member.create(into=active)
def join(a: Args, name: Name, email: Email) -> Member:
    """Become a member."""
    return Member(name=name, email=email)

@loan.create(into=out)
def lend(a: Args, member: Ref[Member], title: Title) -> Loan:
    """Lend a book for two weeks."""
    return Loan(member=member, title=title, due=a.now + timedelta(days=14))

@lend.rule
def member_is_active(a: Args, member: Ref[Member], title: Title) -> bool:
    """Suspended members may not borrow."""
    return a.read.get(member).meta.state == active

@loan.event(out, overdue, to=returned)
def give_back(a: Args[Loan]) -> None:
    """Hand the book in."""

@loan.event(overdue)
def add_fee(a: Args[Loan], amount: Cents) -> Loan:
    """Charge a late fee."""
    return a.model.replace(fee=Cents(a.model.fee + amount))

@app.job(queue="mail", max_attempts=5, rate="20/min", priority=5)
async def remind(job: JobRun, loan: Ref[Loan]) -> None:
    with job.read() as r:
        late = r.get(loan)
        job.log(f"mail to {r.get(late.member).email}: {late.title} is late")

@app.job(cron="0 3 * * *")
def charge_fees(job: JobRun) -> None:
    with job.read() as r:
        late = r.list(overdue)
    for item in job.track(late):               # progress, kept with the job
        job.handle(add_fee(item.meta.id, Cents(50)))

out.at(lambda a: a.model.due).to(overdue)      # time trigger
overdue.on_enter.job(remind)                   # a job, in the same write batch

@app.allow.command(join, lend, give_back)
def staff_run_the_desk(a: Args) -> bool:
    return "staff" in a.context.actor.roles

@app.allow.read(Member, Loan)
def staff_read_all(a: Args) -> bool:
    return "staff" in a.context.actor.roles

@app.allow.field(Member, Loan)
def staff_read_fields(a: Args) -> bool:
    return "staff" in a.context.actor.roles

@app.deny.field(tag="pii")
def only_admins_see_pii(a: Args) -> bool:
    return "admin" not in a.context.actor.roles

async def main() -> None:
    desk = Context(User("desk", roles=frozenset({"staff"})))
    with app.open("./library.klerk") as k:
        ada = k.handle(join(Name("Ada"), Email("ada@example.org")), desk).id
        k.handle_all([lend(ada, Title("Dune")), lend(ada, Title("Emma"))], desk)   # all or none
        with k.read(desk) as r:                                                    # one consistent moment
            for item in r.list(out):
                print(item.title, "->", r.get(item.member).name, item.meta.state)
        async with k.aio.read(desk) as r:
            first = r.list(out)[0]
        await k.aio.handle(give_back(first.meta.id), desk)

asyncio.run(main())
