"""The short way from a push to its socket.

Twisted's transports leave what is written to the reactor, which costs two calls of epoll and a trip round its loop for
each push, and aggregate small writes over TLS. Connections made here try to send at once, and fall back to Twisted's
buffer for what the kernel does not take.

Rules of this module: it alone touches private attributes of Twisted's transports; `tests/test_transport.py` fails when
Twisted changes them.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import EAGAIN, ENOBUFS, EPIPE, EWOULDBLOCK
from ipaddress import ip_address
from socket import (
    IPPROTO_TCP,
    SO_KEEPALIVE,
    SOL_SOCKET,
    TCP_KEEPCNT,
    TCP_KEEPIDLE,
    TCP_KEEPINTVL,
    TCP_NODELAY,
    TCP_USER_TIMEOUT,
    socket,
)
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper, HAProxyWrappingFactory
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from clockd.values import Tally


class Outlet:
    """The short way into a connection's socket: small, because each push touches it.

    Args:
        connection: Takes what the kernel does not take at once.

    Attributes:
        open: Whether nothing waits to be sent, and nobody is closing the connection.
        unsent: Bytes that the kernel has not taken yet.
    """

    __slots__ = ("_connection", "_socket", "_tally", "open", "unsent")

    def __init__(self, connection: "TCPConnection") -> None:
        self._connection: TCPConnection | None = connection
        self._socket: socket | None = connection.socket
        self._tally: Tally | None = None
        self.open = True
        self.unsent = 0

    def write(self, data: bytes) -> None:
        """Send what the kernel takes now; Twisted sends the rest when it can."""
        if self.open:
            try:
                sent = self._socket.send(data)  # type: ignore[union-attr]  # what is open has a socket
            except OSError as error:  # it would block, or is lost: Twisted's own attempt will tell
                sent = 0
                self._connection.failed(error)  # type: ignore[union-attr]  # what is open has a connection
            if sent == len(data):
                return
            data = data[sent:]
        if self._connection is not None:
            self._connection.keep(data)

    def count(self, unsent: int) -> None:
        """Note how many bytes wait now."""
        if self._tally is not None:
            self._tally.unsent += unsent - self.unsent
        self.unsent = unsent

    def count_in(self, tally: Tally) -> None:
        """Have what is unsent counted in a tally, too."""
        self._tally = tally
        tally.unsent += self.unsent

    def forget(self) -> None:
        """Let go of a connection that is lost."""
        self.open = False
        self.count(0)
        self._connection = None
        self._socket = None


class WrappedOutlet:
    """The way into a connection that wraps another one.

    Args:
        write: Takes bytes.
        lowest: The outlet that is next to the kernel, or None if it is not one of ours.
    """

    __slots__ = ("_lowest", "write")

    def __init__(self, write: Callable[[bytes], object], lowest: Outlet | None) -> None:
        self.write = write
        self._lowest = lowest

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet, as far as that is known."""
        return 0 if self._lowest is None else self._lowest.unsent

    def count_in(self, tally: Tally) -> None:
        """Have what is unsent counted in a tally, too."""
        if self._lowest is not None:
            self._lowest.count_in(tally)


PASSING = frozenset({EAGAIN, EWOULDBLOCK, ENOBUFS, EPIPE})
"""Errors after which it is still open who has ended a connection, if anyone: EPIPE comes after a peer's own closing."""


