"""Everything that speaks Perspective Broker: the factory, the connection, what a peer can call, the mind as a sink.

Rules of this module: what a peer does wrong reaches it as a `Refused`, or ends its connection; it leaves no traceback
in the log.
"""

import os
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from itertools import takewhile
from typing import Any, cast
from weakref import WeakSet

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.spread import pb
from zope.interface import implementer

from clockd.boundary import Boundary
from clockd.errors import InvalidValue, NotPermitted
from clockd.feeds import FeedTable
from clockd.interfaces import ISession
from clockd.login import ILogin, Login, new_login
from clockd.mind import RemoteMind
from clockd.transport import Outlet, WrappedOutlet, outlet
from clockd.values import Limits, Tally
from clockd.wire import PushTemplate

NAME_BYTES = 64
"""Longest account name, in bytes of UTF-8."""

MAX_MIND_ID = 2**31 - 1
"""Largest id of a mind: every push carries it back; stock clients count from 1."""

CLOSE_SECONDS = 2.0
"""How long a peer has to read what was written to it before its connection is closed."""

NO_OBJECT = 0
"""An object id that no client has (ids count from 1): a probe sent to it is answered with an error."""

UNSENT_BEFORE_LOGIN = 4096
"""Bytes that may wait for a peer that has not logged in."""

TEMPLATES = 256
"""As many push templates are kept for others; stock clients' minds have ids from 1 on."""

SWEEPS = 10
"""Sweeps a second."""

SWEPT = 64
"""At least so many clients, and one in so many of all, are probed or ended in one sweep, at 20 µs each."""


class LoginRoot:
    """What a peer finds before it has logged in.

    Args:
        broker: Its connection.
        offers_anonymous: Whether one may log in without proof.
    """

    def __init__(self, broker: "ClockBroker", offers_anonymous: bool) -> None:
        self._broker = broker
        self._offers_anonymous = offers_anonymous

    def remote_login(self, name: object) -> tuple[bytes, Boundary]:
        """Begin a login.

        Args:
            name: The account, str or UTF-8 bytes, 1 to 64 bytes.

        Returns:
            The challenge, and the object that takes `respond(response, mind)`, once.
        """
        try:
            text = name.decode() if isinstance(name, bytes) else name
            fits = isinstance(text, str) and 0 < len(text.encode()) <= NAME_BYTES
        except UnicodeError:
            fits = False
        if not fits:
            raise InvalidValue(f"an account's name is 1 to {NAME_BYTES} bytes of UTF-8")
        return self._broker.login.challenge(cast("str", text)), Boundary(self, "challenged_")

    def challenged_respond(self, response: object, mind: object) -> Deferred[Boundary]:
        """Answer the challenge.

        Args:
            response: 16 bytes.
            mind: A remote reference, whose `notifyTime` will be called.

        Returns:
            The perspective.
        """
        if not isinstance(response, bytes):
            raise InvalidValue("a response is bytes")
        sink = self._broker.sink_for(mind)
        return self._broker.login.respond(response, sink).addCallback(self._broker.authenticated, sink)

    def remote_loginAnonymous(self, mind: object) -> Deferred[Boundary]:
        """Log in without proof, where that is offered; see `challenged_respond`."""
        if not self._offers_anonymous:
            raise NotPermitted("this server knows its clients by name: log in with a name and a secret")
        sink = self._broker.sink_for(mind)
        return self._broker.login.anonymous(sink).addCallback(self._broker.authenticated, sink)


