"""Following the commits: the steps from what is in a subscriber's queue, or in the log, to what it is told.

A follower never waits and never takes a lock. It says what has to be done before the next change can be told,
and threads and asyncio do that each in their own way.
"""

from collections import deque
from enum import Enum, auto
from typing import Any

from klerk import limits
from klerk.changes.catch_up import CatchUp
from klerk.changes.change import Change, Delta, Watched
from klerk.changes.feeds import Feed, Hub
from klerk.changes.judging import Judge, Told
from klerk.commands import Context
from klerk.errors import ArgumentError, Closed, KlerkError, Lagged


class Todo(Enum):
    """What has to be done before the next change can be told."""

    TELL = auto()
    JUDGE = auto()
    READ = auto()
    WAIT = auto()
    REST = auto()
    END = auto()


class Follower:
    """Where one subscriber stands.

    Parameters:
        hub: hands out the groups.
        context: on whose behalf.
        what: see `Watched`.
        since: the sequence after which to begin; None: the newest that readers see now.
        queue_length_max: changed models that may wait.
        catch_up: go on from the log without a word when the queue was full.

    Attributes:
        reader: to be held while `judge` is called.
        feed: woken when there may be something to do.
        lags: how often the queue was full.
    """

    def __init__(
        self,
        hub: Hub,
        context: Context,
        what: Any,
        *,
        since: int | None,
        queue_length_max: int,
        catch_up: bool,
    ) -> None:
        if hub.over:
            raise Closed("this Klerk is closed", hint="Open the app again.")
        _check_bounds(since, queue_length_max, hub.processor.published_sequence)
        hub.sight.begin(context)
        self.reader = hub.reader(context)
        self.lags = 0
        self.closed = False
        self._hub = hub
        self._watched = Watched(what, hub.sight)
        self._catch_up = catch_up
        self._length_max = queue_length_max
        self._judge = Judge(self.reader, self._watched, hub.sight)
        self._log = CatchUp(hub.storage, hub.plans, self._watched)
        # From the queue or log to what can be told: each is filled before the one before it is emptied, so
        # that `sequence` never runs ahead of what was told, whoever asks for it.
        self._deltas: deque[Delta] = deque()
        self._delta: Delta | None = None
        self._offset = 0
        self._candidates: list[tuple[int, Any, Any]] = []
        self._looked_at = 0
        self._held: Told | None = None
        self._ready: deque[Change[Any]] = deque()
        self._joined = False
        self.feed = self._new_feed()
        self._sequence = self._log_until = since or 0
        if since is None:
            self._join()
            self._sequence = self._log_until

    def _new_feed(self) -> Feed:
        return Feed(self._length_max, self._watched)

    @property
    def sequence(self) -> int:
        """Up to where everything was told."""
        # What concerns nobody moves on the sequence, too, also while the subscriber waits.
        noted = self._hub.noted
        if not self.is_idle() or self._deltas or self._delta is not None or self._ready:
            return self._sequence
        return max(self._sequence, noted)

    def is_idle(self) -> bool:
        """Return whether there is nothing to do for a subscriber that took all there was."""
        return (
            self._joined
            and self._sequence >= self._log_until
            and not self.feed.entries
            and not self.feed.is_full
            and not self.closed
            and not self._hub.over
        )

    def refuse_waiting(self, *, blocking: bool) -> None:
        """Raise where the next change would never come; see `Hub.refuse_waiting`."""
        self._hub.refuse_waiting(blocking=blocking)

    def close(self) -> None:
        """Be told nothing more; from any thread, also while the garbage is collected."""
        self.closed = True
        self._hub.leave(self.feed)
        self.feed.rouse()

    # --- the steps --------------------------------------------------------------------------------

    def next_step(self) -> Todo:
        """Go as far as is possible without waiting, reading or asking rules, and say what comes next.

        Raises:
            Lagged: the queue was full, and this was not told yet.
        """
        looked_at = self._looked_at
        while self._looked_at - looked_at < limits.SUBSCRIBER_MODELS_AT_ONCE:
            if self.closed:
                return Todo.END
            if self._ready:
                return Todo.TELL
            if self._candidates:
                return Todo.JUDGE
            if self._delta is not None:
                self._look()
            elif not self._begin_delta():
                return self._come_up()
        return Todo.REST

    def is_due_to_rest(self) -> bool:
        """Return whether others on an event loop should get their turn; counts from there anew."""
        if self._looked_at < limits.SUBSCRIBER_MODELS_AT_ONCE:
            return False
        self._looked_at = 0
        return True

    def tell(self) -> Change[Any]:
        """Return the next change, which counts as told now."""
        change = self._ready[0]
        if change.last:
            self._sequence = change.sequence
        self._ready.popleft()
        self._looked_at += 1
        return change

    def read(self) -> list[Delta]:
        """Read on in the log. It may take a while, and changes nothing here."""
        return self._log.read(self._sequence + 1, self._log_until + 1)

    def accept(self, deltas: list[Delta]) -> None:
        """Go on with what was read."""
        self._deltas.extend(deltas)

    def _begin_delta(self) -> bool:
        while self._deltas:
            delta = self._deltas[0]
            is_new = delta.sequence > self._sequence
            if is_new:
                self._offset = 0
                self._delta = delta
            self._deltas.popleft()
            self._looked_at += 1
            if is_new:
                return True
        return False

    def _come_up(self) -> Todo:
        """Everything at hand was told: find out where to go on."""
        published = self._hub.processor.published_sequence
        if not self._joined:
            if published - self._sequence > self._length_max // 2:
                self._log_until = published
                return Todo.READ
            self._join()
        if self._sequence < self._log_until:
            return Todo.READ
        self._log.forget()
        over, noted = self._hub.over, self._hub.noted
        if self.feed.entries:
            self._deltas.extend(self.feed.take())
            self.feed.drop()
            return Todo.REST
        if self.feed.is_full:
            return self._lag()
        self._sequence = max(self._sequence, noted)
        return Todo.END if over else Todo.WAIT

    def _join(self) -> None:
        self._hub.join(self.feed)
        self._joined = True
        if self.closed:
            # By another thread, just now.
            self._hub.leave(self.feed)
        # Whatever was published before it joined is in the log; what is in both is told once.
        self._log_until = self._hub.processor.published_sequence

    def _lag(self) -> Todo:
        self.lags += 1
        self._joined = False
        self.feed = self._new_feed()
        if not self._catch_up:
            raise Lagged(
                f"more than {self._length_max} changes came after transaction {self._sequence}",
                sequence=self._sequence,
                hint="Go on with this subscription, or make one with since=this sequence: the rest is read"
                " from the log. With catch_up=True that happens without an error.",
            )
        return Todo.REST

    # --- who sees what ----------------------------------------------------------------------------

    def _look(self) -> None:
        """Find out which of the next models of a transaction can concern the subscriber."""
        delta = self._delta
        assert delta is not None
        end = self._offset + limits.SUBSCRIBER_MODELS_AT_ONCE
        models = delta.models[self._offset : end]
        candidates = self._judge.candidates(models)
        if end >= len(delta.models):
            candidates.extend((id, None, None) for id in delta.lost)
        self._looked_at += len(models)
        self._candidates = candidates
        if not candidates:
            self._go_on([])

    def judge(self) -> None:
        """Ask the rules about the models at hand. The reader is held.

        Raises:
            FunctionFailed: one raised; nothing was told, and everything is asked again next time.
        """
        try:
            told = self._judge.told(self._candidates)
        except KlerkError as error:
            assert self._delta is not None
            error.add_note(f"while a subscriber was told of transaction {self._delta.sequence}")
            raise
        self._go_on(told)

    def _go_on(self, told: list[Told]) -> None:
        """Make ready what can be told: the last one is held back until it is known whether others follow."""
        delta = self._delta
        assert delta is not None
        if self._held is not None:
            told.insert(0, self._held)
        self._offset += limits.SUBSCRIBER_MODELS_AT_ONCE
        is_end = self._offset >= len(delta.models)
        self._held = told.pop() if told and not is_end else None
        final = len(told) - 1 if is_end else -1
        self._ready.extend([each.as_change(delta, last=i == final) for i, each in enumerate(told)])
        self._candidates = []
        if is_end:
            if not told:
                self._sequence = delta.sequence
            self._delta = None


def _check_bounds(since: object, queue_length_max: object, newest: int) -> None:
    if since is not None:
        if type(since) is not int or since < 0:
            raise ArgumentError(
                f"since is {since!r}", hint="Pass the sequence of a transaction, or 0 for all."
            )
        if since > newest:
            raise ArgumentError(
                f"since is {since}, and the newest transaction is {newest}",
                hint="The sequence is of another store, or of one that was restored from an older copy.",
            )
    longest = limits.SUBSCRIBER_QUEUE_LENGTH_LIMIT
    if type(queue_length_max) is not int or not 1 <= queue_length_max <= longest:
        raise ArgumentError(f"queue_length_max must be 1 to {longest}, is {queue_length_max!r}")
