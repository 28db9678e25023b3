"""The remote clock: one for each name, with a set of current clients, all of which are pushed the time.

Start `python examples/remote_clock.py [PORT]`, and in other terminals the commands that it prints; then one of them
with another number. All clients of the name follow, and when the last one has left, the clock stops.

A `Subscription` takes the place of the how-to's `TimerService`: it grants periods within limits, refuses what is none,
and goes on whatever a client does. It pushes to a sink, and a set of sinks is one, too. A client that does not read is
held back by its own sink alone, which gives it the newest time when it reads on. It is in the set from `begin` on, so
that no stamp overtakes the answer to its login.
"""

import time
from collections import defaultdict

from serving import Example, Granted
from twisted.cred.portal import IRealm
from twisted.spread import pb
from zope.interface import implementer

from clockd.feeds import ClockFeed
from clockd.interfaces import IClient, ISession
from clockd.subscription import Newest, Subscription
from clockd.values import Limits, Sample


class RemoteClock:
    """One clock, and who looks at it."""

    def __init__(self, newest: Newest, limits: Limits) -> None:
        self.subscription = Subscription(newest, self, limits)
        self._clients: set[IClient] = set()

    def push(self, sample: Sample) -> bool:
        """Push to all clients, as the sink of their subscription."""
        for client in self._clients:
            client.push(sample)
        return True

    def attach(self, client: IClient) -> None:
        """Push to one more, which gets the time at once, and again when it has missed it and reads on."""
        self.subscription.start()
        self._clients.add(client)
        client.pull_from(lambda _: self.subscription.pull())
        client.push(self.subscription.pull())

    def detach(self, client: IClient) -> None:
        """Push to one less, and to none when it was the last."""
        self._clients.discard(client)
        if not self._clients:
            self.subscription.stop()


@implementer(ISession)
class ClientAvatar(pb.Avatar):
    """One client of a clock."""

    def __init__(self, account: str, client: IClient, clock: RemoteClock) -> None:
        self.account = account
        self._client = client
        self._clock = clock
        self._left = False

    def begin(self) -> None:
        """Look at the clock, unless the client has left meanwhile."""
        if not self._left:
            self._clock.attach(self._client)

    def logout(self) -> None:
        """Look away."""
        self._left = True
        self._clock.detach(self._client)

    def perspective_setperiod(self, period: object) -> float:
        """Have the time pushed once in so many seconds, to all who look at the clock; return what was granted."""
        return self._clock.subscription.set_period(period)


@implementer(IRealm)
class ClockRealm:
    """Keeps the clocks, and makes the avatars."""

    def __init__(self, newest: Newest, limits: Limits) -> None:
        self._clocks: defaultdict[bytes, RemoteClock] = defaultdict(lambda: RemoteClock(newest, limits))

    def requestAvatar(self, avatarId: bytes, mind: IClient, *interfaces: object) -> Granted:
        """Return an avatar for one more client of a clock."""
        avatar = ClientAvatar(avatarId.decode(), mind, self._clocks[avatarId])
        return pb.IPerspective, avatar, avatar.logout


if __name__ == "__main__":
    example = Example()
    newest = Newest(ClockFeed(time.time), example.schedule, example.tally)
    example.serve(ClockRealm(newest, example.limits), "setperiod 0.5")
