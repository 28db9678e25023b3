"""The limit for a server in Python: `python -m bench.bare_server PORT SUBSCRIBERS GROUP_SIZE PERIOD MESSAGE_BYTES`.

It waits until all subscribers are connected. Then it does nothing but `send` on one socket after the other, a group at
a time, with a fresh stamp in each message.
"""

import gc
import socket
import struct
import sys
import time

from bench.pacing import beats


def connections(port: int, count: int) -> list[socket.socket]:
    """Accept a number of connections."""
    accepted = []
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        while len(accepted) < count:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            accepted.append(sock)
    return accepted


def main(port: int, subscribers: int, group_size: int, period: float, message_bytes: int) -> None:
    """Send for ever."""
    accepted = connections(port, subscribers)
    groups = [[sock.send for sock in accepted[i : i + group_size]] for i in range(0, subscribers, group_size)]
    pack = struct.Struct(f"!d{message_bytes - 8}x").pack
    now = time.time
    gc.freeze()
    for group, wait in beats(len(groups), period):
        time.sleep(wait)
        for send in groups[group]:
            send(pack(now()))


main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
