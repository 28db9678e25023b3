"""Feeds that are filled with what an exporter has for Prometheus.

An answer is gathered in the reactor's thread, and looked at in another: there it may take its time.

Rules of this module: nothing but the number of its bytes, and where its head ends, is found out of an answer in the
reactor's thread; whatever is done with it takes a time that grows with these bytes alone, and piece by piece, because
Python's lock is shared.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from http.client import HTTPException, HTTPResponse, IncompleteRead
from io import BytesIO
from socket import AF_INET6, SOCK_STREAM, getaddrinfo
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from zope.interface import directlyProvides, implementer

from clockd import __version__
from clockd.certificate import ClientTLS, failed_for
from clockd.errors import InvalidValue, Misconfigured
from clockd.feeds import LatestFeed

ANSWER_BYTES = 8 * 2**20
"""Longest answer, with its head."""

HEAD_BYTES = 65536
"""Longest head."""

LINE_BYTES = 8192
"""Longest line of a sample; a value has 4096 bytes at most."""

MOST_SAMPLES = 1000
"""No value has as many."""

SCRAPE_SECONDS = 10.0
"""As long as a scrape may take, from the beginning of the request to the end of the answer."""

T = TypeVar("T")

Addresses = Sequence[tuple[Any, ...]]
"""What `getaddrinfo` returns."""

_OK = 200
_WORD = "[A-Za-z0-9_-]{1,63}"  # as long as a name server takes one
_URL = re.compile(
    rf"(?P<scheme>https?)://(?P<place>(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>{_WORD}(\.{_WORD})*\.?))"
    r'(:(?P<port>[0-9]{1,5}))?)(?P<path>[/?][!"$-~]*)?'
)
_HEAD_END = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r?\n", re.IGNORECASE)
_CODED = re.compile(rb"\ntransfer-encoding:", re.IGNORECASE)
_NAME = "[A-Za-z_:][A-Za-z0-9_:]*+"
_LABEL = r'[A-Za-z_][A-Za-z0-9_]*="(?:[^"\\\n]|\\[\\n"])*+"'
_SELECTOR = re.compile(rf"{_NAME}(\{{({_LABEL}(, *{_LABEL})*)?\}})?")
_ESCAPES = {ord("\\"): "\\\\", ord("\n"): "\\n", ord('"'): '\\"'}


class InThread(Protocol):
    """Calls what takes a while, one at a time and outside the reactor's thread."""

    def __call__(self, what: Callable[[], T]) -> Deferred[T]:
        """Call; to cancel is to hear no more of it, or to have it not called if it has not begun."""


@implementer(IStreamClientEndpoint)
class _Host:
    """A host, looked up each time it is connected to.

    A `HostnameEndpoint` alone does so in the reactor's own threads, and a name server that does not answer fills them.
    """

    def __init__(self, reactor: object, host: str, port: int, in_thread: InThread) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._in_thread = in_thread

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect to the one of its addresses that answers first."""
        return self._in_thread(self._look_up).addCallback(self._connect, protocolFactory)

    def _look_up(self) -> Addresses:
        try:
            return getaddrinfo(self._host, self._port, type=SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectionError(f"{self._host} is not found: {error}") from error

    def _connect(self, found: Addresses, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        address = found[0][4][0]  # not the name: it takes none with an underscore
        endpoint = HostnameEndpoint(_LookedUp(self._reactor, found), address, self._port)
        return endpoint.connect(protocolFactory)


class _LookedUp:
    """A reactor that knows the one name it will be asked for."""

    def __init__(self, reactor: object, found: Addresses) -> None:
        directlyProvides(self, IReactorPluggableNameResolver)
        self._reactor = reactor
        self._found = found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    @property
    def nameResolver(self) -> "_LookedUp":
        """Itself."""
        return self

    def resolveHostName(self, resolutionReceiver: IResolutionReceiver, hostName: str, portNumber: int) -> None:
        """Tell all that was found."""
        for family, _, _, _, (host, *_) in self._found:
            kind = IPv6Address if family == AF_INET6 else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", host, portNumber))
        resolutionReceiver.resolutionComplete()


class Selector(NamedTuple):
    """Chooses samples by their name, and by some of their labels or none."""

    name: str
    labels: dict[str, str]

    def __str__(self) -> str:
        return _key(self.name, self.labels)

    def fits(self, name: str, labels: dict[str, str]) -> bool:
        """Tell whether it chooses a sample."""
        return name == self.name and self.labels.items() <= labels.items()


def selector_for(key: str, words: str) -> Selector:
    """Return what chooses the samples that an operator wants.

    Args:
        key: The configuration key, for errors.
        words: As written there: `name`, or `name{label="value",...}`.

    Raises:
        Misconfigured: It is neither.
    """
    with suppress(ValueError):  # also if a label is there twice
        if _SELECTOR.fullmatch(words):
            sample = _sample_of(f"{words} 1")
            return Selector(sample.name, sample.labels)
    raise Misconfigured(f'{key}: {words}: is neither a name such as up nor one with labels such as up{{job="node"}}')


class Answer(NamedTuple):
    """What an exporter has sent.

    Attributes:
        data: All of it.
        whole: Whether nothing says that there should have been more.
    """

    data: bytearray
    whole: bool


class AnswerSource(Protocol):
    """Where the answer of an exporter is had."""

    async def answer(self) -> Answer:
        """Return the answer as it is now; if this is cancelled, the connection ends.

        Raises:
            Exception: There is none; the message says why.
        """


class Exporter:
    """An exporter, asked over a connection that is made for one request.

    Args:
        endpoint: Where it listens.
        request: What it is sent.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, request: bytes) -> None:
        self._endpoint = endpoint
        self._request = request

    async def answer(self) -> Answer:
        """As for any `AnswerSource`."""
        asking = _Asking(self._request)
        factory = Factory.forProtocol(lambda: asking)
        factory.noisy = False
        await self._endpoint.connect(factory)
        return await asking.answered


