"""Every mistake in a design is found when it is declared or opened, with its code and the user's own line.

Each case is a function that makes one mistake; the line that has to be named ends in ``# here``. The last
tests show that every code is provoked by some case and can be explained.
"""

import inspect
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import msgspec
import pytest
from designs import NOON, TESTER, Bank, python_environment

import klerk
from klerk import App, Args, ConfigError, Context, JobRun, KlerkError, Migration, Model, Ref, User
from klerk.showing.explain import EXPLANATIONS
from klerk.workers.child import WORKER_NAME

CASES: dict[str, list[Callable[[App], object]]] = {}
# Annotations that are wrong on purpose, so that type checkers do not find them first.
ANY: Any = None


class Item(Model):
    size: int


class Other(Model):
    size: int


class Mutable(msgspec.Struct):
    x: int


def mistake(code: str) -> Callable[[Callable[[App], object]], Callable[[App], object]]:
    def note(function: Callable[[App], object]) -> Callable[[App], object]:
        CASES.setdefault(code, []).append(function)
        return function

    return note


def items_of(app: App) -> tuple[Any, Any, Any]:
    """Declare a machine without mistakes: two states, a create event, and a way from one to the other."""
    items = app.machine(Item)
    new, old = items.states("new", "old", final=("old",))

    @items.create(into=new)
    def make(a: Args) -> Item:
        return Item(size=1)

    @items.event(new, to=old)
    def age(a: Args[Item]) -> None: ...

    return items, new, old


def make_with_sizes(app: App) -> Any:
    """Declare a machine without mistakes and return its create event, which has parameters."""
    items, new, _ = items_of(app)

    @items.create(into=new)
    def make_one(a: Args, low: int = 0, high: int = 1, name: str = "", like: Ref[Item] | None = None) -> Item:
        return Item(size=low)

    return make_one


@mistake("K001")
def no_model_class(app: App) -> None:
    app.machine(int)  # type: ignore[type-var] # here


@mistake("K001")
def the_base_itself(app: App) -> None:
    app.machine(Model)  # here


@mistake("K001")
def reference_to_a_class_without_machine(app: App) -> None:
    class Part(Model):  # here
        whole: Ref[Other]

    parts = app.machine(Part)
    (there,) = parts.states("there")

    @parts.create(into=there)
    def make(a: Args, whole: int) -> Part:
        return Part(whole=whole)


@mistake("K001")
def parameter_refers_to_a_class_without_machine(app: App) -> None:
    items, new, _ = items_of(app)

    @items.event(new)  # here
    def attach(a: Args[Item], whole: Ref[Other]) -> None: ...


@mistake("K002")
def two_machines(app: App) -> None:
    app.machine(Item)
    app.machine(Item)  # here


@mistake("K003")
def list_field(app: App) -> None:
    class Part(Model):  # here
        names: list[str]

    app.machine(Part)


@mistake("K003")
def mutable_struct_in_a_tuple(app: App) -> None:
    class Part(Model):  # here
        parts: tuple[Mutable, ...]

    app.machine(Part)


@mistake("K003")
def union_field(app: App) -> None:
    class Part(Model):  # here
        size: int | str

    app.machine(Part)


@mistake("K003")
def any_field(app: App) -> None:
    class Part(Model):  # here
        size: Any

    app.machine(Part)


@mistake("K003")
def unknown_name_in_an_annotation(app: App) -> None:
    class Part(Model):  # here
        size: "Sizes"  # type: ignore[name-defined] # noqa: F821

    app.machine(Part)


@mistake("K003")
def types_nested_too_deep(app: App) -> None:
    deep: Any = int
    for _ in range(20):
        deep = tuple[deep, ...]

    class Part(Model):  # here
        size: deep

    app.machine(Part)


@mistake("K004")
def state_twice(app: App) -> None:
    app.machine(Item).states("new", "new")  # here


@mistake("K004")
def state_that_is_no_identifier(app: App) -> None:
    app.machine(Item).states("brand new")  # here


@mistake("K004")
def final_that_is_no_state(app: App) -> None:
    app.machine(Item).states("new", "old", final=("dead",))  # here


@mistake("K004")
def event_twice(app: App) -> None:
    items, new, _ = items_of(app)

    @items.event(new)  # here
    def age(a: Args[Item]) -> None: ...


