"""Where avatars find feeds, and where what clients publish goes."""

from clockd.errors import Refused, TooManyPublishes
from clockd.feeds import UNKNOWN, FeedTable
from clockd.interfaces import ISink
from clockd.schedule import Schedule
from clockd.subscription import ChangeSubscription, Newest, Subscription
from clockd.values import Limits, Tally


class PublishRates:
    """How much each account has published lately.

    Args:
        limits: How many samples an account may publish in a second, and as many at a time.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._paid: dict[str, float] = {}  # until when an account's samples have used up its rate

    def take(self, account: str, now: float) -> None:
        """Note that an account publishes a sample.

        Raises:
            TooManyPublishes: It has published as much as it may.
        """
        most = self._limits.publishes_per_second
        paid = max(self._paid.get(account, now), now)
        if (paid - now) * most > most - 0.5:  # half a sample is less than any, and more than rounding
            raise TooManyPublishes(f"an account may publish {most} samples a second")
        self._paid[account] = paid + 1 / most


class FeedDesk:
    """Where avatars find feeds: makes subscriptions, takes what is published.

    Args:
        feeds: What there is.
        schedule: Runs the subscriptions.
        limits: What clients may ask for.
        tally: Where it is counted.

    Attributes:
        feeds: As given.
        limits: As given.
    """

    def __init__(self, feeds: FeedTable, schedule: Schedule, limits: Limits, tally: Tally) -> None:
        self.feeds = feeds
        self.limits = limits
        self._schedule = schedule
        self._tally = tally
        self._newest: dict[str, Newest] = {}
        self._rates = PublishRates(limits)
        tally.feed(UNKNOWN)

    def offers(self, name: str, account: str) -> bool:
        """Tell whether there is a feed of that name which an account may read."""
        return name in self.feeds.readable(account)

    def subscription(self, name: object, account: str, sink: ISink) -> Subscription:
        """Return a subscription that has not begun; raises as `FeedTable.to_read` does."""
        try:
            feed = self.feeds.to_read(name, account)
        except Refused:
            self.refused(name)
            raise
        newest = self._newest.get(feed.name)
        if newest is None:
            newest = self._newest[feed.name] = Newest(feed, self._schedule, self._tally)
        kind = Subscription if feed.name == "time" else ChangeSubscription
        return kind(newest, sink, self.limits)

    def publish(self, name: object, account: str, value: object, stamp: object) -> int:
        """Publish a sample; raises as `FeedTable.to_publish`, `PublishRates.take` and `LatestFeed.publish` do."""
        try:
            feed = self.feeds.to_publish(name, account)
            self._rates.take(account, self._schedule.clock.seconds())
            return feed.publish(value, stamp)
        except Refused:
            self.refused(name)
            raise

    def refused(self, name: object) -> None:
        """Count a call that is refused, for the feed that it names."""
        self._tally.feed(self.feeds.counted_as(name)).errors += 1
