"""Print the time twice a second: `subscriber.py tcp:127.0.0.1:8787 NAME`, with the secret in CLOCKD_SECRET."""

import asyncio
import os
import sys
from contextlib import suppress

from clockd.client import connect
from clockd.errors import ClockdError


async def main(endpoint: str, name: str) -> None:
    """Log in and print each stamp, and how long it was under way."""
    async with connect(endpoint, name, os.environ["CLOCKD_SECRET"]) as clock:
        async for sample in clock.samples("time", period=0.5):
            print(f"{sample.stamp:.6f}  {sample.age * 1000:.2f} ms", flush=True)


if len(sys.argv) != 3 or "CLOCKD_SECRET" not in os.environ:
    sys.exit(__doc__)
try:
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
except ClockdError as error:
    sys.exit(f"no time: {error}")
