"""A network of known delays between processes of one machine: `python -m bench.relay --help`.

What comes is sent on when its delay is over: over TCP in the order in which it came, over UDP each datagram by itself.
Connections are made at once. At the end of its standard input it prints, as JSON, how many seconds late the
sending of each message began, by its way.

Rules of this module: a delay counts from the kernel's stamp of the arrival, so that the time until the relay was woken
is part of it; for the last `SPIN` seconds before something is due the relay does not sleep, nor look at what comes.
"""

import argparse
import contextlib
import heapq
import itertools
import json
import random
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator

from bench.arrivals import received, stamp_arrivals

HOST = "127.0.0.1"

SPIN = 0.0003
"""Seconds before something is due from which the relay does not sleep: the kernel may wake it that much later."""

ADDRESSES = 128
"""UDP addresses that are remembered; a client that asks from a new one each time would take a descriptor for each."""


def delays(fixed: float, jitter: float, seed: int) -> Iterator[float]:
    """Yield the delay of one message after the other: a fixed part, and an exponential one of that mean."""
    chance = random.Random(seed)
    while True:
        yield fixed + (chance.expovariate(1 / jitter) if jitter else 0.0)


class Relay:
    """Sends on what comes.

    Args:
        delays: Makes the delays of messages for a way, `there` to the server or `back` from it; each protocol has its
            own, so that both have the same.

    Attributes:
        late: How many seconds late the sending of each message began, by its way; where its receiver is woken on the
            relay's own core, the end of it says more about the receiver.
    """

    def __init__(self, delays: Callable[[str], Iterator[float]]) -> None:
        self._delays = delays
        self._readers: dict[socket.socket, Callable[[], None]] = {}
        self._due: list[tuple[float, int, str, Callable[[bytes], object], bytes]] = []
        self._number = itertools.count()
        self.late: dict[str, list[float]] = {"there": [], "back": []}

    def run(self) -> None:
        """Send on until the standard input ends."""
        while True:
            wait = self._due[0][0] - time.time() - SPIN if self._due else None
            if wait is not None and wait <= 0:
                self._send(*heapq.heappop(self._due))
                wait = 0.0
            ready = select.select([*self._readers, sys.stdin], [], [], wait)[0]
            if sys.stdin in ready:
                return
            for source in ready:
                if source in self._readers:  # else one before has let go of it
                    self._readers[source]()

    def _send(self, due: float, _: int, way: str, send: Callable[[bytes], object], data: bytes) -> None:
        while (now := time.time()) < due:
            pass
        self.late[way].append(now - due)
        with contextlib.suppress(OSError):  # the other side has gone
            send(data)

    def _later(self, due: float, way: str, send: Callable[[bytes], object], data: bytes) -> None:
        heapq.heappush(self._due, (due, next(self._number), way, send, data))

    def tcp(self, port: int, to: int) -> None:
        """Pass connections to a port on to another port."""
        listener = socket.create_server((HOST, port))
        there, back = self._delays("there"), self._delays("back")

        def look() -> None:
            near, far = listener.accept()[0], socket.create_connection((HOST, to))
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pipe(near, far, "there", there)
            self._pipe(far, near, "back", back)

        self._readers[listener] = look

    def _pipe(self, source: socket.socket, sink: socket.socket, way: str, delays: Iterator[float]) -> None:
        last = 0.0

        def look() -> None:
            nonlocal last
            try:
                data, arrived, _ = received(source)
            except ConnectionError:
                data, arrived = b"", time.time()
            last = max(last, arrived + next(delays))
            if data:
                self._later(last, way, sink.sendall, data)
            else:
                del self._readers[source]
                self._later(last, way, lambda _: sink.shutdown(socket.SHUT_WR), data)

        stamp_arrivals(source)
        self._readers[source] = look

    def udp(self, port: int, to: int) -> None:
        """Pass datagrams to a port on to another port, and what is answered back to where they came from."""
        near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        near.bind((HOST, port))
        there, back = self._delays("there"), self._delays("back")
        known: dict[tuple[str, int], socket.socket] = {}

        def look() -> None:
            data, arrived, address = received(near)
            far = known.pop(address, None) or self._far(near, address, to, back)
            known[address] = far
            self._later(arrived + next(there), "there", far.send, data)
            if len(known) > ADDRESSES:
                oldest = known.pop(next(iter(known)))
                del self._readers[oldest]
                oldest.close()

        stamp_arrivals(near)
        self._readers[near] = look

    def _far(self, near: socket.socket, address: tuple[str, int], to: int, delays: Iterator[float]) -> socket.socket:
        far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        far.connect((HOST, to))

        def look() -> None:
            with contextlib.suppress(ConnectionError):  # nobody listens there
                data, arrived, _ = received(far)
                self._later(arrived + next(delays), "back", lambda data: near.sendto(data, address), data)

        stamp_arrivals(far)
        self._readers[far] = look
        return far


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("--there", type=float, required=True, help="seconds to the server")
    parser.add_argument("--back", type=float, required=True, help="seconds from the server")
    parser.add_argument("--jitter", type=float, default=0.0, help="mean of what chance adds to each, in seconds")
    parser.add_argument("--seed", type=int, default=1, help="of chance")
    parser.add_argument("--tcp", type=int, nargs=2, metavar=("PORT", "TO"), help="where connections come, and go to")
    parser.add_argument("--udp", type=int, nargs=2, metavar=("PORT", "TO"), help="where datagrams come, and go to")
    options = parser.parse_args()
    fixed = {"there": options.there, "back": options.back}
    seeds = {"there": 2 * options.seed, "back": 2 * options.seed + 1}
    relay = Relay(lambda way: delays(fixed[way], options.jitter, seeds[way]))
    if options.udp:
        relay.udp(*options.udp)
    if options.tcp:
        relay.tcp(*options.tcp)
    relay.run()
    print(json.dumps(relay.late), flush=True)


main()
