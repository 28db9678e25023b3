"""The short way from a push to its socket.

Twisted's transports leave what is written to the reactor, which costs two calls of epoll and a trip round its loop for
each push, and aggregate small writes over TLS. Connections made here try to send at once, and fall back to Twisted's
buffer for what the kernel does not take.

Rules of this module: it alone touches private attributes of Twisted's transports; `tests/test_transport.py` fails when
Twisted changes them.
"""

from collections.abc import Iterable
from typing import Protocol

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort, ITransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure


class Outlet(Protocol):
    """The end of a connection that is next to the kernel.

    Attributes:
        unsent: Bytes that the kernel has not taken yet.
    """

    unsent: int


class TCPConnection(tcp.Server):
    """A connection whose `write` sends at once when nothing is waiting to be sent.

    Attributes:
        unsent: Bytes that the kernel has not taken yet.
    """

    unsent = 0

    def write(self, data: bytes) -> None:
        """Send what the kernel takes now; Twisted sends the rest when it can."""
        if self.connected and not (self.unsent or self.disconnecting or self._aborting):
            try:
                sent = self.socket.send(data)
            except OSError:  # it would block, or is lost: Twisted's own attempt will tell
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        super().write(data)
        self._count()

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write all of it as one."""
        self.write(b"".join(iovec))

    def doWrite(self) -> object:  # type: ignore[override]  # mypy sees what aborting puts in its place
        """Send what was waiting."""
        result = super().doWrite()
        self._count()
        return result

    def _count(self) -> None:
        self.unsent = len(self.dataBuffer) - self.offset + self._tempDataLen


class UNIXConnection(TCPConnection, unix.Server):
    """The same over a Unix socket."""


class TLSConnection(TLSMemoryBIOProtocol):
    """TLS that hands on at once what is written; Twisted's default holds small writes back."""

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        # the traceback would keep the connection, and 30 kB of OpenSSL's with it, until the collector finds the cycle
        super()._tlsShutdownFinished(reason)
        if reason is not None:
            reason.cleanFailure()


class TLSFactory(TLSMemoryBIOFactory):
    """Wraps a factory's connections in TLS."""

    protocol = TLSConnection


class _Unknown:
    """Stands for a transport that does not say what is unsent."""

    unsent = 0


BACKLOG = 1024
"""Connections that may wait to be accepted; with Twisted's 50, many in a storm try again a second later."""


def prepare(port: IListeningPort) -> None:
    """Have a port's connections send at once, and many of them wait for their turn; a foreign port stays as it is."""
    if isinstance(port, tcp.Port):
        port.transport = UNIXConnection if isinstance(port, unix.Port) else TCPConnection
        port.socket.listen(max(port.backlog, BACKLOG))


def outlet(transport: ITransport) -> Outlet:
    """Return the lowest of the transports that are wrapped in each other."""
    lowest: object = transport
    while isinstance(lowest, ProtocolWrapper):
        lowest = lowest.transport
    return lowest if isinstance(lowest, TCPConnection) else _Unknown()
