"""The subscriber's side of each protocol of the comparison: how it logs in, and how it tells a push from the rest.

Rules of this module: what runs once a push is cheap, so that the load generator is never the bottleneck; nothing is
lost where a segment ends in the middle of a message.
"""

import socket
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from bench import stock

STRIDE = 17
"""Every so-manieth push has its age taken; a prime, so that the sample walks through the connections."""

TOPIC_BASE = 36

TIME = b"time"
"""The feed that a client of clockd has from the start."""

PIPELINED = 1000
"""As many calls of a publisher may be without an answer; those for which there is no room are left out."""


class Failed(Exception):
    """A server did what the load generator cannot make sense of."""


@dataclass(slots=True)
class Counter:
    """What has come over all connections.

    Attributes:
        pushes: Messages.
        octets: Bytes, whatever they were.
        ages: Seconds from stamp to arrival of a sample of the pushes.
    """

    pushes: int = 0
    octets: int = 0
    ages: list[float] = field(default_factory=list)


class Settings(NamedTuple):
    """What all subscribers of a run have in common.

    Attributes:
        group_size: How many subscribers share a topic.
        message_bytes: Length of a message on the wire.
        name: The account, for PB.
        secret: Its secret.
        topics: How many topics or feeds each subscriber has; 0 for its group's topic alone, or for the time.
    """

    group_size: int
    message_bytes: int
    name: bytes
    secret: bytes
    topics: int = 0

    @property
    def names(self) -> tuple[bytes, ...]:
        """The topics that each subscriber has."""
        return tuple(map(topic, range(self.topics)))


