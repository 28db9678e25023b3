"""One connection of a client to its server: made, logged in, watched, closed; what the server calls on it.

Rules of this module: a link is used once. What comes from the server is checked here before anyone else sees it, and
what it answers in place of a result is raised as one of our classes.
"""

import math
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from inspect import signature
from typing import Any, NoReturn, TypeVar

from twisted.cred.credentials import UsernamePassword
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.error import ConnectingCancelledError, ConnectionLost, DNSLookupError, UnknownHostError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.spread import pb
from twisted.spread.jelly import Jellyable, jelly

from clockd import errors
from clockd.certificate import failed_for
from clockd.errors import (
    ClockdError,
    ConnectionFailed,
    InvalidValue,
    NotConnected,
    Refused,
    ServerFault,
    WrongCredentials,
)
from clockd.printable import printable
from clockd.values import NOTICES

T = TypeVar("T")

Answer = tuple[float, float]
"""When a push arrived, Unix seconds by this host's clock, and the bound to the server's clock in seconds."""

ALIVE_SECONDS = 30.0
"""Seconds between two looks whether the server still answers."""

NO_OBJECT = 0
"""An object id that no server has: a call of it is answered with an error, and nobody logs it."""

EXPRESSION_BYTES = 2**23
"""Longest expression of a server; of clockd's own, 200 sessions of 255 subscriptions each make the longest, 4.2 MB."""

EXPRESSION_DEPTH = 32
"""Most lists in each other; clockd's own are 4 levels of a value, two lists each, and what is around them."""

CLOSE_SECONDS = 1.0
"""How long a connection may take to close in good order."""

ERROR_LETTERS = 1000
"""Longest text of an error that a server answers with."""


class Way:
    """How a server is reached, and how long it may take to answer.

    Args:
        where: Makes connections.
        endpoint: The same in words.
        credentials: The name and secret; None for the certificate that TLS shows.
        patience: Seconds that a login, or a call to the server, may take.
        reactor: Measures them.
        local: Seconds, by the clock that says when something arrived.

    Attributes:
        where: As given.
        endpoint: As given.
        patience: As given.
        reactor: As given.
        local: As given.
    """

    def __init__(
        self,
        where: IStreamClientEndpoint,
        endpoint: str,
        credentials: UsernamePassword | None,
        patience: float,
        reactor: Any,
        local: Callable[[], float],
    ) -> None:
        self.where = where
        self.endpoint = endpoint
        self.patience = patience
        self.reactor = reactor
        self.local = local
        self._credentials = credentials

    async def open(
        self, mind_for: Callable[["Link"], pb.Referenceable], begin: Callable[["Link"], Coroutine[Any, Any, None]]
    ) -> "Link":
        """Connect and log in.

        Args:
            mind_for: Makes what the server calls.
            begin: Asks, once logged in, for what has to be there from the start.

        Raises:
            Refused: The server lets nobody in, or not this one.
            ConnectionFailed: Nothing else has come of it either.
        """
        factory = pb.PBClientFactory()
        factory.noisy = False
        factory.protocol = partial(_Broker, self.local)  # type: ignore[assignment]  # it need not be a class
        link = Link(self, await self._dial(factory), factory)
        transport = link.broker.transport
        set_no_delay = getattr(transport, "setTcpNoDelay", None)  # a Unix socket has none
        if set_no_delay is not None:
            set_no_delay(True)  # else a question waits until what was sent before it is acknowledged
        try:
            link.perspective = await self.bounded(self._login(factory, mind_for(link)))
            if not isinstance(link.perspective, pb.RemoteReference):
                raise TypeError("a login was answered with no perspective")  # noqa: TRY301  # told below
            await begin(link)
        except (Refused, CancelledError):
            transport.abortConnection()
            raise
        except ConnectionFailed as error:
            raise ConnectionFailed(f"no TLS with {self.endpoint}: {error}") from error
        except Exception as error:
            transport.abortConnection()
            what = str(error) if isinstance(error, NotConnected) else "its answers make no sense"
            raise ConnectionFailed(
                f"no session with {self.endpoint}: {what}; is it clockd that listens there?"
            ) from error
        return link

    async def bounded(self, call: "Deferred[T]") -> T:
        """Wait for a call's answer no longer than a call may take, and raise what it raised as one of our classes."""
        try:
            answer: T = await call.addTimeout(self.patience, self.reactor).addErrback(typed)
        except TimedOut as error:
            raise NotConnected(self.silence) from error
        return answer

    @property
    def silence(self) -> str:
        """That a server does not answer, in words."""
        return f"no answer from {self.endpoint} within {self.patience:g} s"

    async def _dial(self, factory: pb.PBClientFactory) -> Any:
        """Connect, and return the broker."""
        try:
            return await self.where.connect(factory).addTimeout(self.patience, self.reactor)
        except CancelledError:
            raise
        except Exception as error:
            raise ConnectionFailed(f"cannot connect to {self.endpoint}: {self._trouble(error)}") from error

    def _trouble(self, error: Exception) -> str:
        """Return why there is no connection, and what to look at."""
        if isinstance(error, DNSLookupError | UnknownHostError):
            return "the name of the host is not known; is it spelt right?"
        if isinstance(error, TimedOut | ConnectingCancelledError):
            what = f"no connection within {self.patience:g} s"
        elif number := getattr(error, "osError", None):  # Twisted says it twice
            what = os.strerror(number)
        else:
            what = str(error).rstrip(".")
        return f"{what}; does clockd listen there?"

    def _login(self, factory: pb.PBClientFactory, mind: pb.Referenceable) -> Any:
        """Ask for the perspective, by name and secret or by the certificate that TLS has shown."""
        if self._credentials is not None:
            return factory.login(self._credentials, mind)
        return factory.getRootObject().addCallback(lambda root: root.callRemote("loginCertificate", mind))


