"""An avatar for each name, kept for ever: it counts the greetings of all clients that ever log in under the name.

Start `python examples/greeting_avatar.py [PORT]`, and in other terminals the commands that it prints, more than once.

What clockd asks of an avatar is `ISession`: an `account`, and `begin`, called when the login's answer has been written.
The rest is as in Twisted's how-to. A call with an argument too many is answered with one sentence, and no traceback.
"""

from serving import Example, Granted
from twisted.cred.portal import IRealm
from twisted.spread import pb
from zope.interface import implementer

from clockd.interfaces import IClient, ISession


@implementer(ISession)
class GreetingAvatar(pb.Avatar):
    """What all clients of an account share."""

    def __init__(self, account: str) -> None:
        self.account = account
        self.greetings = 0

    def begin(self) -> None:
        """There is nothing to push."""

    def perspective_greet(self) -> str:
        """Greet the client."""
        self.greetings += 1
        return f"<{self.greetings}> hello {self.account}"


@implementer(IRealm)
class CachingRealm:
    """Makes an avatar at the first login of an account, and hands out the same one at each login after it."""

    def __init__(self) -> None:
        self._avatars: dict[bytes, GreetingAvatar] = {}

    def requestAvatar(self, avatarId: bytes, mind: IClient, *interfaces: object) -> Granted:
        """Return the avatar of an account; a client that leaves changes nothing."""
        avatar = self._avatars.setdefault(avatarId, GreetingAvatar(avatarId.decode()))
        return pb.IPerspective, avatar, lambda: None


if __name__ == "__main__":
    Example().serve(CachingRealm(), "greet")
