"""What a program iterates over as it arrives: samples of a feed, and what happens to the connection.

Rules of this module: nothing here knows where it comes from; what is awaited is an `Either`.
"""

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Literal, Self, TypeVar
from weakref import WeakSet

from msgspec import Struct
from twisted.internet.defer import Deferred

from clockd.either import Either
from clockd.errors import NotConnected, Overflow
from clockd.values import Reading

T = TypeVar("T")

OverflowPolicy = Literal["newest", "error"]

EVENTS = 64
"""As many events wait for a program at most; the oldest go."""


class Event(Struct, frozen=True):
    """Something that has happened to the connection.

    Attributes:
        kind: What: the client has logged in, the connection was lost, the server is about to stop, or the server's
            clock was set.
        text: The same in a sentence.
        at: When, Unix seconds by this host's clock.
    """

    kind: Literal["connected", "lost", "draining", "step"]
    text: str
    at: float


class Arrivals(Generic[T]):
    """An asynchronous iterator over what arrives.

    Args:
        most: As many items wait to be taken at most; the oldest go.
    """

    def __init__(self, most: int) -> None:
        self._arrived: deque[T] = deque(maxlen=most)
        self._waiting: Deferred[None] | None = None
        self._end: BaseException | None = None

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    def __anext__(self) -> Either[T]:
        """Return what is to be awaited for the next item.

        Raises:
            StopAsyncIteration: The client or the iterator was closed, or the feed unsubscribed.
            ClockdError: The session has ended for good; the error says why.
        """
        return Either(Deferred.fromCoroutine(self._next()))

    async def aclose(self) -> None:
        """End the iteration."""
        self._arrived.clear()
        self.end(None)

    def put(self, item: T) -> None:
        """Take an item in."""
        self._arrived.append(item)
        self._wake()

    def end(self, error: BaseException | None) -> None:
        """Have the iteration end, with an error or without."""
        self._end = error or StopAsyncIteration()
        self._wake()

    async def _next(self) -> T:
        while not self._arrived:
            if self._end is not None:
                raise self._end
            self._waiting = Deferred()
            await self._waiting
        return self._arrived.popleft()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)


class Events(Arrivals[Event]):
    """What happens to the connection from now on; made by `ClockClient.events`."""

    def __init__(self) -> None:
        super().__init__(EVENTS)


class Samples(Arrivals[Reading]):
    """The samples of one feed as they arrive; made by `ClockClient.samples`.

    A step of it may raise a `Refused` as well: the feed cannot be had; see `ClockClient.samples`.

    Args:
        feed: The feed's name.
        begin: Has the feed subscribed, and returns the period granted if one was asked for.
        leave: Told when the iterator is closed.
        newest: The first sample, if there is one already.
        overflow: What becomes of a sample that was not taken before the next one: nothing, or an error.

    Attributes:
        feed: As given.
        granted: The period that was granted when this iterator asked for one, in seconds; None before.
    """

    def __init__(
        self,
        feed: str,
        begin: Callable[["Samples"], Coroutine[Any, Any, float | None]],
        leave: Callable[["Samples"], None],
        newest: Reading | None,
        overflow: OverflowPolicy = "newest",
    ) -> None:
        super().__init__(most=1)
        self.feed = feed
        self.granted: float | None = None
        self._begin = begin
        self._leave = leave
        self._strict = overflow == "error"
        self._begun = False
        self._missed = 0
        if newest is not None:
            self.put(newest)

    async def aclose(self) -> None:
        """End the iteration; the feed of the last iterator is unsubscribed, without waiting for the server."""
        await super().aclose()
        self._leave(self)

    def put(self, item: Reading) -> None:
        """Take a sample in, in the place of one that was not taken yet."""
        self._missed += self._strict and self._begun and bool(self._arrived)
        super().put(item)

    async def _next(self) -> Reading:
        if not self._begun and self._end is None:
            try:
                self.granted = await self._begin(self)
            except NotConnected:
                if self._end is None:  # else it is closed
                    raise
            self._begun = True
        if self._missed:
            missed, self._missed = self._missed, 0
            raise Overflow(
                f"{missed} of the samples of {self.feed} were replaced by newer ones before the program took them: "
                "take them faster, ask for a longer period, or do without overflow='error'; the next step goes on",
                missed,
            )
        return await super()._next()


class Interest:
    """What a client wants of a feed.

    Args:
        granted: Whether it is subscribed.

    Attributes:
        granted: As given; while there is no connection, whether the next one is asked for it.
        asked: Whether the server was asked for it, and may push it.
        period: As it was asked for last, in seconds; None for the server's.
        deadband: As it was asked for last; None for none.
        newest: What came last.
        iterators: Who is handed what comes.
    """

    def __init__(self, *, granted: bool = False) -> None:
        self.granted = granted
        self.asked = granted
        self.period: float | None = None
        self.deadband: float | None = None
        self.newest: Reading | None = None
        self.iterators: WeakSet[Samples] = WeakSet()

    def end(self, error: BaseException | None) -> None:
        """Have the iterators end, with an error or without."""
        for iterator in list(self.iterators):
            iterator.end(error)
