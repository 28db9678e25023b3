"""Remembers so much a second in a file, for one account and for a new one each time, until SIGTERM.

Prints lines of JSON: what the log says; how it is, a hundred times a second; at the end whether all that is in memory
is in the file. Usage: keeper.py PATH HERTZ NAME, where NAME is what its accounts' names begin with.
"""

import json
import sys
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from clockd.logs import begin_logging
from clockd.monotonic import make_monotonic
from clockd.store import SQLiteStore
from clockd.values import Remembered

TURN = 0.01
"""Seconds from one time to the next."""


class Keeper:
    def __init__(self, path, hertz, name):
        self.path = path
        self.name = name
        self.per_turn = hertz * TURN
        self.failures = 0
        self.store = self.new_store()
        self.count = 0
        self.owed = 0.0
        self.longest = 0.0
        self.turned = time.monotonic()
        self.turns = LoopingCall(self.turn)

    def new_store(self):
        return SQLiteStore(self.path, reactor, time.time, self.failed)

    def failed(self):
        self.failures += 1

    async def start(self):
        await self.store.open()
        say(opened=len(self.store._accounts), trouble=self.store.trouble)
        self.turned = time.monotonic()
        self.turns.start(TURN)

    def turn(self):
        began = time.monotonic()
        self.longest, self.turned = max(self.longest, began - self.turned), began
        self.owed += self.per_turn
        while self.owed >= 1:
            self.owed -= 1
            self.count += 1
            what = Remembered({"time": (0.5, 0.0)}, logins=self.count)
            self.store.remember(f"{self.name}-same", what)
            self.store.remember(f"{self.name}-{self.count}", what)
        moment = time.monotonic()
        say(count=self.count, moment=moment, trouble=self.store.trouble, failures=self.failures, longest=self.longest)

    async def stop(self):
        self.turns.stop()
        await self.store.close()
        other = self.new_store()
        await other.open()
        same = other._accounts == self.store._accounts
        say(whole=same and self.store.trouble is None, accounts=len(other._accounts))
        await other.close()


def say(**words):
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    make_monotonic(reactor)
    begin_logging("json", sys.stdout)
    keeper = Keeper(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(keeper.start()))
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(keeper.stop()))
    reactor.run()
