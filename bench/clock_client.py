"""Looks at `now()` of clockd's client beside this machine's own clock.

The command line is `python -m bench.clock_client PORT NAME SECRET EACH SECONDS`. It begins when a line comes on the
standard input: for so many seconds sessions of EACH seconds follow each other. At the end it prints, as JSON, the
sessions, each a list of looks: the seconds since the program asked for the connection, and how far before and after
this machine's time the interval reaches, or null while the client knows nothing.
"""

import asyncio
import json
import math
import sys
import time

from clockd.client import ClockClient, connect

STEP = 0.02
"""Seconds between two looks."""

SHARP = 100e-6
"""Seconds that a look may take; one that took longer was interrupted, and is taken again."""

TRIES = 10

Look = tuple[float, float | None, float | None]


async def session(port: int, name: str, secret: str, seconds: float) -> list[Look]:
    """Connect, look for so many seconds, and leave."""
    begun = time.monotonic()
    looks = []
    async with connect(f"tcp:127.0.0.1:{port}", name, secret) as clock:
        while time.monotonic() - begun < seconds:
            looks.append((time.monotonic() - begun, *look(clock)))
            await asyncio.sleep(STEP)
    return looks


def look(clock: ClockClient) -> tuple[float | None, float | None]:
    """Return how far before and after this machine's time the interval reaches, in seconds.

    A negative one is wrong whenever between the two readings of this machine's clock the interval was taken.
    """
    for _ in range(TRIES):
        before = time.time()
        interval = clock.now()
        after = time.time()
        if after - before < SHARP:
            break
    if math.isinf(interval.bound):
        return None, None
    return after - interval.earliest, interval.latest - before


async def main(port: int, name: str, secret: str, each: float, seconds: float) -> None:
    """Have sessions follow each other."""
    end = time.monotonic() + seconds - each / 2
    sessions = []
    while time.monotonic() < end:
        sessions.append(await session(port, name, secret, each))
    print(json.dumps(sessions), flush=True)


sys.stdin.readline()
asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5])))