class _Broker(pb.Broker):
    """Remembers when the last bytes arrived, and why its connection was lost; what makes no sense ends it.

    Stock PB would log a traceback for whatever a server says.
    """

    transport: Any  # Twisted says what every transport has; ours can be aborted
    lost_for: BaseException | None = None
    senseless = False

    def __init__(self, local: Callable[[], float], **options: Any) -> None:
        super().__init__(**options)
        self._local = local
        self.arrived = local()
        self._unfinished = 0

    def dataReceived(self, data: bytes) -> None:
        self.arrived = self._local()
        self._unfinished += len(data)
        try:
            super().dataReceived(data)
            if self._unfinished > EXPRESSION_BYTES or len(self.listStack) > EXPRESSION_DEPTH:
                raise pb.ProtocolError("an expression without end")  # noqa: TRY301  # caught like all that makes no sense
        except Exception:  # noqa: BLE001  # many kinds are raised, and all are the server's doing
            self.senseless = True
            self.transport.abortConnection()

    def expressionReceived(self, obj: Any) -> None:
        self._unfinished = 0
        super().expressionReceived(obj)

    def localObjectForID(self, luid: Any) -> Any:
        return super().localObjectForID(luid) if type(luid) is int else None

    def proto_cachemessage(self, *expression: object) -> None:
        raise pb.ProtocolError("there are no cached objects")

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted gives it a default
        self.lost_for = reason.value
        super().connectionLost(reason)


class Link:
    """One connection to the server; made by `Way.open`.

    Args:
        way: How it was made.
        broker: A `_Broker`; `Any`, because Twisted does not annotate what it is made of.
        factory: What made it; it fails what waits for an answer when the connection is lost.

    Attributes:
        endpoint: The server, in words.
        broker: As given.
        perspective: The `pb.RemoteReference` of the avatar, once it has logged in.
        over: Fires when the connection is gone, or is to be left.
        why: Why it is over, in a sentence.
        told: Whether the program has been told that already.
    """

    def __init__(self, way: Way, broker: Any, factory: pb.PBClientFactory) -> None:
        self.endpoint = way.endpoint
        self.broker = broker
        self.perspective: Any = None
        self.over: Deferred[None] = Deferred()
        self.why = f"the connection to {way.endpoint} was lost"
        self.told = False
        self._way = way
        self._factory = factory
        broker.notifyOnDisconnect(self._gone)

    @property
    def alive(self) -> bool:
        """Whether the connection is there, and not to be left."""
        return not (self.over.called or self.broker.disconnected)

    @property
    def arrived(self) -> float:
        """When the bytes that are looked at now arrived, local."""
        when: float = self.broker.arrived
        return when

    async def call(self, method: str, *arguments: object) -> Any:
        """Call the server and return its answer.

        Raises:
            Refused: The answer is an error.
            NotConnected: There is none.
        """
        return await self._way.bounded(self.perspective.callRemote(method, *arguments))

    def tell(self, method: str, feed: str) -> None:
        """Call a method whose answer does not matter."""
        self.perspective.callRemote(method, feed).addErrback(lambda _: None)

    async def exchange(self, stamp: Callable[[], float]) -> tuple[object, float]:
        """Ask for the time.

        Args:
            stamp: Called for the local time just before the question leaves, as far as that can be told.

        Returns:
            The answer, and when it had arrived, local.

        Raises:
            Refused: The answer is an error.
            NotConnected: There is none.
        """
        call = self.perspective.callRemote("exchange", stamp())
        call.addCallback(lambda answer: (answer, self.arrived))
        socket = self.broker.transport
        if isinstance(socket, FileDescriptor) and not socket.disconnecting:
            stamp()  # nothing has left yet: a descriptor writes when it is told to, else in the next turn of the loop
            socket.doWrite()
        answered: tuple[object, float] = await self._way.bounded(call)
        return answered

    def end(self, why: str | None = None) -> None:
        """Have nothing more called."""
        if not self.over.called:
            self.why = why or self.why
            self.over.callback(None)

    async def held(self) -> None:
        """Wait until it is over; a connection whose server takes too long to answer is broken off."""
        watch = Deferred.fromCoroutine(self._watch())
        watch.addErrback(lambda failure: failure.trap(CancelledError))
        try:
            await self.over
        finally:
            watch.cancel()

    async def leave(self) -> None:
        """Close as soon as what was called has been answered, or that takes too long."""
        if not self.broker.disconnected and self.broker.waitingForAnswers:
            with suppress(TimedOut):
                await self._probe().addTimeout(CLOSE_SECONDS, self._way.reactor)
        await self.close()

    async def close(self) -> None:
        """Close in good order, or without if that takes too long."""
        if self.broker.disconnected:
            return
        closed: Deferred[None] = Deferred()
        self.broker.notifyOnDisconnect(partial(closed.callback, None))
        self.broker.transport.loseConnection()
        impatient = self._way.reactor.callLater(CLOSE_SECONDS, self.broker.transport.abortConnection)
        try:
            await closed
        finally:
            if impatient.active():
                impatient.cancel()

    def abort(self) -> None:
        """Close at once, whatever is unsent."""
        self.broker.transport.abortConnection()

    async def _watch(self) -> None:
        """Ask now and then whether the server still answers."""
        while True:
            await deferLater(self._way.reactor, ALIVE_SECONDS)
            try:
                await self._probe().addTimeout(self._way.patience, self._way.reactor)
            except TimedOut:
                self.why = self._way.silence
                self.abort()
                return

    def _probe(self) -> "Deferred[None]":
        """Ask a thing that no server has: any answer is a sign of life, and comes after those to earlier calls."""
        nobody = pb.RemoteReference(None, self.broker, NO_OBJECT, doRefCount=False)
        return _settled(nobody.callRemote("probe"))

    def _gone(self) -> None:
        failed = failed_for(self.broker.lost_for)
        self._factory.clientConnectionLost(None, Failure(failed or ConnectionLost()))
        senseless = f"what {self.endpoint} says makes no sense" if self.broker.senseless else None
        self.end(senseless if failed is None else str(failed))


