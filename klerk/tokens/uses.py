"""Which tokens were used, and for what: kept in the commit log, in a family of their own, and in memory."""

import secrets
import struct
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from klerk import limits
from klerk._core import Group, Processor
from klerk._dispatch import microseconds
from klerk._image import key_of
from klerk._working import id_or_zero
from klerk.batch import Batch
from klerk.checkpointer import write_tokens
from klerk.codec import TOKEN_SECRET_KEY, number_of
from klerk.commands import Command, Context
from klerk.errors import ArgumentError, Conflict, InvalidValue, LimitExceeded
from klerk.job_steps import AskedJobs, JobSteps, Step
from klerk.jobs import JobRecord, JobRequest
from klerk.processing import Program
from klerk.storage.contract import Family, Storage
from klerk.tokens.digests import canonical, encode
from klerk.tokens.job_requests import asked_jobs
from klerk.tokens.job_tokens import ANYTHING, JobTokens, LivingJobs, about
from klerk.tokens.repeated import FirstUse, RepeatedResult
from klerk.tokens.rows import packed, read_row
from klerk.tokens.token import DIGEST_BYTES, Demands, Token, TokenSeal
from klerk.translation import translated
from klerk.values import Model

# Sequence, when it was used, for how many commands, and their digest.
USE: Final = struct.Struct(f">qqi{DIGEST_BYTES}s")

# Under this sequence, which no transaction has, stands when the newest of the dropped tokens was used.
FORGOTTEN: Final = 0

SINGLE: Final = -1
JOBS: Final = -2
"""In place of how many commands there were: one that is not in a list; jobs that a job asked for."""


class TokenUse(msgspec.Struct, frozen=True):
    """A token as a submission carries it.

    Parameters:
        id, issued_us, demands: of the token.
        digest: of what it is used for; empty when that has none, and so is nothing that was done before.
        job: the id of the job whose command it is; 0: of none.
    """

    id: bytes
    issued_us: int | None
    demands: Demands
    digest: bytes
    job: int = 0


