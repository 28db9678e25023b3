"""A client's mind as a sink: the way of a push from its feed to the socket.

Rules of this module: it is the hot path. No logging, no formatting; a change here comes with its before and after from
`bench/`.
"""

import math
from collections.abc import Callable, Mapping
from itertools import count
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from clockd.interfaces import IClient
from clockd.transport import Outlet, WrappedOutlet
from clockd.values import MAX_SECONDS, NOTICES, Limits, Sample, Tally
from clockd.window import HOLD, PUSHES_BETWEEN_ASKS, SEND, AckWindow
from clockd.wire import PushTemplate


class Connection(Protocol):
    """What a mind needs of its connection."""

    def new_request(self) -> int:
        """Return a number for a request that wants an answer."""

    def peer(self) -> str:
        """Return where the client is, printable."""

    def owe(self) -> None:
        """Note that a push was skipped because too much is unsent."""

    def probe(self, request: int) -> None:
        """Send a request that every client answers."""

    def close(self, reason: str) -> None:
        """Close the connection once all is written, for one of `CLOSE_REASONS`."""

    def end(self, reason: str) -> None:
        """Close the connection at once, for one of `CLOSE_REASONS`."""


class _Touched:
    """What each push touches, in one place of the memory: slots of a base class come first."""

    __slots__ = (
        "_buffer_bytes",
        "_free_until",
        "_gathered_bytes",
        "_outlet",
        "_seconds",
        "_tally",
        "_template",
        "_unasked",
        "pushes",
    )


