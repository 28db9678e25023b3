"""What a user's program imports: connect, log in, iterate over samples.

    async with connect("tcp:host:8787", "alice", secret) as clock:
        async for sample in clock.samples("time", period=0.5):
            print(sample.stamp)

Over TLS, where the certificate that the client shows may take the place of the name and the secret:

    tls = ClientTLS("host", certificate="alice.pem", private_key="alice.key")
    async with connect("tcp:host:8788", tls=tls) as clock:
        ...

Any other feed that the server has is iterated over in the same way, and published to with one call:

    await clock.publish("greenhouse", {"celsius": 21.5, "open": False})
    async for sample in clock.samples("greenhouse", period=10, deadband=0.5):
        print(sample.sequence, sample.value)

Each exchange with the server, and each push of the time, tells more of how far its clock is from this host's. What is
known of it is an interval that contains the time, and grows while nothing is heard:

    now = clock.now()
    print(now.earliest, now.latest, now.status)
    if clock.after(deadline):
        ...

Everything that is awaited here works in a coroutine that Twisted drives and in a task of asyncio alike. A connection
that is lost is made again, with the feeds, periods and deadbands it had, until the program leaves the `async with`.
So is one to a server that stops, after as long as the server has said. A client that was sent away, by an
administrator or by a newer login of its account, raises `Kicked` or `Replaced` and stays away.

Rules of this module: inside, coroutines are driven by Twisted; what a program awaits is an `Either`.
"""

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Annotated, Any, Literal, Self, get_args
from weakref import WeakSet

from msgspec import Meta, Struct, ValidationError, convert
from twisted.application.internet import backoffPolicy
from twisted.cred.credentials import UsernamePassword
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.endpoints import clientFromString, wrapClientTLS
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from clockd.arrivals import Event, Events, Interest, OverflowPolicy, Samples
from clockd.certificate import ClientTLS
from clockd.either import Either
from clockd.errors import (
    ConnectionFailed,
    Draining,
    InvalidPeriod,
    InvalidValue,
    Kicked,
    NotConnected,
    ReactorConflict,
    Refused,
    Replaced,
    ServerFault,
    TooManyAttempts,
    TooManyConnections,
    UnknownFeed,
)
from clockd.exchanges import Exchanges
from clockd.feeds import moment_of
from clockd.hostclock import since_boot
from clockd.link import Answer, Copy, Link, Mind, Way
from clockd.offset import DRIFT, LARGEST_STAMP
from clockd.printable import printable
from clockd.timekeeper import TimeInterval, Timekeeper
from clockd.values import FEED_NAME, NOTICES, Reading, is_deadband, is_period
from clockd.wire import ValueEncoder

__all__ = ["ClientTLS", "ClockClient", "Event", "Presence", "Samples", "Standing", "TimeInterval", "connect"]

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
"""Seconds before the first and at most before a later try to connect again; up to a second of jitter is added."""

PASSING = (ConnectionFailed, Draining, NotConnected, ServerFault, TooManyAttempts, TooManyConnections)
"""What may be over soon, once a client has been connected; anything else ends it."""

LONGEST_RETRY = 300.0
"""Seconds that a server which stops may keep a client away at most; at least it is `FIRST_DELAY`.

A slip of the server's must neither lose its clients nor have them log in over and over.
"""

REASON_LETTERS = 200
"""Longest reason in the words of an error."""


