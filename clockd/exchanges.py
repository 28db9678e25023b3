"""When a client asks its server for the time: the exchanges of one connection.

Rules of this module: at most one exchange is under way, and none outlives its connection.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast, get_args

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from clockd.errors import InvalidValue, NotConnected, Refused
from clockd.link import Link
from clockd.timekeeper import EXCHANGE_SECONDS, Timekeeper
from clockd.values import ServerStatus

FIRST_SECONDS = 0.05
"""Seconds from one of the first exchanges to the next."""

ENOUGH = 4
"""Once so many in a row have told nothing new, they are enough: one of all is likely to have met no delay."""

MOST = 8
"""There are no more: each costs the server 40 µs, and all its clients may come at once."""

NEWS = 0.9
"""An exchange tells something new if the bound is less than so many times what it was before."""

SPREAD = 0.1
"""By how much of it, more or less, chance changes the time between two exchanges, so that clients do not flock."""

HERD_SECONDS = 0.5
"""All clients of a server hear of a step at one moment; each exchanges within so many seconds."""

STATUSES = get_args(ServerStatus)

_log = Logger()  # of a class it would name the connection in each event, and events are kept until somebody logs


class Exchanges:
    """The exchanges of one connection.

    Args:
        link: The connection.
        timekeeper: What is told of them, and says when one is wanted.
        reactor: Measures the time between them.
        chance: Returns a number between two others.
        noticed: Called when an exchange has been told of.
    """

    def __init__(
        self,
        link: Link,
        timekeeper: Timekeeper,
        reactor: IReactorTime,
        chance: Callable[[float, float], float],
        noticed: Callable[[], object],
    ) -> None:
        self._link = link
        self._timekeeper = timekeeper
        self._reactor = reactor
        self._chance = chance
        self._noticed = noticed
        self._rest: Any = None  # the IDelayedCall that ends the rest there is, if there is one

    async def run(self) -> None:
        """Exchange now and then, until the server proves to have no exchange."""
        try:
            for pause in self._pauses():
                await self._rested(self._pause(pause))
                await self._exchange()
        except Refused as error:
            _log.debug("no exchange with {endpoint}: {error}", endpoint=self._link.endpoint, error=str(error))

    def hasten(self) -> None:
        """Have the next exchange as early as the timekeeper wants it."""
        rest = self._rest
        if self._timekeeper.wanted and rest is not None and rest.active():
            seconds = self._pause(EXCHANGE_SECONDS)
            if self._reactor.seconds() + seconds < rest.getTime():
                rest.reset(seconds)

    def _pauses(self) -> Iterator[float]:
        """Yield how many seconds to rest before each exchange, once the one before it is over."""
        yield 0.0
        bound, in_vain = self._timekeeper.now().bound, 0
        for _ in range(MOST - 1):
            yield FIRST_SECONDS
            before, bound = bound, self._timekeeper.now().bound
            in_vain = 0 if bound < NEWS * before else in_vain + 1
            if in_vain == ENOUGH:
                break
        while True:
            yield EXCHANGE_SECONDS * self._chance(1 - SPREAD, 1 + SPREAD)

    def _pause(self, usual: float) -> float:
        """Return how many seconds to rest."""
        if self._timekeeper.wanted:
            return 0.0 if self._timekeeper.hurry else self._chance(0.0, HERD_SECONDS)
        return usual

    async def _rested(self, seconds: float) -> None:
        rested: Deferred[None] = Deferred(lambda _: self._rest.cancel())
        self._rest = self._reactor.callLater(seconds, rested.callback, None)
        await rested

    async def _exchange(self) -> None:
        """Exchange once; an answer that does not come, or cannot be true, is none.

        Raises:
            Refused: The server answers with an error.
        """
        begun = self._timekeeper.begin()
        try:
            answer, arrived = await self._link.exchange(begun.stamp)
        except NotConnected:
            return
        try:
            self._timekeeper.answered(begun, *_told(answer), arrived)
        except InvalidValue as error:
            _log.debug("an exchange with {endpoint}: {error}", endpoint=self._link.endpoint, error=str(error))
        self._noticed()


def _told(answer: object) -> tuple[float, float, float, ServerStatus]:
    """Return what a server answers: when the question had arrived and the answer went, its clock's error and status.

    Raises:
        InvalidValue: The answer is no such thing.
    """
    match answer:
        case [_, float() as received, float() as transmitted, float() as bound, str() as status]:
            return received, transmitted, bound, cast("ServerStatus", status if status in STATUSES else "unknown")
    raise InvalidValue("the answer is none of an exchange")
