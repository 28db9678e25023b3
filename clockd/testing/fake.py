"""A double of a clockd server, for the tests of programs that use `clockd.client`.

    async with FakeServer() as server, connect(server.endpoint, "alice", "any secret") as clock:
        samples = clock.samples("greenhouse")
        server.push(35.0, "greenhouse")
        ...
        assert server.calls[-1] == Call("alice", "publish", ("window", "open", None))

It listens on the loopback interface, speaks PB as clockd does, lets everyone in, and pushes what the test says, when
the test says so. Its clock is this host's, until the test sets it.

Rules of this module: it is public; nothing in it knows how a real server does its work.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from inspect import signature
from types import TracebackType
from typing import Any, Self

from msgspec import Struct
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.spread import pb

from clockd.client import reactor_here
from clockd.either import Either
from clockd.errors import InvalidValue, UnknownMethod
from clockd.values import NOTICES, ServerStatus

DEFAULT_PERIOD = 1.0
"""Seconds; what is granted to who asks for no period."""


class Call(Struct, frozen=True):
    """A call that a client has made.

    Attributes:
        account: Who has logged in there.
        method: What was called.
        arguments: As they came; those that came by name are in their places.
    """

    account: str
    method: str
    arguments: tuple[object, ...]


class FakeServer:
    """A server that does what the test says.

    Args:
        reactor: Where to run; by default as for `connect`.

    Attributes:
        endpoint: Where it is, for `connect`, once it is entered.
        factory: Makes its connections; for a test that listens elsewhere, or over TLS.
        ahead: By how many seconds its clock is ahead of this host's; a test may set it, or call `step`.
        bound: What it says of the error of its own clock, in seconds.
        status: What it says of the state of its own clock.
        answers: By method what is answered: a value, an exception that is raised, a Deferred of one of them, or a
            callable that is given the arguments and returns one of them. What is not in it is answered as by a server
            that grants everything and has nothing to tell.
        calls: What the program has called; not what the library calls by itself, exchanges and the subscription to
            notices.
        refusal: If set, raised in answer to each login: an exception of `clockd.errors`.
    """

    def __init__(self, reactor: Any = None) -> None:
        self.endpoint = ""
        self.factory = pb.PBServerFactory(_Door(self._connected))
        self.factory.noisy = False
        self.ahead = 0.0
        self.bound = math.inf
        self.status: ServerStatus = "unknown"
        self.answers: dict[str, Any] = {}
        self.calls: list[Call] = []
        self.refusal: Exception | None = None
        self._reactor = reactor
        self._port: Any = None
        self._brokers: list[Any] = []
        self._seats: list[_Seat] = []
        self._newest: dict[str, tuple[int, float, object]] = {}

    async def __aenter__(self) -> Self:
        """Listen on a free port of the loopback interface."""
        reactor = reactor_here() if self._reactor is None else self._reactor
        self._port = await Either(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.factory))
        self.endpoint = f"tcp:127.0.0.1:{self._port.getHost().port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Lose all connections, and listen no more."""
        gone = [_closed(broker) for broker in self._brokers]
        self.drop()
        await Either(DeferredList([maybeDeferred(self._port.stopListening), *gone]))

    @property
    def accounts(self) -> list[str]:
        """Who is connected, once for each connection."""
        return [seat.account for seat in self._seats]

    def now(self) -> float:
        """Return the time by the server's clock, Unix seconds."""
        return time.time() + self.ahead

    def push(self, value: object = None, feed: str = "time", stamp: float | None = None) -> None:
        """Push a sample to everyone who is subscribed; who subscribes later is pushed the newest.

        Args:
            value: Of any feed but `time`, whose samples are their stamps.
            feed: Its name.
            stamp: When it was true, Unix seconds; None for now by the server's clock.
        """
        sequence, *_ = self._newest.get(feed, (0,))
        self._newest[feed] = sequence + 1, self.now() if stamp is None else stamp, value
        for seat in self._seats:
            self._push_newest(feed, seat)

    def notify(self, kind: str, **parts: object) -> None:
        """Send a notice, such as `notify("draining", retry_seconds=1.0)`, to everyone who takes notices."""
        for seat in self._seats:
            if NOTICES in seat.feeds:
                seat.notices += 1
                seat.tell("notifySample", NOTICES, seat.notices, self.now(), {"kind": kind, **parts})

    def step(self, seconds: float, *, told: bool = True) -> None:
        """Set the server's clock forward, or back, and tell the clients unless `told` is false."""
        self.ahead += seconds
        if told:
            self.notify("clock_step", step_seconds=seconds)

    def drop(self) -> None:
        """Lose all connections, as when a cable is pulled."""
        for broker in list(self._brokers):
            broker.transport.abortConnection()

    def _push_newest(self, feed: str, seat: "_Seat") -> None:
        if feed not in seat.feeds or feed not in self._newest:
            return
        sequence, stamp, value = self._newest[feed]
        if feed == "time":
            seat.tell("notifyTime", stamp)
        else:
            seat.tell("notifySample", feed, sequence, stamp, value)

    def _connected(self, broker: Any) -> "_Greeting":
        self._brokers.append(broker)
        broker.notifyOnDisconnect(partial(self._brokers.remove, broker))
        return _Greeting(partial(self._seat, broker))

    def _seat(self, broker: Any, account: str, mind: Any) -> "_Seat":
        """Let someone in."""
        if self.refusal is not None:
            raise self.refusal
        seat = _Seat(self, account, mind, self._push_newest)
        self._seats.append(seat)
        broker.notifyOnDisconnect(partial(self._seats.remove, seat))
        return seat


