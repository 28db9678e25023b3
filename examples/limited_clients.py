"""An avatar for each name, for two clients at a time: one more is refused, until one has left.

Start `python examples/limited_clients.py [PORT]`, and in other terminals the commands that it prints, three at a time.

A `Roster` counts the clients of each account. `admit` raises `TooManyConnections`, which ends the login: it reaches the
client under that name, and `clockd_logins_total{method="secret",result="limit"}` counts it. What `admit` returns gives
the place back; so it is the logout, which clockd calls exactly once.
"""

from serving import Example, Granted
from twisted.cred.portal import IRealm
from twisted.spread import pb
from zope.interface import implementer

from clockd.interfaces import ISession, ISink
from clockd.realm import Roster

MOST = 2
"""Clients an account, at a time."""


@implementer(ISession)
class GreetingAvatar(pb.Avatar):
    """What all clients of an account share."""

    def __init__(self, account: str) -> None:
        self.account = account

    def begin(self) -> None:
        """There is nothing to push."""

    def perspective_greet(self) -> str:
        """Greet the client."""
        return f"hello {self.account}"


@implementer(IRealm)
class LimitedRealm:
    """Lets so many clients in, and no more."""

    def __init__(self, most: int) -> None:
        self._roster = Roster(most)
        self._avatars: dict[bytes, GreetingAvatar] = {}

    def requestAvatar(self, avatarId: bytes, mind: ISink, *interfaces: object) -> Granted:
        """Return the avatar of an account, if there is a place left."""
        account = avatarId.decode()
        leave = self._roster.admit(account)
        return pb.IPerspective, self._avatars.setdefault(avatarId, GreetingAvatar(account)), leave


if __name__ == "__main__":
    Example().serve(LimitedRealm(MOST), "greet")
