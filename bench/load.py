"""The load generator: subscribers of one server, in a process of its own, `python -m bench.load --help`.

It is a plain loop around epoll and non-blocking sockets, so that it is never the bottleneck at 20,000 messages a
second over 1,000 connections. It is told on its standard input what to do, a word a line, and answers with a line of
JSON: by itself when all subscribers are logged in; to `start`, when it counts from zero; to `stop`, with what it
counted; to `none`, `time` or `feeds`, when all clients of clockd's feeds are subscribed to nothing, to the time, or to
their feeds. It ends when its input does. With the protocol `publish` it publishes to clockd's feeds, and counts the
answers.
"""

import argparse
import gc
import json
import os
import resource
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable

from bench.pacing import spaced
from bench.protocols import (
    SUBSCRIBERS,
    TIME,
    Counter,
    Failed,
    FeedPublisher,
    FeedSubscriber,
    Settings,
    Subscriber,
)

BUFFER_BYTES = 1 << 18

PER_ADDRESS = 5000
"""Connections from one source address; the ports of an address are about 28,000, and closed ones stay used for 60 s."""

LOOK_SECONDS = 0.0005
"""How long the load generator sleeps between two looks at its sockets.

If it waited for them, each message would wake it, unless it was busy with the one before: a slow server would pay for
more wake-ups than a fast one. Subscribers on other machines do not cost a server any. Ages are up to this much longer.
"""

PUBLISH_SECONDS = 0.001
"""How long a publisher sleeps before it publishes what has become due: as a stock one does, since its reactor, as epoll
does, waits for whole milliseconds."""

IP_BIND_ADDRESS_NO_PORT = 24
"""Linux chooses the port when it knows the destination: `linux/in.h`."""


class Load:
    """Connects subscribers and counts what they are sent.

    Args:
        address: Host and port of the server.
        tls: How to wrap connections, or None.
        subscribers: What is to be connected.
        counter: Where the subscribers count.
        in_flight: How many may be on their way to being logged in.
    """

    def __init__(
        self,
        address: tuple[str, int],
        tls: ssl.SSLContext | None,
        subscribers: list[Subscriber],
        counter: Counter,
        in_flight: int,
    ) -> None:
        self._address = address
        self._tls = tls
        self._subscribers = subscribers
        self._counter = counter
        self._in_flight = in_flight
        self._epoll = select.epoll()
        self._buffer = bytearray(BUFFER_BYTES)
        self._opening: dict[int, tuple[socket.socket, Subscriber]] = {}
        self._open: dict[int, tuple[socket.socket, Callable[[bytearray], int], Subscriber]] = {}
        self._control = sys.stdin.fileno()
        os.set_blocking(self._control, False)
        self._epoll.register(self._control, select.EPOLLIN)
        self.lost = 0
        self.why = ""
        self.cipher = ""

    def log_in(self) -> float:
        """Connect all, log them in, and return how many seconds that took."""
        start = time.monotonic()
        waiting = list(enumerate(self._subscribers))[::-1]
        under_way: list[Subscriber] = []
        while waiting or under_way:
            while waiting and len(under_way) < self._in_flight:
                index, subscriber = waiting.pop()
                self._connect(index, subscriber)
                under_way.append(subscriber)
            self._wait()
            under_way = [subscriber for subscriber in under_way if not subscriber.ready]
        return time.monotonic() - start

    def change(self, names: tuple[bytes, ...]) -> None:
        """Have all be subscribed to these feeds and no others."""
        under_way = self._subscribers
        for subscriber in under_way:
            if isinstance(subscriber, FeedSubscriber):
                subscriber.change(names)
        while under_way := [subscriber for subscriber in under_way if not subscriber.ready]:
            self._wait()

    def _wait(self) -> None:
        """Take what happens while not all are ready."""
        if self.turn(None) == "":
            raise Failed("told to end before all were ready")
        if self.lost:
            raise Failed(f"a connection was lost before all were ready: {self.why}")

    def turn(self, timeout: float | None) -> str | None:
        """Wait for something to happen and take it.

        Args:
            timeout: Seconds; None for as long as it takes.

        Returns:
            What came on the standard input, "" for its end, None for nothing.
        """
        word = None
        buffer = self._buffer
        for descriptor, _ in self._epoll.poll(timeout):
            connection = self._open.get(descriptor)
            if connection is None:
                if descriptor == self._control:
                    word = os.read(self._control, 4096).decode()
                else:
                    self._handshake(descriptor)
                continue
            sock, receive, subscriber = connection
            try:
                size = receive(buffer)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue
            except OSError as error:
                self._lose(sock, str(error))
                continue
            if size:
                self._counter.octets += size
                subscriber.take(buffer, size)
            else:
                self._lose(sock, "end of stream")
        return word

    def _connect(self, index: int, subscriber: Subscriber) -> None:
        family = socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._address[0].startswith("127."):
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((f"127.0.0.{2 + index // PER_ADDRESS}", 0))
        sock.connect_ex(self._address)
        self._opening[sock.fileno()] = sock, subscriber
        self._epoll.register(sock, select.EPOLLOUT)

    def _handshake(self, descriptor: int) -> None:
        sock, subscriber = self._opening[descriptor]
        if self._tls is not None:
            if not isinstance(sock, ssl.SSLSocket):
                sock = self._tls.wrap_socket(sock, do_handshake_on_connect=False)
                self._opening[descriptor] = sock, subscriber
            try:
                sock.do_handshake()
            except ssl.SSLWantReadError:
                self._epoll.modify(descriptor, select.EPOLLIN)
                return
            except ssl.SSLWantWriteError:
                return
            self.cipher = " ".join(map(str, sock.cipher()[:2]))
        elif error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
        del self._opening[descriptor]
        self._epoll.modify(descriptor, select.EPOLLIN)
        self._open[descriptor] = sock, sock.recv_into, subscriber
        subscriber.opened(sock)

    def _lose(self, sock: socket.socket, why: str) -> None:
        self.lost += 1
        self.why = why
        self._epoll.unregister(sock)
        del self._open[sock.fileno()]
        sock.close()


