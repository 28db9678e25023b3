"""Publishes to a broker: `python -m bench.publisher PORT SUBSCRIBERS GROUP_SIZE PERIOD PROTOCOL MESSAGE_BYTES`.

A message goes to the topic of each group once a period; the broker hands it to the group's members.
"""

import gc
import socket
import sys
import time

from bench import stock
from bench.pacing import beats
from bench.protocols import around, payload_bytes, topic

GREETINGS = {
    "mqtt": b"\x10\x15\0\4MQTT\4\2\0\0\0\x09publisher",
    "nats": b'CONNECT {"verbose":false,"pedantic":false}\r\n',
    "redis": b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n",
}
"""What is said first. Redis is asked not to answer, so that it spends nothing on that."""


def framed(protocol: str, name: bytes, size: int) -> tuple[bytes, bytes]:
    """Return what goes before and after the payload of a message to a topic."""
    if protocol == "nats":
        return b"PUB %b %d\r\n" % (name, size), b"\r\n"
    if protocol == "redis":
        return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, size), b"\r\n"
    return around(protocol, name, size)


def heed(sock: socket.socket) -> None:
    """Read what the broker says; NATS leaves a client that does not answer its pings."""
    try:
        if b"PING" in sock.recv(65536, socket.MSG_DONTWAIT):
            sock.sendall(b"PONG\r\n")
    except BlockingIOError:
        pass


def main(port: int, subscribers: int, group_size: int, period: float, protocol: str, message_bytes: int) -> None:
    """Publish for ever."""
    size = payload_bytes(protocol, message_bytes)
    padding = bytes(size - stock.STAMP.size)
    groups = -(-subscribers // group_size)
    frames = [framed(protocol, topic(group), size) for group in range(groups)]
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(GREETINGS[protocol])
    gc.freeze()
    for group, wait in beats(groups, period):
        time.sleep(wait)
        before, after = frames[group]
        sock.sendall(before + stock.STAMP.pack(time.time()) + padding + after)
        heed(sock)


main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5], int(sys.argv[6]))