def topic(group: int) -> bytes:
    """Return a group's topic: two characters for the first 1,296 groups."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return (digits[group // TOPIC_BASE] + digits[group % TOPIC_BASE]).encode()


def around(protocol: str, name: bytes, payload_bytes: int) -> tuple[bytes, bytes]:
    """Return what a subscriber receives before and after the payload of a message.

    Args:
        protocol: One of `mqtt`, `nats`, `redis`, `websocket`, `raw`.
        name: The topic, for brokers.
        payload_bytes: Length of the payload, below 126.
    """
    if protocol == "mqtt":  # PUBLISH, QoS 0
        return bytes([0x30, 2 + len(name) + payload_bytes, 0, len(name)]) + name, b""
    if protocol == "nats":
        return b"MSG %b 1 %d\r\n" % (name, payload_bytes), b"\r\n"
    if protocol == "redis":
        return b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, payload_bytes), b"\r\n"
    if protocol == "websocket":  # one binary frame, not masked
        return bytes([0x82, payload_bytes]), b""
    return b"", b""


def payload_bytes(protocol: str, message_bytes: int) -> int:
    """Return the length of a payload that makes messages of a length on the wire, or of the stamp alone at least."""
    fits = [
        size
        for size in range(stock.STAMP.size, message_bytes + 1)
        if size + sum(map(len, around(protocol, topic(0), size))) <= message_bytes
    ]
    return max(fits, default=stock.STAMP.size)


class Subscriber:
    """One connection.

    Args:
        settings: What it has in common with the others.
        index: Its number.
        period: Seconds between pushes that it asks for, or None to take what there is; for PB.
        counter: Where pushes are counted.

    Attributes:
        ready: Whether it is logged in and subscribed.
        pushes: Messages that came.
    """

    __slots__ = ("_carry", "_counter", "_index", "_period", "_settings", "_sock", "pushes", "ready")

    def __init__(self, settings: Settings, index: int, period: float | None, counter: Counter) -> None:
        self._settings = settings
        self._index = index
        self._period = period
        self._counter = counter
        self._carry = bytearray()
        self.ready = False
        self.pushes = 0

    def opened(self, sock: socket.socket) -> None:
        """Begin: the connection stands."""
        self._sock = sock

    def take(self, data: bytearray, size: int) -> None:
        """Take what was read.

        Args:
            data: The buffer, which the caller uses again.
            size: How many bytes of it were read.
        """
        if self._carry:
            data = self._carry + data[:size]
            size = len(data)
        at = 0
        while at < size:
            end = self._push_at(data, at, size) or self._other_at(data, at, size)
            if not end:
                break
            at = end
        self._carry = data[at:size]

    def _count(self, data: bytearray, stamp_at: int) -> None:
        self.pushes += 1
        counter = self._counter
        counter.pushes += 1
        if not counter.pushes % STRIDE:
            counter.ages.append(time.time() - stock.STAMP.unpack_from(data, stamp_at)[0])

    def _push_at(self, data: bytearray, at: int, size: int) -> int:
        """Count a push and return where it ends, or 0 if there is no whole push."""
        raise NotImplementedError

    def _other_at(self, data: bytearray, at: int, size: int) -> int:
        """Take another message and return where it ends, or 0 if it is not complete."""
        raise NotImplementedError

    def _write(self, data: bytes) -> None:
        if self._sock.send(data) != len(data):
            raise Failed("the server reads too little of what it is sent")


class FixedSubscriber(Subscriber):
    """A connection whose pushes all begin alike and have one length; by itself the protocol `raw`."""

    __slots__ = ("_bytes", "_prefix", "_stamp_at", "_topics")

    protocol = "raw"

    def __init__(self, settings: Settings, index: int, period: float | None, counter: Counter) -> None:
        super().__init__(settings, index, period, counter)
        self._topics = settings.names or (topic(index // settings.group_size),)
        size = payload_bytes(self.protocol, settings.message_bytes)
        before, after = around(self.protocol, self._topics[0], size)
        self._prefix = before.rpartition(self._topics[0])[0] if settings.topics else before
        self._stamp_at = len(before)
        self._bytes = len(before) + size + len(after)

    def opened(self, sock: socket.socket) -> None:
        """Wait for pushes: nothing is to be said."""
        super().opened(sock)
        self.ready = True

    def _push_at(self, data: bytearray, at: int, size: int) -> int:
        end = at + self._bytes
        if end > size or not data.startswith(self._prefix, at):
            return 0
        self._count(data, at + self._stamp_at)
        return end

    def _other_at(self, data: bytearray, at: int, size: int) -> int:
        return 0

    def _expect(self, expected: bytes, data: bytearray, at: int, size: int) -> int:
        """Return where an expected message ends, or 0 if it is not complete."""
        if data.startswith(self._prefix[: size - at], at):
            return 0
        if not expected.startswith(data[at : min(size, at + len(expected))]):
            raise Failed(f"{self.protocol}: {bytes(data[at:size])!r} came, and not {expected!r}")
        return at + len(expected) if at + len(expected) <= size else 0


class MQTTSubscriber(FixedSubscriber):
    """A subscriber of an MQTT 3.1.1 broker, quality of service 0, without keep-alive."""

    __slots__ = ("_connected",)

    protocol = "mqtt"

    def opened(self, sock: socket.socket) -> None:
        """Connect with a clean session."""
        self._sock = sock
        self._connected = False
        name = b"c%d" % self._index
        self._write(bytes([0x10, 12 + len(name)]) + b"\0\4MQTT\4\2\0\0\0" + bytes([len(name)]) + name)

    def _other_at(self, data: bytearray, at: int, size: int) -> int:
        if not self._connected:
            end = self._expect(b"\x20\2\0\0", data, at, size)
            if end:
                self._connected = True
                filters = b"".join(bytes([0, len(name)]) + name + b"\0" for name in self._topics)
                count = 2 + len(filters)
                self._write(bytes([0x82, count] if count < 128 else [0x82, count & 127 | 128, count >> 7]))
                self._write(b"\0\1" + filters)
            return end
        granted = bytes(len(self._topics))
        end = self._expect(bytes([0x90, 2 + len(granted), 0, 1]) + granted, data, at, size)
        self.ready = self.ready or bool(end)
        return end


class NATSSubscriber(FixedSubscriber):
    """A subscriber of a NATS server; it answers the server's pings."""

    __slots__ = ()

    protocol = "nats"

    def opened(self, sock: socket.socket) -> None:
        """Subscribe; the server's PONG tells that it is done."""
        self._sock = sock
        (name,) = self._topics
        self._write(b'CONNECT {"verbose":false,"pedantic":false}\r\nSUB %b 1\r\nPING\r\n' % name)

    def _other_at(self, data: bytearray, at: int, size: int) -> int:
        found = data.find(b"\r\n", at, size)
        if found < 0 or data.startswith(b"MSG ", at):
            return 0
        line = bytes(data[at:found])
        if line == b"PONG":
            self.ready = True
        elif line == b"PING":
            self._write(b"PONG\r\n")
        elif not line.startswith(b"INFO "):
            raise Failed(f"nats: {line!r}")
        return found + 2


