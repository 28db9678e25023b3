"""What an account, or one connection of it, is pushed: the avatar and its subscriptions."""

import math
from collections.abc import Callable, Mapping

from zope.interface import implementer

from clockd.desk import FeedDesk
from clockd.errors import TooManySubscriptions, UnknownFeed
from clockd.interfaces import IClient, ISink
from clockd.subscription import Subscription
from clockd.values import Sample, Tally


@implementer(ISink)
class SinkSet:
    """Pushes to several clients; each takes or skips a sample by itself, so none of them holds back another.

    Attributes:
        clients: All of them.
    """

    __slots__ = ("clients",)

    def __init__(self) -> None:
        self.clients: dict[IClient, None] = {}

    def push(self, sample: Sample) -> bool:
        """Push to each, a sample to each that takes samples; tell whether any took it."""
        clients = tuple(self.clients)  # one may leave meanwhile
        if sample.sequence is not None:
            clients = tuple(client for client in clients if client.takes_samples)
        taken = [client.push(sample) for client in clients]
        return any(taken)


class ClockAvatar:
    """What is pushed to the clients of an account, or to one of them: subscriptions, each with its timer.

    It is subscribed to what is remembered, as far as there still is such a feed, or else to `time` at the default
    period. While it has clients its timers run.

    Args:
        account: The account's name.
        desk: Where feeds are found.
        tally: Where active avatars are counted.
        only: The client that it is for; None if it is shared by all of the account.
        remembered: What to be subscribed to, by feed name: period and deadband, as they were granted.
        changed: Called when what is to be remembered has changed.

    Attributes:
        account: As given.
        subscriptions: By feed name.
        clients: Its current clients, those that came first first.
    """

    __slots__ = ("_changed", "_desk", "_shared", "_sink", "_stopped", "_tally", "account", "clients", "subscriptions")

    def __init__(
        self,
        account: str,
        desk: FeedDesk,
        tally: Tally,
        only: IClient | None,
        remembered: Mapping[str, tuple[float, float]],
        changed: Callable[["ClockAvatar"], object],
    ) -> None:
        self.account = account
        self._desk = desk
        self._tally = tally
        self._changed = changed
        self._shared = only is None
        self._sink: ISink = SinkSet() if only is None else only
        self.clients: dict[IClient, None] = self._sink.clients if isinstance(self._sink, SinkSet) else {}
        self.subscriptions: dict[str, Subscription] = {}
        self._stopped: dict[str, float] = {}  # when, of those that are subscribed no more
        for feed, (period, deadband) in remembered.items():
            if desk.offers(feed, account):
                self.subscriptions[feed] = desk.subscription(feed, account, self._sink)
                self.subscriptions[feed].restore(period, deadband)
        if not self.subscriptions:
            self.subscriptions["time"] = desk.subscription("time", account, self._sink)

    def enter(self, client: IClient) -> None:
        """Push to a client from now on, beginning with the current samples."""
        client.pull_from(self._newest if self._shared else self._pull)
        if self._shared:
            client.expect_samples(False)
        self.clients[client] = None
        if len(self.clients) > 1:
            for feed in self.subscriptions:
                sample = self._newest(feed)
                if sample is not None:
                    client.push(sample)
            return
        self._tally.avatars += 1
        for subscription in self.subscriptions.values():
            subscription.start()

    def leave(self, client: IClient) -> None:
        """Push to a client no more; the last one stops the timers. Nothing, if it had not entered."""
        if client not in self.clients:
            return
        client.pull_from(_nothing)  # else it and the avatar would hold each other
        del self.clients[client]
        if not self.clients:
            self._tally.avatars -= 1
            for subscription in self.subscriptions.values():
                subscription.stop()
                subscription.stopped = -math.inf  # whoever enters next was pushed nothing yet

    def set_period(self, period: object, feed: object) -> float:
        """Change how often a feed is pushed; see `Subscription.set_period`.

        Raises:
            UnknownFeed: The feed is not subscribed.
        """
        subscription = self._subscribed(feed)
        if subscription is None:
            self._tally.periods["refused"] += 1
            raise UnknownFeed("not subscribed to that feed; subscribe to it first")
        granted = subscription.set_period(period)
        self._changed(self)
        return granted

    def subscribe(self, feed: object, period: object, deadband: object) -> float:
        """Have a feed pushed; if it is already, have its period and deadband replaced.

        Args:
            feed: Its name.
            period: As for `Subscription.set_period`; None for the default.
            deadband: As for `Subscription.deadband_for`.

        Returns:
            The period granted, in seconds.

        Raises:
            UnknownFeed: There is no such feed.
            NotPermitted: The account may not read it.
            TooManySubscriptions: The avatar has all it may have.
        """
        subscription = self._find(feed)
        wanted = subscription.deadband_for(deadband)
        granted = subscription.set_period(self._desk.limits.default_period if period is None else period)
        subscription.deadband = wanted
        self.subscriptions[str(feed)] = subscription
        if self.clients:
            subscription.start()
        self._changed(self)
        return granted

    def unsubscribe(self, feed: object) -> None:
        """Have a feed pushed no more; nothing, if it is not."""
        subscription = self.subscriptions.pop(feed, None) if isinstance(feed, str) else None
        if subscription is not None:
            subscription.stop()
            self._stopped[str(feed)] = subscription.stopped
            self._changed(self)

    def _subscribed(self, feed: object) -> Subscription | None:
        return self.subscriptions.get(feed) if isinstance(feed, str) else None  # a reference cannot be looked up

    def _find(self, feed: object) -> Subscription:
        subscription = self._subscribed(feed)
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

    def _newest(self, feed: str) -> Sample | None:
        """Return the newest sample, though the next tick may find it news: the other clients may not have it."""
        subscription = self.subscriptions.get(feed)
        return None if subscription is None else subscription.newest()


def _nothing(feed: str) -> None:
    """Return that nothing is owed."""
