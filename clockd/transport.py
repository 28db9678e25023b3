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
        if not self.unsent and self.connected and not self.disconnecting:
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


class TLSFactory(TLSMemoryBIOFactory):
    """Wraps a factory's connections in TLS that does not hold small writes back, as Twisted's own does."""

    protocol = TLSMemoryBIOProtocol


class _Unknown:
    """Stands for a transport that does not say what is unsent."""

    unsent = 0


def send_at_once(port: IListeningPort) -> None:
    """Have the connections of a port send at once; a port that is not Twisted's own stays as it is."""
    if isinstance(port, unix.Port):
        port.transport = UNIXConnection
    elif isinstance(port, tcp.Port):
        port.transport = TCPConnection


def outlet(transport: ITransport) -> Outlet:
    """Return the lowest of the transports that are wrapped in each other."""
    lowest: object = transport
    while isinstance(lowest, ProtocolWrapper):
        lowest = lowest.transport
    return lowest if isinstance(lowest, TCPConnection) else _Unknown()