@mistake("K004")
def job_twice(app: App) -> None:
    @app.job()
    def mail(job: JobRun) -> None: ...

    def again() -> None:
        @app.job()  # here
        def mail(job: JobRun) -> None: ...

    again()


@mistake("K005")
def no_states(app: App) -> None:
    app.machine(Item)  # here


@mistake("K005")
def no_create_event(app: App) -> None:
    items = app.machine(Item)  # here
    (new,) = items.states("new")

    @items.event(new)
    def touch(a: Args[Item]) -> None: ...


@mistake("K006")
def event_without_args(app: App) -> None:
    items, new, _ = items_of(app)

    @items.event(new)  # here
    def touch() -> None: ...


@mistake("K006")
def event_with_any_number_of_parameters(app: App) -> None:
    items, new, _ = items_of(app)

    @items.event(new)  # here
    def touch(a: Args[Item], *sizes: int) -> None: ...


@mistake("K006")
def job_without_run(app: App) -> None:
    @app.job()  # here
    def mail() -> None: ...


@mistake("K007")
def parameter_without_annotation(app: App) -> None:
    items, new, _ = items_of(app)

    @items.event(new)  # here
    def touch(a: Args[Item], size) -> None: ...  # type: ignore[no-untyped-def]


@mistake("K007")
def parameter_with_a_mutable_type(app: App) -> None:
    items, new, _ = items_of(app)

    @items.event(new)  # here
    def touch(a: Args[Item], sizes: list[int]) -> None: ...


@mistake("K007")
def job_parameter_without_annotation(app: App) -> None:
    @app.job()  # here
    def mail(job: JobRun, to) -> None: ...  # type: ignore[no-untyped-def]


@mistake("K008")
def rule_about_a_parameter_that_is_not_there(app: App) -> None:
    items, new, _ = items_of(app)

    @items.event(new)
    def touch(a: Args[Item], size: int) -> None: ...

    @touch.rule  # here
    def fits(a: Args[Item], weight: int) -> bool:
        return True


@mistake("K008")
def block_about_parameters_where_there_are_none(app: App) -> None:
    _, new, _ = items_of(app)
    new.on_enter.update(lambda a, size: a.model)  # here


@mistake("K008")
def timer_about_parameters(app: App) -> None:
    _, new, old = items_of(app)
    new.at(lambda a, size: a.now).to(old)  # here


@mistake("K008")
def permission_about_parameters(app: App) -> None:
    items_of(app)

    @app.allow.command()  # here
    def everyone(a: Args, size: int) -> bool:
        return True


@mistake("K008")
def condition_without_args(app: App) -> None:
    _, new, old = items_of(app)
    new.after(timedelta(1)).to(old, when=lambda: True)  # here


@mistake("K008")
def job_in_a_block_with_other_parameters(app: App) -> None:
    _, new, _ = items_of(app)

    @app.job()
    def mail(job: JobRun, item: Ref[Item], text: str) -> None: ...

    new.on_enter.job(mail)  # here


@mistake("K009")
def into_a_state_of_another_machine(app: App) -> None:
    _, new, _ = items_of(app)
    others = app.machine(Other)

    @others.create(into=new)  # here
    def make(a: Args) -> Other:
        return Other(size=1)


@mistake("K009")
def event_in_a_state_of_another_machine(app: App) -> None:
    items, _, _ = items_of(app)
    (there,) = app.machine(Other).states("there")
    items.event(there)(lambda a: None)  # here


@mistake("K009")
def block_of_an_event_of_another_machine(app: App) -> None:
    items, new, _ = items_of(app)
    (there,) = app.machine(Other).states("there")

    @items.event(new)
    def touch(a: Args[Item]) -> None: ...

    there.on(touch)  # here


@mistake("K009")
def transition_to_a_state_of_another_machine(app: App) -> None:
    items, new, old = items_of(app)
    others = app.machine(Other)
    (there,) = others.states("there")

    @others.create(into=there)
    def build(a: Args) -> Other:
        return Other(size=1)

    @items.event(new, to=old)
    def touch(a: Args[Item]) -> None: ...

    new.after(timedelta(1)).to(there)  # here


@mistake("K010")
def event_in_no_state(app: App) -> None:
    items, _, _ = items_of(app)

    @items.event()  # here
    def touch(a: Args[Item]) -> None: ...


@mistake("K011")
def unreachable_state(app: App) -> None:
    items, _, old = items_of(app)
    (lost,) = items.states("lost")  # here
    lost.after(timedelta(1)).to(old)


