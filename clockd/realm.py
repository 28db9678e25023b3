"""Who is in: makes a session for each login, and the avatar that it is pushed by."""

from collections.abc import Callable
from typing import Literal

from msgspec.structs import replace
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from twisted.spread import pb
from zope.interface import Interface, implementer

from clockd.avatar import ClockAvatar
from clockd.desk import FeedDesk
from clockd.hostclock import HostClock
from clockd.interfaces import IAccountStore, IClient
from clockd.session import Roster, Session
from clockd.users import ANONYMOUS
from clockd.values import Tally

__all__ = ["ClockAvatar", "ClockRealm", "Roster"]

Sharing = Literal["connection", "account"]

Made = tuple[type[Interface], object, Callable[[], None]]
"""What cred wants of a realm."""


@implementer(IRealm)
class ClockRealm:
    """Makes sessions, each with an avatar of its own or with its account's.

    Args:
        sharing: Whose an avatar is. An account's avatar lives as long as it has sessions, and what it is subscribed to
            is remembered; nothing is shared or remembered of `anonymous`.
        roster: Who may come in.
        desk: Where avatars find feeds.
        store: Remembers accounts.
        host: This host's clock.
        tally: Where it is counted.
    """

    def __init__(
        self,
        sharing: Sharing,
        roster: Roster,
        desk: FeedDesk,
        store: IAccountStore,
        host: HostClock,
        tally: Tally,
    ) -> None:
        self._sharing = sharing
        self._roster = roster
        self._desk = desk
        self._store = store
        self._host = host
        self._tally = tally
        self._avatars: dict[str, ClockAvatar] = {}  # those that are shared

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> Made | Deferred[Made]:
        """Admit a connection.

        Args:
            avatarId: The account's name in bytes, or cred's `ANONYMOUS`.
            mind: An `IClient`.
            interfaces: `pb.IPerspective` must be among them.

        Raises:
            NotImplementedError: None of `interfaces` is `pb.IPerspective`.
            TooManyConnections: The account has all it may have.
        """
        if pb.IPerspective not in interfaces:
            raise NotImplementedError("this realm has perspectives only")
        account = avatarId.decode() if isinstance(avatarId, bytes) else ANONYMOUS
        session = Session(account, IClient(mind), self._roster, self._desk, self._host, self._left)
        waiting = self._roster.admit(session)
        return self._made(session) if waiting is None else waiting.addCallback(lambda _: self._made(session))

    def _made(self, session: Session) -> Made:
        account = session.account
        session.avatar = self._avatar(session)
        if account != ANONYMOUS:
            kept = self._store.account(account)
            first = kept.first_seen or session.since
            self._store.remember(
                account, replace(kept, logins=kept.logins + 1, first_seen=first, last_seen=session.since)
            )
        return pb.IPerspective, session, session.logout

    def _avatar(self, session: Session) -> ClockAvatar:
        account = session.account
        if self._sharing == "connection" or account == ANONYMOUS:
            return ClockAvatar(account, self._desk, self._tally, session.client, {}, _forgotten)
        if account not in self._avatars:
            remembered = self._store.account(account).subscriptions
            self._avatars[account] = ClockAvatar(account, self._desk, self._tally, None, remembered, self._changed)
        return self._avatars[account]

    def _changed(self, avatar: ClockAvatar) -> None:
        subscriptions = {name: (each.period, each.deadband) for name, each in avatar.subscriptions.items()}
        self._store.remember(avatar.account, replace(self._store.account(avatar.account), subscriptions=subscriptions))

    def _left(self, session: Session) -> None:
        account = session.account
        if account == ANONYMOUS:
            return
        if not self._roster.sessions(account):
            self._avatars.pop(account, None)
        if self._roster.knows(account):  # else it is forgotten
            kept = self._store.account(account)
            pushes = kept.pushes + session.client.pushes
            self._store.remember(account, replace(kept, pushes=pushes, last_seen=self._roster.now()))


def _forgotten(avatar: ClockAvatar) -> None:
    """Remember nothing: a connection's subscriptions end with it."""
