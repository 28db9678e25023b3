"""The latest sample of each name."""

from collections.abc import Callable, Iterable

from zope.interface import implementer

from clockd.errors import UnknownFeed
from clockd.interfaces import IFeed
from clockd.values import Sample


@implementer(IFeed)
class ClockFeed:
    """The feed `time`: its latest sample is always new.

    Args:
        now: Unix seconds UTC by the host's wall clock.
    """

    name = "time"

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def latest(self) -> Sample:
        """Return the time, read in this call."""
        stamp = self._now()
        return Sample(self.name, None, stamp, stamp)


class FeedTable:
    """The feeds of a server by name.

    Args:
        feeds: All of them.
    """

    def __init__(self, feeds: Iterable[IFeed]) -> None:
        self._feeds = {feed.name: feed for feed in feeds}

    def __getitem__(self, name: object) -> IFeed:
        """Return a feed.

        Raises:
            UnknownFeed: `name` is not the name of a feed of this server.
        """
        feed = self._feeds.get(name) if isinstance(name, str) else None
        if feed is None:
            raise UnknownFeed(f"there is no such feed; there are: {', '.join(self._feeds)}")
        return feed
