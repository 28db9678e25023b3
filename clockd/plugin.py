"""Feeds that a plug-in fills: a callable of another package, which may take its time and may fail.

Rules of this module: nothing of a plug-in runs in the reactor's thread, not even the `str` of its errors; what comes
from it is copied before it crosses.
"""

from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import EntryPoint, entry_points
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from clockd.errors import InvalidValue, Misconfigured
from clockd.feeds import LatestFeed

GROUP = "clockd.feeds"
"""The group of the entry points."""

Outcome = tuple[object, float] | RuntimeError
"""A value and its stamp, or why there is none."""


def find_plugin(key: str, name: str) -> EntryPoint:
    """Return an entry point by its name; nothing of it is imported.

    Args:
        key: The configuration key, for errors.
        name: What is written there.

    Raises:
        Misconfigured: It is not installed.
    """
    installed = {found.name: found for found in entry_points(group=GROUP)}
    if name not in installed:
        there_are = ", ".join(sorted(installed)) or "none"
        raise Misconfigured(f"{key}: there is no entry point {name} in the group {GROUP}; installed: {there_are}")
    return installed[name]


class Caller(Protocol):
    """Makes calls outside the reactor's thread, one at a time."""

    def start(self) -> None:
        """Begin to take calls."""

    def stop(self) -> None:
        """Take no more calls, and wait for none."""

    def call(self, what: Callable[[], Outcome]) -> Deferred[Outcome]:
        """Make a call that raises nothing; fires with what it returned."""


class LoneThread:
    """Makes calls in a thread of its own, which nobody waits for.

    Args:
        name: The thread's.
        reactor: Where what was returned is told.
    """

    def __init__(self, name: str, reactor: IReactorFromThreads) -> None:
        self._name = name
        self._reactor = reactor
        self._calls: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def start(self) -> None:
        """As for any `Caller`; the first call waits for the end of one that was in hand at the last stop."""
        self._calls = SimpleQueue()
        self._thread = Thread(target=self._work, args=(self._calls, self._thread), name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """As for any `Caller`."""
        self._calls.put(None)

    def call(self, what: Callable[[], Outcome]) -> Deferred[Outcome]:
        """As for any `Caller`; to cancel is to hear no more of it, or to have it not made if it has not begun."""
        answered: Deferred[Outcome] = Deferred()
        self._calls.put((what, answered))
        return answered

    def _work(self, calls: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None], before: Thread | None) -> None:
        if before is not None:
            before.join()
        while (call := calls.get()) is not None:
            what, answered = call
            if not answered.called:
                self._reactor.callFromThread(answered.callback, what())


class PluginSource(Service):
    """Calls a plug-in again and again while it runs, and publishes what it returns.

    Args:
        feed: Where it is published.
        load: Returns the plug-in, a callable without arguments; called where that is.
        every: Seconds from the end of a call to the begin of the next.
        caller: Where it is called.
        check: Raises `InvalidValue` for what is no value.
        clock: Monotonic time.
        now: Unix seconds UTC by the host's wall clock; read in the caller's thread.
        report: Is told the feed's name and why there is no new sample.
    """

    def __init__(
        self,
        feed: LatestFeed,
        load: Callable[[], Callable[[], object]],
        every: float,
        caller: Caller,
        check: Callable[[object], object],
        clock: IReactorTime,
        now: Callable[[], float],
        report: Callable[[str, Exception], object],
    ) -> None:
        self._feed = feed
        self._load = load
        self._every = every
        self._caller = caller
        self._check = check
        self._clock = clock
        self._now = now
        self._report = report
        self._plugin: Callable[[], object] | None = None
        self._sampling: Deferred[None] = Deferred()

    def startService(self) -> None:
        """Begin to call, at once."""
        super().startService()
        self._caller.start()
        self._sampling = Deferred.fromCoroutine(self._sample()).addErrback(Failure.trap, CancelledError)

    def stopService(self) -> None:
        """Call no more; a call in hand goes on, and what it returns is not looked at."""
        if self.running:
            super().stopService()
            self._caller.stop()
            self._sampling.cancel()

    async def _sample(self) -> None:
        while True:
            outcome = await self._caller.call(self._ask)
            try:
                if isinstance(outcome, RuntimeError):
                    raise outcome
                self._feed.publish(*outcome)
            except (RuntimeError, InvalidValue) as error:
                self._report(self._feed.name, error)
            await deferLater(self._clock, self._every)

    def _ask(self) -> Outcome:
        """Call the plug-in; in the caller's thread."""
        try:
            if self._plugin is None:
                self._plugin = self._load()
            value = self._plugin()
            stamp = self._now()
            self._check(value)
            return deepcopy(value), stamp
        except BaseException as error:  # noqa: BLE001  # SystemExit as well: a plug-in ends nothing but its call
            return RuntimeError(_words(error))


def _words(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except BaseException:  # noqa: BLE001  # as above
        return name