class _Door(pb.Root):
    """Where each connection gets a root object of its own."""

    def __init__(self, connected: Callable[[Any], "_Greeting"]) -> None:
        self._connected = connected

    def rootObject(self, broker: Any) -> "_Greeting":
        """Return what the client of a connection may call before it has logged in."""
        return self._connected(broker)


class _Greeting(pb.Referenceable):
    """What may be called before the login."""

    def __init__(self, enter: Callable[[str, Any], "_Seat"]) -> None:
        self._enter = enter

    def remote_login(self, name: bytes | str) -> tuple[bytes, "_Response"]:
        """Log in with a name and a secret: the first half."""
        account = name.decode() if isinstance(name, bytes) else name
        return pb.challenge(), _Response(partial(self._enter, account))

    def remote_loginAnonymous(self, mind: Any) -> "_Seat":
        """Log in without a name."""
        return self._enter("anonymous", mind)

    def remote_loginCertificate(self, mind: Any) -> "_Seat":
        """Log in by a certificate, which nobody looks at."""
        return self._enter("certificate", mind)


class _Response(pb.Referenceable):
    """The second half of a login."""

    def __init__(self, enter: Callable[[Any], "_Seat"]) -> None:
        self._enter = enter

    def remote_respond(self, response: bytes, mind: Any) -> "_Seat":
        """Take any response to the challenge."""
        return self._enter(mind)


class _Seat(pb.Referenceable):
    """What may be called after the login, unless the test has answers of its own."""

    def __init__(
        self, server: FakeServer, account: str, mind: Any, push_newest: Callable[[str, "_Seat"], None]
    ) -> None:
        self.account = account
        self.feeds = {"time"}
        self.notices = 0
        self._server = server
        self._mind = mind
        self._push_newest = push_newest
        self._since = server.now()
        self._published = 0

    def tell(self, method: str, *arguments: object) -> None:
        """Call the client, and want no answer."""
        self._mind.callRemote(method, *arguments, pbanswer=False)

    def remoteMessageReceived(self, broker: Any, message: str, args: Any, kw: Any) -> Any:
        """Answer as the test says, or else by the method of that name."""
        method = getattr(self, f"remote_{message}", None)
        if method is None:
            raise UnknownMethod(f"there is no method {message}")
        try:
            bound = signature(method).bind(*broker.unserialize(args), **broker.unserialize(kw))
        except TypeError as error:
            raise InvalidValue(f"{message}: {error}") from error
        server, arguments = self._server, bound.args
        if message != "exchange" and (message, arguments) != ("subscribe", (NOTICES,)):
            server.calls.append(Call(self.account, message, arguments))
        answer = server.answers.get(message, method)
        if callable(answer):
            answer = answer(*arguments)
        if isinstance(answer, Exception):
            raise answer
        return broker.serialize(answer, None, message, args, kw)

    def remote_setperiod(self, period: float, feed: str = "time") -> float:
        """Grant any period."""
        return period

    def remote_subscribe(self, feed: str, period: float | None = None, deadband: float | None = None) -> float:
        """Have a feed pushed."""
        self.feeds.add(feed)
        self._push_newest(feed, self)
        return 0.0 if feed == NOTICES else period or DEFAULT_PERIOD

    def remote_unsubscribe(self, feed: str) -> None:
        """Have a feed pushed no more."""
        self.feeds.discard(feed)

    def remote_feeds(self) -> list[str]:
        """Name the feeds that somebody has subscribed to."""
        return sorted(self.feeds - {NOTICES})

    def remote_publish(self, feed: str, value: object, stamp: float | None = None) -> int:
        """Take any value; who is subscribed to the feed is pushed what the test pushes."""
        self._published += 1
        return self._published

    def remote_status(self) -> dict[str, object]:
        """Tell of the connection."""
        return {
            "account": self.account,
            "connections": self._server.accounts.count(self.account),
            "periods": dict.fromkeys(self.remote_feeds(), DEFAULT_PERIOD),
            "pushes": 0,
            "skipped": 0,
            "connected_since": self._since,
        }

    def remote_sessions(self, limit: int = 100, sort: str = "skipped") -> list[object]:
        """Tell of nobody."""
        return []

    def remote_kick(self, account: str, reason: str) -> int:
        """Close nothing."""
        return 0

    def remote_exchange(self, stamp: float) -> tuple[float, float, float, float, str]:
        """Tell the time."""
        server = self._server
        return stamp, server.now(), server.now(), server.bound, server.status


def _closed(broker: Any) -> Deferred[None]:
    closed: Deferred[None] = Deferred()
    broker.notifyOnDisconnect(partial(closed.callback, None))
    return closed