@implementer(IClient)
class RemoteMind(_Touched):
    """Pushes to a client one-way, and now and then asks for an answer.

    The time goes out at once. Other samples that are due together are gathered, and go out as one.

    Args:
        reference: The mind; held for as long as the session lasts, because once dropped the client would forget it.
        connection: Where it lives.
        outlet: Takes bytes for the client, and knows what is unsent.
        template: The bytes of a push.
        limits: When answers are overdue, silence is too long, and too much is unsent.
        tally: Where pushes are counted.
        clock: Monotonic time.
        now: Unix seconds UTC by the host's wall clock, for notices.
        finish_soon: As `Schedule.finish_soon`; has gathered samples sent.

    Attributes:
        pushes: See `IClient`.
        skipped: See `IClient`.
        acknowledgement: See `IClient`.
        received: See `IClient`.
        takes_samples: See `IClient`.
        window: Its asks and answers.
        request: The number of the question that is open, or None.
        awaited: The bytes of the answer `None` to that question.
    """

    __slots__ = (
        "_asked",
        "_asks_of_sample",
        "_connection",
        "_expects",
        "_finish_soon",
        "_gathered",
        "_notices",
        "_now",
        "_probing",
        "_pull",
        "_reference",
        "_step",
        "_suspected",
        "_tried",
        "_waiting",
        "acknowledgement",
        "awaited",
        "received",
        "request",
        "skipped",
        "takes_samples",
        "window",
    )

    def __init__(
        self,
        reference: object,
        connection: Connection,
        outlet: Outlet | WrappedOutlet,
        template: PushTemplate,
        limits: Limits,
        tally: Tally,
        clock: IReactorTime,
        now: Callable[[], float],
        finish_soon: Callable[[Callable[[], int]], bool],
    ) -> None:
        self._reference = reference
        self._connection = connection
        self._outlet = outlet
        self._template = template
        self._buffer_bytes = limits.buffer_bytes
        self._tally = tally
        self._seconds = clock.seconds
        self._free_until = -math.inf  # the window's, but for when something is owed
        self._unasked = 0
        self._suspected = False
        self._probing = False
        self._gathered: list[bytes] | None = None
        self._gathered_bytes = 0
        self._pull: Callable[[str], Sample | None] = _nothing
        self._notices: count[int] | None = None
        self._now = now
        self._finish_soon = finish_soon
        self._waiting: tuple[Deferred[bool], ...] = ()  # fire at the next answer
        self._asked: float | None = None  # when the open question was, by the wall clock, unless that was stepped since
        self._step: float | None = None  # of the wall clock, in seconds, of which it is still to be told
        self._asks_of_sample = False  # the open question, or the last one
        self._expects = self.takes_samples = self._tried = True
        self.received = now()
        self.pushes = 0
        self.skipped = 0
        self.acknowledgement: float | None = None
        self.window = AckWindow(limits.ack_seconds, limits.stale_seconds, clock.seconds())
        self.request: int | None = None
        self.awaited: bytes | None = None

    def push(self, sample: Sample) -> bool:
        """Send a sample, unless an answer is overdue or too much is unsent."""
        outlet = self._outlet
        if outlet.unsent + self._gathered_bytes > self._buffer_bytes:
            self._connection.owe()
            return self._skip(sample.feed, "buffer")
        seconds = self._seconds  # not self._seconds(): a call by way of a slot takes 40 ns more
        if seconds() < self._free_until:
            if self._unasked <= PUSHES_BETWEEN_ASKS:  # more makes no difference, and small ints are not allocated
                self._unasked += 1
            data = self._template.one_way(sample)
        else:
            admitted = self._admitted(sample)
            if admitted is None:
                return self._skip(sample.feed, "unacknowledged")
            data = admitted
        if sample.sequence is None:
            outlet.write(data)
        else:
            self._gather(data)
        counts = self._tally.feeds[sample.feed]
        counts.pushes += 1
        counts.bytes += len(data)
        self.pushes += 1
        return True

    def pull_from(self, pull: Callable[[str], Sample | None]) -> None:
        """See `IClient`."""
        self._pull = pull

    def expect_samples(self, expected: bool) -> None:
        """See `IClient`."""
        self._expects = self._tried = expected
        self.takes_samples = True

    def take_notices(self, wanted: bool = True) -> None:
        """See `IClient`."""
        self._notices = (self._notices or count(1)) if wanted else None

    @property
    def takes_notices(self) -> bool:
        """See `IClient`."""
        return self._notices is not None

    def notify(self, notice: Mapping[str, object]) -> None:
        """See `IClient`."""
        if self._notices is not None and self._outlet.unsent <= self._buffer_bytes:
            self._outlet.write(self._template.one_way(Sample(NOTICES, next(self._notices), self._now(), dict(notice))))

    def stepped(self, seconds: float, now: float) -> None:
        """Take note that the host's wall clock was stepped; who takes notices is told before the next push.

        Args:
            seconds: How much more it shows since.
            now: What it shows now.
        """
        self._asked = None
        self.received = now
        if self._notices is not None:
            self._step = seconds + (self._step or 0.0)
            self._free_until = -math.inf

    def tell_step(self) -> None:
        """Tell the client of a step of which it is still to be told, unless too much is unsent."""
        if self._step is not None and self._outlet.unsent <= self._buffer_bytes:
            seconds, self._step = self._step, None
            self.notify({"kind": "clock_step", "step_seconds": seconds})

    @property
    def address(self) -> str:
        """See `IClient`."""
        return self._connection.peer()

    def ping(self) -> Deferred[bool]:
        """See `IClient`."""
        if self.window.question(self._seconds()):
            self._connection.probe(self._question(probing=True))
        answered: Deferred[bool] = Deferred()
        self._waiting = (*self._waiting, answered)
        return answered

    def close(self, reason: str) -> None:
        """See `IClient`."""
        self._connection.close(reason)

    def heard(self, error: bool) -> None:
        """Take the answer to the question that is open.

        Args:
            error: Whether the client answered with an error.
        """
        probing, self.request, self.awaited = self._probing, None, None
        self._suspected = False
        seconds = self.window.answered(self._seconds())
        if not probing:
            self._tally.acknowledgement.observe(seconds)
            self.acknowledgement = seconds
            if error and self._asks_of_sample and not self._expects:
                self.takes_samples = False
            elif self.window.erred(error):
                self._connection.end("protocol")
                return
        self._settle()
        self._tell_waiting(answered=True)

    def tells(self, data: bytes) -> bool:
        """Tell whether data is an aware client's answer to the question that is open, and take what it tells."""
        pair = None if self.awaited is None else self._template.pair(self.awaited, data)
        if pair is None:
            return False
        self.told(*pair)
        return True

    def told(self, received: float, bound: float) -> None:
        """Take what an aware client tells with its answer; what makes no sense is passed over.

        The client's clock is compared with the middle between question and answer, as RFC 5905 does in section 8, so it
        may be off by half of the time between these.

        Args:
            received: When the push came, Unix seconds by the client's clock.
            bound: How well it knows the server's clock, in seconds; infinite if it does not.
        """
        asked = self._asked
        if asked is None or self._probing:
            return
        offset = received - (asked + self.received) / 2
        if not (-math.inf < offset < math.inf and bound >= 0):  # NaN is neither
            return
        tally = self._tally  # what is too large would spoil a sum for ever
        tally.subscriber_offset.observe(min(abs(offset), MAX_SECONDS))
        if bound < math.inf:
            tally.subscriber_bound.observe(min(bound, MAX_SECONDS))

    def lost(self) -> None:
        """Take note that the connection has ended."""
        self._tell_waiting(answered=False)

    def quiet(self) -> bool:
        """Tell whether nothing was asked for long."""
        return self.window.quiet(self._seconds())

    def sweep(self) -> bool:
        """Probe the client if nothing was asked of it for long; end the connection if it is stale.

        Returns:
            Whether one of these was done.
        """
        now = self._seconds()
        if self.window.stale(now):
            # twice in a row: after a stall of the server, an answer may be there that has not been read yet
            if self._suspected:
                self._connection.end("stale")
                return True
            self._suspected = True
            return False
        if self.window.probe(now):
            self._connection.probe(self._question(probing=True))
            return True
        return False

    def pay(self) -> bool:
        """Push what is owed, if what is unsent leaves room for it; tell whether nothing is owed any more."""
        if self._outlet.unsent <= self._buffer_bytes and not self.window.overdue(self._seconds()):
            self._settle()
        return not self.window.owed

    def _admitted(self, sample: Sample) -> bytes | None:
        """Return the bytes of a push that the window lets through, else None."""
        if self._step is not None:
            self.tell_step()
        window = self.window
        now = self._seconds()
        verdict = window.admit(now, self._unasked)
        self._unasked = 0
        if verdict is HOLD:
            return None
        window.owed.pop(sample.feed, None)
        self._free_until = -math.inf if window.owed else window.free_until
        is_sample = sample.sequence is not None
        # else of a feed that is always pushed between two asks a client could never say that it does not take it
        tries = is_sample and not self._tried and window.question(now)
        if verdict is SEND and not tries:
            return self._template.one_way(sample)
        self._asks_of_sample = is_sample
        self._tried = self._tried or is_sample
        return self._template.asking(self._question(probing=False), sample)

    def _gather(self, data: bytes) -> None:
        """Send the bytes of a sample, with those of others if there are more to come."""
        if self._gathered is None:
            if not self._finish_soon(self._send_gathered):
                self._outlet.write(data)
                return
            self._gathered = []
        self._gathered.append(data)
        self._gathered_bytes += len(data)

    def _send_gathered(self) -> int:
        gathered, self._gathered, self._gathered_bytes = self._gathered or [], None, 0
        if gathered:
            self._outlet.write(b"".join(gathered))
        return len(gathered)

    def _skip(self, feed: str, reason: str) -> bool:
        self._tally.feeds[feed].skipped[reason] += 1
        self.skipped += 1
        self.window.owe(feed)
        self._free_until = -math.inf
        return False

    def _tell_waiting(self, *, answered: bool) -> None:
        waiting, self._waiting = self._waiting, ()
        for each in waiting:
            each.callback(answered)

    def _question(self, *, probing: bool) -> int:
        self._probing = probing
        self._asked = self._now()
        self.request = request = self._connection.new_request()
        self.awaited = self._template.answer(request)
        return request

    def _settle(self) -> None:
        owed = self.window.settle()
        if not owed:
            return
        self._gathered = self._gathered or []
        for name in owed:
            sample = self._pull(name)
            if sample is not None and (self.takes_samples or sample.sequence is None):
                self.push(sample)
        self._send_gathered()


def _nothing(feed: str) -> None:
    """Return that nothing is owed."""
