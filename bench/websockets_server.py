"""`websockets.broadcast`: `python -m bench.websockets_server PORT SUBSCRIBERS GROUP_SIZE PERIOD MESSAGE_BYTES`.

The path that a client asks for is its group. The loop is uvloop's where that is installed. Broadcasting begins when all
subscribers are connected.
"""

import asyncio
import gc
import importlib
import importlib.util
import sys
import time
from collections import defaultdict

from websockets.asyncio.server import ServerConnection, broadcast, serve

from bench import stock
from bench.pacing import beats
from bench.protocols import payload_bytes


class Broadcaster:
    """Keeps the connections by group and sends to a group at a time.

    Args:
        subscribers: How many connections to wait for.
        period: Seconds between two messages to a group.
        padding: What follows the stamp in a message.
    """

    def __init__(self, subscribers: int, period: float, padding: bytes) -> None:
        self._awaited = subscribers
        self._period = period
        self._padding = padding
        self._groups: dict[str, list[ServerConnection]] = defaultdict(list)
        self._complete = asyncio.Event()

    async def connected(self, connection: ServerConnection) -> None:
        """Keep a connection for as long as it lasts."""
        self._groups[connection.request.path].append(connection)
        self._awaited -= 1
        if not self._awaited:
            self._complete.set()
        await connection.wait_closed()

    async def run(self) -> None:
        """Send for ever."""
        await self._complete.wait()
        groups = list(self._groups.values())
        gc.freeze()
        for group, wait in beats(len(groups), self._period):
            await asyncio.sleep(wait)
            broadcast(groups[group], stock.STAMP.pack(time.time()) + self._padding)


async def main(port: int, subscribers: int, period: float, message_bytes: int) -> None:
    """Listen, without compression and keep-alive, and broadcast."""
    padding = bytes(payload_bytes("websocket", message_bytes) - stock.STAMP.size)
    broadcaster = Broadcaster(subscribers, period, padding)
    async with serve(broadcaster.connected, "127.0.0.1", port, compression=None, ping_interval=None, backlog=1024):
        await broadcaster.run()


loop_factory = importlib.import_module("uvloop").new_event_loop if importlib.util.find_spec("uvloop") else None
with asyncio.Runner(loop_factory=loop_factory) as runner:
    runner.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[4]), int(sys.argv[5])))