def connect(
    endpoint: str,
    name: str | None = None,
    secret: str | None = None,
    *,
    tls: ClientTLS | None = None,
    timeout: float = 10.0,
    drift: float = DRIFT,
    reactor: Any = None,
) -> "ClockClient":
    """Return a client of one server, to be entered with `async with`.

    Args:
        endpoint: A Twisted client endpoint string such as `tcp:host:8787`.
        name: The account.
        secret: What `clockd user add` printed. Without name and secret the certificate of `tls` is the login.
        tls: If given, the connection is wrapped in TLS.
        timeout: Seconds that a login, or a call to the server, may take.
        drift: How much this host's clock may drift against the server's, in seconds a second, >= 0 and < 1. While
            nothing is heard from the server, bounds grow as fast.
        reactor: Where to run; by default the installed reactor. In a task of `asyncio.run` with none installed,
            Twisted's asyncio reactor is put on the running loop.

    Raises:
        ReactorConflict: A reactor is installed that does not run on the asyncio loop of the caller.
        ConnectionFailed: The endpoint string cannot be parsed, or is one of Twisted's own for TLS.
        TypeError: The name or the secret is no str, or there is neither, nor a certificate.
        ValueError: The drift is none.
    """
    if isinstance(name, str) and isinstance(secret, str):
        credentials = UsernamePassword(name.encode(), secret.encode())
    elif name is secret is None and tls is not None and tls.has_certificate:
        credentials = None
    else:
        raise TypeError("the name and the secret are str; instead of both, tls may have a certificate")
    if endpoint.startswith(("tls:", "ssl:")):  # they let a certificate pass that names no host; see ClientTLS
        raise ConnectionFailed(f"{endpoint}: for TLS write tcp:host:port, and pass tls=ClientTLS(host)")
    reactor = reactor_here() if reactor is None else reactor
    try:
        where = clientFromString(reactor, endpoint)
    except Exception as error:  # its parsers raise ValueError, TypeError, KeyError and more
        raise ConnectionFailed(f"{endpoint}: is no Twisted endpoint such as tcp:host:8787 ({error})") from error
    if tls is not None:
        where = wrapClientTLS(tls, where, reactor)
    return ClockClient(Way(where, endpoint, credentials, timeout, reactor, since_boot), time.time, drift)


