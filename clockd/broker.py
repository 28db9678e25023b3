"""Everything that speaks Perspective Broker: the factory, the connection, what a peer can call, the mind as a sink.

Rules of this module: what a peer does wrong reaches it as a `Refused`, or ends its connection; it leaves no traceback
in the log.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache, partial
from itertools import count, islice, takewhile
from secrets import randbits
from typing import Any, cast
from weakref import WeakSet

from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.spread import pb
from zope.interface import implementer

from clockd.boundary import Boundary, is_plain
from clockd.certificate import common_names, openssl_words
from clockd.decoder import Bounds, Decoder
from clockd.errors import Draining, InvalidValue, NotPermitted, Refused, TooManyConnections
from clockd.interfaces import ISession
from clockd.lobby import Lobby
from clockd.login import ILogin, Login, new_login
from clockd.logs import Quota
from clockd.mind import RemoteMind
from clockd.printable import printable
from clockd.schedule import Schedule
from clockd.throttle import Throttle
from clockd.transport import SLICE_SECONDS, Outlet, WrappedOutlet, is_private, outlet
from clockd.users import BYTES
from clockd.values import NAME_BYTES, Limits, Tally
from clockd.wire import PushTemplate, SampleEncoder

MAX_MIND_ID = 2**31 - 1
"""Largest id of a mind: every push carries it back; stock clients count from 1."""

CLOSE_SECONDS = 2.0
"""How long a peer has to read what was written to it before its connection is closed."""

NO_OBJECT = 0
"""An object id that no client has (ids count from 1): a probe sent to it is answered with an error."""

UNSENT_BEFORE_LOGIN = 4096
"""Bytes that may wait for a peer that has not logged in."""

BEFORE_LOGIN = Bounds(bytes=1024, depth=16, items=64)
"""Of one expression. A stock client's longest one before its login has some 200 bytes."""

DEPTH, ITEMS = 16, 2112
"""Of one expression after the login, whose bytes are a limit of the configuration.

A value of four levels takes 12, and one of 4096 bytes up to 2048 items; 64 are for the call around it.
"""

MESSAGES_BEFORE_LOGIN = 32
"""A stock client sends four, and two more for each further try."""

REQUEST_BITS = 30
"""Bits of a request's number that are by chance; with the one before them it is as long as PB's short integers."""

ADDRESS_LETTERS = 108
"""Longest address that is kept or logged: a Unix socket's path has no more (`sun_path` in Linux's unix(7))."""

TEMPLATES = 256
"""As many push templates are kept for others; stock clients' minds have ids from 1 on."""

RETRY_SECONDS = 1.0
"""Before this a client that was told to come back does not."""

REFUSAL_SECONDS = 1.0
"""As long may somebody take to log in who is told then that the server stops."""

RETURNS_A_SECOND = 200
"""As many of those clients come back in a second; a login takes a millisecond."""

SWEEPS = 10
"""Sweeps a second."""

SWEPT = 64
"""At least so many clients, and one in so many of all, are probed or ended in one sweep, at 20 µs each."""

TOLD = 64
"""So many clients are told of a step of the clock in one turn of the reactor, at 13 µs each."""


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
        self._broker.asked = True
        return self._broker.login.challenge(cast("str", text)), Boundary(self, "challenged_")

    def challenged_respond(self, response: object, mind: object) -> Deferred[Boundary]:
        """Answer the challenge.

        Args:
            response: 16 bytes.
            mind: A remote reference, whose `notifyTime` will be called.

        Returns:
            The perspective.
        """
        if not isinstance(response, bytes) or len(response) != BYTES:
            raise InvalidValue(f"a response is {BYTES} bytes")
        sink = self._broker.sink_for(mind)
        self._broker.require_room("unknown")
        return self._broker.login.respond(response, sink).addCallback(self._broker.authenticated, sink)

    def remote_loginAnonymous(self, mind: object) -> Deferred[Boundary]:
        """Log in without proof, where that is offered; see `challenged_respond`."""
        if not self._offers_anonymous:
            raise NotPermitted("this server knows its clients by name: log in with a name and a secret")
        sink = self._broker.sink_for(mind)
        self._broker.require_room("anonymous")
        return self._broker.login.anonymous(sink).addCallback(self._broker.authenticated, sink)

    def remote_loginCertificate(self, mind: object) -> Deferred[Boundary]:
        """Log in by the certificate shown in the handshake, where it is asked for; see `challenged_respond`."""
        names = common_names(self._broker.transport)
        if names is None:
            raise NotPermitted("nobody is asked for a certificate here: log in with a name and a secret")
        sink = self._broker.sink_for(mind)
        self._broker.require_room("certificate")
        return self._broker.login.certificate(names, sink).addCallback(self._broker.authenticated, sink)


