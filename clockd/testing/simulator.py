"""Clocks that are wrong and a network that is slow, both as one says: what a client knows of the time by them.

    >>> from random import Random
    >>> random = Random(1)
    >>> simulation = Simulation(random, there=jitter(random, 0.010, 0.005), back=jitter(random, 0.040, 0.005))
    >>> simulation.local.set_drift(40e-6)
    >>> simulation.connect()
    >>> simulation.run(60.0)
    >>> now = simulation.timekeeper.now()
    >>> now.earliest < simulation.server() < now.latest
    True
    >>> now.status, round(now.bound, 3)
    ('synchronized', 0.027)

Whatever happens can be made to happen: links are slow, stall and are cut, clocks drift and are set, the server is
unsure. All of it takes place in a moment, on a `twisted.internet.task.Clock`, and the same way each time. What asks the
time may be a part of a program under test, called with `simulation.timekeeper.now`.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random
from typing import cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock

from clockd.exchanges import Exchanges
from clockd.link import Link
from clockd.timekeeper import Timekeeper
from clockd.values import ServerStatus

Delay = Callable[[], float]
"""Returns how long the next message takes at least, in seconds."""

Answer = tuple[object, float]
"""What a server answers to an exchange, and when it had arrived, local."""

NANO = 10**9
EPOCH = 1_800_000_000.0
"""What the server's clock shows at first."""

NOTICE_SECONDS = 1.0
"""A server says so long after its clock was set, at the latest, that it was."""


def jitter(random: Random, least: float, mean: float) -> Delay:
    """Return a delay of `least` seconds and, at random, some more: `mean` seconds in the mean (exponential)."""
    return lambda: least + random.expovariate(1 / mean)


class SimulatedClock:
    """A clock that shows something else than true time; calling it returns what it shows, in seconds.

    Args:
        time: True time.
        shows: What it shows at first, in seconds.
    """

    def __init__(self, time: IReactorTime, shows: float) -> None:
        self._time = time
        self._showed = round(shows * NANO)
        self._then = time.seconds()
        self._rate = 1.0

    def __call__(self) -> float:
        """Return what it shows, as exactly as a float can."""
        return self.nanoseconds() / NANO

    def nanoseconds(self) -> int:
        """Return what it shows, in whole nanoseconds."""
        return self._showed + round((self._time.seconds() - self._then) * self._rate * NANO)

    def set_drift(self, drift: float) -> None:
        """Have it gain `drift` seconds in each second of true time from now on, or lose, if that is below 0."""
        self.step(0.0)
        self._rate = 1 + drift

    def step(self, seconds: float) -> None:
        """Set it: forward, or back, if `seconds` is below 0."""
        self._showed = self.nanoseconds() + round(seconds * NANO)
        self._then = self._time.seconds()


class SimulatedLink:
    """One direction of a connection, as TCP is: nothing is lost before the connection is, and nothing overtakes.

    Args:
        time: True time.

    Attributes:
        delay: How long a message takes; longer, if one before it is not there yet.
    """

    def __init__(self, time: IReactorTime, delay: Delay) -> None:
        self.delay = delay
        self._time = time
        self._under_way: deque[Callable[[], object]] = deque()
        self._last = 0.0  # when the last of them arrives
        self._stalled = 0.0  # nothing arrives before then

    def send(self, arrives: Callable[[], object]) -> None:
        """Send something; `arrives` is called when it has arrived."""
        self._under_way.append(arrives)
        now = self._time.seconds()
        self._last = max(self._last, now + self.delay())
        self._time.callLater(self._last - now, self._arrive, self._under_way)

    def stall(self, seconds: float) -> None:
        """Have nothing arrive for so long; then it comes all at once."""
        self._stalled = self._time.seconds() + seconds

    def cut(self) -> None:
        """Lose what is under way."""
        self._under_way.clear()
        self._under_way = deque()
        self._last = self._stalled = 0.0

    def _arrive(self, under_way: deque[Callable[[], object]]) -> None:
        left = self._stalled - self._time.seconds()
        if left > 0:
            self._time.callLater(left, self._arrive, under_way)
        elif under_way:
            under_way.popleft()()


