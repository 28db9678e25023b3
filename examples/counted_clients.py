"""An avatar for each name that knows how many clients it has, and says so when one comes or goes.

Start `python examples/counted_clients.py [PORT]`, and in other terminals the commands that it prints. End some of these
clients, with Ctrl-C or `kill -9`, or stop one with Ctrl-Z: after 30 seconds of silence it counts as gone, too.

The third thing that a realm returns is called exactly once for each login, however the client leaves: in good order, by
a reset, by letting go of the avatar, by being silent for too long, and even if it left before its login was done.
"""

from serving import Example, Granted
from twisted.cred.portal import IRealm
from twisted.spread import pb
from zope.interface import implementer

from clockd.interfaces import IClient, ISession


@implementer(ISession)
class CountingAvatar(pb.Avatar):
    """What all clients of an account share."""

    def __init__(self, account: str) -> None:
        self.account = account
        self._clients = 0

    def begin(self) -> None:
        """There is nothing to push."""

    def connect(self) -> None:
        """Count one who has come."""
        self._clients += 1
        print(f"{self.account} has come: {self._clients}", flush=True)

    def disconnect(self) -> None:
        """Count one who has gone."""
        self._clients -= 1
        print(f"{self.account} has gone: {self._clients}", flush=True)

    def perspective_clients(self) -> int:
        """Return how many clients there are."""
        return self._clients


@implementer(IRealm)
class CountingRealm:
    """Hands out one avatar an account, and tells it who comes and goes."""

    def __init__(self) -> None:
        self._avatars: dict[bytes, CountingAvatar] = {}

    def requestAvatar(self, avatarId: bytes, mind: IClient, *interfaces: object) -> Granted:
        """Return the avatar of an account, which has a client more from now on."""
        avatar = self._avatars.setdefault(avatarId, CountingAvatar(avatarId.decode()))
        avatar.connect()
        return pb.IPerspective, avatar, avatar.disconnect


if __name__ == "__main__":
    Example().serve(CountingRealm(), "clients")
