"""What Twisted's how-to of Perspective Broker leads to: `python -m bench.howto_server PORT`.

A realm, an avatar for each client with a `TimerService` of its own, a `callRemote` for each push and an answer to each
of them. The account is `bench` with the secret `bench`.
"""

import sys
import time

from twisted.application.internet import TimerService
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.spread import pb
from zope.interface import implementer


class ClockAvatar(pb.Avatar):
    """A client's perspective; it pushes the time to the client's mind."""

    def __init__(self, client):
        self.client = client
        self.start(1.0)

    def start(self, period):
        """Push once a period."""
        self.timer = TimerService(period, self.push)
        self.timer.startService()

    def push(self):
        """Push the time; the timer does not wait for the answer, else it would push less often than was asked for."""
        self.client.callRemote("notifyTime", time.time()).addErrback(lambda _: None)

    def perspective_setperiod(self, period):
        """Begin anew at another period."""
        self.timer.stopService()
        self.start(period)
        return period

    def logout(self):
        """Push no more."""
        self.timer.stopService()


@implementer(IRealm)
class ClockRealm:
    """Makes an avatar for each login."""

    def requestAvatar(self, avatarId, mind, *interfaces):
        """Return an avatar and what ends it."""
        avatar = ClockAvatar(mind)
        return pb.IPerspective, avatar, avatar.logout


portal = Portal(ClockRealm(), [InMemoryUsernamePasswordDatabaseDontUse(bench=b"bench")])
reactor.listenTCP(int(sys.argv[1]), pb.PBServerFactory(portal), backlog=1024, interface="127.0.0.1")
reactor.run()