class ClockBroker(pb.Broker):
    """One connection.

    Attributes:
        login: The state of its login.
        asked: Whether it has begun a login.
        mind: The client's mind, once it has logged in.
        account: Whose session it is, or None.
    """

    _log = Logger()

    factory: "ClockServerFactory"  # type: ignore[assignment]  # Twisted says None
    transport: Any  # Twisted says what every transport has; ours can be aborted
    login: ILogin
    asked = False
    mind: RemoteMind | None = None
    account: str | None = None
    _outlet: Outlet | WrappedOutlet
    _perspective: Boundary | None = None
    _decoder: Decoder | None = None  # while an expression has come in part, or others have their turn
    _messages = 0
    _resting: IDelayedCall | None = None
    _ended_for: str | None = None
    _delayed: tuple[IDelayedCall, ...] = ()

    def connectionMade(self) -> None:
        """Count the connection and offer the login."""
        self.outgoingSymbols = self.outgoingVocabulary  # Banana copies it for each connection: 1.3 kB, never changed
        factory = self.factory
        self._outlet = outlet(self.transport)
        self._outlet.count_in(factory.tally)
        self.login = new_login(
            Login(
                factory.portal,
                pb.IPerspective,
                partial(factory.challenge, is_private(self.transport)),
                factory.throttle,
                factory.clock.seconds,
                lambda: self.address,
                self.peer,
                factory.tally,
                factory.quota,
                factory.refusal,
                self._do_soon,
                self.close,
            )
        )
        factory.opened(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the peer; what is no Perspective Broker as we speak it ends the connection."""
        mind = self.mind
        if mind is not None:
            mind.received = self.factory.now()  # first of all: what comes before it counts as the network's
        if self._ended_for is not None:
            return
        if mind is not None and self._decoder is None and (data == mind.awaited or mind.tells(data)):
            mind.heard(error=False)  # seen without decoding it, which costs twice as much
            self.factory.give_way()
            return
        if self._decoder is None:
            self._decoder = Decoder(self.factory.bounds if mind is not None else BEFORE_LOGIN)
            self._decoder.vocabulary = self._vocabulary()
        if mind is None:
            self.factory.heard(self)
        try:
            self._decoder.feed(data)
        except Exception as error:  # noqa: BLE001  # see _broken
            self._broken(error)
        else:
            self._serve()
        self.factory.give_way()

    def _serve(self) -> None:
        """Serve what has come, until others are to have their turn."""
        decoder, seconds = self._decoder, self.factory.clock.seconds
        if decoder is None or self._resting is not None:
            return
        until = seconds() + SLICE_SECONDS
        try:
            for expression in decoder:
                self.callExpressionReceived(expression)
                if self._ended_for is not None:
                    return
                if self.has_unsent(self._most_unsent()):
                    self.end("limit")
                    return
                if seconds() >= until and decoder.pending:
                    self.transport.pauseProducing()
                    self._resting = self.factory.clock.callLater(0, self._go_on)
                    return
        except Exception as error:  # noqa: BLE001  # see _broken
            self._broken(error)
        else:
            if decoder.clean:
                self._decoder = None

    def _go_on(self) -> None:
        self._resting = None
        self.transport.resumeProducing()
        self._serve()
        self.factory.give_way()

    def _broken(self, error: Exception) -> None:
        """End a connection whose peer sent what cannot be served; many kinds are raised, and all are its doing."""
        rest = self.factory.quota.take("protocol")
        if rest is not None:
            self._log.info(
                "closed {address}: not Perspective Broker as we speak it ({kind}){rest}",
                address=self.peer(),
                kind=type(error).__name__,
                rest=rest,
            )
        self.end("protocol")

    def _note_tls(self, words: str | None) -> None:
        """Say what TLS ended the connection for, if it was TLS; mostly its handshake."""
        rest = None if words is None else self.factory.quota.take("tls")
        if rest is not None:
            self._log.info("no TLS with {address}: {words}{rest}", address=self.peer(), words=words, rest=rest)

    def has_unsent(self, most: int) -> bool:
        """Tell whether more bytes than so many wait for the peer, unless the connection is being closed."""
        return self._ended_for is None and self._outlet.unsent > most

    def _most_unsent(self) -> int:
        return UNSENT_BEFORE_LOGIN if self.mind is None else 2 * self.factory.limits.buffer_bytes

    def _vocabulary(self) -> dict[int, bytes]:
        return self.incomingVocabulary if self.currentDialect == b"pb" else {}

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted gives it a default
        """Let go of everything that the connection held."""
        for call in (*self._delayed, *([self._resting] if self._resting is not None else ())):
            if call.active():
                call.cancel()
        super().connectionLost(reason)
        self._note_tls(openssl_words(reason.value))
        ended_for = self._ended_for or ("client" if reason.check(ConnectionDone) else "lost")
        self.login.left(ended_for)
        if self.mind is not None:
            self.mind.lost()
        self.factory.closed(self, ended_for)
        reason.cleanFailure()
        # what held the connection and was held by it: without these cycles it goes at once, and no collector is needed
        self.mind = self._perspective = self._decoder = self._resting = None
        self._delayed = ()
        del self.login
        self.factory.give_way()  # many may leave at once

    def end(self, reason: str) -> None:
        """Close the connection at once, whatever is unsent.

        Args:
            reason: One of `CLOSE_REASONS`.
        """
        self._ended_for = self._ended_for or reason
        self.transport.abortConnection()

    def end_in(self, seconds: float, reason: str) -> None:
        """Close the connection after a while, if it is still there; as `end` does."""
        self._later(seconds, lambda: self.end(reason))

    @property
    def address(self) -> str | None:
        """The peer's host, or None for a local socket."""
        host = getattr(self.transport.getPeer(), "host", None)
        return None if host is None else str(host)[:ADDRESS_LETTERS]

    def new_request(self) -> int:
        """Return a number for a request that wants an answer, which nobody answers who has not read it."""
        self.factory.questioned(self)
        return (1 << REQUEST_BITS) + randbits(REQUEST_BITS)  # all of them of one length

    def owe(self) -> None:
        """Note that a push was skipped because too much is unsent."""
        self.factory.owing.add(self)

    def probe(self, request: int) -> None:
        """Send a call that every client answers, with an error."""
        self.sendCall(b"message", request, NO_OBJECT, b"probe", 1, [b"tuple"], [b"dictionary"])

    def require_room(self, method: str) -> None:
        """Check that one more may log in.

        Args:
            method: How it tries to, one of `LOGIN_METHODS`.

        Raises:
            TooManyConnections: All places are taken.
            Draining: The server is about to stop.
        """
        refusal: Refused | None = self.factory.refusal()
        if refusal is None:
            why = self.factory.lobby.refusal(self)
            refusal = None if why is None else TooManyConnections(why)
        if refusal is not None:
            self.factory.tally.logins[method, "limit"] += 1
            raise refusal

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
            factory.limits,
            factory.tally,
            factory.clock,
            factory.now,
            factory.finish_soon,
        )

    def authenticated(self, session: ISession, sink: RemoteMind) -> Boundary:
        """Return what the client gets to hold for its session; when it lets go of that, it is logged out."""
        self.mind = sink
        self.account = session.account
        if self._decoder is not None:
            self._decoder.bounds = self.factory.bounds
        self.factory.authenticated(self)
        self._perspective = Boundary(session, "perspective_")
        return self._perspective

    def callExpressionReceived(self, obj: object) -> None:
        """Take an expression; stock PB would close politely on a dialect that it does not speak."""
        if self._ended_for is not None:  # what comes behind an end is not served
            return
        if self.mind is None:
            self._messages += 1
            if self._messages > MESSAGES_BEFORE_LOGIN:
                raise pb.ProtocolError("more messages than a login takes")
        if self.currentDialect is not None:
            super().callExpressionReceived(obj)
            return
        if obj not in self.knownDialects:
            raise pb.ProtocolError("a dialect that was not offered")
        super().callExpressionReceived(obj)
        if self._decoder is not None:
            self._decoder.vocabulary = self._vocabulary()

    def proto_message(
        self, requestID: Any, objectID: Any, message: Any, answerRequired: Any, netArgs: Any, netKw: Any
    ) -> None:
        """Serve a call; unlike stock PB's, this logs nothing that a peer sent and leaves no failure unhandled."""
        if type(requestID) is not int:
            raise pb.ProtocolError("a request's number is an int")
        if self.mind is None and not (is_plain(netArgs) and is_plain(netKw)):
            raise pb.ProtocolError("arguments that no login has")
        name = message.decode() if isinstance(message, bytes) else str(message)
        target = self.localObjectForID(objectID)
        result: Any
        try:
            result = (
                fail(pb.Error("Invalid Object ID"))
                if target is None
                else target.remoteMessageReceived(self, name, netArgs, netKw)
            )
        except Exception:  # noqa: BLE001  # all that a boundary raises is for the peer
            result = fail()
        if not isinstance(result, Deferred):  # most calls: without a Deferred they take 5 µs less
            if answerRequired:
                self.sendCall(b"answer", requestID, result)
        elif answerRequired:
            result.addCallback(lambda answer: self.sendCall(b"answer", requestID, answer))
            result.addErrback(lambda failure: self.sendCall(b"error", requestID, self.serialize(_refusal(failure))))
        else:
            result.addErrback(lambda _: None)

    def proto_cachemessage(self, *expression: object) -> None:
        """Refuse what concerns cached objects: there are none."""
        raise pb.ProtocolError("there are no cached objects")

    def proto_answer(self, requestID: Any, netResult: object) -> None:
        """Take an answer to a push or a probe; but for what an aware client tells, it is not looked at."""
        match netResult:
            case [b"tuple", float(received), float(bound)] if self.mind is not None and requestID == self.mind.request:
                self.mind.told(received, bound)
        self._answered(requestID, error=False)

    def proto_error(self, requestID: Any, fail: object) -> None:
        """Take an error as the answer to a push or a probe, without looking at what it says."""
        self._answered(requestID, error=True)

    def proto_decref(self, objectID: Any) -> None:
        """Forget an object; a client that has let go of its perspective is done."""
        super().proto_decref(objectID)
        if self._perspective is not None and self._perspective.processUniqueID() not in self.luids:
            self.login.left("client")
            self.close("client")

    def proto_didNotUnderstand(self, command: object) -> None:
        """Take note; stock PB would log what the peer sent."""

    def _answered(self, request: Any, error: bool) -> None:
        if self.mind is None or request != self.mind.request:
            raise pb.ProtocolError("an answer to no question")
        self.mind.heard(error)

    def peer(self) -> str:
        """Return where the peer is, printable."""
        return printable_address(self.transport.getPeer())

    def close(self, reason: str) -> None:
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
        schedule: Makes the calls that are due, and has what they begin finished.
        limits: What peers may ask for.
        tally: Where connections are counted.
        clock: Monotonic time and delayed calls.
        now: Unix seconds UTC by the host's wall clock.
        offers_anonymous: Whether one may log in without proof.
        challenge: Returns what who claims a name is asked, given whether its connection is private, and the name.

    Attributes:
        connections: All there are.
        lobby: Who may stay when there is not room for all.
        quota: Of log lines.
        bounds: Of what a client may send once it has logged in.
        owing: Those whose clients missed a push because too much was unsent.
        template: Returns the `PushTemplate` of a dialect and a mind's id.
        give_way: Has calls made that are due, if what connections send keeps the reactor from it.
        finish_soon: As the schedule's.
        ended: Connections that have ended and are still in memory; one leaves by itself when it is freed.
        emptied: Since the server drains, what fires when all have left.
    """

    protocol = ClockBroker
    noisy = False

    def __init__(
        self,
        portal: Portal,
        schedule: Schedule,
        limits: Limits,
        tally: Tally,
        clock: IReactorTime,
        now: Callable[[], float],
        offers_anonymous: bool,
        challenge: Callable[[bool, str], bytes],
    ) -> None:
        super().__init__(self)
        self.portal = portal
        self.limits = limits
        self.tally = tally
        self.clock = clock
        self.now = now
        samples = lru_cache(SampleEncoder)
        self.template = lru_cache(TEMPLATES)(lambda dialect, mind: PushTemplate(samples(dialect), mind))
        self.give_way = schedule.catch_up
        self.finish_soon = schedule.finish_soon  # bound once, and not for each connection
        self.challenge = challenge
        self._offers_anonymous = offers_anonymous
        self.throttle = Throttle()
        self.lobby: Lobby[ClockBroker] = Lobby(limits)
        self.quota = Quota(clock.seconds)
        self.bounds = Bounds(bytes=limits.message_bytes, depth=DEPTH, items=ITEMS)
        self.connections: set[ClockBroker] = set()
        self.owing: set[ClockBroker] = set()
        self._questioned: OrderedDict[ClockBroker, None] = OrderedDict()  # who was asked least recently is first
        self._untold: Iterator[ClockBroker] = iter(())  # who is still to be told of a step
        self._telling: IDelayedCall | None = None
        self.ended: WeakSet[ClockBroker] = WeakSet()
        self.emptied: Deferred[None] | None = None

    def rootObject(self, broker: ClockBroker) -> Boundary:
        """Return what a peer finds under the name `root`."""
        return Boundary(LoginRoot(broker, self._offers_anonymous), "remote_")

    def opened(self, broker: ClockBroker) -> None:
        """Count a connection that was made, and make room for it."""
        self.connections.add(broker)
        self.tally.opened += 1
        self.tally.pending += 1
        self._turn_out(self.lobby.arrived(broker, broker.address, self.clock.seconds()))
        self.give_way()

    def heard(self, broker: ClockBroker) -> None:
        """Take note of what a PROXY header has told meanwhile of a peer that is to log in."""
        self._turn_out(self.lobby.moved(broker, broker.address))

    def authenticated(self, broker: ClockBroker) -> None:
        """Count a connection that has logged in."""
        self.lobby.logged_in(broker)
        self.questioned(broker)
        self.tally.pending -= 1
        self.tally.authenticated += 1

    def closed(self, broker: ClockBroker, reason: str) -> None:
        """Count a connection that has ended, for one of `CLOSE_REASONS`."""
        self.connections.discard(broker)
        self.lobby.left(broker)
        self.owing.discard(broker)
        self._questioned.pop(broker, None)
        self.ended.add(broker)
        self.tally.closed[reason] += 1
        if broker.mind is None:
            self.tally.pending -= 1
        else:
            self.tally.authenticated -= 1
        self._note_if_empty()

    def questioned(self, broker: ClockBroker) -> None:
        """Note that a client was asked something."""
        self._questioned[broker] = None
        self._questioned.move_to_end(broker)

    def expel(self, accounts: Collection[str]) -> None:
        """Close the connections of accounts that are no more."""
        for broker in list(self.connections) if accounts else ():
            if broker.account in accounts:
                broker.end("kicked")

    def sweep(self) -> None:
        """Look after all who are waited for; called `SWEEPS` a second.

        These are who takes too long to log in, of whom nothing was asked for long, and who are owed a push.
        """
        for broker in self.lobby.overdue(self.clock.seconds()):
            broker.end("login_timeout")
        quiet = list(takewhile(lambda broker: broker.mind is not None and broker.mind.quiet(), self._questioned))
        acts = SWEPT + len(self._questioned) // SWEPT
        for broker in quiet:
            if acts and broker.mind is not None:
                acts -= broker.mind.sweep()
        for broker in list(self.owing):
            if broker.mind is None or broker.mind.pay():
                self.owing.discard(broker)

    def _turn_out(self, brokers: Iterable[ClockBroker]) -> None:
        for broker in brokers:
            broker.end("limit")

    def stepped(self, seconds: float) -> None:
        """Have all who take notices told of a step of the host's wall clock, each before its next push.

        That is soon, but not at once: to tell ten thousand would hold the reactor for long.
        """
        now = self.now()
        for broker in self.connections:
            mind = broker.mind
            if mind is not None:
                mind.stepped(seconds, now)
        self._untold = iter(list(self.connections))
        if self._telling is None:
            self._telling = self.clock.callLater(0, self._tell_steps)

    def _tell_steps(self) -> None:
        self._telling = None
        some = list(islice(self._untold, TOLD))
        for broker in some:
            if broker.mind is not None:
                broker.mind.tell_step()
        if some:
            self._telling = self.clock.callLater(0, self._tell_steps)

    def took(self, broker: ClockBroker) -> None:
        """Look after a connection whose peer has sent what may be nothing to the broker; give way to what is due."""
        if broker.has_unsent(2 * self.limits.buffer_bytes):  # before the login, too: there may be a long handshake
            broker.end("limit")
        self.give_way()

    def refusal(self) -> Draining | None:
        """Return why nobody is let in now, or None."""
        if self.emptied is None:
            return None
        return Draining("this server is about to stop; try again in a moment")

    def take_limits(self) -> None:
        """Put limits in force that have changed, for what comes from now on."""
        self.bounds = Bounds(bytes=self.limits.message_bytes, depth=DEPTH, items=ITEMS)

    def drain(self) -> Deferred[None]:
        """Have all leave, because the server stops; fires when nobody is there any more.

        Who takes notices is told when to come back, each at a time of its own, and leaves by itself. Who is about to
        log in has a moment to do so, and is told to come back. All others are closed.
        """
        emptied: Deferred[None] = Deferred()
        self.emptied = emptied
        numbers = count()
        for broker in list(self.connections):
            if broker.mind is not None and broker.mind.takes_notices:
                seconds = RETRY_SECONDS + next(numbers) / RETURNS_A_SECOND
                broker.mind.notify({"kind": "draining", "retry_seconds": seconds})
            elif broker.mind is not None:
                broker.close("drain")
            elif broker.asked:
                broker.end_in(REFUSAL_SECONDS, "drain")
            else:
                broker.end("drain")
        self._note_if_empty()
        return emptied

    def end_all(self) -> None:
        """Close every connection at once, because the server stops."""
        self.emptied = None
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        for broker in list(self.connections):
            broker.end("drain")

    def _note_if_empty(self) -> None:
        if self.emptied is not None and not self.connections and not self.emptied.called:
            self.emptied.callback(None)


def _refusal(failure: Failure) -> pb.CopyableFailure:
    """Return what tells a peer of an error, and of nothing else."""
    told = pb.CopyableFailure(failure.value)
    told.count = 0  # how many failures this process has seen
    return told


def printable_address(address: IAddress) -> str:
    """Return `HOST:PORT`, `[IPV6]:PORT`, or the path of a Unix socket.

    A PROXY header may claim anything: what cannot be printed is escaped, and what is too long is cut.
    """
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return printable(os.fsdecode(getattr(address, "name", None) or "a local socket"), ADDRESS_LETTERS)
    host = printable(host, ADDRESS_LETTERS)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