@mistake("K012")
def state_without_a_way_out(app: App) -> None:
    items, new, _ = items_of(app)
    (stuck,) = items.states("stuck")  # here
    new.after(timedelta(1)).to(stuck)


@mistake("K013")
def final_state_with_a_way_out(app: App) -> None:
    items = app.machine(Item)
    new, old = items.states("new", "old", final=("old",))  # here

    @items.create(into=new)
    def make(a: Args) -> Item:
        return Item(size=1)

    @items.event(new, to=old)
    def age(a: Args[Item]) -> None: ...

    old.after(timedelta(1)).to(new)


@mistake("K014")
def two_transitions_in_one_block(app: App) -> None:
    items, new, old = items_of(app)

    @items.event(new, to=old)
    def touch(a: Args[Item]) -> None: ...

    new.on(touch).to(new)  # here


@mistake("K015")
def state_after_opening(app: App) -> None:
    items, _, _ = items_of(app)
    with app.open():
        items.states("third")  # here


@mistake("K015")
def permission_after_opening(app: App) -> None:
    items_of(app)
    app.open().close()
    app.allow.read()(lambda a: True)  # here


@mistake("K015")
def block_after_opening(app: App) -> None:
    _, new, _ = items_of(app)
    app.open().close()
    new.on_enter.commands(lambda a: None)  # here


@mistake("K016")
def transition_on_exit(app: App) -> None:
    _, new, old = items_of(app)
    new.on_exit.to(old)  # here


@mistake("K016")
def deletion_on_exit(app: App) -> None:
    _, new, _ = items_of(app)
    new.on_exit.delete()  # here


@mistake("K017")
def rate_without_unit(app: App) -> None:
    @app.job(rate="20")  # here
    def mail(job: JobRun) -> None: ...


@mistake("K017")
def cron_expression_of_another_form(app: App) -> None:
    @app.job(cron="every day")  # here
    def mail(job: JobRun) -> None: ...


@mistake("K017")
def cron_job_with_parameters(app: App) -> None:
    @app.job(cron="0 3 * * *")  # here
    def mail(job: JobRun, to: str) -> None: ...


@mistake("K017")
def no_attempts(app: App) -> None:
    @app.job(max_attempts=0)  # here
    def mail(job: JobRun) -> None: ...


@mistake("K017")
def queue_without_name(app: App) -> None:
    @app.job(queue="")  # here
    def mail(job: JobRun) -> None: ...


@mistake("K017")
def priority_out_of_bounds(app: App) -> None:
    @app.job(priority=1001)  # here
    def mail(job: JobRun) -> None: ...


@mistake("K017")
def app_without_name(app: App) -> None:
    App("")  # here


@mistake("K017")
def permission_for_what_is_no_event(app: App) -> None:
    app.allow.command(ANY)  # here


@mistake("K017")
def permission_for_what_is_no_class(app: App) -> None:
    app.deny.read(ANY)  # here


@mistake("K017")
def unknown_durability(app: App) -> None:
    items_of(app)
    app.open(durability="maybe")  # type: ignore[arg-type] # here


@mistake("K017")
def text_without_a_line(app: App) -> None:
    class Nothing(klerk.Text, lines=0): ...  # here


@mistake("K030")
def json_before_the_app_was_opened(app: App) -> None:
    make_with_sizes(app).from_json({})  # here


@mistake("K031")
def rule_about_a_parameter_that_there_is_not(app: App) -> None:
    make = make_with_sizes(app)

    @make.rule(path="high.er")
    @make.rule(path="hihg[1].x")  # here
    def ordered(a: Args) -> bool:
        return True


@mistake("K031")
def rule_about_a_field_that_there_is_not(app: App) -> None:
    items, _, _ = items_of(app)
    items.rule(path="sizes")(lambda item: True)  # here


@mistake("K032")
def valid_values_of_no_parameter(app: App) -> None:
    make_with_sizes(app).valid(lwo={1})  # here


@mistake("K032")
def valid_values_said_twice(app: App) -> None:
    make = make_with_sizes(app)
    make.valid(low={1})
    make.valid(low={2})  # here


@mistake("K033")
def valid_references_in_no_view(app: App) -> None:
    make_with_sizes(app).valid(like={1, 2})  # here