class Window:
    """What is counted from now on.

    Args:
        load: Where it comes in.
        counter: Where it is counted.
        subscribers: Where it is counted too.
    """

    def __init__(self, load: Load, counter: Counter, subscribers: list[Subscriber]) -> None:
        self._load = load
        self._counter = counter
        self._subscribers = subscribers
        self._lost = load.lost
        counter.pushes = counter.octets = 0
        counter.ages.clear()
        for subscriber in subscribers:
            subscriber.pushes = 0
        self._start = time.monotonic()
        self._cpu = time.process_time()

    def result(self) -> dict[str, object]:
        """Return what came since."""
        seconds = time.monotonic() - self._start
        cpu = time.process_time() - self._cpu
        pushes = [subscriber.pushes for subscriber in self._subscribers]
        ages = sorted(self._counter.ages)
        return {
            "messages": self._counter.pushes,
            "bytes": self._counter.octets,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "min_per_connection": min(pushes),
            "max_per_connection": max(pushes),
            "lost": self._load.lost - self._lost,
            "age_seconds": {
                name: ages[int(share * (len(ages) - 1))]
                for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
                if ages
            },
        }


def periods(options: argparse.Namespace) -> list[float | None]:
    """Return the period that each subscriber asks for; None to take the server's default."""
    count = options.connections
    if options.distinct_from is not None:
        return [*spaced(count, options.distinct_from, options.distinct_to)]
    return [None if options.no_setperiod else options.period] * count


def arguments() -> argparse.ArgumentParser:
    """Return what the command line may say."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("address", help="HOST:PORT")
    parser.add_argument("protocol", choices=SUBSCRIBERS)
    parser.add_argument("--tls", action="store_true", help="wrap connections; the certificate is not looked at")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=64, help="logins at a time")
    parser.add_argument("--group-size", type=int, default=128, help="subscribers of a topic")
    parser.add_argument("--message-bytes", type=int, default=39, help="length of a message on the wire")
    parser.add_argument("--name", default="", help="account, for pb")
    parser.add_argument("--secret", default="", help="its secret")
    parser.add_argument("--period", type=float, default=1.0, help="seconds between pushes or calls, for pb and feeds")
    parser.add_argument("--topics", type=int, default=0, help="that each subscriber has; 0 for its group's alone")
    parser.add_argument("--no-setperiod", action="store_true", help="take the server's default period")
    parser.add_argument("--distinct-from", type=float, help="ask for periods from this many seconds")
    parser.add_argument("--distinct-to", type=float, help="to this many, each subscriber for its own")
    return parser


def say(value: object) -> None:
    """Write a line of JSON."""
    print(json.dumps(value), flush=True)


def main() -> None:
    """Do what the command line and the standard input say."""
    options = arguments().parse_args()
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft_limit, hard_limit), hard_limit))
    tls = None
    if options.tls:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    settings = Settings(
        options.group_size, options.message_bytes, options.name.encode(), options.secret.encode(), options.topics
    )
    counter = Counter()
    kind = SUBSCRIBERS[options.protocol]
    subscribers = [kind(settings, index, period, counter) for index, period in enumerate(periods(options))]
    host, _, port = options.address.rpartition(":")
    load = Load((host, int(port)), tls, subscribers, counter, options.in_flight)
    cpu = time.process_time()
    seconds = load.log_in()
    cpu = time.process_time() - cpu
    gc.freeze()
    gc.disable()
    say({"ready": len(subscribers), "login_seconds": seconds, "login_cpu_seconds": cpu, "cipher": load.cipher})
    window = Window(load, counter, subscribers)
    publishers = [subscriber for subscriber in subscribers if isinstance(subscriber, FeedPublisher)]
    pause = PUBLISH_SECONDS if publishers else LOOK_SECONDS
    changes = {"none": (), "time": (TIME,), "feeds": settings.names}
    while (words := load.turn(0)) != "":
        for publisher in publishers:
            publisher.publish_due()
        time.sleep(pause)
        for word in (words or "").split():
            if word == "start":
                window = Window(load, counter, subscribers)
                say({})
            elif word == "stop":
                say(window.result())
            else:
                load.change(changes[word])
                say({})


main()
