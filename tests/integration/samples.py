"""A stock client that subscribes to feeds and prints what it gets: `samples.py PORT NAME SECRET FEEDS`.

FEEDS is a JSON object of periods by feed name; `time` is one. Prints a JSON list for each push, as it comes: the
monotonic clock, the feed, the sequence number, the stamp and the value.
"""

import json
import sys
import time

from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.spread import pb


class Mind(pb.Referenceable):
    def remote_notifyTime(self, stamp):
        show("time", None, stamp, stamp)

    def remote_notifySample(self, feed, sequence, stamp, value):
        show(feed, sequence, stamp, value)


def show(*push):
    print(json.dumps([time.monotonic(), *push]), flush=True)


async def main(port, name, secret, feeds):
    factory = pb.PBClientFactory()
    reactor.connectTCP("127.0.0.1", int(port), factory)
    avatar = await factory.login(UsernamePassword(name.encode(), secret.encode()), Mind())
    for feed, period in json.loads(feeds).items():
        await avatar.callRemote("subscribe", feed, period)
    await Deferred()


def failed(failure):
    failure.printTraceback()
    reactor.stop()


Deferred.fromCoroutine(main(*sys.argv[1:])).addErrback(failed)
reactor.run()