class RedisSubscriber(FixedSubscriber):
    """A subscriber of a Redis channel."""

    __slots__ = ()

    protocol = "redis"

    def opened(self, sock: socket.socket) -> None:
        """Subscribe."""
        self._sock = sock
        channels = b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in self._topics)
        self._write(b"*%d\r\n$9\r\nSUBSCRIBE\r\n%b" % (1 + len(self._topics), channels))

    def _other_at(self, data: bytearray, at: int, size: int) -> int:
        answer = b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:%d\r\n"
        answers = (answer % (len(name), name, number) for number, name in enumerate(self._topics, 1))
        end = self._expect(b"".join(answers), data, at, size)
        self.ready = self.ready or bool(end)
        return end


class WebSocketSubscriber(FixedSubscriber):
    """A WebSocket client; the path it asks for is its topic."""

    __slots__ = ()

    protocol = "websocket"

    def opened(self, sock: socket.socket) -> None:
        """Ask for the upgrade, and for no extension."""
        self._sock = sock
        (name,) = self._topics
        self._write(
            b"GET /%b HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n" % name
        )

    def _other_at(self, data: bytearray, at: int, size: int) -> int:
        if self.ready:
            return self._expect(self._prefix, data, at, size)
        found = data.find(b"\r\n\r\n", at, size)
        if found < 0:
            return 0
        end = found + 4
        if not data.startswith(b"HTTP/1.1 101", at):
            raise Failed(f"websocket: {bytes(data[at:end])!r}")
        self.ready = True
        return end


class PBSubscriber(Subscriber):
    """A client that behaves on the wire as Twisted's own does with a mind whose `remote_notifyTime` returns None.

    Its requests are numbered: 1 asks for the challenge, 2 answers it, 3 sets the period.
    """

    __slots__ = ()

    def _push_at(self, data: bytearray, at: int, size: int) -> int:
        name = data.find(stock.NAME, at, at + stock.NAME_WITHIN)
        end = name + stock.REST
        if name < 0 or end > size or not data.startswith(stock.MESSAGE, at):
            return 0
        self._count(data, name + stock.STAMP_AT)
        if data[name + stock.ANSWER_AT]:
            self._write(stock.answer(data[at + len(stock.MESSAGE) : name - 4]))
        return end

    def _other_at(self, data: bytearray, at: int, size: int) -> int:
        try:
            item, end = stock.decode(data, at, size)
        except IndexError:
            return 0
        match item:
            case [b"pb", b"none"]:
                self._write(stock.GREETING + stock.call(1, b"root", b"login", self._settings.name))
            case [b"version", _]:
                pass
            case [b"answer", int(number), answer]:
                self._answered(number, answer)
            case [b"message", _, 0, *_]:
                number_at = at + len(stock.MESSAGE)
                number_end = next(i for i in range(number_at, end) if data[i] >= stock.LIST) + 1
                self._write(stock.unknown_object(data[number_at:number_end]))
            case _:
                raise Failed(f"pb: {item!r}")
        return end

    def _answered(self, number: int, answer: object) -> None:
        match number, answer:
            case 1, [b"tuple", challenge, [b"remote", challenger]]:
                proof = stock.response(self._settings.secret, challenge)
                respond = stock.call(2, challenger, b"respond", proof, [b"remote", stock.MIND])
                self._write(respond + stock.expression(b"decref", challenger))
            case 2, [b"remote", _] if self._period is None:
                self.ready = True
            case 2, [b"remote", avatar]:
                self._write(stock.call(3, avatar, b"setperiod", self._period))
            case 3, granted if granted == self._period:
                self.ready = True
            case _:
                raise Failed(f"pb: request {number} of subscriber {self._index} was answered with {answer!r}")


