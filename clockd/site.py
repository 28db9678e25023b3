"""The HTTP side: one short request a connection, and as many connections as strangers cannot hurt with.

Rules of this module: it knows nothing of what its pages say; whoever is slow, greedy or many harms only himself.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from clockd.logs import TwistedLogger
from clockd.values import Readiness

HTTP_CONNECTIONS = 32
"""As many connections the HTTP side has at most."""

REQUEST_BYTES = 8192
"""As many bytes of a connection are read; a scrape of Prometheus has some hundred, and nginx takes lines of 8 kB."""

TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
"""The answer to more bytes than that, and to a request with a body."""


class AlivePage(Resource):
    """Whether a process lives: who asks gets an answer."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """Answer `ok`."""
        request.setHeader("content-type", "text/plain; charset=utf-8")
        return b"ok\n"


class ReadinessPage(Resource):
    """Whether a server is ready: 200 if it is, 503 if not, and why, as JSON.

    Args:
        look: Tells.
    """

    isLeaf = True

    def __init__(self, look: Callable[[], Readiness]) -> None:
        super().__init__()
        self._look = look

    def render_GET(self, request: Request) -> bytes:
        """Answer with an object that has the attributes of `Readiness`, in one line."""
        request.setHeader("content-type", "application/json")
        readiness = self._look()
        if not readiness.ready:
            request.setResponseCode(HTTPStatus.SERVICE_UNAVAILABLE)
        return msgspec.json.encode(readiness) + b"\n"


class _Channel(HTTPChannel):
    """A connection that gets one answer, to a short request without a body, and is closed.

    However much it sends, no more than `REQUEST_BYTES` of it is read as HTTP.
    """

    transport: ProtocolWrapper  # type: ignore[assignment]  # `NewestStay` makes it
    _log = TwistedLogger("twisted.web")
    _received = 0

    def dataReceived(self, data: bytes) -> None:
        """Take bytes; too many of them end the connection."""
        if self.transport.disconnecting:
            return
        self._received += len(data)
        if self._received > REQUEST_BYTES:
            self._refuse()
        else:
            super().dataReceived(data)
        self.factory.give_way()

    def allHeadersReceived(self) -> None:
        """Answer a request, unless a body is to follow."""
        if self.length == 0:
            super().allHeadersReceived()
        else:
            self._refuse()

    def checkPersistence(self, request: HTTPRequest, version: bytes) -> bool:
        """Tell whether there may be another request: there may not."""
        request.setHeader("connection", "close")
        return False

    def _refuse(self) -> None:
        self.transport.write(TOO_LARGE)
        self.loseConnection()


class PageSite(Site):
    """A site of some pages that writes no access log; on a monotonic reactor the log would tell times of 1970.

    Args:
        pages: What is there, by path.
        reactor: Where time-outs run.
        give_way: Has calls made that are due, if what connections send keeps the reactor from it.
    """

    noisy = False
    protocol = _Channel  # type: ignore[assignment]  # Twisted's own can change to HTTP/2, which nobody asks for

    def __init__(self, pages: Mapping[str, Resource], reactor: IReactorTime, give_way: Callable[[], object]) -> None:
        root = Resource()
        for path, page in pages.items():
            root.putChild(path.encode(), page)
        super().__init__(root, reactor=reactor)
        self.give_way = give_way

    def log(self, request: HTTPRequest) -> None:
        """Write nothing."""


class NewestStay(WrappingFactory):
    """Lets in so many connections; when there is one more, the oldest goes. Strangers who hold some keep nobody out."""

    noisy = False

    def registerProtocol(self, p: ProtocolWrapper) -> None:
        """Take note of a connection that was made."""
        super().registerProtocol(p)
        if len(self.protocols) > HTTP_CONNECTIONS:
            oldest = next(iter(self.protocols))
            del self.protocols[oldest]
            oldest.transport.abortConnection()

    def unregisterProtocol(self, p: ProtocolWrapper) -> None:
        """Take note of one that has ended."""
        self.protocols.pop(p, None)