@mistake("K033")
def valid_references_in_a_view_of_another_class(app: App) -> None:
    others = app.machine(Other)
    (there,) = others.states("there")
    others.create(into=there)(lambda a: Other(size=1))
    make_with_sizes(app).valid(like=there)  # here


@mistake("K033")
def valid_references_in_a_view_of_another_app(app: App) -> None:
    _, _, old = items_of(App("another"))
    make_with_sizes(app).valid(like=old)  # here


@mistake("K033")
def valid_references_in_an_index_without_a_key(app: App) -> None:
    make = make_with_sizes(app)
    make.valid(like=make.machine.index(lambda item: item.size))  # here


@mistake("K033")
def valid_references_in_a_view_without_its_parameter(app: App) -> None:
    make = make_with_sizes(app)
    make.valid(like=make.machine.where(lambda item, size: item.size > size))  # here


@mistake("K033")
def view_for_what_is_no_reference(app: App) -> None:
    make = make_with_sizes(app)
    make.valid(low=make.machine)  # here


@mistake("K033")
def valid_values_of_another_type(app: App) -> None:
    make_with_sizes(app).valid(low=["one"])  # here


@mistake("K033")
def text_in_place_of_texts(app: App) -> None:
    make_with_sizes(app).valid(name="abc")  # here


@mistake("K008")
def valid_values_by_a_function_of_parameters(app: App) -> None:
    make_with_sizes(app).valid(low=lambda a, high: {high})  # here


@mistake("K034")
def validator_of_unknown_parameters(app: App) -> None:
    make_with_sizes(app).validator(lambda low, hihg: low < hihg)  # here


@mistake("K034")
def validator_with_args(app: App) -> None:
    make_with_sizes(app).validator(lambda a, low: low > 0)  # here


@mistake("K034")
def validator_of_nothing(app: App) -> None:
    make_with_sizes(app).validator(lambda: True)  # here


@mistake("K034")
def validator_with_keywords(app: App) -> None:
    make_with_sizes(app).validator(lambda *, low: low > 0)  # here


@mistake("K034")
def validator_that_is_awaited(app: App) -> None:
    make = make_with_sizes(app)

    async def later(low: int) -> bool:  # here
        return True

    make.validator(later)


@mistake("K018")
def misspelt_field_in_a_deny_rule(app: App) -> None:
    items_of(app)
    app.deny.field(names=("nmae",))(lambda a: True)  # here
    app.open()


@mistake("K070")
def order_by_a_field_that_there_is_not(app: App) -> None:
    items, *_ = items_of(app)
    items.order("weight")  # here
    app.open()


@mistake("K018")
def tag_that_no_field_has(app: App) -> None:
    items_of(app)
    app.deny.field(tag="pi")(lambda a: True)  # here
    app.open()


@mistake("K060")
def rule_for_an_empty_prefix(app: App) -> None:
    app.allow.kv("session:", "")  # here


@mistake("K061")
def rule_for_an_unknown_action(app: App) -> None:
    app.deny.blob(action="steal")  # type: ignore[arg-type] # here


@mistake("K075")
def job_in_a_process_that_cannot_be_imported(app: App) -> None:
    items_of(app)

    @app.job(executor="process")  # here
    def inside(job: JobRun) -> None: ...

    app.open()


@mistake("K076")
def app_opened_by_a_worker_process_that_imports_it(app: App) -> None:
    items_of(app)
    process = current_process()
    name, process.name = process.name, f"{WORKER_NAME}-1"
    try:
        app.open()  # here
    finally:
        process.name = name


@mistake("K017")
def path_for_what_is_only_in_memory(app: App) -> None:
    items_of(app)
    app.open("store", durability="memory")  # here


@mistake("K040")
def clock_without_zone(app: App) -> None:
    items_of(app)
    app.open(clock=lambda: datetime(2024, 1, 1))  # noqa: DTZ001 # here


@mistake("K041")
def timer_that_acts_as_a_text(app: App) -> None:
    _, new, old = items_of(app)
    new.after(timedelta(1), run_as=ANY or "billing").to(old)  # here


@mistake("K041")
def timers_of_one_state_that_act_as_two(app: App) -> None:
    _, new, _ = items_of(app)
    new.at(lambda a: None)
    new.at(lambda a: None, run_as=User("billing"))  # here


@mistake("K019")
def event_that_leads_nowhere(app: App) -> None:
    items, new, _ = items_of(app)

    @items.event(new, to=new)  # here
    def touch(a: Args[Item]) -> None: ...


