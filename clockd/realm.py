"""Who is in: admit, limit, make the avatar, let go."""

from collections.abc import Callable

from twisted.cred.portal import IRealm
from twisted.spread import pb
from zope.interface import Interface, implementer

from clockd.errors import TooManyConnections, UnknownFeed
from clockd.feeds import FeedTable
from clockd.interfaces import ISession, ISink
from clockd.schedule import Schedule
from clockd.subscription import Newest, Subscription
from clockd.users import ANONYMOUS
from clockd.values import Limits, Tally


@implementer(ISession)
class ClockAvatar(pb.Avatar):
    """What one connection of an account owns: its subscriptions, each with its timer.

    A method `perspective_NAME` is the remote call `NAME`.

    Args:
        account: The account's name.
        subscriptions: By feed name; running from `begin` to `logout`.
        tally: Where active avatars are counted.
        release: Called once, on logout.
    """

    def __init__(
        self,
        account: str,
        subscriptions: dict[str, Subscription],
        tally: Tally,
        release: Callable[[], object],
    ) -> None:
        self.account = account
        self.subscriptions = subscriptions
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
        for subscription in self.subscriptions.values():
            subscription.start()

    def logout(self) -> None:
        """Stop the subscriptions and give up the place in the roster; idempotent."""
        if self._out:
            return
        self._out = True
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
            raise UnknownFeed(f"not subscribed to that feed; subscribed: {', '.join(self.subscriptions)}")
        return subscription.set_period(period)


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
        feeds: What there is to subscribe to.
        schedule: Runs the subscriptions.
        limits: Which periods are granted.
        tally: Where it is counted.
    """

    def __init__(self, roster: Roster, feeds: FeedTable, schedule: Schedule, limits: Limits, tally: Tally) -> None:
        self._roster = roster
        self._time = Newest(feeds["time"], schedule, tally)
        self._limits = limits
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
        subscription = Subscription(self._time, ISink(mind), self._limits)
        release = self._roster.admit(account)
        avatar = ClockAvatar(account, {"time": subscription}, self._tally, release)
        return pb.IPerspective, avatar, avatar.logout