@lru_cache
def changes(
    avatar: int, number: int, before: tuple[bytes, ...], after: tuple[bytes, ...], period: float
) -> tuple[bytes, int]:
    """Encode the calls by which a client changes what it is subscribed to.

    Args:
        avatar: The id of what is called.
        number: The first call's.
        before: The feeds that it has.
        after: Those that it shall have.
        period: Seconds between pushes of each of them.

    Returns:
        The calls, and how many they are.
    """
    off = [(b"unsubscribe", stock.text(name)) for name in before if name not in after]
    on = [(b"subscribe", stock.text(name), period) for name in after if name not in before]
    calls = [stock.call(number + i, avatar, *words) for i, words in enumerate((*off, *on))]
    return b"".join(calls), len(calls)


class FeedSubscriber(PBSubscriber):
    """The same with feeds in place of the time, whose values are floats and whose names have two bytes."""

    __slots__ = ("_avatar", "_last", "_names")

    def change(self, names: tuple[bytes, ...]) -> None:
        """Be subscribed to these feeds and no others; it is not ready until the last call is answered."""
        calls, count = changes(self._avatar, self._last + 1, self._names, names, self._period)
        self._names = names
        self._last += count
        self.ready = not count
        self._write(calls)

    def _push_at(self, data: bytearray, at: int, size: int) -> int:
        name = data.find(stock.SAMPLE, at, at + stock.SAMPLE_WITHIN)
        if name < 0:
            return super()._push_at(data, at, size)
        rest = name + stock.SEQUENCE_AT
        while rest < size and data[rest] < stock.LIST:
            rest += 1
        end = rest + stock.SAMPLE_REST
        if end > size or not data.startswith(stock.MESSAGE, at):
            return 0
        self._count(data, rest + stock.SAMPLE_STAMP_AT)
        if data[name + stock.SAMPLE_ANSWER_AT]:
            self._write(stock.answer(data[at + len(stock.MESSAGE) : name - 4]))
        return end

    def _answered(self, number: int, answer: object) -> None:
        match number, answer:
            case 2, [b"remote", avatar]:
                self._avatar, self._last, self._names = avatar, number, (TIME,)
                self.change(self._settings.names)
            case int(), [b"None"] | float() if number > 2:
                self.ready = number == self._last
            case _:
                super()._answered(number, answer)


class FeedPublisher(PBSubscriber):
    """A client that publishes a new float once a period, to one feed after the other.

    Its calls do not wait for the answers to those before. What it counts as pushes are the answers.
    """

    __slots__ = ("_calls", "_heard", "_last", "_start")

    def publish_due(self) -> None:
        """Publish what is due, and leave out that for which too much is unanswered."""
        due = int((time.monotonic() - self._start) / self._period)
        self._start += due * self._period
        count = min(due, PIPELINED - self._last + self._heard)
        if count <= 0:
            return
        parts = []
        for number in range(self._last + 1, self._last + 1 + count):
            before, between, after = self._calls[number % len(self._calls)]
            parts += before, stock.integer(number), between, stock.STAMP.pack(number), after
        self._last += count
        self._write(b"".join(parts))

    def _answered(self, number: int, answer: object) -> None:
        match number, answer:
            case 2, [b"remote", avatar]:
                self._calls = [stock.publish(avatar, name) for name in self._settings.names]
                self._last = 3
                self._write(stock.call(self._last, avatar, b"unsubscribe", stock.text(TIME)))
            case 3, [b"None"]:
                self._heard, self._start = number, time.monotonic()
                self.ready = True
            case int(), int() if number > 3:
                self._heard = number
                self.pushes += 1
                self._counter.pushes += 1
            case _:
                super()._answered(number, answer)


SUBSCRIBERS: dict[str, type[Subscriber]] = {
    "pb": PBSubscriber,
    "feeds": FeedSubscriber,
    "publish": FeedPublisher,
    **{
        kind.protocol: kind
        for kind in (FixedSubscriber, MQTTSubscriber, NATSSubscriber, RedisSubscriber, WebSocketSubscriber)
    },
}
"""The kinds of subscriber, by protocol; and who publishes to feeds."""