class TokenUses:
    """Gives out the tokens of one open store, and lets none of them take effect twice.

    What is called while a command is processed (`first_outcome`, `keep`) is called by one thread at a time.

    Parameters:
        storage: with the tokens that were used before.
        program: the design.
        clock: the time.
        keep_for: how long a used token is known, and how long an unused one is accepted.
    """

    def __init__(
        self, storage: Storage, program: Program, clock: Callable[[], datetime], keep_for: timedelta
    ) -> None:
        self._storage = storage
        self._plans = program.plan_of_code
        self._processor: Processor = program.processor
        # An event keeps its code when a migration gives it or its class another name.
        self._events = {
            each.event: (program.code_of_event[each.event], tuple(each.parameters.values()))
            for each in program.spec.events
        }
        self._job_types = program.spec.job_parameters
        self._clock = clock
        self._keep_for_us = keep_for // timedelta(microseconds=1)
        self._seal = TokenSeal(_secret_of(storage))
        self._uses: dict[bytes, bytes] = {}
        # The ids in the order of their use. A dictionary whose first keys are gone is slow to find the next.
        self._order: deque[bytes] = deque()
        self._of_jobs = JobTokens()
        self._dropped: list[int] = []
        self._forgotten_us = 0
        self._used_us = 0
        self._load()
        program.processor.tokens = self
        program.views.secret = self._seal.digest(b"cursors")

    # --- giving out and taking back, in any thread ----------------------------------------------------

    def token(self, models: tuple[Model, ...]) -> Token:
        """Return a fresh token that demands models to be unchanged; see `Klerk.token`."""
        if len(models) > limits.TOKEN_DEMANDS_MAX:
            raise LimitExceeded(
                f"a token for {len(models)} models, more than {limits.TOKEN_DEMANDS_MAX}",
                hint="Name the models that the decision rests on.",
            )
        demands = []
        for model in models:
            given: object = model
            if not isinstance(given, Model) or model._meta is None:
                raise ArgumentError(
                    f"a token cannot demand that {type(model).__name__} is unchanged",
                    hint="Give models as a read or a result returned them.",
                )
            demands.append((int(model.meta.id), model.meta.version))
        return self._seal.token(tuple(demands), self._now_us())

    def parse(self, text: str) -> Token:
        """Return the token with a text; see `Klerk.parse_token`."""
        return self._seal.parse(text)

    def use(self, token: Token | str, work: Any, context: Any) -> TokenUse:
        """Return a token as a submission carries it.

        Parameters:
            work: what is submitted with it: a command, a list of them, or a function.

        Raises:
            InvalidValue: (``bad_token``) it is none that this store gave out.
        """
        try:
            known = self._known(token)
        except InvalidValue as error:
            # Refused before the command is submitted; what was given as the context may be none.
            raise translated(error, getattr(context, "translation", None)) from None
        return TokenUse(known.id, known.issued_us, known.demands, self._digest(work, context))

    def step_of(self, steps: JobSteps, command: Command[Any], name: str | None) -> Step:
        """Return the step of a job that a command is; see `JobRun.handle`.

        Raises:
            ArgumentError: as for `JobSteps.named`.
        """
        if name is not None:
            return steps.named(command, name)
        code, fields = self._events.get(command.event, (0, ()))
        return steps.step(command, about(command, code, fields))

    def use_in_job(self, step: Step, context: Any) -> TokenUse:
        """Return the token of a step of a job as a submission carries it."""
        asked = step.asked
        if isinstance(asked, AskedJobs):
            digest = ANYTHING if step.is_named or asked.refers else self._seal.digest(asked.identity)
        else:
            stands_for_first = step.is_named or asked.target is not None
            digest = ANYTHING if stands_for_first else self._digest(asked, context)
        return TokenUse(step.token.id, None, (), digest, step.job)

    def step_of_jobs(
        self, steps: JobSteps, requests: tuple[JobRequest | Batch, ...], name: str | None
    ) -> Step:
        """Return the step of a job that jobs are which it asks for; see `JobRun.schedule`.

        Raises:
            ArgumentError: as for `JobSteps.named`.
        """
        asked = asked_jobs(requests, self._job_types)
        return steps.step(asked, asked.about) if name is None else steps.named(asked, name)

    def idempotency_key(self, record: JobRecord) -> str:
        """Return the key of a job's effects outside of the store; see `JobRun.idempotency_key`."""
        # A store that was restored from a copy gives ids once more, to other jobs.
        about_job = ("job", record.id, record.renewals, record.created_us)
        return self._seal.digest(b"effect" + encode(about_job)).hex()

    def _known(self, token: Token | str) -> Token:
        if not isinstance(token, Token):
            return self._seal.parse(token)
        if token.seal is not None and not self._seal.made(token):
            raise InvalidValue(
                "this token was made by another store",
                code="bad_token",
                hint="Use tokens with the store whose Klerk.token() made them.",
            )
        return token

    def _digest(self, work: Any, context: Any) -> bytes:
        """Return what tells one use from another: who acts, and each command with its target and parameters.

        What a function will yield is not known before it runs, so all functions count as the same.
        """
        try:
            if type(work) is Command:
                commands: Any = self._canonical_command(work)
            elif type(work) is list:
                commands = [self._canonical_command(command) for command in work]
            else:
                commands = None
            encoded = encode((_actors(context), commands))
        except Exception:
            # Whatever it is, it will be refused as it would be without a token.
            return b""
        return self._seal.digest(encoded)

    def _canonical_command(self, command: Command[Any]) -> tuple[Any, ...]:
        code, fields = self._events[command.event]
        values = [canonical(field, value) for field, value in zip(fields, command.values, strict=True)]
        return code, id_or_zero(command.target), values

    def _now_us(self) -> int:
        return microseconds(self._clock())

    # --- while a command is processed -----------------------------------------------------------------

    def first_outcome(self, use: TokenUse, context: Context) -> Any:
        """Return the first outcome of a token that was used before; None for one that may be used now.

        The first use may be in a group that is not durable yet: the second one is acknowledged after it.

        Raises:
            Conflict: (``token_reused``) it was used for something else; (``token_expired``) nobody knows any
                more whether it was used; (``changed_meanwhile``) a model is not as the token demands.
            LimitExceeded: too many tokens are kept.
        """
        known = self._uses.get(use.id)
        if known is not None:
            return self._repeated(known, use, context)
        now_us = self._used_us = self._now_us()
        self._drop_expired(now_us)
        if use.issued_us is not None and use.issued_us <= max(now_us - self._keep_for_us, self._forgotten_us):
            raise Conflict(
                "this token has expired: whether it was used before is not known any more",
                code="token_expired",
                hint="See whether the command took effect, and use a new token. How long tokens last is set"
                " with App.open(token_ttl=).",
            )
        if len(self._uses) >= limits.TOKENS_MAX:
            raise LimitExceeded(
                f"{len(self._uses)} used tokens are kept, and none of them has expired",
                hint="Let a job that handles so many commands end, and another go on."
                if use.job
                else "Use tokens only where something may be sent again, or open with a shorter token_ttl.",
            )
        self._require_unchanged(use.demands)
        return None

    def _repeated(self, known: bytes, use: TokenUse, context: Context) -> Any:
        sequence, _, count, digest = USE.unpack(known)
        if digest != use.digest and count == JOBS:
            raise Conflict(
                f"an earlier attempt at job {use.job} asked for other jobs in this place, in transaction"
                f" {sequence}",
                code="token_reused",
                hint="Give the step a name, which stands for what was asked for first:"
                " job.schedule(*requests, step='mails for May').",
            )
        if digest != use.digest and use.job:
            raise Conflict(
                f"an earlier attempt at job {use.job} handled this with other parameters, in transaction"
                f" {sequence}",
                code="token_reused",
                hint="Give the step a name, which stands for what was done first:"
                " job.handle(command, step='invoice for May').",
            )
        if digest != use.digest:
            raise Conflict(
                f"this token was used for something else, in transaction {sequence}",
                code="token_reused",
                hint="Make a new token for each thing to be done once, with Klerk.token().",
            )
        first = FirstUse(self._storage, self._plans, sequence)
        if count == JOBS:
            return first
        shown_by = self._processor.shown_by
        if count == SINGLE:
            return RepeatedResult(first, 0, context, shown_by)
        return [RepeatedResult(first, place, context, shown_by) for place in range(count)]

    def _require_unchanged(self, demands: Demands) -> None:
        for id, version in demands:
            model = self._processor.working(id)
            if model is None:
                text = f"the model {id} was deleted since this token was made"
            elif model.meta.version != version:
                name = type(model).__name__
                text = (
                    f"{name} {id} has version {model.meta.version}, and this token demands version {version}"
                )
            else:
                continue
            raise Conflict(text, code="changed_meanwhile", hint="Read it again, decide, and use a new token.")

    def keep(self, group: Group, use: TokenUse, sequence: int, concerned: Any) -> bytes:
        """Note that a transaction used the token admitted last; return what the commit log's head says of it.

        Parameters:
            group: that the transaction belongs to.
            concerned: the id that its command is about, or a list of them; or a tuple of the jobs' records.
        """
        count = _count_of(concerned)
        known = USE.pack(sequence, self._used_us, count, use.digest)
        row = packed(use.id, self._used_us, count, use.digest, use.job)
        if self._dropped:
            group.tokens.update(dict.fromkeys(self._dropped))
            group.tokens[FORGOTTEN] = key_of(self._forgotten_us)
            self._dropped = []
        group.tokens[sequence] = row
        self._remember(use.id, known, use.job)
        return row

    def _remember(self, id: bytes, known: bytes, job_id: int) -> None:
        self._uses[id] = known
        if job_id:
            self._of_jobs.add(job_id, id)
        else:
            self._order.append(id)

    def follow_jobs(self, group: Group) -> None:
        """Drop the tokens of jobs that end with a group, once it has been processed."""
        for id in self._of_jobs.left_by(group.notices):
            sequence, *_ = USE.unpack(self._uses.pop(id))
            group.tokens[sequence] = None

    def _drop_expired(self, now_us: int) -> None:
        """Forget the oldest tokens whose time is over, a bounded number at once."""
        for _ in range(min(len(self._order), limits.TOKENS_DROPPED_AT_ONCE)):
            id = self._order[0]
            sequence, used_us, *_ = USE.unpack(self._uses[id])
            if used_us > now_us - self._keep_for_us:
                return
            self._order.popleft()
            del self._uses[id]
            self._dropped.append(sequence)
            self._forgotten_us = max(self._forgotten_us, used_us)

    # --- opening --------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Read the tokens that were used before, and remove those whose time is over, or whose job."""
        oldest_us = self._now_us() - self._keep_for_us
        living = LivingJobs(self._storage)
        expired: list[int] = []
        for key, row in self._storage.scan(Family.TOKENS):
            sequence = number_of(key)
            if sequence == FORGOTTEN:
                self._forgotten_us = number_of(row)
                continue
            id, used_us, count, digest, job_id = read_row(sequence, row)
            if job_id in living if job_id else used_us > oldest_us:
                self._remember(id, USE.pack(sequence, used_us, count, digest), job_id)
                continue
            expired.append(sequence)
            if not job_id:
                self._forgotten_us = max(self._forgotten_us, used_us)
        if expired:
            write_tokens(self._storage, {FORGOTTEN: key_of(self._forgotten_us), **dict.fromkeys(expired)})


def _secret_of(storage: Storage) -> bytes:
    """Return what seals the tokens of a store: made once, and durable before any token is given out."""
    secret = storage.get(Family.META, TOKEN_SECRET_KEY)
    if secret is None:
        secret = secrets.token_bytes(32)
        storage.write([(Family.META, TOKEN_SECRET_KEY, secret)], [])
        storage.sync()
    return secret


def _count_of(concerned: Any) -> int:
    if type(concerned) is list:
        return len(concerned)
    return JOBS if type(concerned) is tuple else SINGLE


def _actors(context: Any) -> list[Any]:
    """Return who acts and on whose behalf: a token is good for nobody else."""
    if not isinstance(context, Context):
        return []
    behalf = context.on_behalf_of
    return [context.actor.kind, context.actor.id, *([] if behalf is None else [behalf.kind, behalf.id])]