class Mind(pb.Referenceable):
    """What the server calls.

    Args:
        deliver: Told the feed, number, stamp and value of each sample; returns the answer to those that ask for one.
        notice: Told what comes as a notice.
        check_value: Raises `InvalidValue` for what is none.
    """

    def __init__(
        self,
        deliver: Callable[[str, int | None, float, object], Answer],
        notice: Callable[[object], None],
        check_value: Callable[[object], object],
    ) -> None:
        self._deliver = deliver
        self._notice = notice
        self._check_value = check_value
        self._takes = {
            "notifyTime": signature(self.remote_notifyTime),
            "notifySample": signature(self.remote_notifySample),
        }

    def remoteMessageReceived(self, broker: pb.Broker, message: str, args: Any, kw: Any) -> Any:
        """Refuse what is no call of these; stock PB would log a traceback."""
        try:
            arguments, keywords = broker.unserialize(args), broker.unserialize(kw)
            taken = self._takes[message].bind(*arguments, **keywords)
        except Exception as error:
            raise InvalidValue(
                "a client takes notifyTime(stamp) and notifySample(feed, sequence, stamp, value), and no other call"
            ) from error
        return broker.serialize(getattr(self, f"remote_{message}")(*taken.args))

    def remote_notifyTime(self, stamp: object) -> Answer:
        """Take the time."""
        if not isinstance(stamp, float) or not math.isfinite(stamp):
            raise InvalidValue("a stamp is a finite float")
        return self._deliver("time", None, stamp, stamp)

    def remote_notifySample(self, feed: object, sequence: object, stamp: object, value: object) -> Answer | None:
        """Take a sample of any other feed, or a notice."""
        if isinstance(feed, str) and feed == NOTICES:
            self._notice(value)
            return None
        if not isinstance(feed, str) or type(sequence) is not int:
            raise InvalidValue("the name of a feed is str, the number of a sample int")
        if not isinstance(stamp, float) or not math.isfinite(stamp):
            raise InvalidValue("a stamp is a finite float")
        self._check_value(value)
        return self._deliver(feed, sequence, stamp, value)


class Copy(Jellyable):
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


def _settled(call: "Deferred[object]") -> "Deferred[None]":
    """Return a Deferred that fires when a call was answered, whatever with."""
    answered: Deferred[None] = Deferred()
    call.addBoth(lambda _: None if answered.called else answered.callback(None))
    return answered


def typed(failure: Failure) -> NoReturn:
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
        raise known(printable(str(value), ERROR_LETTERS))
    if _descends(failure, "twisted.cred.error.UnauthorizedLogin"):
        raise WrongCredentials("the name and the secret do not fit")
    raise ServerFault(f"the server failed: {printable(kind, ERROR_LETTERS) or 'its answers make no sense'}")


def _descends(failure: Failure, kind: str) -> bool:
    try:
        return bool(failure.check(kind))
    except Exception:  # noqa: BLE001  # what a server sent in place of an error
        return False
