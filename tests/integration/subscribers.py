"""Stock clients, one for each period, that count: `subscribers.py PORT NAME SECRET SECONDS PERIODS`.

Each logs in as Twisted's how-to does, sets its period and counts the pushes that come within SECONDS after the answer.
Prints one JSON list, a client an item: the period, when the counting began and how long it took by the monotonic clock,
and each arrival as wall clock, monotonic clock and stamp. A period `null` leaves the server's default.
"""

import json
import sys
import time

from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.spread import pb


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
    began = time.monotonic()
    await deferLater(reactor, seconds)
    ended = time.monotonic()
    avatar.broker.transport.loseConnection()
    counted = [arrival for arrival in mind.got if began <= arrival[1] <= ended]
    return {"period": period, "began": began, "seconds": ended - began, "all": len(mind.got), "arrivals": counted}


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
