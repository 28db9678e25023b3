"""Asks a client for the time, a hundred times a second: timekeeping.py ENDPOINT NAME SECRET PERIOD.

The server is on this host, so the true time is this host's. For each line that it is given it prints one of JSON: what
was found since the line before, and how it is now. A broken line ends it.
"""

import asyncio
import json
import sys
import time
from collections import Counter

from clockd.client import connect

EVERY = 0.01
"""Seconds between two looks."""


class Found:
    """What was found since the last line.

    Attributes:
        wrong: By how many seconds the true time was outside the interval, each time that it was.
        statuses: How often each was seen.
        bounds: Those that were finite, in seconds.
        offsets: How far the middle of the interval was from this host's clock, in seconds.
        unknown: How often nothing was known.
        arrived: How many samples.
        events: Their kinds.
    """

    def __init__(self):
        self.wrong = []
        self.statuses = Counter()
        self.bounds = []
        self.offsets = []
        self.unknown = 0
        self.arrived = 0
        self.events = []

    def look(self, clock):
        before = time.time()
        now = clock.now()
        after = time.time()
        if now.earliest > after or now.latest < before:
            self.wrong.append(max(now.earliest - after, before - now.latest))
        self.statuses[now.status] += 1
        if now.offset is None:
            self.unknown += 1
        else:
            self.bounds.append(now.bound)
            self.offsets.append(abs(now.offset))

    def told(self, clock):
        return {
            "wrong": self.wrong,
            "statuses": self.statuses,
            "bound": max(self.bounds, default=None),
            "offset": max(self.offsets, default=None),
            "unknown": self.unknown,
            "arrived": self.arrived,
            "events": self.events,
            "connected": clock.connected,
            "trouble": clock.trouble,
            "round_trip": clock.round_trip,
        }


class Program:
    def __init__(self, clock, period):
        self.clock = clock
        self.period = period
        self.found = Found()

    async def look(self):
        while True:
            self.found.look(self.clock)
            await asyncio.sleep(EVERY)

    async def take(self):
        async for _ in self.clock.samples(period=self.period):
            self.found.arrived += 1

    async def note(self):
        async for event in self.clock.events():
            self.found.events.append(event.kind)

    async def answer(self):
        """Answer each line; ends at the end of the input."""
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        print("ready", flush=True)
        while await lines.readline():
            found, self.found = self.found, Found()
            print(json.dumps(found.told(self.clock)), flush=True)


async def main(endpoint, name, secret, period):
    async with connect(endpoint, name, secret) as clock:
        program = Program(clock, float(period))
        others = [asyncio.create_task(work()) for work in (program.look, program.take, program.note)]
        answering = asyncio.create_task(program.answer())
        await asyncio.wait([answering, *others], return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            if task.done():
                await task
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
