"""Stock clients, one for each period, that count: `subscribers.py PORT NAME SECRET SECONDS PERIODS`.

Each logs in as Twisted's how-to does, sets its period and counts the pushes that come within SECONDS after the answer.
Prints one JSON list, a client an item: the period; how long it counted; how many pushes were stamped meanwhile by the
server's wall clock, if that is also ours; and each arrival meanwhile as wall clock, monotonic clock and stamp.
A period `null` leaves the server's default.
"""

import json
import sys
import time

from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.spread import pb

UNDER_WAY = 0.5
"""Seconds that a push may take until this process, which is busy, has looked at it."""


class Mind(pb.Referenceable):
    def __init__(self):
        self.got = []

    def remote_notifyTime(self, stamp):
        self.got.append((time.time(), time.monotonic(), stamp))


async def subscribe(port, name, secret, seconds, period):
    mind = Mind()
    factory = pb.PBClientFactory()
    reactor.connectTCP("127.0.0.1", port, factory)
    avatar = await factory.login(UsernamePassword(name.encode(), secret.encode()), mind)
    if period is not None:
        await avatar.callRemote("setperiod", period)
    began, first = time.monotonic(), time.time()
    await deferLater(reactor, seconds)
    ended, last = time.monotonic(), time.time()
    await deferLater(reactor, UNDER_WAY)
    avatar.broker.transport.loseConnection()
    counted = [arrival for arrival in mind.got if began <= arrival[1] <= ended]
    stamped = sum(first <= stamp <= last for _, _, stamp in mind.got)
    return {"period": period, "seconds": ended - began, "stamped": stamped, "arrivals": counted}


async def main(port, name, secret, seconds, periods):
    clients = [
        Deferred.fromCoroutine(subscribe(int(port), name, secret, float(seconds), period))
        for period in json.loads(periods)
    ]
    results = await gatherResults(clients)
    print(json.dumps(results))
    reactor.callLater(0.2, reactor.stop)


def failed(failure):
    failure.printTraceback()
    reactor.stop()


Deferred.fromCoroutine(main(*sys.argv[1:])).addErrback(failed)
reactor.run()
