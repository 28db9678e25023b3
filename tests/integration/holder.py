"""Stock clients of one account: `holder.py PORT NAME SECRET`.

Reads commands, and answers each with a line of JSON: `login COUNT` logs in so many at a time, and tells how many got
in and how many were refused for what; `abort` has the one that has been in for longest leave with a reset; `in` tells
how many are connected.
"""

import json
import sys

from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineReceiver
from twisted.spread import pb

port, name, secret = sys.argv[1:]


class Mind(pb.Referenceable):
    def remote_notifyTime(self, stamp):
        pass


class Commands(LineReceiver):
    delimiter = b"\n"

    def __init__(self):
        self.minds = []
        self.avatars = []

    def lineReceived(self, line):
        command, *words = line.decode().split()
        getattr(self, f"command_{command}")(*map(int, words))

    def command_login(self, count):
        DeferredList([self.login() for _ in range(count)], consumeErrors=True).addCallback(self.told)

    def command_abort(self):
        self.avatars.pop(0).broker.transport.abortConnection()
        print(json.dumps(len(self.avatars)), flush=True)

    def command_in(self):
        self.avatars = [avatar for avatar in self.avatars if not avatar.broker.disconnected]
        print(json.dumps(len(self.avatars)), flush=True)

    def login(self):
        factory = pb.PBClientFactory()
        reactor.connectTCP("127.0.0.1", int(port), factory)
        self.minds.append(Mind())
        return factory.login(UsernamePassword(name.encode(), secret.encode()), self.minds[-1])

    def told(self, results):
        found = {}
        for success, result in results:
            if success:
                self.avatars.append(result)
            kind = "in" if success else result.type.decode() if isinstance(result.type, bytes) else str(result.type)
            found[kind] = found.get(kind, 0) + 1
        print(json.dumps(found), flush=True)

    def connectionLost(self, reason):
        if reactor.running:
            reactor.stop()


StandardIO(Commands())
reactor.run()
