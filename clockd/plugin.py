"""Feeds that a plug-in fills: a callable of another package, which may take its time and may fail.

Rules of this module: nothing of a plug-in runs in the reactor's thread, not even the `str` of its errors; what comes
from it is copied before it crosses.
"""

from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from importlib.metadata import EntryPoint, entry_points
from inspect import iscoroutine
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from clockd.errors import InvalidValue, Misconfigured
from clockd.feeds import LatestFeed

GROUP = "clockd.feeds"
"""The group of the entry points."""

RETURN_SECONDS = 10.0
"""A plug-in that has not returned for so long, or for a period if that is longer, is reported, again and again."""

T = TypeVar("T")

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


class LoneThread(Service):
    """Makes calls in a thread of its own while it runs, one at a time; nobody waits for the thread.

    Args:
        name: The thread's.
        reactor: Where what was returned is told.
    """

    def __init__(self, name: str, reactor: IReactorFromThreads) -> None:
        self._name = name
        self._reactor = reactor
        self._calls: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def startService(self) -> None:
        """Begin to take calls; the first waits for the end of one that was in hand at the last stop."""
        super().startService()
        self._calls = SimpleQueue()
        self._thread = Thread(target=self._work, args=(self._calls, self._thread), name=self._name, daemon=True)
        self._thread.start()

    def stopService(self) -> None:
        """Take no more calls, and wait for none."""
        super().stopService()
        self._calls.put(None)

    def call(self, what: Callable[[], T]) -> Deferred[T]:
        """Make a call; fires with what it returned, or fails with what it raised.

        To cancel is to hear no more of it, or to have it not made if it has not begun.
        """
        answered: Deferred[T] = Deferred()
        self._calls.put((what, answered))
        return answered

    def _work(self, calls: SimpleQueue[tuple[Callable[[], Any], Deferred[Any]] | None], before: Thread | None) -> None:
        if before is not None:
            before.join()
        while self._make(calls.get()):
            pass  # and nothing of the call is kept while there is none

    def _make(self, call: tuple[Callable[[], Any], Deferred[Any]] | None) -> bool:
        if call is None:
            return False
        what, answered = call
        if answered.called:
            return True
        try:
            result = what()
        except BaseException:  # noqa: BLE001  # whoever asked is told
            self._reactor.callFromThread(answered.errback, Failure())
        else:
            self._reactor.callFromThread(answered.callback, result)
        return True


class PluginSource(Service):
    """Calls a plug-in again and again while it runs, and publishes what it returns.

    Args:
        feed: Where it is published.
        load: Returns the plug-in, a callable without arguments; called in that thread.
        every: Seconds from the end of a call to the begin of the next.
        in_thread: Makes calls outside the reactor's thread, one at a time; none of these raises.
        check: Raises `InvalidValue` for what is no value.
        clock: Monotonic time.
        now: Unix seconds UTC by the host's wall clock; read in that thread.
        report: Is told the feed's name and why there is no new sample.
    """

    def __init__(
        self,
        feed: LatestFeed,
        load: Callable[[], Callable[[], object]],
        every: float,
        in_thread: Callable[[Callable[[], Outcome]], Deferred[Outcome]],
        check: Callable[[object], object],
        clock: IReactorTime,
        now: Callable[[], float],
        report: Callable[[str, Exception], object],
    ) -> None:
        self._feed = feed
        self._load = load
        self._every = every
        self._in_thread = in_thread
        self._check = check
        self._clock = clock
        self._now = now
        self._report = report
        self._plugin: Callable[[], object] | None = None
        self._sampling: Deferred[None] = Deferred()

    def startService(self) -> None:
        """Begin to call, at once."""
        super().startService()
        self._sampling = Deferred.fromCoroutine(self._sample()).addErrback(Failure.trap, CancelledError)

    def stopService(self) -> None:
        """Call no more; a call in hand goes on, and what it returns is not looked at."""
        if self.running:
            super().stopService()
            self._sampling.cancel()

    async def _sample(self) -> None:
        while True:
            overdue = LoopingCall(self._report_overdue, self._clock.seconds())
            overdue.clock = self._clock
            overdue.start(max(self._every, RETURN_SECONDS), now=False)
            try:
                outcome = await self._in_thread(self._ask)
            finally:
                overdue.stop()
            try:
                if isinstance(outcome, RuntimeError):
                    raise outcome
                self._feed.publish(*outcome)
            except (RuntimeError, InvalidValue) as error:
                self._report(self._feed.name, error)
            await deferLater(self._clock, self._every)

    def _report_overdue(self, begun: float) -> None:
        seconds = self._clock.seconds() - begun
        self._report(self._feed.name, TimeoutError(f"the plug-in has not returned for {seconds:.0f} s"))

    def _ask(self) -> Outcome:
        """Call the plug-in; in the thread."""
        try:
            if self._plugin is None:
                self._plugin = self._load()
            value = self._plugin()
            stamp = self._now()
            _refuse_awaitable(value)
            self._check(value)
            return deepcopy(value), stamp
        except BaseException as error:  # noqa: BLE001  # SystemExit as well: a plug-in ends nothing but its call
            return RuntimeError(_words(error))


def _refuse_awaitable(value: object) -> None:
    """Raise if something is no value yet, and see that nobody hears of what becomes of it."""
    if isinstance(value, Deferred):
        value.addErrback(lambda _: None)
        raise InvalidValue("returned a Deferred: a plug-in returns a value")
    if iscoroutine(value):
        value.close()
        raise InvalidValue("returned a coroutine: a plug-in returns a value")


def _words(error: BaseException) -> str:
    """Return what an error says of itself; both its name and its text may be code of the plug-in's."""
    words = "an error without a name"
    with suppress(BaseException):  # as above
        words = f"{type(error).__name__}: "
        words = f"{words}{error}"
    return words
