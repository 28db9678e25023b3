"""What a connection holds once it has logged in, and all that do."""

import math
from collections.abc import Callable, Iterator, Mapping
from heapq import nsmallest
from typing import Literal

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as NoAnswer
from twisted.internet.interfaces import IReactorTime
from twisted.spread import pb
from twisted.spread.jelly import Jellyable
from zope.interface import implementer

from clockd.avatar import ClockAvatar
from clockd.desk import FeedDesk
from clockd.errors import InvalidValue, NotPermitted, TooManyConnections, WrongCredentials
from clockd.hostclock import HostClock
from clockd.interfaces import IClient, ISession
from clockd.users import ANONYMOUS
from clockd.values import NOTICES, Limits, ServerStatus

WhenFull = Literal["reject", "replace", "ping"]

MOST_TOLD = 200
"""As many sessions are told of in one answer, at 80 µs each."""

RATE_SECONDS = 2.0
"""The rate of a session's pushes is a mean over so long at least."""

REASON_LETTERS = 200
"""Longest reason for which an account is sent away."""


class _Moment(Jellyable):
    """The moment in which it is encoded."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def jellyFor(self, jellier: object) -> float:
        """Return it."""
        return self._now()


@implementer(ISession)
class Session(pb.Avatar):
    """One connection of an account: its place in the roster, and its hold on an avatar.

    A method `perspective_NAME` is the remote call `NAME`.

    Args:
        account: The account's name.
        client: Takes the pushes.
        roster: Where all sessions are.
        desk: Where feeds are found.
        host: This host's clock.
        left: Called once, on logout.

    Attributes:
        account: As given.
        client: As given.
        since: When it logged in, Unix seconds UTC.
        avatar: What it is pushed; given when there is a place for it.
    """

    __slots__ = (
        "_began",
        "_desk",
        "_host",
        "_left",
        "_marks",
        "_out",
        "_roster",
        "account",
        "avatar",
        "client",
        "since",
    )

    avatar: ClockAvatar

    def __init__(
        self,
        account: str,
        client: IClient,
        roster: "Roster",
        desk: FeedDesk,
        host: HostClock,
        left: Callable[["Session"], object],
    ) -> None:
        self.account = account
        self.client = client
        self.since: float = roster.now()
        self._roster = roster
        self._desk = desk
        self._host = host
        self._left = left
        self._began = False
        self._out = False
        mark = roster.clock.seconds(), 0  # a moment, and how many pushes there were until then
        self._marks = mark, mark  # the older first

    def begin(self) -> None:
        """Be pushed to; nothing, if the client has left already."""
        if not (self._began or self._out):
            self._began = True
            self.avatar.enter(self.client)

    def logout(self) -> None:
        """Be pushed nothing more, and give up the place in the roster; idempotent."""
        if not self._out:
            self._out = True
            if self._began:
                self.avatar.leave(self.client)
            self._roster.leave(self)
            self._left(self)

    def end(self, reason: str, notice: Mapping[str, object]) -> None:
        """Log out and close the connection, and tell the client why, if it takes notices.

        Args:
            reason: One of `CLOSE_REASONS`.
            notice: What it is told.
        """
        self.client.notify(notice)
        self.logout()
        self.client.close(reason)

    def rate(self) -> float:
        """Return the pushes a second, a mean over the last `RATE_SECONDS` or more, whoever else asks meanwhile."""
        now, pushes = self._roster.clock.seconds(), self.client.pushes
        if now - self._marks[1][0] >= RATE_SECONDS:
            self._marks = self._marks[1], (now, pushes)
        moment, before = self._marks[0]
        return (pushes - before) / max(now - moment, RATE_SECONDS)

    def perspective_setperiod(self, period: object, feed: object = "time") -> float:
        """Change how often a feed is pushed; see `ClockAvatar.set_period`."""
        return self.avatar.set_period(period, feed)

    def perspective_subscribe(self, feed: object, period: object = None, deadband: object = None) -> float:
        """Have a feed pushed; see `ClockAvatar.subscribe`. After `server` this client gets notices; that returns 0."""
        if isinstance(feed, str) and feed != "time":  # a reference cannot be compared
            self.client.expect_samples(True)
        if isinstance(feed, str) and feed == NOTICES:
            self.client.take_notices()
            return 0.0
        return self.avatar.subscribe(feed, period, deadband)

    def perspective_unsubscribe(self, feed: object) -> None:
        """Have a feed pushed no more; nothing, if it is not."""
        if isinstance(feed, str) and feed == NOTICES:  # as above
            self.client.take_notices(False)
        self.avatar.unsubscribe(feed)

    def perspective_feeds(self) -> list[str]:
        """Return the names of the feeds that this account may read."""
        return self._desk.feeds.readable(self.account)

    def perspective_publish(self, feed: object, value: object, stamp: object = None) -> int:
        """Put a value of a feed in force; see `FeedDesk.publish`."""
        return self._desk.publish(feed, self.account, value, stamp)

    def refused_publish(self, feed: str | None) -> None:
        """Count a `publish` whose arguments are none that a call takes."""
        self._desk.refused(feed)

    def perspective_exchange(self, stamp: object) -> tuple[float, float, object, float, ServerStatus]:
        """Return what a client needs to know how far its clock is off, as in section 8 of RFC 5905.

        Args:
            stamp: When it asks, by whatever clock it likes, finite.

        Returns:
            The stamp; when the call came, and when this answer is written, Unix seconds by the host's wall clock; its
            error is no larger than that many seconds, infinite while that is not known; and whether that is kept right.

        Raises:
            InvalidValue: The stamp is something else.
        """
        if type(stamp) is not int and not (type(stamp) is float and math.isfinite(stamp)):
            raise InvalidValue("stamp is a finite number")
        host = self._host
        host.look()
        return stamp, self.client.received, _Moment(self._roster.now), host.bound, host.state.status

    def perspective_status(self) -> dict[str, object]:
        """Return what there is to know of this connection and its account."""
        return {
            "account": self.account,
            "connections": len(self._roster.sessions(self.account)),
            "periods": self.periods(),
            "pushes": self.client.pushes,
            "skipped": self.client.skipped,
            "connected_since": self.since,
        }

    def perspective_sessions(self, limit: object = 100, sort: object = "skipped") -> list[dict[str, object]]:
        """Tell of sessions, those with most first; for administrators.

        Args:
            limit: As many are told of, 1 to `MOST_TOLD`.
            sort: A key of what is told, but `periods`; `account` and `address` are told in their order. Those with
                equal values are told by account, then by address.

        Raises:
            NotPermitted: The account has not the role.
            InvalidValue: `limit` or `sort` is something else.
        """
        self._roster.require_admin(self.account)
        if type(limit) is not int or not 0 < limit <= MOST_TOLD:
            raise InvalidValue(f"limit is a number from 1 to {MOST_TOLD}")
        if not isinstance(sort, str) or sort not in _SORTS:
            raise InvalidValue(f"sort is one of {', '.join(_SORTS)}")
        value = _SORTS[sort]

        def place(session: Session) -> tuple[str | float, str]:
            return value(session), session.account

        found = nsmallest(limit, self._roster, key=place)
        found.sort(key=lambda session: (place(session), session.client.address))  # 3 µs each, too many for all
        return [session.told() for session in found]

    def perspective_kick(self, account: object, reason: object) -> int:
        """Close all connections of an account but this one; for administrators.

        Args:
            account: Its name.
            reason: What its clients are told, up to `REASON_LETTERS` letters.

        Returns:
            How many were closed.

        Raises:
            NotPermitted: The account of this session has not the role.
            InvalidValue: `account` or `reason` is something else.
        """
        self._roster.require_admin(self.account)
        if not isinstance(account, str) or not isinstance(reason, str) or len(reason) > REASON_LETTERS:
            raise InvalidValue(f"account is a name, and reason a text of up to {REASON_LETTERS} letters")
        others = [session for session in self._roster.sessions(account) if session is not self]
        for session in others:
            session.end("kicked", {"kind": "kicked", "reason": reason})
        return len(others)

    def periods(self) -> dict[str, float]:
        """Return the period of each feed that is pushed, in seconds."""
        return {name: subscription.period for name, subscription in self.avatar.subscriptions.items()}

    def told(self) -> dict[str, object]:
        """Return what an administrator is told."""
        return {
            "account": self.account,
            "address": self.client.address,
            "periods": self.periods(),
            "pushes_per_second": self.rate(),
            "skipped": self.client.skipped,
            "acknowledgement_seconds": self.client.acknowledgement,
            "connected_since": self.since,
        }


_SORTS: Mapping[str, Callable[[Session], str | float]] = {
    "account": lambda session: session.account,
    "address": lambda session: session.client.address,
    "pushes_per_second": lambda session: -session.rate(),
    "skipped": lambda session: -session.client.skipped,
    "acknowledgement_seconds": lambda session: -(session.client.acknowledgement or 0.0),
    "connected_since": lambda session: -session.since,
}


class Roster:
    """The accounts and the sessions of each.

    Args:
        limits: How many connections an account may have at a time; `anonymous` may have any number.
        when_full: What becomes of one more: it is refused; or the oldest goes for it; or the oldest goes if it does
            not answer within `ack_seconds`, and else the new one is refused.
        clock: Monotonic time and delayed calls.
        now: Unix seconds UTC by the host's wall clock.
        role_of: Returns the role that an account has now; None if there is no such account any more.

    Attributes:
        limits, when_full, clock, now: As given.
    """

    def __init__(
        self,
        limits: Limits,
        when_full: WhenFull,
        clock: IReactorTime,
        now: Callable[[], float],
        role_of: Callable[[str], str | None],
    ) -> None:
        self.limits = limits
        self.when_full = when_full
        self.clock = clock
        self.now = now
        self._role_of = role_of
        self._sessions: dict[str, dict[Session, None]] = {}  # by account, the oldest first

    def __iter__(self) -> Iterator[Session]:
        for sessions in self._sessions.values():
            yield from sessions

    def sessions(self, account: str) -> list[Session]:
        """Return the sessions of an account, the oldest first."""
        return list(self._sessions.get(account, ()))

    def admit(self, session: Session) -> Deferred[None] | None:
        """Give a session a place.

        Returns:
            None, or a Deferred that fires when it has one, or fails as here.

        Raises:
            TooManyConnections: The account has all it may have.
        """
        if self._is_full(session.account):
            if self.when_full == "ping":
                return Deferred.fromCoroutine(self._admit_by_ping(session))
            if self.when_full == "reject":
                raise self._too_many(session.account)
            while self._is_full(session.account):  # more than one, where the limit was lowered
                self._replace_oldest(session.account)
        self._enter(session)
        return None

    def leave(self, session: Session) -> None:
        """Let a session go; idempotent."""
        sessions = self._sessions.get(session.account, {})
        sessions.pop(session, None)
        if not sessions:
            self._sessions.pop(session.account, None)

    def knows(self, account: str) -> bool:
        """Tell whether there is such an account now."""
        return self._role_of(account) is not None

    def require_admin(self, account: str) -> None:
        """Check that an account has the role.

        Raises:
            NotPermitted: It has not.
        """
        if self._role_of(account) != "admin":
            raise NotPermitted("that is for accounts with the role admin")

    async def _admit_by_ping(self, session: Session) -> None:
        account = session.account
        while self._is_full(account):
            oldest = self.sessions(account)[0]
            try:
                answered = await oldest.client.ping().addTimeout(self.limits.ack_seconds, self.clock)
            except NoAnswer:
                answered = False
            if answered:
                raise self._too_many(account)
            if self.sessions(account)[:1] == [oldest] and self._is_full(account):
                self._replace_oldest(account)
        if not self.knows(account):  # it was removed meanwhile
            raise WrongCredentials("there is no such account any more")
        self._enter(session)

    def _is_full(self, account: str) -> bool:
        taken = len(self._sessions.get(account, ()))
        return taken >= self.limits.connections_per_account and account != ANONYMOUS

    def _enter(self, session: Session) -> None:
        self._sessions.setdefault(session.account, {})[session] = None

    def _replace_oldest(self, account: str) -> None:
        self.sessions(account)[0].end("replaced", {"kind": "replaced"})

    def _too_many(self, account: str) -> TooManyConnections:
        taken = len(self._sessions.get(account, ()))
        return TooManyConnections(f"the account has {taken} connections already, which is its limit")
