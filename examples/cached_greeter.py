"""A greeter for each name, kept for ever, behind an avatar for each connection that is gone with it.

Start `python examples/cached_greeter.py [PORT]`, and in other terminals the commands that it prints, more than once:
each is greeted twice, and told that this was all.

The greeter counts for all clients of a name; what concerns one connection is its avatar's: here, that it is greeted
twice at most. An error of `clockd.errors` reaches the client under its name, where
`failure.check("clockd.errors.NotPermitted")` tells it from others; any other would be logged here, and not be told.
"""

from collections import defaultdict

from serving import Example, Granted
from twisted.cred.portal import IRealm
from twisted.spread import pb
from zope.interface import implementer

from clockd.errors import NotPermitted
from clockd.interfaces import IClient, ISession

MOST = 2
"""Greetings a connection."""


class Greeter:
    """What outlives connections."""

    def __init__(self) -> None:
        self.greetings = 0

    def hello(self) -> str:
        """Return a greeting."""
        self.greetings += 1
        return f"<{self.greetings}> hello"


@implementer(ISession)
class GreetedAvatar(pb.Avatar):
    """What belongs to one connection."""

    def __init__(self, account: str, greeter: Greeter) -> None:
        self.account = account
        self._greeter = greeter
        self._left = MOST

    def begin(self) -> None:
        """There is nothing to push."""

    def perspective_greet(self) -> str:
        """Greet the client."""
        if not self._left:
            raise NotPermitted(f"a connection is greeted {MOST} times")
        self._left -= 1
        return f"{self._greeter.hello()} {self.account}"


@implementer(IRealm)
class GreeterRealm:
    """Keeps the greeters, and makes the avatars."""

    def __init__(self) -> None:
        self._greeters: defaultdict[bytes, Greeter] = defaultdict(Greeter)

    def requestAvatar(self, avatarId: bytes, mind: IClient, *interfaces: object) -> Granted:
        """Return an avatar that nobody else has."""
        return pb.IPerspective, GreetedAvatar(avatarId.decode(), self._greeters[avatarId]), lambda: None


if __name__ == "__main__":
    Example().serve(GreeterRealm(), "greet greet greet")