@mistake("K019")
def timer_that_leads_nowhere(app: App) -> None:
    _, new, _ = items_of(app)
    new.after(timedelta(1)).to(new)  # here


@mistake("K019")
def entering_that_leads_nowhere(app: App) -> None:
    _, new, _ = items_of(app)
    new.on_enter.to(new)  # here


@mistake("K020")
def choice_of_the_same_state(app: App) -> None:
    items, new, old = items_of(app)

    @items.event(new)
    def touch(a: Args[Item]) -> None: ...

    new.on(touch).to_when({lambda a: True: new, lambda a: False: old})  # here


@mistake("K020")
def otherwise_the_same_state(app: App) -> None:
    _, new, old = items_of(app)
    new.after(timedelta(1)).to_when({lambda a: True: old}, otherwise=new)  # here


@mistake("K021")
def provider_that_raises(app: App) -> None:
    _, new, old = items_of(app)
    new.after(timedelta(1)).to(old)

    @app.context_provider  # here
    def context_of(actor: Any, now: datetime) -> Context:
        raise LookupError(actor.id)


@mistake("K021")
def provider_that_gives_no_context(app: App) -> None:
    items_of(app)

    @app.job()
    def mail(job: JobRun) -> None: ...

    @app.context_provider  # here
    def context_of(actor: Any, now: datetime) -> Any:
        return actor


@mistake("K021")
def provider_that_cannot_be_called(app: App) -> None:
    items_of(app)

    @app.job()
    def mail(job: JobRun) -> None: ...

    context_of: Any = lambda actor: None  # noqa: E731 # here
    app.context_provider(context_of)


@mistake("K022")
def event_without_parentheses(app: App) -> None:
    items, _, _ = items_of(app)

    @items.event  # here
    def touch(a: Args[Item]) -> None: ...


@mistake("K022")
def create_event_without_parentheses(app: App) -> None:
    items, _, _ = items_of(app)

    @items.create  # here
    def build(a: Args) -> Item:
        return Item(size=1)


@mistake("K022")
def job_without_parentheses(app: App) -> None:
    job: Any = app.job

    @job  # here
    def mail(job: JobRun) -> None: ...


@mistake("K022")
def permission_without_parentheses(app: App) -> None:
    command: Any = app.allow.command

    @command  # here
    def everyone(a: Args) -> bool:
        return True


@mistake("K022")
def field_permission_without_parentheses(app: App) -> None:
    field: Any = app.deny.field

    @field  # here
    def nobody(a: Args) -> bool:
        return True


@mistake("K023")
def rule_of_models_that_wants_more(app: App) -> None:
    items, _, _ = items_of(app)

    def fits(item: Item, size: int) -> bool:
        return True

    items.rule(fits)  # here


@mistake("K023")
def rule_of_models_without_model(app: App) -> None:
    items, _, _ = items_of(app)
    items.rule(lambda: True)  # here


@mistake("K023")
def key_that_wants_more(app: App) -> None:
    items, _, _ = items_of(app)
    items.index(lambda a, item: item.size)  # here


@mistake("K023")
def key_that_is_a_coroutine(app: App) -> None:
    items, _, _ = items_of(app)

    async def size_of(item: Item) -> int:
        return item.size

    items.index(size_of)  # here


@mistake("K023")
def key_that_is_a_name(app: App) -> None:
    items, _, _ = items_of(app)
    items.index("size")  # here


@mistake("K024")
def field_named_meta(app: App) -> None:
    class Part(Model):  # here
        meta: int  # type: ignore[assignment]

    parts = app.machine(Part)
    (there,) = parts.states("there")
    parts.create(into=there)(lambda a: None)


@mistake("K025")
def command_instead_of_a_function(app: App) -> None:
    items, new, _ = items_of(app)

    @items.event(new)
    def touch(a: Args[Item]) -> None: ...

    new.on_enter.commands(touch(1))  # here


@mistake("K025")
def event_instead_of_a_function(app: App) -> None:
    items, new, _ = items_of(app)

    @items.event(new)
    def touch(a: Args[Item]) -> None: ...

    new.on_enter.commands(touch)  # here


@mistake("K025")
def job_instead_of_an_unmanaged_function(app: App) -> None:
    _, new, _ = items_of(app)

    @app.job()
    def mail(job: JobRun) -> None: ...

    new.on_enter.unmanaged_job(mail)  # here