class ClockClient:
    """A session with a server that is made again whenever it is lost; made by `connect`.

    Entering it waits for the first login, and raises what that raises; leaving it closes the connection. After
    `Kicked` or `Replaced`, which whatever is awaited raises, no connection is made any more.
    """

    _log = Logger()

    def __init__(self, way: Way, now: Callable[[], float], drift: float) -> None:
        self._way = way
        self._endpoint = way.endpoint
        self._reactor = way.reactor
        self._now = now
        self._timekeeper = Timekeeper(way.local, now, drift)
        self._steps = 0  # as many of the timekeeper's have been told of
        self._exchanges: Exchanges | None = None
        self._events: WeakSet[Events] = WeakSet()
        self._trouble = f"no connection to {way.endpoint} yet"
        self._feeds = {"time": Interest(granted=True)}  # the server sees to that one by itself
        self._check_value = ValueEncoder(b"pb").encode
        self._link: Link | None = None
        self._waiting: dict[Deferred[None], None] = {}  # a set in the order of the calls
        self._entered = False
        self._ended: BaseException | None = None
        self._error: BaseException | None = None
        self._delay: Callable[[int], float] = backoffPolicy(FIRST_DELAY, LONGEST_DELAY)
        self._attempt = 0
        self._retry: float | None = None  # what a server that stops asks for in place of the next delay
        self._work: Deferred[None] = succeed(None)

    async def __aenter__(self) -> Self:
        """Connect and log in.

        Raises:
            ConnectionFailed: There is no clockd to be reached there.
            WrongCredentials: The server does not know the name, or not with this secret.
            Refused: The server has another reason, such as `TooManyConnections`.
        """
        if self._entered:
            raise NotConnected("a client is entered once: make another one with connect")
        self._entered = True
        self._work = Deferred.fromCoroutine(self._run())
        try:
            await Either(Deferred.fromCoroutine(self._connected()))
        except (CancelledError, asyncio.CancelledError):  # nobody leaves what was not entered
            self._abandon()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection; iterators end."""
        if kind is GeneratorExit:  # a driver that has stopped, and awaits nothing any more: Twisted's, after Ctrl-C
            self._abandon()
            return
        await Either(Deferred.fromCoroutine(self._close()))

    @property
    def connected(self) -> bool:
        """Whether it is logged in now."""
        return self._ended is None and self._link is not None and self._link.alive

    @property
    def trouble(self) -> str | None:
        """Why it is not connected, in a sentence; None if it is."""
        if self.connected:
            return None
        return self._trouble if self._ended is None else str(self._ended)

    @property
    def round_trip(self) -> float | None:
        """Seconds that the last exchange was on its way, there and back; None before the first."""
        return self._timekeeper.round_trip

    def now(self, utc: bool = False) -> TimeInterval:
        """Tell the time, as an interval that contains it.

        Args:
            utc: Whether UTC is asked for: then the interval is wider by what the server's own clock may be wrong, and
                infinite while the server does not know that. Else it is the time by the server's clock.
        """
        return self._timekeeper.now(utc)

    def before(self, moment: float, utc: bool = False) -> bool:
        """Tell whether a moment has certainly not come yet.

        Args:
            moment: Unix seconds.
            utc: As for `now`.
        """
        return self.now(utc).latest < moment

    def after(self, moment: float, utc: bool = False) -> bool:
        """Tell whether a moment has certainly passed.

        Args:
            moment: Unix seconds.
            utc: As for `now`.
        """
        return self.now(utc).earliest > moment

    def events(self) -> Events:
        """Return an asynchronous iterator over what happens to the connection from now on.

        As many as 64 events wait to be taken; after that the oldest go.

        Raises:
            NotConnected: The client was not entered.
        """
        self._check_entered()
        events = Events()
        self._events.add(events)
        if self._ended is not None:
            events.end(self._error)
        return events

    def setperiod(self, period: float, feed: str = "time") -> Either[float]:
        """Choose how often a feed is pushed; remembered for the connections to come. For whom, see `samples`.

        Args:
            period: Seconds, finite and > 0.
            feed: A feed that is subscribed.

        Returns:
            To be awaited: the period that the server granted, in seconds.

        Raises:
            InvalidPeriod: Not a finite number > 0. The old period stays in force.
            UnknownFeed: The feed is not subscribed.
            NotConnected: There was no connection, or no answer, for as long as a call may take.
        """
        return Either(Deferred.fromCoroutine(self._setperiod(period, feed)))

    def samples(
        self,
        feed: str = "time",
        *,
        period: float | None = None,
        deadband: float | None = None,
        overflow: OverflowPolicy = "newest",
    ) -> Samples:
        """Return an asynchronous iterator that begins with the newest sample there is, and goes on as they arrive.

        A sample that comes before the last one was taken replaces it: the newest wins. The feed is subscribed by the
        first step of its first iterator; when the last one is closed or forgotten it is unsubscribed, but for `time`.
        A feed has one period and one deadband, so what is asked for last holds for all its iterators. After a
        reconnection the sample that was there before may come again.

        At a server with `sharing = "account"` they and the subscription are the account's: what is subscribed,
        unsubscribed or given another period here is so for all programs of the account, and the other way round. An
        iterator of a feed that another program unsubscribes gets nothing more, and is not told.

        Args:
            feed: Its name.
            period: Seconds between two samples at least, finite and > 0; None for the one it has, at first the
                server's.
            deadband: A number that differs by no more from the one before is not pushed, finite and >= 0; None for the
                one it has, at first none. The time has none.
            overflow: What the program hears of samples that were replaced: `newest` for nothing, `error` for an
                `Overflow` that the next step raises; the step after it returns the newest.

        Returns:
            The iterator. Each step of it, the first above all, may raise `UnknownFeed`, `NotPermitted`,
            `TooManySubscriptions`, `InvalidPeriod`, `InvalidValue` or `NotConnected`; that ends neither the client nor
            the iterators of other feeds.

        Raises:
            NotConnected: The client was not entered.
            ValueError: There is no such policy.
        """
        self._check_entered()
        if overflow not in get_args(OverflowPolicy):
            raise ValueError(f"overflow is one of {', '.join(get_args(OverflowPolicy))}")
        interest = self._feeds.setdefault(feed, Interest()) if self._ended is None else Interest()
        begin = partial(self._begin, period=period, deadband=deadband)
        iterator = Samples(feed, begin, self._leave, interest.newest, overflow)
        interest.iterators.add(iterator)
        if self._ended is not None:
            iterator.end(self._error)
        return iterator

    def unsubscribe(self, feed: str) -> Either[None]:
        """Have a feed pushed no more, `time` included; its iterators end. For whom, see `samples`.

        Args:
            feed: Its name; nothing is done if it is not subscribed.

        Returns:
            To be awaited: None.

        Raises:
            NotConnected: As for `setperiod`. The next connection will be without the feed all the same.
        """
        return Either(Deferred.fromCoroutine(self._unsubscribe(feed)))

    def publish(self, feed: str, value: object, stamp: float | None = None) -> Either[int]:
        """Put a value of a feed in force.

        Calls that do not wait for each other are published in the order in which they were made. Of one that ends in
        `NotConnected`, `Kicked` or `Replaced` nobody knows whether it was published.

        Args:
            feed: A feed that this account may publish to.
            value: None, bool, int, float, str, bytes, or lists, tuples and dicts of these; 4 in each other and 4096
                bytes at most. It is looked at in this call only, and a container may be in it twice.
            stamp: When it was true, Unix seconds UTC; None for the moment at which the server gets it.

        Returns:
            To be awaited: the sample's number in its feed, from 1.

        Raises:
            InvalidValue: The value or the stamp is something else.
            UnknownFeed: There is no such feed.
            NotPermitted: The account may not publish to it.
            TooManyPublishes: The account has published as much as it may for the moment.
            NotConnected: As for `setperiod`.
        """
        return Either(Deferred.fromCoroutine(self._publish(feed, value, stamp)))

    def feeds(self) -> Either[list[str]]:
        """Ask for the names of the feeds that this account may read.

        Returns:
            To be awaited: the names.

        Raises:
            NotConnected: As for `setperiod`.
        """
        return Either(Deferred.fromCoroutine(self._feed_names()))

    def status(self) -> Either["Standing"]:
        """Ask what the server knows of this connection.

        Returns:
            To be awaited: its account, feeds and counts.

        Raises:
            NotConnected: As for `setperiod`.
        """
        return Either(Deferred.fromCoroutine(self._standing()))

    def sessions(self, limit: int = 100, sort: str = "skipped") -> Either[list["Presence"]]:
        """Ask who is connected.

        Args:
            limit: How many to tell of at most, 1 to 200.
            sort: The attribute of `Presence` by which they are sorted, any but `periods`: the largest first, but for
                `account` and `address`.

        Returns:
            To be awaited: the connections.

        Raises:
            NotPermitted: The account has not the role `admin`.
            InvalidValue: The limit or the key is something else.
            NotConnected: As for `setperiod`.
        """
        return Either(Deferred.fromCoroutine(self._sessions(limit, sort)))

    def kick(self, account: str, reason: str) -> Either[int]:
        """Close all connections of an account; nothing keeps it from coming back.

        Args:
            account: Its name.
            reason: What its clients are told.

        Returns:
            To be awaited: how many were closed.

        Raises:
            NotPermitted: The account that asks has not the role `admin`.
            InvalidValue: The name or the reason is none.
            NotConnected: As for `setperiod`.
        """
        return Either(Deferred.fromCoroutine(self._kick(account, reason)))

    async def _run(self) -> None:
        """Keep a session, until a refusal that will not pass, a notice that ends it, or `_close`."""
        try:
            while self._ended is None:
                try:
                    link = await self._open()
                except PASSING as error:
                    if self._link is None:
                        raise
                    self._trouble = str(error)
                else:
                    since = self._reactor.seconds()
                    await self._use(link)
                    await link.leave()
                    if self._reactor.seconds() - since >= LONGEST_DELAY:
                        self._attempt = 0
                if self._ended is None:
                    await deferLater(self._reactor, self._pause())
        except CancelledError:
            pass
        except Exception as error:  # noqa: BLE001  # kept for whoever waits; nothing is lost
            self._end(error)

    async def _use(self, link: Link) -> None:
        """Have a connection, until it is over."""
        self._link = link
        self._exchanges = Exchanges(link, self._timekeeper, self._reactor, random.uniform, self._look_for_step)
        exchanging = Deferred.fromCoroutine(self._exchanges.run()).addErrback(self._fail, link)
        if link.alive:
            self._announce("connected", f"connected to {self._endpoint}")
            self._wake()
        try:
            await link.held()
        finally:
            exchanging.cancel()
            self._timekeeper.lost()
        self._trouble = link.why
        if not link.told:
            self._announce("lost", link.why)

    def _fail(self, failure: Failure, link: Link) -> None:
        """End with a fault of ours that kept exchanges from going on: it is not lost."""
        if not failure.check(CancelledError):
            self._end(failure.value)
            link.end()

    def _pause(self) -> float:
        """Return how many seconds to wait: as many as a server that stops has named, else more after each failure."""
        trouble = self._trouble
        seconds, self._retry = self._retry, None
        if seconds is None:
            seconds = self._delay(self._attempt)
            self._attempt += 1
            trouble = f"connecting again in {seconds:.1f} s: {trouble}"
        self._log.info("{endpoint}: {trouble}", endpoint=self._endpoint, trouble=trouble)
        return seconds

    async def _open(self) -> Link:
        """Connect, log in, ask for what was asked for before."""
        return await self._way.open(
            lambda link: Mind(partial(self._deliver, link), partial(self._notice, link), self._check_value),
            self._resubscribe,
        )

    async def _close(self) -> None:
        await deferLater(self._reactor, 0)  # out of `_run`, which may be what woke the program that leaves
        self._end(None)
        self._work.cancel()
        if self._link is not None:
            await self._link.close()

    def _abandon(self) -> None:
        """Close at once, and wait for nothing."""
        self._end(None)
        self._work.cancel()
        if self._link is not None:
            self._link.abort()

    async def _connected(self) -> Link:
        """Return the connection, as soon as there is one."""
        self._check_entered()
        if self._ended is None and not (self._link and self._link.alive):
            waiting: Deferred[None] = Deferred(self._waiting.pop)
            self._waiting[waiting] = None
            await waiting
        if self._ended is not None:
            raise self._ended
        if self._link is None or not self._link.alive:
            raise NotConnected(f"the connection to {self._endpoint} was lost again")
        return self._link

    async def _setperiod(self, period: float, feed: str) -> float:
        wire = _period_on_wire(period)
        granted = await self._call("setperiod", wire, _name(feed))
        if not is_period(granted):
            raise ServerFault("the server granted what is no period")
        if feed in self._feeds:
            self._feeds[feed].period = wire
        return granted

    async def _begin(self, iterator: Samples, period: float | None, deadband: float | None) -> float | None:
        """Have a feed subscribed, for one of its iterators.

        Returns:
            The period granted, if it had to be asked for.
        """
        feed = _name(iterator.feed)
        interest = self._feeds.setdefault(feed, Interest())
        interest.iterators.add(iterator)
        if interest.granted and deadband is None:
            return None if period is None else await self._setperiod(period, feed)
        if deadband is not None and not is_deadband(deadband):
            raise InvalidValue("a deadband is a finite number of 0 or more")
        wanted = (
            interest.period if period is None else _period_on_wire(period),
            interest.deadband if deadband is None else float(min(deadband, sys.float_info.max)),
        )
        self._let_go()
        interest.asked = True
        before = interest.period, interest.deadband
        interest.period, interest.deadband = wanted  # who begins meanwhile, without wishes, leaves them as they are
        try:
            granted = await self._call("subscribe", feed, *wanted)
        except Refused:
            interest.period, interest.deadband = before
            raise
        if not is_period(granted):
            raise ServerFault("the server granted what is no period")
        interest.granted = True
        return granted

    def _leave(self, iterator: Samples) -> None:
        """Have a feed unsubscribed, if this was the last of its iterators."""
        interest = self._feeds.get(iterator.feed)
        if interest is not None:
            interest.iterators.discard(iterator)
        self._let_go()

    def _let_go(self) -> None:
        """Unsubscribe from the feeds over which nobody iterates any more."""
        idle = [feed for feed, interest in self._feeds.items() if feed != "time" and not interest.iterators]
        for feed in idle:
            interest = self._feeds.pop(feed)
            if interest.asked and self._link is not None and self._link.alive:
                self._link.tell("unsubscribe", feed)

    async def _unsubscribe(self, feed: str) -> None:
        interest = self._feeds.pop(_name(feed), None)
        if interest is not None:
            interest.end(None)
        await self._call("unsubscribe", feed)

    async def _resubscribe(self, link: Link) -> None:
        """Ask a new session for the feeds, all at once; those who iterate over one are told if it is refused.

        Notices are asked for in front of them. Not every server has any, so nobody waits for that answer.
        """
        link.tell("subscribe", NOTICES)
        self._let_go()
        calls: dict[str, tuple[str, *tuple[object, ...]]] = {
            feed: ("subscribe", feed, interest.period, interest.deadband)
            for feed, interest in self._feeds.items()
            if interest.granted
        }
        period = self._feeds["time"].period if "time" in calls else None
        if "time" not in calls:
            calls["time"] = "unsubscribe", "time"  # a login subscribes to it
        elif period is None:
            del calls["time"]
        else:
            calls["time"] = "setperiod", period, "time"
        answers = [Deferred.fromCoroutine(link.call(*call)) for call in calls.values()]
        for feed, (done, answer) in zip(calls, await DeferredList(answers, consumeErrors=True), strict=True):
            if not done:
                if not answer.check(Refused):
                    answer.raiseException()
                if feed in self._feeds:
                    self._feeds.pop(feed).end(answer.value)
            elif feed not in self._feeds and calls[feed][0] == "subscribe":  # it was let go meanwhile
                link.tell("unsubscribe", feed)

    async def _publish(self, feed: str, value: object, stamp: float | None) -> int:
        self._check_value(value)
        number = await self._call("publish", _name(feed), Copy(value), None if stamp is None else moment_of(stamp))
        if type(number) is not int or number < 1:
            raise ServerFault("the server answered with what is no number of a sample")
        return number

    async def _feed_names(self) -> list[str]:
        names = await self._call("feeds")
        if type(names) is not list or not all(isinstance(name, str) and FEED_NAME.fullmatch(name) for name in names):
            raise ServerFault("the server answered with what are no names of feeds")
        return names

    async def _standing(self) -> "Standing":
        try:
            return convert(await self._call("status"), Standing)
        except ValidationError as error:
            raise ServerFault("the server answered with what is no status") from error

    async def _sessions(self, limit: int, sort: str) -> list["Presence"]:
        try:
            return convert(await self._call("sessions", limit, sort), list[Presence])
        except ValidationError as error:
            raise ServerFault("the server answered with what are no sessions") from error

    async def _kick(self, account: str, reason: str) -> int:
        closed = await self._call("kick", account, reason)
        if type(closed) is not int or closed < 0:
            raise ServerFault("the server answered with what is no number of connections")
        return closed

    async def _call(self, method: str, *arguments: object) -> Any:
        """Call the server, on the next connection if there is none now."""
        link = self._link
        if self._ended is not None or link is None or not link.alive:
            link = await self._next_link()
        try:
            return await link.call(method, *arguments)
        except NotConnected:
            if self._error is not None:  # it is not lost but ended
                raise self._error from None
            raise

    async def _next_link(self) -> Link:
        """Return the next connection, if there is one within as long as a call may take."""
        patience = self._way.patience
        try:
            return await Deferred.fromCoroutine(self._connected()).addTimeout(patience, self._reactor)
        except TimedOut as error:
            raise NotConnected(f"no connection within {patience:g} s: {self._trouble}") from error

    def _check_entered(self) -> None:
        if not self._entered:
            raise NotConnected("enter the client first: async with connect(...) as clock")

    def _deliver(self, link: Link, feed: str, sequence: int | None, stamp: float, value: object) -> Answer:
        if feed == "time":
            self._timekeeper.pushed(stamp, link.arrived)
            self._look_for_step()
            if self._timekeeper.hurry and self._exchanges is not None:
                self._exchanges.hasten()
        arrival = self._timekeeper.at(link.arrived)
        interest = self._feeds.get(feed)
        if interest is not None:
            reading = Reading(feed, sequence, stamp, value, arrival.received, arrival.offset, arrival.bound)
            self._hand_out(interest, reading)
        return arrival.received, arrival.bound

    def _hand_out(self, interest: Interest, reading: Reading) -> None:
        interest.newest = reading
        iterators = list(interest.iterators)
        for iterator in iterators:
            iterator.put(reading)
        if not iterators:
            self._let_go()

    def _notice(self, link: Link, notice: object) -> None:
        """Do what the server asks for; what is no notice, or of a kind not known here, is passed over.

        The kind decides. Of what comes with it, a part that makes no sense is as good as none: a server that stops is
        left all the same, and who is kicked does not come back.
        """
        if not isinstance(notice, dict):
            return
        kind = notice.get("kind")
        match kind if isinstance(kind, str) else None:  # a reference cannot be compared
            case "draining" if link.alive:
                why = "the server stops"
                retry: Any = notice.get("retry_seconds")
                if type(retry) in {int, float} and retry >= 0:  # which NaN is not
                    self._retry = min(max(retry, FIRST_DELAY), LONGEST_RETRY)
                    why += f"; connecting again in {self._retry:.1f} s"
                self._announce("draining", why)
                link.told = True
                link.end(why)
            case "kicked":
                self._end(_kicked(notice.get("reason")))
                link.end()
            case "replaced":
                self._end(Replaced("a newer login of this account has taken the place of this one"))
                link.end()
            case "clock_step":
                self._timekeeper.stepped()
                self._look_for_step(notice.get("step_seconds"))
                if self._exchanges is not None:
                    self._exchanges.hasten()

    def _look_for_step(self, seconds: Any = None) -> None:
        """Tell the program if the timekeeper has noticed a step."""
        if self._timekeeper.steps != self._steps:
            self._steps = self._timekeeper.steps
            told = type(seconds) in {int, float} and abs(seconds) < LARGEST_STAMP
            by = f" by {seconds:+.6f} s" if told else ""
            self._announce("step", f"the server's clock was set{by}")

    def _announce(self, kind: Literal["connected", "lost", "draining", "step"], text: str) -> None:
        """Tell the program what has happened."""
        event = Event(kind, text, self._now())
        for events in list(self._events):
            events.put(event)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for deferred in list(waiting):
            if not deferred.called:
                deferred.callback(None)

    def _end(self, error: BaseException | None) -> None:
        """Tell everyone who waits that there will be no more; the first reason stays."""
        if self._ended is not None:
            return
        self._ended, self._error = error or NotConnected("the client was closed"), error
        for interest in self._feeds.values():
            interest.end(error)
        for events in list(self._events):
            events.end(error)
        self._wake()


Amount = Annotated[float, Meta(ge=0, le=1e12)]
"""A number that can be shown: not NaN, for one."""


class Presence(Struct, frozen=True):
    """One connection to the server, as an administrator is told of it.

    Attributes:
        account: Its account.
        address: From where.
        periods: By the feed that it has subscribed to, in seconds.
        pushes_per_second: What it has been pushed lately.
        skipped: Pushes that were due and not written.
        acknowledgement_seconds: From a push that asked for an answer to the answer, the last time; None before.
        connected_since: When it logged in, Unix seconds by the server's clock.
    """

    account: str
    address: str
    periods: dict[str, Amount]
    pushes_per_second: Amount
    skipped: Annotated[int, Meta(ge=0)]
    acknowledgement_seconds: Amount | None
    connected_since: Amount


class Standing(Struct, frozen=True):
    """What a server knows of one connection.

    Attributes:
        account: Its account.
        connections: How many connections the account has.
        periods: By the feed that it has subscribed to, in seconds.
        pushes: How many were written to it.
        skipped: How many were due and not written.
        connected_since: When it logged in, Unix seconds by the server's clock.
    """

    account: str
    connections: Annotated[int, Meta(ge=0)]
    periods: dict[str, Amount]
    pushes: Annotated[int, Meta(ge=0)]
    skipped: Annotated[int, Meta(ge=0)]
    connected_since: Amount


def _name(feed: object) -> str:
    """Return a feed's name, if it is one: what no server has is not even sent."""
    if feed == NOTICES:
        raise UnknownFeed(f"there is no such feed: {NOTICES} is where notices come from, which the client sees to")
    if isinstance(feed, str) and FEED_NAME.fullmatch(feed):
        return feed
    raise UnknownFeed("there is no such feed: a name is 1 to 64 of the characters a-z, 0-9, _, . and -")