class _Asking(TwistedProtocol):
    """Asks, and gathers the answer.

    Args:
        request: What is sent.

    Attributes:
        answered: Fires with the answer, and the connection ends.
    """

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answered: Deferred[Answer] = Deferred(lambda _: self._abort())
        self._data = bytearray()
        self._end: float | None = None

    def connectionMade(self) -> None:
        """Ask."""
        self.transport.write(self._request)  # type: ignore[union-attr]  # there is one

    def dataReceived(self, data: bytes) -> None:
        """Take a part; give up if there is too much."""
        if self.answered.called:
            return
        self._data += data
        if self._end is None:
            self._end = _end_of(self._data)
        most = HEAD_BYTES if self._end is None else ANSWER_BYTES
        if len(self._data) > most:
            self._abort()
            what = "the head of the answer" if self._end is None else "the answer"
            self.answered.errback(ValueError(f"{what} is longer than {most} bytes"))
        elif self._end is not None and len(self._data) >= self._end:
            self._abort()
            self.answered.callback(Answer(self._data, True))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell that it has ended, well or not; an answer may say neither how long it is nor come in chunks."""
        if self.answered.called:
            return
        if self._data:
            self.answered.callback(Answer(self._data, reason.check(ConnectionDone) is not None))
        elif reason.check(ConnectionDone):
            self.answered.errback(ConnectionError("the exporter has ended the connection without an answer"))
        else:
            self.answered.errback(reason)

    def _abort(self) -> None:
        self.transport.abortConnection()  # type: ignore[union-attr]  # there is one


def exporter_for(key: str, url: str, reactor: object, in_thread: InThread) -> Exporter:
    """Return an exporter by its URL.

    Args:
        key: The configuration key, for errors.
        url: As the operator wrote it.
        reactor: A Twisted reactor.
        in_thread: Where its name is looked up, which takes long if no name server answers.

    Raises:
        Misconfigured: It is no URL that can be scraped.
    """
    found = _URL.fullmatch(url)
    if found is None or not _is_place(found):
        raise Misconfigured(
            f"{key}: {url}: is no URL such as http://localhost:9100/metrics, without a name, a password or a #"
        )
    host = found["v6"] or found["name"]
    endpoint: IStreamClientEndpoint = _Host(reactor, host, _port_of(found), in_thread)
    if found["scheme"] == "https":
        endpoint = wrapClientTLS(ClientTLS(host), endpoint)
    path = found["path"] or "/"
    request = (
        f"GET {path if path.startswith('/') else f'/{path}'} HTTP/1.1\r\nHost: {found['place']}\r\n"
        f"User-Agent: clockd/{__version__}\r\nAccept: text/plain;version=0.0.4\r\nAccept-Encoding: identity\r\n"
        "Connection: close\r\n\r\n"
    )
    return Exporter(endpoint, request.encode("ascii"))


class Scraper(Service):
    """Scrapes an exporter while it runs, and publishes the metrics that were chosen.

    Args:
        feed: Where they are published, stamped with the moment at which the answer had come.
        exporter: What is scraped.
        metrics: Choose samples.
        every: Seconds between the beginnings of two scrapes.
        in_thread: Where answers are read.
        clock: Monotonic time.
        now: Unix seconds UTC by the host's wall clock.
        report: Is told the feed's name and why there is no new sample.
    """

    def __init__(
        self,
        feed: LatestFeed,
        exporter: AnswerSource,
        metrics: Sequence[Selector],
        every: float,
        in_thread: InThread,
        clock: IReactorTime,
        now: Callable[[], float],
        report: Callable[[str, Exception], object],
    ) -> None:
        self._feed = feed
        self._exporter = exporter
        self._metrics = metrics
        self._every = every
        self._in_thread = in_thread
        self._clock = clock
        self._now = now
        self._report = report
        self._loop = LoopingCall(self._scrape)
        self._loop.clock = clock
        self._scraping: Deferred[None] = succeed(None)

    def startService(self) -> None:
        """Begin to scrape, at once."""
        super().startService()
        self._loop.start(self._every)

    def stopService(self) -> None:
        """Scrape no more, and end the connection; what a thread still finds out is not looked at."""
        if self.running:
            super().stopService()
            self._loop.stop()
            self._scraping.cancel()

    def _scrape(self) -> Deferred[None]:
        self._scraping = Deferred.fromCoroutine(self._sample()).addErrback(self._failed)
        return self._scraping

    async def _sample(self) -> None:
        seconds = min(self._every, SCRAPE_SECONDS)
        asked = Deferred.fromCoroutine(self._exporter.answer())
        answer = await asked.addTimeout(seconds, self._clock, _too_slow)
        stamp = self._now()
        found = await self._in_thread(partial(self._find, answer))
        try:
            self._feed.publish(found, stamp)
        except InvalidValue as error:
            raise InvalidValue(f"{error}: choose fewer metrics") from error

    def _find(self, answer: Answer) -> dict[str, float]:
        """Return what was chosen of an answer; in the thread."""
        return choose(page_of(answer), self._metrics)

    def _failed(self, failure: Failure) -> None:
        if self.running:
            self._report(self._feed.name, _reason(failure.value))


def page_of(answer: Answer) -> bytes:
    """Return the page that an answer holds.

    Raises:
        ValueError: It holds none.
        ConnectionError: It is another than 200.
    """
    response = HTTPResponse(SimpleNamespace(makefile=lambda _: BytesIO(answer.data)))  # type: ignore[arg-type]  # it needs no more of a socket
    try:
        response.begin()
        if response.status != _OK:
            raise ConnectionError(f"the exporter answers {response.status} {response.reason}")
        coding = response.headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise ValueError(f"the page is encoded, {coding}, which was not asked for")
        ends_itself = response.chunked or response.length is not None
        page = response.read()
    except (IncompleteRead, OverflowError):  # there is less than it says
        ends_itself, page = False, None
    except HTTPException as error:
        raise ValueError(f"the answer is no HTTP: {error}".rstrip()) from error
    if page is None or not (ends_itself or answer.whole):
        raise ValueError(f"the page breaks off{', or its chunks make no sense' if response.chunked else ''}")
    return page


def choose(page: bytes, metrics: Sequence[Selector]) -> dict[str, float]:
    """Return the samples of a page that were chosen, by name with labels as on the page, but sorted.

    Lines of other names are not looked at.

    Raises:
        ValueError: There are none, or too many, or what is there makes no sense.
    """
    names = "|".join({each.name for each in metrics})
    is_wanted = re.compile(rf"[ \t]*+(?:{names})[ \t{{]".encode()).match
    found: dict[str, float] = {}
    for line in BytesIO(page):
        if not is_wanted(line, 0, LINE_BYTES):
            continue
        if len(line) > LINE_BYTES:  # the time that the parser takes grows with the square of it
            raise ValueError(f"the page has a line of more than {LINE_BYTES} bytes: {_shown(line)}")
        try:
            sample = _sample_of(line.decode())
        except Exception as error:  # the parser raises many
            raise ValueError(f"the page has a line that is not in Prometheus' text format: {_shown(line)}") from error
        if any(each.fits(sample.name, sample.labels) for each in metrics):
            found[_key(sample.name, sample.labels)] = _float(sample.value)
            if len(found) > MOST_SAMPLES:
                raise ValueError(f"more than {MOST_SAMPLES} samples: choose fewer metrics")
    if not found:
        raise ValueError(f"the page has none of the metrics {', '.join(map(str, metrics))}")
    return found


def _sample_of(line: str) -> Sample:
    """Return the one sample of a line.

    Raises:
        ValueError: It has none; the parser raises others, too.
    """
    ((sample,),) = (each.samples for each in text_string_to_metric_families(line))
    return sample


def _float(value: float) -> float:
    """Return a value as a float; the parser returns an int for digits alone, however many."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _shown(line: bytes) -> str:
    return line[:100].strip().decode(errors="backslashreplace")