@mistake("K025")
def verdict_instead_of_a_condition(app: App) -> None:
    _, new, old = items_of(app)
    new.after(timedelta(1)).to(old, when=True)  # here


@mistake("K025")
def text_instead_of_a_choice(app: App) -> None:
    _, new, old = items_of(app)
    new.after(timedelta(1)).to_when({"late": old})  # here


@mistake("K025")
def nothing_instead_of_an_update(app: App) -> None:
    _, new, _ = items_of(app)
    new.on_exit.update(None)  # here


@mistake("K025")
def moment_instead_of_a_function(app: App) -> None:
    _, new, _ = items_of(app)
    new.at(NOON)  # here


@mistake("K025")
def verdict_instead_of_a_permission(app: App) -> None:
    app.allow.read()(ANY)  # here


@mistake("K009")
def block_of_a_create_event_in_a_state(app: App) -> None:
    items, new, _ = items_of(app)

    @items.create(into=new)
    def build(a: Args) -> Item:
        return Item(size=1)

    new.on(build)  # here


@mistake("K017")
def unknown_visibility(app: App) -> None:
    items, new, _ = items_of(app)
    items.event(new, visibility="secret")  # here


@mistake("K017")
def delay_that_is_a_number(app: App) -> None:
    _, new, _ = items_of(app)
    new.after(14)  # here


@mistake("K012")
def state_that_only_comes_back_to_itself(app: App) -> None:
    items, new, _ = items_of(app)
    (stuck,) = items.states("stuck")  # here
    new.after(timedelta(1)).to(stuck)
    stuck.after(timedelta(1)).to(stuck, when=lambda a: True)


@mistake("K050")
def missing_migration(app: App) -> None:
    items_of(app)

    @app.migration(2)  # here
    def second(m: Migration) -> None: ...


@mistake("K050")
def two_migrations_of_one_number(app: App) -> None:
    items_of(app)

    @app.migration(1)
    def first(m: Migration) -> None: ...

    @app.migration(1)  # here
    def second(m: Migration) -> None: ...


@mistake("K050")
def migration_zero(app: App) -> None:
    app.migration(0)(lambda m: None)  # here


@mistake("K051")
def migration_without_parameter(app: App) -> None:
    @app.migration(1)  # type: ignore[arg-type] # here
    def first() -> None: ...


@mistake("K051")
def coroutine_as_migration(app: App) -> None:
    async def first(m: Migration) -> None: ...

    app.migration(1)(first)  # type: ignore[arg-type] # here


@mistake("K051")
def migration_that_returns_something(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m)  # type: ignore[arg-type, return-value] # here


@mistake("K052")
def renaming_to_a_model_that_there_is_not(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.rename_model("Thing", "Itme"))  # here


@mistake("K052")
def renaming_a_field_of_a_model_under_its_old_name(app: App) -> None:
    items_of(app)

    @app.migration(1)  # here
    def first(m: Migration) -> None:
        m.rename_model("Thing", "Item")
        m.rename_field("Thing", "title", "size")


@mistake("K052")
def renaming_to_a_field_that_there_is_not(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.rename_field("Item", "title", "sise"))  # here


@mistake("K052")
def a_default_for_a_field_that_there_is_not(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.add_field("Item", "sise", default=""))  # here


@mistake("K052")
def models_into_a_state_that_there_is_not(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.delete_state("Item", "lost", into="nwe"))  # here


@mistake("K052")
def renaming_to_a_state_that_there_is_not(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.rename_state("Item", "lost", "nwe"))  # here


@mistake("K052")
def renaming_an_event_of_a_model_that_there_is_not(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.rename_event("Thing.make", "Thing.build"))  # here


@mistake("K053")
def deleting_a_model_that_is_declared(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.delete_model("Item"))  # here


@mistake("K053")
def deleting_a_field_that_is_declared(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.delete_field("Item", "size"))  # here


@mistake("K053")
def renaming_one_field_twice(app: App) -> None:
    items_of(app)

    @app.migration(1)
    def first(m: Migration) -> None:
        m.rename_field("Item", "title", "size")
        m.rename_field("Item", "title", "text")  # here


@mistake("K053")
def renaming_to_the_same_name(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.rename_state("Item", "new", "new"))  # here


@mistake("K053")
def deleting_a_state_into_itself(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.delete_state("Item", "lost", into="lost"))  # here


