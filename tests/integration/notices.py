"""A stock PB server that sends notices: `notices.py SECRET NOTICE...`, each in JSON.

It has the account `alice`. The first login is sent the first notice when it has subscribed to `server`, the second one
the second, and so on. After `kicked` and `replaced` it publishes no more and closes the connection. Whoever is there
is pushed the time 20 times a second, whatever the period. It prints its port, then each login and call, and how a
connection ended.
"""

import json
import sys
import time

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import LoopingCall
from twisted.spread import pb
from zope.interface import implementer

PERIOD = 0.05


def say(*words):
    print(*words, flush=True)


class Avatar(pb.Avatar):
    def __init__(self, mind, notice):
        self.mind = mind
        self.notice = notice
        self.ticks = LoopingCall(self.tick)
        self.ticks.start(PERIOD, now=False)

    def tick(self):
        self.mind.callRemote("notifyTime", time.time(), pbanswer=False)

    def perspective_subscribe(self, feed, period=None, deadband=None):
        say("subscribe", feed, period)
        if feed == "server" and self.notice is not None:
            self.send(self.notice)
        return 0.0 if feed == "server" else 1.0

    def send(self, notice):
        self.mind.callRemote("notifySample", "server", 1, time.time(), notice, pbanswer=False)
        if notice["kind"] != "draining":
            self.mind.broker.transport.loseConnection()

    def perspective_setperiod(self, period, feed="time"):
        say("setperiod", feed, period)
        return period

    def perspective_exchange(self, stamp):
        raise pb.Error("this server tells no time but by pushes")  # which stock PB does not log

    def perspective_publish(self, feed, value, stamp):
        say("publish", feed, value)
        return Deferred() if self.mind.broker.transport.disconnecting else 1


@implementer(IRealm)
class Realm:
    """Makes the avatars, and has those in `avatars` that are there."""

    def __init__(self, notices=()):
        self.notices = iter(notices)
        self.avatars = set()

    def requestAvatar(self, name, mind, *interfaces):
        say("login")
        avatar = Avatar(mind, next(self.notices, None))
        self.avatars.add(avatar)

        def gone():
            self.avatars.remove(avatar)
            avatar.ticks.stop()

        return pb.IPerspective, avatar, gone


class Server(pb.PBServerFactory):
    noisy = False

    def buildProtocol(self, address):
        broker = super().buildProtocol(address)
        lost = broker.connectionLost

        def connection_lost(reason):
            say("left" if reason.check(ConnectionDone) else "lost")
            lost(reason)

        broker.connectionLost = connection_lost
        return broker


def listen(realm, secret):
    """Serve on a free port of loopback; returns its number."""
    checker = InMemoryUsernamePasswordDatabaseDontUse(alice=secret.encode())
    return reactor.listenTCP(0, Server(Portal(realm, [checker])), interface="127.0.0.1").getHost().port


if __name__ == "__main__":
    password, *words = sys.argv[1:]
    say("port", listen(Realm(json.loads(word) for word in words), password))
    reactor.run()
