"""The feeds of a configuration, and the services that fill them."""

from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from clockd.config import AnyFeed, ClockdFeed, HostFeed, PrometheusFeed, PushFeed, PythonFeed
from clockd.errors import InvalidValue
from clockd.feeds import ClockFeed, FeedTable, LatestFeed, RetainedFeed, SampledFeed
from clockd.host import HostMeter
from clockd.interfaces import IAccountStore, IFeed
from clockd.logs import Quota
from clockd.plugin import LoneThread, PluginSource, find_plugin
from clockd.printable import printable
from clockd.pulse import Pulse
from clockd.scrape import Scraper, exporter_for, selector_for
from clockd.values import Rights, Tally
from clockd.wire import ValueEncoder, decode_value

REASON_LETTERS = 200
"""As much is told of why there is no new sample; an exporter or a plug-in may have written it."""


class Reports:
    """Counts and tells that a feed has no new sample.

    Args:
        tally: Where it is counted.
        clock: Monotonic time.
    """

    _log = Logger()

    def __init__(self, tally: Tally, clock: IReactorTime) -> None:
        self._tally = tally
        self._quota = Quota(clock.seconds)

    def report(self, feed: str, error: Exception) -> None:
        """Say why; a feed that fails often says so only now and then."""
        self._tally.feed(feed).errors += 1
        rest = self._quota.take(feed)
        if rest is not None:
            words = printable(str(error) or type(error).__name__, REASON_LETTERS)
            self._log.warn("no new sample of {feed}: {error}{rest}", feed=feed, error=words, rest=rest)


def make_feeds(
    sections: Mapping[str, AnyFeed], tally: Tally, store: IAccountStore, reactor: Any, now: Callable[[], float]
) -> tuple[FeedTable, list[IService]]:
    """Make the time and all feeds that are configured.

    Args:
        sections: By name.
        tally: Where they are counted.
        store: Keeps the samples of those that are retained; open, before anything is started.
        reactor: A Twisted reactor whose `seconds` is monotonic.
        now: Unix seconds UTC by the host's wall clock.

    Returns:
        The feeds, and what has to run that they have samples.

    Raises:
        Misconfigured: A URL or a selector that is none, or a plug-in that is not installed.
    """
    maker = _Maker(tally, store, reactor, now)
    feeds: list[tuple[IFeed, Rights]] = [(ClockFeed(now), Rights())]
    for name, section in sections.items():
        publish = section.publish if isinstance(section, PushFeed) else ()
        feeds.append((maker.make(name, section), Rights(section.read, publish)))
    return FeedTable(feeds), maker.services


class Restorer(Service):
    """Puts in force what is kept of a feed, when the server starts.

    Args:
        feed: The feed.
        report: Is told the feed's name and why it cannot be.
    """

    def __init__(self, feed: RetainedFeed, report: Callable[[str, Exception], object]) -> None:
        self._feed = feed
        self._report = report

    def startService(self) -> None:
        """Put it in force."""
        super().startService()
        try:
            self._feed.restore()
        except InvalidValue as error:
            self._report(self._feed.name, error)


class _Maker:
    """Makes feeds; keeps what has to run for them."""

    def __init__(self, tally: Tally, store: IAccountStore, reactor: Any, now: Callable[[], float]) -> None:
        self._tally = tally
        self._store = store
        self._reactor = reactor
        self._now = now
        self._encode = ValueEncoder(b"pb").encode
        self._report = Reports(tally, reactor).report
        self.services: list[IService] = []

    def make(self, name: str, section: AnyFeed) -> LatestFeed:
        match section:
            case HostFeed():
                return self._sampled(name, HostMeter().take, section.every)
            case ClockdFeed():
                return self._sampled(name, Pulse(self._tally, self._reactor).take, section.every)
            case PrometheusFeed():
                return self._scraped(name, section)
            case PythonFeed():
                return self._plugged(name, section)
            case PushFeed():
                return self._retained(name) if section.retain else self._latest(name)

    def _latest(self, name: str) -> LatestFeed:
        return LatestFeed(name, self._encode, self._tally.feed(name), self._now)

    def _retained(self, name: str) -> LatestFeed:
        counts = self._tally.feed(name)
        feed = RetainedFeed(name, self._encode, counts, self._now, decode_value, self._store)
        self.services.append(Restorer(feed, self._report))
        return feed

    def _sampled(self, name: str, take: Callable[[], object], every: float) -> LatestFeed:
        counts = self._tally.feed(name)
        return SampledFeed(name, self._encode, counts, self._now, take, every, self._reactor, self._report)

    def _thread(self, name: str) -> LoneThread:
        """Return a thread for one feed: others do not wait for a name server, or a plug-in, that never answers."""
        thread = LoneThread(f"clockd feed {name}", self._reactor)
        self.services.append(thread)
        return thread

    def _scraped(self, name: str, section: PrometheusFeed) -> LatestFeed:
        feed = self._latest(name)
        thread = self._thread(name)
        exporter = exporter_for(f"feeds.{name}.url", section.url, self._reactor, thread.call)
        metrics = [selector_for(f"feeds.{name}.metrics", words) for words in section.metrics]
        self.services.append(
            Scraper(*(feed, exporter, metrics, section.every), *(thread.call, self._reactor, self._now, self._report))
        )
        return feed

    def _plugged(self, name: str, section: PythonFeed) -> LatestFeed:
        feed = self._latest(name)
        thread = self._thread(name)
        plugin = find_plugin(f"feeds.{name}.plugin", section.plugin)
        self.services.append(
            PluginSource(
                *(feed, plugin.load, section.every, thread.call),
                *(self._encode, self._reactor, self._now, self._report),
            )
        )
        return feed