@mistake("K054")
def event_without_its_model(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.rename_event("make", "build"))  # here


@mistake("K054")
def name_that_is_no_text(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.delete_model(ANY))  # here


@mistake("K054")
def transform_that_is_no_function(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.transform("Item", ANY))  # here


@mistake("K054")
def default_that_cannot_be_stored(app: App) -> None:
    items_of(app)
    app.migration(1)(lambda m: m.add_field("Item", "size", default=object()))  # here


@mistake("K015")
def migration_said_later(app: App) -> None:
    items_of(app)
    kept: list[Migration] = []
    app.migration(1)(kept.append)
    app.freeze()
    kept[0].delete_job("old")  # here


@mistake("K075")
def job_in_a_process_inside_of_a_function(app: App) -> None:
    items_of(app)

    @app.job(executor="process")  # here
    def inside(job: JobRun) -> None: ...


@mistake("K076")
def app_opened_where_a_worker_process_imports_it(app: App) -> None:
    items_of(app)
    # What a true one tells is shown in test_process_jobs.py.
    process = current_process()
    name, process.name = process.name, WORKER_NAME
    try:
        app.open()  # here
    finally:
        process.name = name


def marked_line(function: Callable[[App], object]) -> int:
    lines, first = inspect.getsourcelines(function)
    (offset,) = [i for i, line in enumerate(lines) if line.rstrip().endswith("# here")]
    return first + offset


@pytest.mark.parametrize(
    ("code", "case"),
    [
        pytest.param(code, case, id=f"{code}-{case.__name__}")
        for code, cases in CASES.items()
        for case in cases
    ],
)
def test_mistake_is_found(
    code: str, case: Callable[[App], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = App("wrong")
    with pytest.raises(ConfigError) as caught:  # noqa: PT012  (either of the two)
        case(app)
        app.open(tmp_path / "store")
    error = caught.value
    assert error.code == code, str(error)
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = marked_line(case)
    assert error.where == f"{Path(__file__).name}:{line}  {source[line - 1].strip()}"
    assert isinstance(error, ValueError)
    assert isinstance(error, KlerkError)
    text = str(error)
    assert text.startswith(f"{code}: {error.message}\n")
    assert error.where in text
    assert text.endswith(f"\n  More: python -m klerk explain {code}")
    assert list(tmp_path.iterdir()) == []


def test_every_code_is_provoked_and_explained() -> None:
    assert set(CASES) == set(EXPLANATIONS)
    for text in EXPLANATIONS.values():
        assert text.splitlines()[0].endswith(".")


@pytest.mark.parametrize("code", ["K001", "k012"])
def test_explain_prints_what_a_code_means(code: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "klerk", "explain", code],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert EXPLANATIONS[code.upper()].splitlines()[0] in ran.stdout


def test_explain_refuses_unknown_codes() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "klerk", "explain", "K999"],
        env=python_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode != 0
    assert "K999" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_design_without_mistakes_opens() -> None:
    """What the cases start from is right, so each fails for its own mistake alone."""
    app = App("right")
    items_of(app)
    app.open().close()


def test_a_design_that_failed_can_be_mended() -> None:
    app = App("mended")
    items, new, _ = items_of(app)
    (stuck,) = items.states("stuck")
    new.after(timedelta(1)).to(stuck)
    with pytest.raises(ConfigError, match=r"K012: Item\.stuck can never be left"):
        app.open()
    stuck.after(timedelta(1)).to(new)
    app.open().close()


def test_one_design_can_be_opened_twice() -> None:
    bank = Bank()
    with bank.app.open() as first, bank.app.open() as second:
        first.handle(bank.enter("Ada"), TESTER)
        assert (len(bank.contents(first)), len(bank.contents(second))) == (1, 0)


def test_names_in_quoted_annotations_are_found_where_they_were_written() -> None:
    local = datetime
    app = App("quoted")

    class Part(Model):
        made: "local"
        next: "Ref[Part] | None" = None

    parts = app.machine(Part)
    (there,) = parts.states("there")
    app.allow.command()(lambda a: True)

    @parts.create(into=there)
    def make(a: Args, after: "Ref[Part] | None") -> Part:
        return Part(made=local.fromisoformat("2024-01-01T00:00:00+00:00"), next=after)

    with app.open() as k:
        first = k.handle(make(None), TESTER).id
        assert k.handle(make(first), TESTER).id == first + 1