def _kicked(reason: object) -> Kicked:
    what = "the server has closed the connections of this account"
    if not isinstance(reason, str) or not reason:
        return Kicked(what)
    return Kicked(f"{what}: {printable(reason, REASON_LETTERS)}", reason)


def _period_on_wire(period: object) -> float:
    if not is_period(period):
        raise InvalidPeriod("a period is a finite number of seconds greater than 0")
    return float(min(period, sys.float_info.max))  # an int may be more than PB can send


def reactor_here() -> Any:
    """Return the installed reactor; on an asyncio loop without one, install and start Twisted's for it."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        from twisted.internet import reactor

        return reactor
    if "twisted.internet.reactor" not in sys.modules:
        from twisted.internet import asyncioreactor

        asyncioreactor.install(loop)
    from twisted.internet import reactor

    if getattr(reactor, "_asyncioEventloop", None) is not loop:
        raise ReactorConflict(
            "a Twisted reactor is installed already that does not run on this asyncio loop: import nothing that "
            "installs one before connect, and use one asyncio.run a process"
        )
    if not reactor.running:
        # asyncio.run ends without telling the reactor, whose idle threads would keep the process alive
        reactor.getThreadPool().threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[attr-defined]
        reactor.startRunning(installSignalHandlers=False)  # type: ignore[attr-defined]
    return reactor
