"""One subscriber that remembers every push: `python -m bench.witness PORT NAME SECRET PERIOD`.

It says `ready` when it is logged in. At the end of its standard input it prints, as JSON, the stamp of each push and
when it was read, both in Unix seconds.
"""

import json
import select
import socket
import sys
import time

from bench import stock
from bench.protocols import Counter, PBSubscriber, Settings


class Witness(PBSubscriber):
    """A subscriber that remembers.

    Attributes:
        pushed: The stamp of each push, and when it was read.
    """

    __slots__ = ("pushed",)

    pushed: list[tuple[float, float]]

    def _count(self, data: bytearray, stamp_at: int) -> None:
        self.pushed.append((stock.STAMP.unpack_from(data, stamp_at)[0], time.time()))


def main(port: int, name: str, secret: str, period: float) -> None:
    """Log in, and remember until the standard input ends."""
    witness = Witness(Settings(1, stock.PUSH_BYTES, name.encode(), secret.encode()), 0, period, Counter())
    witness.pushed = []
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    witness.opened(sock)
    buffer = bytearray(1 << 16)
    said = False
    while sys.stdin not in select.select([sock, sys.stdin], [], [])[0]:
        size = sock.recv_into(buffer)
        if not size:
            sys.exit("the server closed the connection")
        witness.take(buffer, size)
        if witness.ready and not said:
            said = True
            print("ready", flush=True)
    print(json.dumps(witness.pushed), flush=True)


main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
