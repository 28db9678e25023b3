"""Looks at `now()` of clockd's client beside this machine's own clock.

The command line is `python -m bench.clock_client PORT NAME SECRET EACH SECONDS`. It begins when a line comes on the
standard input: for so many seconds sessions of EACH seconds follow each other. At the end it prints, as JSON, the
sessions, each a list of looks.
"""

import asyncio
import json
import sys
import time

from clockd.client import ClockClient, connect

STEP = 0.02
"""Seconds between two looks."""

SHARP = 100e-6
"""Seconds that a look may take; one that took longer was interrupted, and is taken again."""

TRIES = 10

Look = tuple[float, float, float, bool]
"""Seconds since a connection was asked for, the offset, its bound, and whether the interval has this machine's time."""


async def session(port: int, name: str, secret: str, seconds: float) -> list[Look]:
    """Connect, look for so many seconds, and leave; looks at which the client knew nothing are left out."""
    begun = time.monotonic()
    looks = []
    async with connect(f"tcp:127.0.0.1:{port}", name, secret) as clock:
        while (age := time.monotonic() - begun) < seconds:
            seen = look(clock)
            if seen is not None:
                looks.append((age, *seen))
            await asyncio.sleep(STEP)
    return looks


def look(clock: ClockClient) -> tuple[float, float, bool] | None:
    """Return the offset, the bound, and whether the interval has a time that this machine's clock has shown meanwhile.

    Returns:
        None if the client knows nothing.
    """
    for _ in range(TRIES):
        before = time.time()
        interval = clock.now()
        after = time.time()
        if after - before < SHARP:
            break
    if interval.offset is None:
        return None
    return interval.offset, interval.bound, interval.earliest <= after and interval.latest >= before


async def main(port: int, name: str, secret: str, each: float, seconds: float) -> None:
    """Have sessions follow each other."""
    end = time.monotonic() + seconds - each / 2
    sessions = []
    while time.monotonic() < end:
        sessions.append(await session(port, name, secret, each))
    print(json.dumps(sessions), flush=True)


sys.stdin.readline()
asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5])))