class ClockBroker(pb.Broker):
    """One connection.

    Attributes:
        login: The state of its login.
        mind: The client's mind, once it has logged in.
    """

    _log = Logger()

    factory: "ClockServerFactory"  # type: ignore[assignment]  # Twisted says None
    transport: Any  # Twisted says what every transport has; ours can be aborted
    login: ILogin
    mind: RemoteMind | None = None
    _outlet: Outlet | WrappedOutlet
    _perspective: Boundary | None = None
    _ended_for: str | None = None
    _delayed: tuple[IDelayedCall, ...] = ()

    def connectionMade(self) -> None:
        """Count the connection and offer the login."""
        self.outgoingSymbols = self.outgoingVocabulary  # Banana copies it for each connection: 1.3 kB, never changed
        factory = self.factory
        if ITCPTransport.providedBy(self.transport):
            # else a push waits up to 40 ms for the peer's delayed ACK of the last one
            self.transport.setTcpNoDelay(True)
        self._outlet = outlet(self.transport)
        self._outlet.count_in(factory.tally)
        self.login = new_login(
            Login(factory.portal, pb.IPerspective, self._peer, factory.tally, self._do_soon, self._close)
        )
        factory.opened(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the peer; what stock PB cannot make sense of ends the connection."""
        if self._ended_for is not None:
            return
        mind = self.mind
        if mind is not None and data == mind.awaited and not self.buffer and not self.listStack:
            mind.heard(error=False)  # a stock client's None: seen without decoding it, which costs twice as much
            return
        try:
            super().dataReceived(data)
        except Exception as error:  # noqa: BLE001  # the decoder raises many kinds; all are the peer's doing
            self._log.info(
                "closed {address}: not Perspective Broker as we speak it ({kind})",
                address=self._peer(),
                kind=type(error).__name__,
            )
            self.end("protocol")
        if self._ended_for is None and self._outlet.unsent > (
            UNSENT_BEFORE_LOGIN if self.mind is None else 2 * self.factory.limits.buffer_bytes
        ):
            self.end("limit")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted gives it a default
        """Let go of everything that the connection held."""
        for call in self._delayed:
            if call.active():
                call.cancel()
        super().connectionLost(reason)
        ended_for = self._ended_for or ("client" if reason.check(ConnectionDone) else "lost")
        self.login.left(ended_for)
        self.factory.closed(self, ended_for)
        reason.cleanFailure()
        # what held the connection and was held by it: without these cycles it goes at once, and no collector is needed
        self.mind = self._perspective = None
        self._delayed = ()
        del self.login

    def end(self, reason: str) -> None:
        """Close the connection at once, whatever is unsent.

        Args:
            reason: One of `CLOSE_REASONS`.
        """
        self._ended_for = self._ended_for or reason
        self.transport.abortConnection()

    def new_request(self) -> int:
        """Return a number for a request that wants an answer."""
        self.factory.questioned(self)
        return cast("int", self.newRequestID())

    def owe(self) -> None:
        """Note that a push was skipped because too much is unsent."""
        self.factory.owing.add(self)

    def probe(self, request: int) -> None:
        """Send a call that every client answers, with an error."""
        self.sendCall(b"message", request, NO_OBJECT, b"probe", 1, [b"tuple"], [b"dictionary"])

    def sink_for(self, mind: object) -> RemoteMind:
        """Return a sink for what a client says is its mind.

        Raises:
            InvalidValue: It is no remote reference, or one with an id that no stock client gives.
        """
        if type(mind) is not pb.RemoteReference or type(mind.luid) is not int or not 0 < mind.luid <= MAX_MIND_ID:
            raise InvalidValue("the mind is no remote reference: pass a pb.Referenceable that has remote_notifyTime")
        factory = self.factory
        template = factory.template(self.currentDialect, mind.luid)
        return RemoteMind(
            mind,
            self,
            self._outlet,
            template,
            factory.feeds,
            factory.limits,
            factory.tally,
            factory.clock,
        )

    def authenticated(self, session: ISession, sink: RemoteMind) -> Boundary:
        """Return what the client gets to hold for its session; when it lets go of that, it is logged out."""
        self.mind = sink
        self.factory.authenticated(self)
        self._perspective = Boundary(session, "perspective_")
        return self._perspective

    def callExpressionReceived(self, obj: object) -> None:
        """Take an expression; stock PB would close politely on a dialect that it does not speak."""
        if self._ended_for is not None:  # what comes behind an end is not served
            return
        if self.currentDialect is None and obj not in self.knownDialects:
            raise pb.ProtocolError("a dialect that was not offered")
        super().callExpressionReceived(obj)

    def proto_message(
        self, requestID: Any, objectID: Any, message: Any, answerRequired: Any, netArgs: Any, netKw: Any
    ) -> None:
        """Serve a call; unlike stock PB's, this logs nothing that a peer sent and leaves no failure unhandled."""
        if type(requestID) is not int:
            raise pb.ProtocolError("a request's number is an int")
        name = message.decode() if isinstance(message, bytes) else str(message)
        target = self.localObjectForID(objectID)
        if target is None:
            result: Deferred[Any] = fail(pb.Error("Invalid Object ID"))
        else:
            result = maybeDeferred(target.remoteMessageReceived, self, name, netArgs, netKw)
        if answerRequired:
            result.addCallback(lambda answer: self.sendCall(b"answer", requestID, answer))
            result.addErrback(
                lambda failure: self.sendCall(b"error", requestID, self.serialize(pb.CopyableFailure(failure.value)))
            )
        else:
            result.addErrback(lambda _: None)

    def proto_cachemessage(self, *expression: object) -> None:
        """Refuse what concerns cached objects: there are none."""
        raise pb.ProtocolError("there are no cached objects")

    def proto_answer(self, requestID: Any, netResult: object) -> None:
        """Take an answer to a push or a probe, without looking at what it says."""
        self._answered(requestID, error=False)

    def proto_error(self, requestID: Any, fail: object) -> None:
        """Take an error as the answer to a push or a probe, without looking at what it says."""
        self._answered(requestID, error=True)

    def proto_decref(self, objectID: Any) -> None:
        """Forget an object; a client that has let go of its perspective is done."""
        super().proto_decref(objectID)
        if self._perspective is not None and self._perspective.processUniqueID() not in self.luids:
            self.login.left("client")
            self._close("client")

    def proto_didNotUnderstand(self, command: object) -> None:
        """Take note; stock PB would log what the peer sent."""

    def _answered(self, request: Any, error: bool) -> None:
        if self.mind is None or request != self.mind.request:
            raise pb.ProtocolError("an answer to no question")
        self.mind.heard(error)

    def _peer(self) -> str:
        return printable_address(self.transport.getPeer())

    def _close(self, reason: str) -> None:
        """Close once all is written, or at once if the peer does not read it."""
        if self._ended_for is None:
            self._ended_for = reason
            self.transport.loseConnection()
            self._later(CLOSE_SECONDS, self.transport.abortConnection)

    def _do_soon(self, call: Callable[[], object]) -> None:
        self._later(0, call)

    def _later(self, seconds: float, call: Callable[[], object]) -> None:
        self._delayed = (*self._delayed, self.factory.clock.callLater(seconds, call))


@implementer(pb.IPBRoot)
class ClockServerFactory(pb.PBServerFactory):
    """Makes a `ClockBroker` for each connection, and knows them all.

    Args:
        portal: Where credentials become avatars.
        feeds: What avatars can be subscribed to.
        limits: What peers may ask for.
        tally: Where connections are counted.
        clock: Monotonic time and delayed calls.
        offers_anonymous: Whether one may log in without proof.

    Attributes:
        connections: All there are.
        owing: Those whose clients missed a push because too much was unsent.
        template: Returns the `PushTemplate` of a dialect and a mind's id.
        ended: Connections that have ended and are still in memory; one leaves by itself when it is freed.
    """

    protocol = ClockBroker
    noisy = False

    def __init__(
        self,
        portal: Portal,
        feeds: FeedTable,
        limits: Limits,
        tally: Tally,
        clock: IReactorTime,
        offers_anonymous: bool,
    ) -> None:
        super().__init__(self)
        self.portal = portal
        self.feeds = feeds
        self.limits = limits
        self.tally = tally
        self.clock = clock
        self.template = lru_cache(TEMPLATES)(PushTemplate)
        self._offers_anonymous = offers_anonymous
        self.connections: set[ClockBroker] = set()
        self.owing: set[ClockBroker] = set()
        self._questioned: OrderedDict[ClockBroker, None] = OrderedDict()  # who was asked least recently is first
        self.ended: WeakSet[ClockBroker] = WeakSet()

    def rootObject(self, broker: ClockBroker) -> Boundary:
        """Return what a peer finds under the name `root`."""
        return Boundary(LoginRoot(broker, self._offers_anonymous), "remote_")

    def opened(self, broker: ClockBroker) -> None:
        """Count a connection that was made."""
        self.connections.add(broker)
        self.tally.opened += 1
        self.tally.pending += 1

    def authenticated(self, broker: ClockBroker) -> None:
        """Count a connection that has logged in."""
        self.questioned(broker)
        self.tally.pending -= 1
        self.tally.authenticated += 1

    def closed(self, broker: ClockBroker, reason: str) -> None:
        """Count a connection that has ended, for one of `CLOSE_REASONS`."""
        self.connections.discard(broker)
        self.owing.discard(broker)
        self._questioned.pop(broker, None)
        self.ended.add(broker)
        self.tally.closed[reason] += 1
        if broker.mind is None:
            self.tally.pending -= 1
        else:
            self.tally.authenticated -= 1

    def questioned(self, broker: ClockBroker) -> None:
        """Note that a client was asked something."""
        self._questioned[broker] = None
        self._questioned.move_to_end(broker)

    def sweep(self) -> None:
        """Look after those of whom nothing was asked for long, and those who are owed; called `SWEEPS` a second."""
        quiet = list(takewhile(lambda broker: broker.mind is not None and broker.mind.quiet(), self._questioned))
        acts = SWEPT + len(self._questioned) // SWEPT
        for broker in quiet:
            if acts and broker.mind is not None:
                acts -= broker.mind.sweep()
        for broker in list(self.owing):
            if broker.mind is None or broker.mind.pay():
                self.owing.discard(broker)

    def end_all(self) -> None:
        """Close every connection, because the server stops."""
        for broker in list(self.connections):
            broker.end("drain")


def printable_address(address: IAddress) -> str:
    """Return `HOST:PORT`, `[IPV6]:PORT`, or the path of a Unix socket."""
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return os.fsdecode(getattr(address, "name", None) or "a local socket")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