def _key(name: str, labels: dict[str, str]) -> str:
    if not labels:
        return name
    parts = ",".join(f'{label}="{value.translate(_ESCAPES)}"' for label, value in sorted(labels.items()))
    return f"{name}{{{parts}}}"


def _is_place(url: re.Match[str]) -> bool:
    try:
        ipaddress.IPv6Address(url["v6"] or "::")
    except ValueError:
        return False
    return 0 < _port_of(url) < 65536


def _port_of(url: re.Match[str]) -> int:
    return int(url["port"] or (443 if url["scheme"] == "https" else 80))


def _end_of(answer: bytearray) -> float | None:
    """Return how long an answer will be, infinity if it does not say so, or None as long as its head has no end."""
    head = _HEAD_END.search(answer, 0, HEAD_BYTES)
    if head is None:
        return None
    length = _LENGTH.search(answer, 0, head.end())
    return math.inf if length is None or _CODED.search(answer, 0, head.end()) else head.end() + int(length[1])


def _too_slow(_: object, seconds: float) -> NoReturn:
    raise TimeoutError(f"no answer, or no end of it, within {seconds:g} s")


def _reason(error: BaseException | None) -> Exception:
    return failed_for(error) or (error if isinstance(error, Exception) else RuntimeError(repr(error)))
