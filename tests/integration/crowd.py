"""A stock PB server that lets everybody in and tells of sessions that it has not: `crowd.py PORT COUNT [REFUSAL]`.

It prints its port, and then what it was asked for. With a refusal, that is what it answers to both calls.
"""

import sys
import time

from twisted.internet import reactor
from twisted.spread import pb

from clockd import errors

port, count, refusal = int(sys.argv[1]), int(sys.argv[2]), "".join(sys.argv[3:])
START = time.time()


def session(number):
    return {
        "account": f"account-{number:03}" if number else "[bold]mallory\x1b[31m\u009b2J",
        "address": f"10.0.{number}.7:{40000 + number}"
        if number % 3
        else f"[2001:db8:0:1::{number:x}]:{40000 + number}",
        "periods": {"time": 1.0, "load": 0.1} if number % 2 else {"time": 0.05, "greenhouse.north": 86400.0, "x": 0.01},
        "pushes_per_second": 11.0 * number,
        "skipped": 10 * (count - number),
        "acknowledgement_seconds": number / 1000 if number % 5 else None,
        "connected_since": START - number**3,
        "new": "a key of a later version",
    }


class Root(pb.Root):
    def remote_login(self, name):
        return b"challenge", self

    def remote_respond(self, response, mind):
        return self

    def remote_subscribe(self, feed):
        return 0.0

    def remote_sessions(self, limit, sort):
        print("sessions", limit, sort, flush=True)
        if refusal:
            raise getattr(errors, refusal)("not for this account")
        return [session(number) for number in range(min(limit, count))]

    def remote_kick(self, account, reason):
        print("kick", account, reason, flush=True)
        if refusal:
            raise getattr(errors, refusal)("not for this account")
        return count


factory = pb.PBServerFactory(Root())
print("port", reactor.listenTCP(port, factory, interface="127.0.0.1").getHost().port, flush=True)
reactor.run()
