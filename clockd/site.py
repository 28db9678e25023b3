"""The HTTP side: one short request a connection, and as many connections as strangers cannot hurt with.

An answer is short, or goes on as a stream of events. Each kind has a limit of its own, so that neither keeps the other
out.

Rules of this module: it knows nothing of what its pages say; whoever is slow, greedy or many harms only himself.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus

import msgspec
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from clockd.logs import TwistedLogger
from clockd.values import Readiness

HTTP_CONNECTIONS = 32
"""As many connections the HTTP side has at most, beside those of streams."""

STREAMS = 64
"""As many streams of events go on at most."""

DISPLACED = b"event: displaced\ndata: %d\n\n" % STREAMS
"""The last event of a stream that makes room for a newer one."""

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


@implementer(IPushProducer)
class _Stream:
    """A stream of events to one who listens; one who does not take them is let go.

    Args:
        request: What was asked.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._connection: ProtocolWrapper = request.channel.transport  # type: ignore[assignment]  # `NewestStay` makes it
        self._connection.factory.set_apart(self._connection)
        request.registerProducer(self, True)

    def write(self, event: bytes) -> None:
        """Send an event."""
        self._request.write(event)

    def finish(self, farewell: bytes) -> None:
        """Send the last event."""
        self._request.unregisterProducer()
        self._request.write(farewell)
        self._request.finish()

    def make_room(self, farewell: bytes) -> None:
        """Send the last event; until it is taken, the connection is one like others again."""
        self._connection.factory.registerProtocol(self._connection)
        self.finish(farewell)

    def ended(self) -> None:
        """Let the request go; if the peer ended it, the two would hold each other, for the collector to find."""
        self._request.producer = None

    def pauseProducing(self) -> None:
        """Let go: there are 64 KiB which neither the peer nor the kernel takes."""
        self._connection.abortConnection()

    def resumeProducing(self) -> None:
        """Do nothing: there is no pause that ends."""

    def stopProducing(self) -> None:
        """Do nothing: the request tells that the peer has left."""


class EventStreams(Resource):
    """Server-sent events, the same for all who listen.

    There are `STREAMS` at most. For one more the oldest ends, with the event `displaced`: strangers who hold some keep
    nobody out, and who is told so can come back later.

    Args:
        greet: Returns the events that one who comes gets first.
        give_way: Has calls made that are due, between one listener and the next.
    """

    isLeaf = True

    def __init__(self, greet: Callable[[], bytes], give_way: Callable[[], object]) -> None:
        super().__init__()
        self._greet = greet
        self._give_way = give_way
        self._streams: dict[_Stream, None] = {}

    @property
    def count(self) -> int:
        """How many listen."""
        return len(self._streams)

    def tell(self, event: bytes) -> None:
        """Send an event to all who listen."""
        for stream in list(self._streams):
            stream.write(event)
            self._give_way()

    def end(self, farewell: bytes) -> None:
        """Send all who listen their last event."""
        for stream in list(self._streams):
            stream.finish(farewell)

    def render_HEAD(self, request: Request) -> bytes:
        """Answer with the headers of a stream."""
        request.setHeader("content-type", "text/event-stream")
        request.setHeader("cache-control", "no-store")
        request.setHeader("x-content-type-options", "nosniff")
        return b""

    def render_GET(self, request: Request) -> int:
        """Begin a stream."""
        self.render_HEAD(request)
        if len(self._streams) >= STREAMS:
            next(iter(self._streams)).make_room(DISPLACED)
        stream = _Stream(request)
        self._streams[stream] = None
        request.notifyFinish().addBoth(lambda _: self._ended(stream))
        stream.write(self._greet())
        return NOT_DONE_YET

    def _ended(self, stream: _Stream) -> None:
        del self._streams[stream]
        stream.ended()


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
        if self.requests and self.requests[0].startedWriting:  # within a stream nothing else can be said
            self.transport.abortConnection()
            return
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
    """Lets in so many connections; when there is one more, the oldest goes. Strangers who hold some keep nobody out.

    Those of streams do not count.
    """

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

    def set_apart(self, p: ProtocolWrapper) -> None:
        """Count a connection no more: it is a stream's, and these have a limit of their own."""
        self.protocols.pop(p, None)