class TCPConnection(tcp.Server):
    """A connection whose `write` sends at once when nothing is waiting to be sent.

    Attributes:
        outlet: The short way into it.
    """

    _lost = False

    def __init__(self, sock: socket, *others: Any) -> None:
        super().__init__(sock, *others)
        self.outlet = Outlet(self)

    def write(self, data: bytes) -> None:
        """Send what the kernel takes now; Twisted sends the rest when it can."""
        self.outlet.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write all of it as one."""
        self.write(b"".join(iovec))

    def failed(self, error: OSError) -> None:
        """Note why the kernel has taken nothing: it tells a loss once, and Twisted's next read would find an end."""
        self._lost = self._lost or error.errno not in PASSING

    def keep(self, data: bytes) -> None:
        """Have Twisted send data when it can."""
        super().write(data)
        self._look()

    def doWrite(self) -> object:  # type: ignore[override]  # mypy sees what aborting puts in its place
        """Send what was waiting."""
        result = super().doWrite()
        self._look()
        return result

    def loseConnection(self) -> None:
        """Close the connection when all that waits was sent."""
        self.outlet.open = False
        super().loseConnection()

    def abortConnection(self) -> None:
        """Close the connection now."""
        self.outlet.open = False
        super().abortConnection()

    def connectionLost(self, reason: Failure) -> None:
        """Let go of the socket."""
        self.outlet.forget()
        if self._lost and reason.check(ConnectionDone):
            reason = Failure(ConnectionLost())
        super().connectionLost(reason)

    def _look(self) -> None:
        unsent = len(self.dataBuffer) - self.offset + self._tempDataLen
        self.outlet.count(unsent)
        self.outlet.open = bool(self.connected and not (unsent or self.disconnecting or self._aborting))


class UNIXConnection(TCPConnection, unix.Server):
    """The same over a Unix socket; it takes no descriptors."""

    doRead = tcp.Server.doRead  # type: ignore[assignment]  # mypy sees what aborting puts in its place


PIECE_BYTES = 2048
"""So much is given to OpenSSL at a time."""

SLICE_SECONDS = 0.001
"""So long what a connection sent is taken, here and by the broker, before others have their turn."""


class TLSConnection(TLSMemoryBIOProtocol):
    """TLS that hands on at once what is written; Twisted's default holds small writes back.

    What a peer sends goes through OpenSSL in pieces, and in turns: handshakes, and 64 kB of messages that only OpenSSL
    sees, such as updates of keys, would otherwise hold all others up.
    """

    factory: "TLSFactory"
    transport: Any  # Twisted says what every transport has; ours can be paused
    _resting: IDelayedCall | None = None
    _waiting = b""
    _paused = False

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the network."""
        self._waiting += data
        if self._resting is None:
            self._take()

    def _take(self) -> None:
        """Take what waits, until others are to have their turn."""
        seconds = self.factory.clock.seconds
        until = seconds() + SLICE_SECONDS
        waiting, at = self._waiting, 0
        self._waiting = b""
        while at < len(waiting) and not (self._lostTLSConnection or self._aborted):
            if at and (self._paused or seconds() >= until):
                self._waiting = waiting[at:]
                if not self._paused:
                    self.transport.pauseProducing()
                    self._resting = self.factory.clock.callLater(0, self._go_on)
                return
            super().dataReceived(waiting[at : at + PIECE_BYTES])
            at += PIECE_BYTES
            self.factory.took(self.wrappedProtocol)

    def _go_on(self) -> None:
        self._resting = None
        if not self._paused:
            self._take()
            if self._resting is None and not self._paused:
                self.transport.resumeProducing()

    def pauseProducing(self) -> None:
        """Have the protocol above be told nothing more for now."""
        self._paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Go on, with what waits here first."""
        self._paused = False
        if self._resting is not None:
            return
        if self._waiting:
            self._resting = self.factory.clock.callLater(0, self._go_on)
        else:
            self.transport.resumeProducing()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted gives it a default
        """Let go of what waits."""
        self._waiting = b""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        super().connectionLost(reason)

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        # the traceback would keep the connection, and 30 kB of OpenSSL's with it, until the collector finds the cycle
        super()._tlsShutdownFinished(reason)
        if reason is not None:
            reason.cleanFailure()


class TLSFactory(TLSMemoryBIOFactory):
    """Wraps a factory's connections in TLS.

    Args:
        context: Makes OpenSSL's part of a connection.
        wrapped: Makes the protocols.
        clock: Monotonic time and delayed calls.
        took: Called with a protocol whenever OpenSSL has taken some bytes from its peer, of which there may be none for
            the protocol itself.

    Attributes:
        clock: As given.
        took: As given.
    """

    protocol = TLSConnection

    def __init__(
        self,
        context: IOpenSSLServerConnectionCreator,
        wrapped: IProtocolFactory,
        clock: IReactorTime,
        took: Callable[[Any], object],
    ) -> None:
        super().__init__(context, False, wrapped, clock)
        self.clock = clock
        self.took = took


