"""Clients of RFC 5905 that exchange four timestamps, and keep the exchange of least delay.

The command line is `python -m bench.ntp_client PORT RUNS`. They begin when a line comes on the standard input, evenly
over the time between two exchanges of one of them. Each ends after eight exchanges, as many as the clock filter holds.
At the end the offset and the bound of each is printed, as JSON. There is no clock discipline and no choice between
servers: nothing of what an NTP client does later.
"""

import heapq
import json
import math
import select
import socket
import struct
import sys
import time
from typing import NamedTuple

from bench.arrivals import received, stamp_arrivals

STAGES = 8
"""Exchanges in the clock filter: NSTAGE of RFC 5905, appendix A.1.1."""

SPACING = 2.0
"""Seconds between two exchanges, as between those of a burst of NTP's (RFC 5905, section 13)."""

PHI = 15e-6
"""How much faster or slower a clock may run: PHI of RFC 5905, appendix A.1.1."""

PRECISION = 1e-6
"""Seconds; of this machine's clock as it is read here."""

SECONDS = 5.0
"""How long the last answers are waited for."""

ERA = 2_208_988_800
"""Seconds from 1900 to 1970."""

PACKET = struct.Struct("!BBbb11I")
CLIENT_OF_VERSION_4 = 4 << 3 | 3


class Sample(NamedTuple):
    """One exchange, in the order of the clock filter.

    Attributes:
        delay: Of the round trip, in seconds.
        offset: The server's clock less this one's, in seconds.
        dispersion: The largest error that is not the delay's, in seconds, when it arrived.
        arrived: When that was.
    """

    delay: float
    offset: float
    dispersion: float
    arrived: float


class Client:
    """One client.

    Args:
        port: Where the server listens.

    Attributes:
        socket: What its answers come on.
        samples: Its exchanges.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        stamp_arrivals(self.socket)
        self.samples: list[Sample] = []
        self._sent: dict[bytes, float] = {}

    def ask(self) -> None:
        """Send a request; its stamp is the last thing that is made."""
        start = PACKET.pack(CLIENT_OF_VERSION_4, *(0,) * 14)[:40]
        sent = time.time()
        stamp = fixed(sent)
        self.socket.send(start + stamp)
        self._sent[stamp] = sent

    def take(self) -> None:
        """Read an answer; the equations are those of RFC 5905, section 8."""
        data, arrived, _ = received(self.socket)
        sent = self._sent.pop(data[24:32])
        theirs, got, gave = 2.0 ** PACKET.unpack(data)[3], seconds(data[32:40]), seconds(data[40:48])
        delay = max((arrived - sent) - (gave - got), PRECISION)
        offset = ((got - sent) + (gave - arrived)) / 2
        self.samples.append(Sample(delay, offset, theirs + PRECISION + PHI * (arrived - sent), arrived))

    def result(self) -> tuple[float, float]:
        """Return the offset and its bound in seconds, as the clock filter of RFC 5905, section 10, has them.

        The bound is the synchronisation distance to the server, half the delay and the dispersion (RFC 5905, section
        4). The server's own distance from its source is not in it.
        """
        now = max(sample.arrived for sample in self.samples)
        best, *_ = stages = sorted(self.samples)
        dispersion = sum(
            (sample.dispersion + PHI * (now - sample.arrived)) / 2 ** (place + 1) for place, sample in enumerate(stages)
        )
        return best.offset, best.delay / 2 + dispersion


def fixed(moment: float) -> bytes:
    """Return a moment, in Unix seconds, as NTP's timestamp."""
    part, whole = math.modf(moment)
    return struct.pack("!II", int(whole) + ERA, int(part * 2**32))


def seconds(stamp: bytes) -> float:
    """Return NTP's timestamp in Unix seconds."""
    whole, part = struct.unpack("!II", stamp)
    return whole - ERA + part / 2**32


def answers(port: int, patience: float) -> bool:
    """Whether a server answers within so many seconds; it is asked again and again."""
    client, end = Client(port), time.monotonic() + patience
    with client.socket:
        while time.monotonic() < end:
            try:
                client.ask()
                if select.select([client.socket], [], [], 0.1)[0]:
                    client.take()
                    return True
            except ConnectionRefusedError:  # it does not listen yet
                time.sleep(0.1)
    return False


def main(port: int, runs: int) -> None:
    """Have them all exchange, and print what came of it."""
    clients = {client.socket: client for client in (Client(port) for _ in range(runs))}
    sys.stdin.readline()
    start = time.monotonic()
    due = [
        (start + SPACING * (turn + number / runs), number, client)
        for turn in range(STAGES)
        for number, client in enumerate(clients.values())
    ]
    heapq.heapify(due)
    end = start + SPACING * STAGES + SECONDS
    while time.monotonic() < end and any(len(client.samples) < STAGES for client in clients.values()):
        wait = due[0][0] - time.monotonic() if due else SECONDS
        for ready in select.select(clients, [], [], max(0.0, wait))[0]:
            clients[ready].take()
        while due and due[0][0] <= time.monotonic():
            heapq.heappop(due)[2].ask()
    print(json.dumps([client.result() for client in clients.values() if len(client.samples) == STAGES]), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
