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

Everything that is awaited here works in a coroutine that Twisted drives and in a task of asyncio alike. A connection
that is lost is made again, with the feeds, periods and deadbands it had, until the program leaves the `async with`.
So is one to a server that stops, after as long as the server has said. A client that was sent away, by an
administrator or by a newer login of its account, raises `Kicked` or `Replaced` and stays away.

Rules of this module: inside, coroutines are driven by Twisted; what a program awaits is an `Either`.
"""

import asyncio
import math
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Annotated, Any, NoReturn, Self, TypeVar
from weakref import WeakSet

from msgspec import Meta, Struct, ValidationError, convert
from twisted.application.internet import backoffPolicy
from twisted.cred.credentials import UsernamePassword
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.endpoints import clientFromString, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.spread import pb
from twisted.spread.jelly import Jellyable, jelly

from clockd import errors
from clockd.certificate import ClientTLS, failed_for
from clockd.either import Either
from clockd.errors import (
    ClockdError,
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
    WrongCredentials,
)
from clockd.feeds import moment_of
from clockd.logs import printable
from clockd.values import FEED_NAME, NOTICES, Reading, is_deadband, is_period
from clockd.wire import ValueEncoder

__all__ = ["ClientTLS", "ClockClient", "Presence", "Samples", "connect"]

T = TypeVar("T")

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

ALIVE_SECONDS = 30.0
"""Seconds between two looks whether the server still answers."""

NO_OBJECT = 0
"""An object id that no server has: a call of it is answered with an error, and nobody logs it."""

CLOSE_SECONDS = 1.0
"""How long a connection may take to close in good order."""


def connect(
    endpoint: str,
    name: str | None = None,
    secret: str | None = None,
    *,
    tls: ClientTLS | None = None,
    timeout: float = 10.0,
    reactor: Any = None,
) -> "ClockClient":
    """Return a client of one server, to be entered with `async with`.

    Args:
        endpoint: A Twisted client endpoint string such as `tcp:host:8787`.
        name: The account.
        secret: What `clockd user add` printed. Without name and secret the certificate of `tls` is the login.
        tls: If given, the connection is wrapped in TLS.
        timeout: Seconds that a login, or a call to the server, may take.
        reactor: Where to run; by default the installed reactor. In a task of `asyncio.run` with none installed,
            Twisted's asyncio reactor is put on the running loop.

    Raises:
        ReactorConflict: A reactor is installed that does not run on the asyncio loop of the caller.
        ConnectionFailed: The endpoint string cannot be parsed, or is one of Twisted's own for TLS.
        TypeError: The name or the secret is no str, or there is neither, nor a certificate.
    """
    if isinstance(name, str) and isinstance(secret, str):
        credentials = UsernamePassword(name.encode(), secret.encode())
    elif name is secret is None and tls is not None and tls.has_certificate:
        credentials = None
    else:
        raise TypeError("the name and the secret are str; instead of both, tls may have a certificate")
    if endpoint.startswith(("tls:", "ssl:")):  # they let a certificate pass that names no host; see ClientTLS
        raise ConnectionFailed(f"{endpoint}: for TLS write tcp:host:port, and pass tls=ClientTLS(host)")
    reactor = _reactor_here() if reactor is None else reactor
    try:
        where = clientFromString(reactor, endpoint)
    except Exception as error:  # its parsers raise ValueError, TypeError, KeyError and more
        raise ConnectionFailed(f"{endpoint}: is no Twisted endpoint such as tcp:host:8787 ({error})") from error
    if tls is not None:
        where = wrapClientTLS(tls, where, reactor)
    return ClockClient(where, endpoint, credentials, timeout, reactor, time.time)


class ClockClient:
    """A session with a server that is made again whenever it is lost; made by `connect`.

    Entering it waits for the first login, and raises what that raises; leaving it closes the connection. After
    `Kicked` or `Replaced`, which whatever is awaited raises, no connection is made any more.
    """

    _log = Logger()

    def __init__(
        self,
        where: IStreamClientEndpoint,
        endpoint: str,
        credentials: UsernamePassword | None,
        timeout: float,
        reactor: Any,
        now: Callable[[], float],
    ) -> None:
        self._where = where
        self._endpoint = endpoint
        self._credentials = credentials
        self._timeout = timeout
        self._reactor = reactor
        self._now = now
        self._feeds = {"time": _Interest(granted=True)}  # the server sees to that one by itself
        self._check_value = ValueEncoder(b"pb").encode
        self._session: _Session | None = None
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
            self._end(None)
            self._work.cancel()
            if self._session is not None:
                self._session.broker.transport.abortConnection()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection; iterators end."""
        await Either(Deferred.fromCoroutine(self._close()))

    def setperiod(self, period: float, feed: str = "time") -> Either[float]:
        """Choose how often a feed is pushed; remembered for the connections to come.

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

    def samples(self, feed: str = "time", *, period: float | None = None, deadband: float | None = None) -> "Samples":
        """Return an asynchronous iterator that begins with the newest sample there is, and goes on as they arrive.

        A sample that comes before the last one was taken replaces it: the newest wins. The feed is subscribed by the
        first step of its first iterator; when the last one is closed or forgotten it is unsubscribed, but for `time`.
        A feed has one period and one deadband, so what is asked for last holds for all its iterators. After a
        reconnection the sample that was there before may come again.

        Args:
            feed: Its name.
            period: Seconds between two samples at least, finite and > 0; None for the one it has, at first the
                server's.
            deadband: A number that differs by no more from the one before is not pushed, finite and >= 0; None for the
                one it has, at first none. The time has none.

        Returns:
            The iterator. Each step of it, the first above all, may raise `UnknownFeed`, `NotPermitted`,
            `TooManySubscriptions`, `InvalidPeriod`, `InvalidValue` or `NotConnected`; that ends neither the client nor
            the iterators of other feeds.

        Raises:
            NotConnected: The client was not entered.
        """
        self._check_entered()
        interest = self._feeds.setdefault(feed, _Interest()) if self._ended is None else _Interest()
        begin = partial(self._begin, period=period, deadband=deadband)
        iterator = Samples(feed, begin, self._leave, interest.newest)
        interest.iterators.add(iterator)
        if self._ended is not None:
            iterator.end(self._error)
        return iterator

    def unsubscribe(self, feed: str) -> Either[None]:
        """Have a feed pushed no more, `time` included; its iterators end.

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
                    session = await self._open()
                except PASSING as error:
                    if self._session is None:
                        raise
                    self._log.info("{endpoint}: {error}", endpoint=self._endpoint, error=str(error))
                else:
                    self._session = session
                    if session.alive:
                        self._wake()
                    since = self._reactor.seconds()
                    await session.held(self._timeout, self._reactor)
                    await session.leave(self._reactor)
                    if self._reactor.seconds() - since >= LONGEST_DELAY:
                        self._attempt = 0
                if self._ended is None:
                    await deferLater(self._reactor, self._pause())
        except CancelledError:
            pass
        except Exception as error:  # noqa: BLE001  # kept for whoever waits; nothing is lost
            self._end(error)

    def _pause(self) -> float:
        """Return how many seconds to wait: as many as a server that stops has named, else more after each failure."""
        retry, self._retry = self._retry, None
        if retry is None:
            self._log.info("{endpoint}: not connected; connecting again", endpoint=self._endpoint)
            self._attempt += 1
            return self._delay(self._attempt - 1)
        self._log.info(
            "{endpoint}: the server stops; connecting again in {seconds} s",
            endpoint=self._endpoint,
            seconds=round(retry, 1),
        )
        return retry

    async def _open(self) -> "_Session":
        """Connect, log in, ask for what was asked for before."""
        factory = pb.PBClientFactory()
        factory.noisy = False
        factory.protocol = _Broker
        session = _Session(await self._dial(factory), factory)
        transport = session.broker.transport
        try:
            mind = _Mind(self._deliver, partial(self._notice, session), self._check_value)
            session.perspective = await self._bounded(self._login(factory, mind))
            if not isinstance(session.perspective, pb.RemoteReference):
                raise TypeError("a login was answered with no perspective")  # noqa: TRY301  # told below
            await self._resubscribe(session.perspective)
        except (Refused, CancelledError):
            transport.abortConnection()
            raise
        except ConnectionFailed as error:
            raise ConnectionFailed(f"no TLS with {self._endpoint}: {error}") from error
        except Exception as error:
            transport.abortConnection()
            what = str(error) if isinstance(error, NotConnected) else "its answers make no sense"
            raise ConnectionFailed(
                f"no session with {self._endpoint}: {what}; is it clockd that listens there?"
            ) from error
        return session

    def _login(self, factory: pb.PBClientFactory, mind: pb.Referenceable) -> Any:
        """Ask for the perspective, by name and secret or by the certificate that TLS has shown."""
        if self._credentials is not None:
            return factory.login(self._credentials, mind)
        return factory.getRootObject().addCallback(lambda root: root.callRemote("loginCertificate", mind))

    async def _dial(self, factory: pb.PBClientFactory) -> Any:
        """Connect, and return the broker."""
        try:
            return await self._where.connect(factory).addTimeout(self._timeout, self._reactor)
        except CancelledError:
            raise
        except Exception as error:
            timed_out = isinstance(error, TimedOut | ConnectingCancelledError)
            what = f"no connection within {self._timeout:g} s" if timed_out else str(error).rstrip(".")
            raise ConnectionFailed(f"cannot connect to {self._endpoint}: {what}; does clockd listen there?") from error

    async def _close(self) -> None:
        await deferLater(self._reactor, 0)  # out of `_run`, which may be what woke the program that leaves
        self._end(None)
        self._work.cancel()
        if self._session is not None:
            await self._session.close(self._reactor)

    async def _connected(self) -> Any:
        """Return the perspective, as soon as there is one."""
        self._check_entered()
        if self._ended is None and not (self._session and self._session.alive):
            waiting: Deferred[None] = Deferred(self._waiting.pop)
            self._waiting[waiting] = None
            await waiting
        if self._ended is not None:
            raise self._ended
        if self._session is None or not self._session.alive:
            raise NotConnected(f"the connection to {self._endpoint} was lost again")
        return self._session.perspective

    async def _setperiod(self, period: float, feed: str) -> float:
        wire = _period_on_wire(period)
        granted = await self._call("setperiod", wire, _name(feed))
        if not is_period(granted):
            raise ServerFault("the server granted what is no period")
        if feed in self._feeds:
            self._feeds[feed].period = wire
        return granted

    async def _begin(self, iterator: "Samples", period: float | None, deadband: float | None) -> float | None:
        """Have a feed subscribed, for one of its iterators.

        Returns:
            The period granted, if it had to be asked for.
        """
        feed = _name(iterator.feed)
        interest = self._feeds.setdefault(feed, _Interest())
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

    def _leave(self, iterator: "Samples") -> None:
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
            if interest.asked and self._session is not None and self._session.alive:
                _tell(self._session.perspective, "unsubscribe", feed)

    async def _unsubscribe(self, feed: str) -> None:
        interest = self._feeds.pop(_name(feed), None)
        if interest is not None:
            interest.end(None)
        await self._call("unsubscribe", feed)

    async def _resubscribe(self, perspective: Any) -> None:
        """Ask a new session for the feeds, all at once; those who iterate over one are told if it is refused.

        Notices are asked for in front of them. Not every server has any, so nobody waits for that answer.
        """
        _tell(perspective, "subscribe", NOTICES)
        self._let_go()
        calls: dict[str, tuple[object, ...]] = {
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
        answers = [Deferred.fromCoroutine(self._bounded(perspective.callRemote(*call))) for call in calls.values()]
        for feed, (done, answer) in zip(calls, await DeferredList(answers, consumeErrors=True), strict=True):
            if not done:
                if not answer.check(Refused):
                    answer.raiseException()
                if feed in self._feeds:
                    self._feeds.pop(feed).end(answer.value)
            elif feed not in self._feeds and calls[feed][0] == "subscribe":  # it was let go meanwhile
                _tell(perspective, "unsubscribe", feed)

    async def _publish(self, feed: str, value: object, stamp: float | None) -> int:
        self._check_value(value)
        number = await self._call("publish", _name(feed), _Copy(value), None if stamp is None else moment_of(stamp))
        if type(number) is not int or number < 1:
            raise ServerFault("the server answered with what is no number of a sample")
        return number

    async def _feed_names(self) -> list[str]:
        names = await self._call("feeds")
        if type(names) is not list or not all(isinstance(name, str) and FEED_NAME.fullmatch(name) for name in names):
            raise ServerFault("the server answered with what are no names of feeds")
        return names

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
        session = self._session
        if self._ended is None and session is not None and session.alive:
            perspective = session.perspective
        else:
            perspective = await self._bounded(Deferred.fromCoroutine(self._connected()))
        try:
            return await self._bounded(perspective.callRemote(method, *arguments))
        except NotConnected:
            if self._error is not None:  # it is not lost but ended
                raise self._error from None
            raise

    async def _bounded(self, call: "Deferred[T]") -> T:
        """Wait for a call's answer no longer than a call may take, and raise what it raised as one of our classes."""
        try:
            answer: T = await call.addTimeout(self._timeout, self._reactor).addErrback(_typed)
        except TimedOut as error:
            raise NotConnected(f"no answer from {self._endpoint} within {self._timeout:g} s") from error
        return answer

    def _check_entered(self) -> None:
        if not self._entered:
            raise NotConnected("enter the client first: async with connect(...) as clock")

    def _deliver(self, feed: str, sequence: int | None, stamp: float, value: object) -> None:
        interest = self._feeds.get(feed)
        if interest is None:
            return
        interest.newest = reading = Reading(feed, sequence, stamp, value, self._now())
        iterators = list(interest.iterators)
        for iterator in iterators:
            iterator.put(reading)
        if not iterators:
            self._let_go()

    def _notice(self, session: "_Session", notice: object) -> None:
        """Do what the server asks for; what is no notice, or of a kind not known here, is passed over.

        The kind decides. Of what comes with it, a part that makes no sense is as good as none: a server that stops is
        left all the same, and who is kicked does not come back.
        """
        if not isinstance(notice, dict):
            return
        kind = notice.get("kind")
        match kind if isinstance(kind, str) else None:  # a reference cannot be compared
            case "draining" if session.alive:
                retry: Any = notice.get("retry_seconds")
                if type(retry) in {int, float} and retry >= 0:  # which NaN is not
                    self._retry = min(max(retry, FIRST_DELAY), LONGEST_RETRY)
            case "kicked":
                self._end(_kicked(notice.get("reason")))
            case "replaced":
                self._end(Replaced("a newer login of this account has taken the place of this one"))
            case _:
                return
        session.end()

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


class _Interest:
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


class _Broker(pb.Broker):
    """Remembers why its connection was lost."""

    lost_for: BaseException | None = None

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted gives it a default
        self.lost_for = reason.value
        super().connectionLost(reason)


class _Session:
    """One connection to the server.

    Args:
        broker: A `_Broker`; `Any`, because Twisted does not annotate what it is made of.
        factory: What made it; it fails what waits for an answer when the connection is lost.

    Attributes:
        perspective: The `pb.RemoteReference` of the avatar, once it has logged in.
        over: Fires when the connection is gone, or is to be left.
    """

    def __init__(self, broker: Any, factory: pb.PBClientFactory) -> None:
        self.broker = broker
        self.perspective: Any = None
        self.over: Deferred[None] = Deferred()
        self._factory = factory
        broker.notifyOnDisconnect(self._gone)

    @property
    def alive(self) -> bool:
        """Whether the connection is there, and not to be left."""
        return not (self.over.called or self.broker.disconnected)

    def end(self) -> None:
        """Have nothing more called."""
        if not self.over.called:
            self.over.callback(None)

    async def held(self, patience: float, reactor: Any) -> None:
        """Wait until it is over; a connection whose server takes longer than `patience` to answer is broken off."""
        watch = Deferred.fromCoroutine(self._watch(patience, reactor))
        watch.addErrback(lambda failure: failure.trap(CancelledError))
        try:
            await self.over
        finally:
            watch.cancel()

    async def _watch(self, patience: float, reactor: Any) -> None:
        """Ask now and then whether the server still answers."""
        while True:
            await deferLater(reactor, ALIVE_SECONDS)
            try:
                await self._probe().addTimeout(patience, reactor)
            except TimedOut:
                self.broker.transport.abortConnection()
                return

    def _probe(self) -> "Deferred[None]":
        """Ask a thing that no server has: any answer is a sign of life, and comes after those to earlier calls."""
        nobody = pb.RemoteReference(None, self.broker, NO_OBJECT, doRefCount=False)
        return _settled(nobody.callRemote("probe"))

    async def leave(self, reactor: Any) -> None:
        """Close as soon as what was called has been answered, or that takes too long."""
        if not self.broker.disconnected and self.broker.waitingForAnswers:
            with suppress(TimedOut):
                await self._probe().addTimeout(CLOSE_SECONDS, reactor)
        await self.close(reactor)

    async def close(self, reactor: Any) -> None:
        """Close in good order, or without if that takes too long."""
        if self.broker.disconnected:
            return
        closed: Deferred[None] = Deferred()
        self.broker.notifyOnDisconnect(partial(closed.callback, None))
        self.broker.transport.loseConnection()
        impatient = reactor.callLater(CLOSE_SECONDS, self.broker.transport.abortConnection)
        try:
            await closed
        finally:
            if impatient.active():
                impatient.cancel()

    def _gone(self) -> None:
        self._factory.clientConnectionLost(None, Failure(failed_for(self.broker.lost_for) or ConnectionLost()))
        self.end()


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


class _Mind(pb.Referenceable):
    """What the server calls.

    Args:
        deliver: Told the feed, number, stamp and value of each sample.
        notice: Told what comes as a notice.
        check_value: Raises `InvalidValue` for what is none.
    """

    def __init__(
        self,
        deliver: Callable[[str, int | None, float, object], None],
        notice: Callable[[object], None],
        check_value: Callable[[object], object],
    ) -> None:
        self._deliver = deliver
        self._notice = notice
        self._check_value = check_value

    def remote_notifyTime(self, stamp: object) -> None:
        if not isinstance(stamp, float) or not math.isfinite(stamp):
            raise InvalidValue("a stamp is a finite float")
        self._deliver("time", None, stamp, stamp)

    def remote_notifySample(self, feed: object, sequence: object, stamp: object, value: object) -> None:
        if isinstance(feed, str) and feed == NOTICES:
            self._notice(value)
            return
        if not isinstance(feed, str) or type(sequence) is not int:
            raise InvalidValue("the name of a feed is str, the number of a sample int")
        if not isinstance(stamp, float) or not math.isfinite(stamp):
            raise InvalidValue("a stamp is a finite float")
        self._check_value(value)
        self._deliver(feed, sequence, stamp, value)


class _Copy(Jellyable):
    """A value as it is now, for the wire; unlike stock jelly it makes no reference of a container that occurs twice.

    Args:
        value: As for `ValueEncoder.encode`.
    """

    def __init__(self, value: object) -> None:
        self._jelly = _jellied(value)

    def jellyFor(self, jellier: object) -> object:
        """Return the expression that stands for the value."""
        return self._jelly


def _jellied(value: Any) -> object:
    kind = type(value)
    if kind is str:
        return [b"unicode", value.encode()]
    if kind is list or kind is tuple:
        return [b"list" if kind is list else b"tuple", *map(_jellied, value)]
    if kind is dict:
        return [b"dictionary", *([_jellied(key), _jellied(item)] for key, item in value.items())]
    return value if kind in {int, float, bytes} else jelly(value)


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


def _tell(perspective: Any, method: str, feed: str) -> None:
    """Call a method whose answer does not matter."""
    perspective.callRemote(method, feed).addErrback(lambda _: None)


def _settled(call: "Deferred[object]") -> "Deferred[None]":
    """Return a Deferred that fires when a call was answered, whatever with."""
    answered: Deferred[None] = Deferred()
    call.addBoth(lambda _: None if answered.called else answered.callback(None))
    return answered


def _typed(failure: Failure) -> NoReturn:
    """Raise what a remote call failed with as one of our classes, whatever the server made of it."""
    value, kind = getattr(failure, "value", None), getattr(failure, "type", None)
    if isinstance(value, ClockdError | CancelledError | TimedOut):
        failure.raiseException()
    if isinstance(value, pb.PBConnectionLost | pb.DeadReferenceError | ConnectionLost):
        raise NotConnected("the connection was lost") from value
    kind = kind.decode("utf-8", "replace") if isinstance(kind, bytes) else ""
    module, _, name = kind.rpartition(".")
    known = getattr(errors, name, None) if module == errors.__name__ else None
    if isinstance(known, type) and issubclass(known, Refused):
        raise known(str(value))
    if _descends(failure, "twisted.cred.error.UnauthorizedLogin"):
        raise WrongCredentials("the name and the secret do not fit")
    raise ServerFault(f"the server failed: {kind or 'its answers make no sense'}")


def _descends(failure: Failure, kind: str) -> bool:
    try:
        return bool(failure.check(kind))
    except Exception:  # noqa: BLE001  # what a server sent in place of an error
        return False


def _reactor_here() -> Any:
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