class Simulation:
    """A server, a client's timekeeper, and the connection between them.

    The client exchanges when clockd's would, and the server does what clockd's does: it pushes the time once a period,
    and sends a notice after its clock was set.

    Args:
        random: Where chance comes from.
        there: How long what the client sends takes.
        back: How long what the server sends takes.

    Attributes:
        time: True time; `run` lets it pass, and so does its `advance`.
        server: The server's clock.
        local: The clock by which the client measures intervals.
        wall: What the client's host takes for the time.
        there: The link to the server.
        back: The link from the server.
        timekeeper: What the client knows.
        period: Seconds between two pushes; None for no pushes. It holds from the next connection on.
        takes: How long the server takes for an answer.
        bound: What the server says of how wrong its clock may be, in seconds.
        status: What the server says of its clock.
        exchanges: How many answers have arrived.
    """

    def __init__(self, random: Random, there: Delay, back: Delay) -> None:
        self.time = Clock()
        self.server = SimulatedClock(self.time, EPOCH)
        self.local = SimulatedClock(self.time, 0.0)
        self.wall = SimulatedClock(self.time, EPOCH)
        self.there = SimulatedLink(self.time, there)
        self.back = SimulatedLink(self.time, back)
        self.timekeeper = Timekeeper(self.local, self.wall)
        self.period: float | None = 1.0
        self.takes: Delay = lambda: 0.0
        self.bound = 0.0
        self.status: ServerStatus = "synchronized"
        self.exchanges = 0
        self._random = random
        self._connection: _Connection | None = None

    def run(self, seconds: float, look: Callable[[], object] | None = None) -> None:
        """Let time pass.

        Args:
            seconds: How much of it.
            look: Is called after everything that happens.
        """
        end = self.time.seconds() + seconds
        while (calls := self.time.getDelayedCalls()) and calls[0].getTime() <= end:
            self.time.advance(max(0.0, calls[0].getTime() - self.time.seconds()))
            if look is not None:
                look()
        self.time.advance(max(0.0, end - self.time.seconds()))

    def connect(self) -> None:
        """Make a connection, in place of one that there is."""
        self.lose()
        self._connection = _Connection(self, self._random)
        self._connection.begin()

    def lose(self) -> None:
        """Lose the connection, if there is one, and what is under way."""
        if self._connection is not None:
            self._connection.end()
            self._connection = None
            self.there.cut()
            self.back.cut()
            self.timekeeper.lost()

    def step(self, seconds: float, *, told: bool = True) -> None:
        """Set the server's clock: forward, or back, if `seconds` is below 0.

        Args:
            seconds: By how much.
            told: Whether the server tells its client, as clockd does; a stock server does not.
        """
        self.server.step(seconds)
        if told and self._connection is not None:
            self._connection.tell_soon()

    def holds(self) -> bool:
        """Tell whether the server's clock is within the interval that the client would tell now, exactly."""
        now = self.timekeeper.now()
        if now.offset is None:
            return True
        whole = round(now.earliest)  # what is less than a second is exact in a float, which Unix time is not
        true = (self.server.nanoseconds() - whole * NANO) / NANO
        return now.earliest - whole <= true <= now.latest - whole


class _Connection:
    """What goes on over one connection; to the client's exchanges it is their `Link`."""

    endpoint = "a simulated server"

    def __init__(self, simulation: Simulation, random: Random) -> None:
        self._simulation = simulation
        self._random = random
        self._exchanges = Exchanges(
            cast("Link", self), simulation.timekeeper, simulation.time, random.uniform, lambda: None
        )
        self._exchanging: Deferred[None] = succeed(None)
        self._ended = False
        self._telling = False

    def begin(self) -> None:
        self._exchanging = Deferred.fromCoroutine(self._exchanges.run())
        self._push_each_period()

    def end(self) -> None:
        self._ended = True
        self._exchanging.addErrback(lambda failure: failure.trap(CancelledError))
        self._exchanging.cancel()

    def tell_soon(self) -> None:
        """Say that the clock was set, before the next push."""
        self._telling = True
        self._later(self._random.uniform(0.0, NOTICE_SECONDS), self._tell)

    # the server

    def _push_each_period(self) -> None:
        simulation = self._simulation
        if simulation.period is not None:
            self._tell()
            simulation.back.send(partial(self._pushed, simulation.server()))
            self._later(simulation.period, self._push_each_period)

    def _tell(self) -> None:
        if self._telling:
            self._telling = False
            self._simulation.back.send(self._stepped)

    def _asked(self, answered: "Deferred[Answer]", sent: float) -> None:
        answer = partial(self._answer, answered, sent, self._simulation.server())
        self._later(self._simulation.takes(), answer)

    def _answer(self, answered: "Deferred[Answer]", sent: float, received: float) -> None:
        simulation = self._simulation
        answer: object = [sent, received, simulation.server(), simulation.bound, simulation.status]
        simulation.back.send(partial(self._answered, answered, answer))

    # the client

    def exchange(self, stamp: Callable[[], float]) -> "Deferred[Answer]":
        answered: Deferred[Answer] = Deferred()
        self._simulation.there.send(partial(self._asked, answered, stamp()))
        return answered

    def _answered(self, answered: "Deferred[Answer]", answer: object) -> None:
        self._simulation.exchanges += 1
        answered.callback((answer, self._simulation.local()))

    def _pushed(self, stamp: float) -> None:
        simulation = self._simulation
        simulation.timekeeper.pushed(stamp, simulation.local())
        if simulation.timekeeper.hurry:
            self._exchanges.hasten()

    def _stepped(self) -> None:
        self._simulation.timekeeper.stepped()
        self._exchanges.hasten()

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call something later, if the connection is still there then."""
        self._simulation.time.callLater(seconds, lambda: None if self._ended else call())
