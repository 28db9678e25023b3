"""Who is in: admit, limit, make the avatar, let go."""

from collections.abc import Callable

from twisted.cred.portal import IRealm
from twisted.spread import pb
from zope.interface import Interface, implementer

from clockd.errors import Refused, TooManyConnections, TooManyPublishes, TooManySubscriptions, UnknownFeed
from clockd.feeds import UNKNOWN, FeedTable
from clockd.interfaces import ISession, ISink
from clockd.schedule import Schedule
from clockd.subscription import ChangeSubscription, Newest, Subscription
from clockd.users import ANONYMOUS
from clockd.values import NOTICES, Limits, Sample, Tally


class PublishRates:
    """How much each account has published lately.

    Args:
        most: Samples an account may publish in a second, and as many at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._paid: dict[str, float] = {}  # until when an account's samples have used up its rate

    def take(self, account: str, now: float) -> None:
        """Note that an account publishes a sample.

        Raises:
            TooManyPublishes: It has published as much as it may.
        """
        paid = max(self._paid.get(account, now), now)
        if (paid - now) * self._most > self._most - 0.5:  # half a sample is less than any, and more than rounding
            raise TooManyPublishes(f"an account may publish {self._most} samples a second")
        self._paid[account] = paid + 1 / self._most


@implementer(ISession)
class ClockAvatar(pb.Avatar):
    """What one connection of an account owns: its subscriptions, each with its timer.

    A method `perspective_NAME` is the remote call `NAME`.

    Args:
        account: The account's name.
        sink: Takes the pushes.
        desk: Where feeds are found.
        tally: Where active avatars are counted.
        release: Called once, on logout.

    Attributes:
        account: As given.
        subscriptions: By feed name; running from `begin` to `logout`.
    """

    def __init__(
        self,
        account: str,
        sink: ISink,
        desk: "FeedDesk",
        tally: Tally,
        release: Callable[[], object],
    ) -> None:
        self.account = account
        self.subscriptions = {"time": desk.subscription("time", account, sink)}
        self._stopped: dict[str, float] = {}  # when, of those that are subscribed no more
        self._sink = sink
        self._desk = desk
        self._tally = tally
        self._release = release
        self._active = False
        self._out = False

    def begin(self) -> None:
        """Start the subscriptions; nothing, if the client has left already."""
        if self._out or self._active:
            return
        self._active = True
        self._tally.avatars += 1
        self._sink.pull_from(self._pull)
        for subscription in self.subscriptions.values():
            subscription.start()

    def logout(self) -> None:
        """Stop the subscriptions and give up the place in the roster; idempotent."""
        if self._out:
            return
        self._out = True
        self._sink.pull_from(lambda _: None)  # else it and the avatar would hold each other
        for subscription in self.subscriptions.values():
            subscription.stop()
        if self._active:
            self._tally.avatars -= 1
        self._release()

    def perspective_setperiod(self, period: object, feed: object = "time") -> float:
        """Change how often a feed is pushed to this client; see `Subscription.set_period`.

        Raises:
            UnknownFeed: The feed is not subscribed.
        """
        subscription = self.subscriptions.get(feed) if isinstance(feed, str) else None
        if subscription is None:
            self._tally.periods["refused"] += 1
            raise UnknownFeed("not subscribed to that feed; subscribe to it first")
        return subscription.set_period(period)

    def perspective_subscribe(self, feed: object, period: object = None, deadband: object = None) -> float:
        """Have a feed pushed; if it is already, have its period and deadband replaced.

        Args:
            feed: Its name; `server` for notices.
            period: As for `Subscription.set_period`; None for the default.
            deadband: As for `Subscription.deadband_for`.

        Returns:
            The period granted, in seconds; 0 for notices.

        Raises:
            UnknownFeed: There is no such feed.
            NotPermitted: The account may not read it.
            TooManySubscriptions: The connection has all it may have.
        """
        if isinstance(feed, str) and feed == NOTICES:  # a reference cannot be compared
            self._sink.take_notices()
            return 0.0
        subscription = self._find(feed)
        wanted = subscription.deadband_for(deadband)
        granted = subscription.set_period(self._desk.limits.default_period if period is None else period)
        subscription.deadband = wanted
        name = str(feed)
        self.subscriptions[name] = subscription
        if self._active and not self._out:
            subscription.start()
        return granted

    def perspective_unsubscribe(self, feed: object) -> None:
        """Have a feed pushed no more; nothing, if it is not."""
        if isinstance(feed, str) and feed == NOTICES:  # a reference cannot be compared
            self._sink.take_notices(False)
        subscription = self.subscriptions.pop(feed, None) if isinstance(feed, str) else None
        if subscription is not None:
            subscription.stop()
            self._stopped[str(feed)] = subscription.stopped

    def perspective_feeds(self) -> list[str]:
        """Return the names of the feeds that this account may read."""
        return self._desk.feeds.readable(self.account)

    def perspective_publish(self, feed: object, value: object, stamp: object = None) -> int:
        """Put a value of a feed in force; see `LatestFeed.publish`.

        Raises:
            UnknownFeed: There is no such feed.
            NotPermitted: The account may not publish to it.
            TooManyPublishes: The account has published as much as it may.
        """
        return self._desk.publish(feed, self.account, value, stamp)

    def refused_publish(self, feed: str | None) -> None:
        """Count a `publish` whose arguments are none that a call takes."""
        self._desk.refused(feed)

    def _find(self, feed: object) -> Subscription:
        subscription = self.subscriptions.get(feed) if isinstance(feed, str) else None
        if subscription is not None:
            return subscription
        made = self._desk.subscription(feed, self.account, self._sink)
        if len(self.subscriptions) >= self._desk.limits.subscriptions:
            raise TooManySubscriptions(f"a connection may have {self._desk.limits.subscriptions} subscriptions")
        made.stopped = self._stopped.get(str(feed), made.stopped)
        return made

    def _pull(self, feed: str) -> Sample | None:
        subscription = self.subscriptions.get(feed)
        return None if subscription is None else subscription.pull()


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
        self._rates = PublishRates(limits.publishes_per_second)
        tally.feed(UNKNOWN)

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


class Roster:
    """The accounts and how many connections each has.

    Args:
        limit: Connections an account may have at a time; `anonymous` may have any number.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: dict[str, int] = {}

    def admit(self, account: str) -> Callable[[], None]:
        """Take a place for one connection.

        Returns:
            What gives the place back; to be called once.

        Raises:
            TooManyConnections: The account has all it may have.
        """
        taken = self._connections.get(account, 0)
        if taken >= self._limit and account != ANONYMOUS:
            raise TooManyConnections(f"the account has {taken} connections already, which is its limit")
        self._connections[account] = taken + 1

        def release() -> None:
            left = self._connections.pop(account) - 1
            if left:
                self._connections[account] = left

        return release


@implementer(IRealm)
class ClockRealm:
    """Makes an avatar for each connection, subscribed to `time` at the default period.

    Args:
        roster: Who may come in.
        desk: Where avatars find feeds.
        tally: Where it is counted.
    """

    def __init__(self, roster: Roster, desk: FeedDesk, tally: Tally) -> None:
        self._roster = roster
        self._desk = desk
        self._tally = tally

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> tuple[type[Interface], ClockAvatar, Callable[[], None]]:
        """Admit a connection.

        Args:
            avatarId: The account's name in bytes, or cred's `ANONYMOUS`.
            mind: An `ISink`.
            interfaces: `pb.IPerspective` must be among them.

        Raises:
            NotImplementedError: None of `interfaces` is `pb.IPerspective`.
            TooManyConnections: The account has all it may have.
        """
        if pb.IPerspective not in interfaces:
            raise NotImplementedError("this realm has perspectives only")
        account = avatarId.decode() if isinstance(avatarId, bytes) else ANONYMOUS
        sink = ISink(mind)
        avatar = ClockAvatar(account, sink, self._desk, self._tally, self._roster.admit(account))
        return pb.IPerspective, avatar, avatar.logout
