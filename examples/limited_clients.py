"""Two clients of an account at a time: one more is refused, until one has left.

Start `python examples/limited_clients.py [PORT]`, and in other terminals the commands that it prints, three at a time.

A `Roster` knows the sessions of each account. `admit` raises `TooManyConnections`, which ends the login: it reaches the
client under that name, and `clockd_logins_total{method="secret",result="limit"}` counts it. `leave` gives the place
back; so it is the logout, which clockd calls exactly once, however a client leaves.
"""

import time

from serving import Example, Granted
from twisted.cred.portal import IRealm
from twisted.internet import reactor
from twisted.spread import pb
from zope.interface import implementer

from clockd.interfaces import IClient, ISession
from clockd.realm import Roster
from clockd.values import Limits


@implementer(ISession)
class GreetingAvatar(pb.Avatar):
    """One client of an account."""

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

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def requestAvatar(self, avatarId: bytes, mind: IClient, *interfaces: object) -> Granted:
        """Return an avatar for one more client, if there is a place left."""
        avatar = GreetingAvatar(avatarId.decode())
        self._roster.admit(avatar)
        return pb.IPerspective, avatar, lambda: self._roster.leave(avatar)


if __name__ == "__main__":
    limits = Limits(connections_per_account=2)
    Example().serve(LimitedRealm(Roster(limits, "reject", reactor, time.time, lambda _: "")), "greet")
