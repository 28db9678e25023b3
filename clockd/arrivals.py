"""What a program iterates over as it arrives.

Rules of this module: nothing here knows where it comes from; what is awaited is an `Either`.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Self
from weakref import WeakSet

from twisted.internet.defer import Deferred

from clockd.either import Either
from clockd.errors import NotConnected
from clockd.values import Reading


class Samples:
    """The samples of one feed as they arrive; made by `ClockClient.samples`.

    Args:
        feed: The feed's name.
        begin: Has the feed subscribed, and returns the period granted if one was asked for.
        leave: Told when the iterator is closed.
        newest: The first sample, if there is one already.

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
    ) -> None:
        self.feed = feed
        self.granted: float | None = None
        self._begin = begin
        self._leave = leave
        self._begun = False
        self._newest = newest
        self._waiting: Deferred[None] | None = None
        self._end: BaseException | None = None

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    def __anext__(self) -> Either[Reading]:
        """Return what is to be awaited for the next sample.

        Raises:
            StopAsyncIteration: The client or the iterator was closed, or the feed unsubscribed.
            Refused: The feed cannot be had; see `ClockClient.samples`.
            ClockdError: The session has ended for good; the error says why.
        """
        return Either(Deferred.fromCoroutine(self._next()))

    async def aclose(self) -> None:
        """End the iteration; the feed of the last iterator is unsubscribed, without waiting for the server."""
        self._newest = None
        self.end(None)
        self._leave(self)

    def put(self, reading: Reading) -> None:
        """Take a sample in."""
        self._newest = reading
        self._wake()

    def end(self, error: BaseException | None) -> None:
        """Have the iteration end, with an error or without."""
        self._end = error or StopAsyncIteration()
        self._wake()

    async def _next(self) -> Reading:
        if not self._begun and self._end is None:
            try:
                self.granted = await self._begin(self)
            except NotConnected:
                if self._end is None:  # else it is closed
                    raise
            self._begun = True
        while self._newest is None:
            if self._end is not None:
                raise self._end
            self._waiting = Deferred()
            await self._waiting
        newest, self._newest = self._newest, None
        return newest

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)


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
