"""Peers that leave while a slow checker, then a slow realm, has their login in hand; prints what is left as JSON.

Twenty stock clients, half of them cut off without ceremony, each a third of a second after it has answered the
challenge, and a second passes in the checker, and one in the realm. Everything runs on real sockets.
"""

import json
import time

from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from twisted.spread import pb

from clockd.auth import IChallengeResponse
from clockd.broker import ClockServerFactory
from clockd.desk import FeedDesk
from clockd.feeds import ClockFeed, FeedTable
from clockd.hostclock import UNKNOWN, HostClock
from clockd.logs import count_errors
from clockd.monotonic import make_monotonic
from clockd.realm import ClockRealm, Roster
from clockd.schedule import Schedule
from clockd.store import MemoryStore
from clockd.values import Limits, Rights, Tally

SLOW = 1.0


class SlowChecker:
    credentialInterfaces = (IChallengeResponse,)

    def __init__(self, seconds):
        self.seconds = seconds

    def requestAvatarId(self, credentials):
        return deferLater(reactor, self.seconds, lambda: b"alice")


class SlowRealm(ClockRealm):
    seconds = SLOW

    def requestAvatar(self, avatarId, mind, *interfaces):
        granted = super().requestAvatar(avatarId, mind, *interfaces)
        return deferLater(reactor, self.seconds, lambda: granted)


class Mind(pb.Referenceable):
    def remote_notifyTime(self, stamp):
        raise AssertionError("nobody logged in")


async def leave(port, abruptly):
    factory = pb.PBClientFactory()
    reactor.connectTCP("127.0.0.1", port, factory)
    root = await factory.getRootObject()
    _, challenger = await root.callRemote("login", b"alice")
    challenger.callRemote("respond", bytes(16), Mind()).addErrback(lambda _: None)
    await deferLater(reactor, SLOW / 3)
    transport = root.broker.transport
    transport.abortConnection() if abruptly else transport.loseConnection()


async def main():
    make_monotonic(reactor)
    tally, errors = Tally(), []
    tally.feed("time")
    globalLogPublisher.addObserver(count_errors(lambda: errors.append(1)))
    logins = 0
    rosters = []
    for checker, realm_seconds in ((SlowChecker(SLOW), 0), (SlowChecker(0), SLOW)):
        roster = Roster(Limits(), "reject", reactor, time.time, lambda _: "")
        schedule = Schedule(reactor, tally.lateness)
        feeds = FeedTable([(ClockFeed(lambda: 0.0), Rights())])
        desk = FeedDesk(feeds, schedule, Limits(), tally)
        host = HostClock(lambda: UNKNOWN, time.time, time.time, tally)
        realm = SlowRealm("connection", roster, desk, MemoryStore(), host, tally)
        realm.seconds = realm_seconds
        portal = Portal(realm, [checker])
        factory = ClockServerFactory(portal, schedule, Limits(), tally, reactor, time.time, False, lambda *_: bytes(16))
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        peers = [Deferred.fromCoroutine(leave(port.getHost().port, i % 2)) for i in range(10)]
        logins += len(await gatherResults(peers))
        await deferLater(reactor, 2 * SLOW)
        await port.stopListening()
        rosters.append(roster)
    left = {
        "logins": logins,
        "avatars": tally.avatars,
        "places": sum(len(roster._sessions) for roster in rosters),
        "delayed": len(reactor.getDelayedCalls()),
        "errors": len(errors),
        "closed": sum(tally.closed.values()),
    }
    print(json.dumps(left))
    reactor.stop()


reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
reactor.run()