class ProxiedConnection(HAProxyProtocolWrapper):
    """A connection that begins with a PROXY header; Twisted's parser lets ValueErrors of a bad one out."""

    def dataReceived(self, data: bytes) -> None:
        """Take bytes; what is no header ends the connection."""
        try:
            super().dataReceived(data)
        except ValueError:
            if self._proxyInfo is not None:
                raise
            self.loseConnection()


BACKLOG = 1024
"""Connections that may wait to be accepted; with Twisted's 50, many in a storm try again a second later."""

ACCEPTS = 8
"""Connections that a port accepts in one turn of the reactor: those before them get on with their logins in between."""

MOST_KEEPALIVE_SECONDS = 32767
"""The kernel's bound for the keepalive options, in seconds (`MAX_TCP_KEEPIDLE` in Linux's net/tcp.h)."""

SO_PASSRIGHTS = 83
"""Whether descriptors may be passed over a Unix socket: in Linux from 6.16 on (`asm-generic/socket.h`)."""

PROBES = 3
"""Keepalive probes without an answer, after which the kernel takes a peer for lost."""


def prepare(port: IListeningPort, lost_seconds: float) -> None:
    """Make a port fit for pushes; a foreign one stays as it is.

    Its connections send at once, and many may wait for their turn to be accepted. Those over TCP send small segments
    without waiting for the acknowledgement of the last one, which may take 40 ms, and the kernel ends one whose peer
    acknowledges nothing. Over those of a Unix port nobody can pass descriptors, where the kernel can forbid that: to
    close one may take as long as its owner likes.

    Args:
        port: Where connections are accepted.
        lost_seconds: A TCP peer that is not there for this long is lost, in seconds; the kernel counts in whole ones.
    """
    if not isinstance(port, tcp.Port):
        return
    port.transport = UNIXConnection if isinstance(port, unix.Port) else TCPConnection  # type: ignore[assignment]
    port.socket.listen(max(port.backlog, BACKLOG))
    if isinstance(port.factory, HAProxyWrappingFactory):
        port.factory.protocol = ProxiedConnection  # type: ignore[assignment]  # mypy takes it for an instance
    accept = port.doRead

    def accept_some() -> None:
        port.numberAccepts = ACCEPTS  # Twisted's goes up with each turn that takes all it may
        accept()

    port.doRead = accept_some  # type: ignore[method-assign]
    # what is accepted inherits these
    if isinstance(port, unix.Port):
        with suppress(OSError):  # the kernel does not know it
            port.socket.setsockopt(SOL_SOCKET, SO_PASSRIGHTS, 0)
    else:
        port.socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        seconds = max(1, round(min(lost_seconds, MOST_KEEPALIVE_SECONDS) / (PROBES + 1)))
        for option, value in (
            (TCP_NODELAY, 1),
            (TCP_KEEPIDLE, seconds),
            (TCP_KEEPINTVL, seconds),
            (TCP_KEEPCNT, PROBES),
            (TCP_USER_TIMEOUT, round(1000 * lost_seconds)),
        ):
            port.socket.setsockopt(IPPROTO_TCP, option, value)


def outlet(transport: ITransport) -> Outlet | WrappedOutlet:
    """Return the shortest way into a connection."""
    lowest: object = transport
    while isinstance(lowest, ProtocolWrapper):
        lowest = lowest.transport
    below = lowest.outlet if isinstance(lowest, TCPConnection) else None
    return below if below is not None and lowest is transport else WrappedOutlet(transport.write, below)


def is_private(transport: ITransport) -> bool:
    """Tell whether nobody can listen in between a peer and here.

    That is so over TLS, over a Unix socket, and where the port is bound to loopback. What a peer or a proxy says of
    addresses does not count, and with a PROXY header in clear the peer is somewhere behind a proxy.
    """
    if isinstance(transport, TLSMemoryBIOProtocol | unix.Server):  # not ISSLTransport: what wraps TLS provides it, too
        return True
    return isinstance(transport, tcp.Server) and ip_address(transport.server.getHost().host).is_loopback
