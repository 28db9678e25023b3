"""A stock client that sets the period of `time` as fast as it may: `setter.py PORT NAME SECRET HERTZ`.

Prints `MONOTONIC PERIOD` for each that was granted, when the answer has come; ends when the connection does.
"""

import sys
import time

from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.task import LoopingCall
from twisted.spread import pb

port, name, secret, hertz = sys.argv[1:]


class Mind(pb.Referenceable):
    def remote_notifyTime(self, stamp):
        pass


class Setter:
    def __init__(self, avatar):
        self.avatar = avatar
        self.number = 0
        avatar.broker.notifyOnDisconnect(reactor.stop)
        self.loop = LoopingCall.withCount(self.go_on)
        self.loop.start(0.01)

    def go_on(self, ticks):
        for _ in range(int(ticks * float(hertz) / 100)):
            self.number += 1
            call = self.avatar.callRemote("setperiod", 10 + self.number / 1000)
            call.addCallbacks(lambda granted: print(time.monotonic(), granted, flush=True), lambda _: None)


factory = pb.PBClientFactory()
reactor.connectTCP("127.0.0.1", int(port), factory)
setters = []
factory.login(UsernamePassword(name.encode(), secret.encode()), mind := Mind()).addCallbacks(
    lambda avatar: setters.append(Setter(avatar)), lambda failure: (failure.printTraceback(), reactor.stop())
)
reactor.run()
