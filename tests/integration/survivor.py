"""A client of the library that stays, whatever happens: `survivor.py PORT NAME SECRET PERIOD`.

Fifty times a second it looks whether the interval of `now()` has the time of this machine, which is the server's too.
To `report` on its standard input it answers with what it has seen, as JSON; to `leave` it closes the client, says what
is left of it, and ends.
"""

import gc
import json
import math
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall, react
from twisted.logger import LogLevel, globalLogPublisher
from twisted.protocols.basic import LineReceiver

from clockd.client import connect

LOOK_SECONDS = 0.02
MOST_TOLD = 5


class Ears(LineReceiver):
    delimiter = b"\n"

    def __init__(self, survivor):
        self.survivor = survivor
        self.closed = Deferred()

    def connectionLost(self, reason):
        self.closed.callback(None)

    def lineReceived(self, line):
        if line == b"leave":
            self.survivor.leave.callback(None)
        else:
            self.say(self.survivor.report())

    def say(self, what):
        self.sendLine(json.dumps(what).encode())


class Survivor:
    def __init__(self, reactor, new_clock, period):
        self.reactor = reactor
        self.new_clock = new_clock
        self.period = period
        self.clock = None
        self.leave = Deferred()
        self.samples = 0
        self.looks = Counter()
        self.kinds = Counter()
        self.wrong = []
        self.errors = []
        globalLogPublisher.addObserver(self.heard)

    def heard(self, event):
        if event["log_level"] >= LogLevel.error:
            self.errors.append(str(event.get("log_failure") or event.get("log_format")))

    async def stay(self):
        ears = Ears(self)
        StandardIO(ears)
        async with self.new_clock():
            pass  # the first one makes what the process keeps
        before = self.held()
        self.clock = self.new_clock()
        async with self.clock:
            tasks = [Deferred.fromCoroutine(task) for task in (self.iterate(), self.follow())]
            looking = LoopingCall(self.look)
            looking.start(LOOK_SECONDS).addErrback(lambda failure: self.errors.append(str(failure)))
            ears.say("connected")
            await self.leave
            looking.stop()
        for task in tasks:
            await task
        del tasks, looking, task
        self.clock = None
        ears.say(self.report() | {"before": before})
        ears.transport.loseConnection()
        await ears.closed

    async def iterate(self):
        async for _ in self.clock.samples("time", period=self.period):
            self.samples += 1

    async def follow(self):
        async for event in self.clock.events():
            self.kinds[event.kind] += 1

    def look(self):
        before = time.time()
        interval = self.clock.now()
        after = time.time()
        connected = "connected" if self.clock.connected else "not connected"
        self.looks[f"{connected}, {interval.status}, {'infinite' if math.isinf(interval.bound) else 'finite'}"] += 1
        if not (interval.earliest <= after and interval.latest >= before):
            self.wrong.append([before, interval.earliest - before, interval.latest - before, connected])

    def held(self):
        gc.collect()
        return {
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
            "delayed calls": len(self.reactor.getDelayedCalls()),
            "deferreds": sum(isinstance(each, Deferred) for each in gc.get_objects()),
        }

    def report(self):
        return {
            "samples": self.samples,
            "looks": self.looks,
            "events": self.kinds,
            "wrong": self.wrong[:MOST_TOLD],
            "errors": self.errors[:MOST_TOLD],
            "held": self.held(),
        }


async def main(reactor):
    port, name, secret, period = sys.argv[1:]
    new_clock = partial(connect, f"tcp:127.0.0.1:{port}", name, secret, timeout=3, reactor=reactor)
    await Survivor(reactor, new_clock, float(period)).stay()


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
