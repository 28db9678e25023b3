"""When a push asks for an answer, and what holds while the answer is missing; one per connection, owned by its sink.

Small pushes vanish into the kernel's queues, so only answers show that a client still reads; but an answer costs more
than a push, so few are asked for. The first push asks. A later one asks when `ack_seconds` and 8 pushes have passed
since the last ask, or a third of `stale_seconds` alone. At most one ask is open; once it is overdue nothing more is
sent until it is answered. Hence a stopped client holds at most the pushes of one interval between asks plus those of
one `ack_seconds`, however long it stops.

A connection that had no ask for half of `stale_seconds` is probed, and one that owes an answer and has given no sign
of life for `stale_seconds` is stale.

Rules of this module: no I/O and no clock; times are seconds of one monotonic clock, handed in.
"""

import math
from enum import Enum

PUSHES_BETWEEN_ASKS = 8
ERRORS_IN_A_ROW = 3
"""As many error answers to pushes in a row end a connection: its mind cannot take what it is sent."""


class Verdict(Enum):
    """What to do with a push that is due."""

    SEND = "send it one-way"
    ASK = "send it and ask for an answer"
    HOLD = "send nothing: an answer is overdue"


SEND, ASK, HOLD = Verdict  # a name of the module costs a push less than a member of an Enum


class AckWindow:
    """The asks and answers of one connection.

    Args:
        ack_seconds: An open ask is overdue after this long, in seconds.
        stale_seconds: No sign of life for this long, and the peer counts as gone, in seconds.
        now: The moment the connection was last heard of.

    Attributes:
        free_until: Before this moment any push may go, and `admit` need not be asked.
        owed: Names of the feeds held back since an ask became overdue, in the order they were first held.
    """

    __slots__ = (
        "_ack_seconds",
        "_asked",
        "_errors",
        "_heard",
        "_last_ask",
        "_last_question",
        "_pushes",
        "_stale_seconds",
        "free_until",
        "owed",
    )

    def __init__(self, ack_seconds: float, stale_seconds: float, now: float) -> None:
        self._ack_seconds = ack_seconds
        self._stale_seconds = stale_seconds
        self._asked: float | None = None
        self._last_ask: float | None = None
        self._last_question: float | None = None  # an ask or a probe
        self.free_until = -math.inf
        self._heard = now
        self._pushes = 0
        self._errors = 0
        self.owed: dict[str, None] = {}

    def admit(self, now: float, unasked: int = 0) -> Verdict:
        """Decide on a push that is due; `ASK` opens the ask.

        Args:
            now: This moment.
            unasked: Pushes that went since the last call, because it was not `free_until` yet; more than
                `PUSHES_BETWEEN_ASKS` need not be counted.
        """
        self._pushes += unasked + 1
        if now < self.free_until:
            return SEND
        if self._asked is not None:
            return HOLD if self.overdue(now) else SEND
        if self._last_ask is not None:
            passed = now - self._last_ask
            few = passed < self._ack_seconds or self._pushes <= PUSHES_BETWEEN_ASKS
            if few and passed < self._stale_seconds / 3:
                return SEND
        self._asked = self._last_ask = self._last_question = now
        self.free_until = now + min(self._ack_seconds, self._stale_seconds / 3)
        self._pushes = 0
        return ASK

    def overdue(self, now: float) -> bool:
        """Tell whether an answer is missing for too long."""
        return self._asked is not None and now - self._asked >= self._ack_seconds

    def owe(self, feed: str) -> None:
        """Note that a feed's push was held."""
        self.owed[feed] = None

    def settle(self) -> list[str]:
        """Return the feeds owed, and owe them no more."""
        owed = list(self.owed)
        self.owed.clear()
        return owed

    def quiet(self, now: float) -> bool:
        """Tell whether nothing was asked for half of `stale_seconds`."""
        last = self._heard if self._last_question is None else self._last_question
        return now - last >= self._stale_seconds / 2

    def probe(self, now: float) -> bool:
        """Tell whether the connection is to be probed now; if so, the probe is an ask that is open."""
        return self.quiet(now) and self.question(now)

    def question(self, now: float) -> bool:
        """Tell whether the connection may be probed, whether or not it was quiet; as `probe` otherwise."""
        if self._asked is not None:
            return False
        self._asked = self._last_question = now
        return True

    def answered(self, now: float) -> float:
        """Close the open ask.

        Returns:
            The time from ask to answer, in seconds.
        """
        asked = now if self._asked is None else self._asked
        self._asked = None
        self._heard = now
        return now - asked

    def erred(self, error: bool) -> bool:
        """Note whether the answer to a push was an error; not called for probes, whose answers are errors by design.

        Returns:
            Whether it was the third error in a row.
        """
        self._errors = self._errors + 1 if error else 0
        return self._errors >= ERRORS_IN_A_ROW

    def stale(self, now: float) -> bool:
        """Tell whether the peer owes an answer and has been silent for too long."""
        return self._asked is not None and now - max(self._heard, self._asked - self._stale_seconds / 2) >= (
            self._stale_seconds
        )
