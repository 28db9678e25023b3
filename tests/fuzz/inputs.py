"""Bytes that a peer might send: what honest clients say, and what becomes of it."""

import math
from functools import lru_cache
from pathlib import Path

from doubles import Mind, Rig, push_feeds, written
from twisted.spread import banana

from clockd.values import Rights
from clockd.wire import Encoder

FEEDS = push_feeds({"load": Rights(publish=("*",)), "shut": Rights(read=(), publish=())})

CORPUS = Path(__file__).parent / "corpus"
TYPES = bytes(range(0x80, 0x8A)) + b"\xff"
MOST = 2**448 - 1
NUMBERS = (0, -1, 1, 2, 3, 127, 128, 2**31, 2**61 - 1, 2**63, MOST, -MOST, 0.0, -0.0, 0.01, 1e300, math.inf, math.nan)
STRINGS = (b"", b"\0", b"\xff", b"root", b"alice", b"a" * 65, b"a" * 1100, b"setperiod", b"respond", b"__class__")
JELLIES = (
    *([], [[]], [b"None"], [b"tuple"], [b"list", 1], [b"dictionary", [b"feed", b"time"]], [b"dictionary", [[], 1]]),
    *([b"boolean", b"true"], [b"unicode", b"\xff"], [b"unicode", "ä".encode()], [b"remote", 1], [b"local", 1]),
    *([b"reference", 1, [b"list", [b"dereference", 1]]], [b"dereference", 7], [b"decimal", 1, 2**400], [b"set", []]),
    *(
        [b"instance", [b"class", b"os.system"], []],
        [b"module", b"os"],
        [b"persistent", 1],
        [b"cache", 1],
        [b"lcache", 1],
    ),
    *([b"copy", 1], [b"clockd.errors.Refused", 1]),
)
MESSAGES = (
    *([b"version", 6], [b"decref", 1], [b"decache", 1], [b"uncache", 1], [b"message"]),
    *([b"error", 1, []], [b"answer", 1, [b"None"]], [b"cachemessage", 1, 2, b"x", 1, [], []]),
)
ODD = (*NUMBERS, *STRINGS, *JELLIES, *MESSAGES)


@lru_cache
def honest():
    """Return the calls that stock clients make, session by session; object ids are from 1 on."""
    rig = Rig(anonymous=True, feeds=FEEDS)
    sessions = []
    for name, secret in ((b"alice", "wrong"), (b"alice", None)):
        peer, mind = rig.peer(), Mind()
        if secret is not None:
            peer.login(mind, name, secret)
        peer.enter(mind, name)
        for arguments in ((0.5,), (1, "time"), (b"2",), ()):
            peer.ask(peer.perspective, "setperiod", *arguments)
        peer.ask(peer.perspective, "setperiod", period=0.25, feed="time")
        for value in (1, 2.5, None, "text", b"bytes", [1, (True, {"a": [2**70]})]):
            peer.ask(peer.perspective, "publish", "load", value)
        for call in (
            *(("feeds",), ("subscribe", "load"), ("subscribe", "load", 2, 0.5), ("subscribe", "server")),
            *(("publish", "load", -3, 1234.5), ("setperiod", 3, "load"), ("unsubscribe", "time"), ("unsubscribe", "x")),
        ):
            peer.ask(peer.perspective, *call)
        peer.ask(peer.perspective, "publish", value={1: 2}, feed="load", stamp=1)
        rig.network.advance(40, 1)
        peer.ask(peer.perspective, "unsubscribe", "load")
        sessions.append([message for message in written(peer.wire.clientIO) if message[0] == b"message"])
    return sessions


@lru_cache
def corpus():
    """Return the inputs that are kept, by name."""
    return {path.name: path.read_bytes() for path in sorted(CORPUS.iterdir())}


def random_input(random):
    """Return bytes: messages of an honest client with changes, something from the corpus, or anything."""
    kind = random.random()
    if kind < 0.05:
        data = random.randbytes(random.randrange(200))
    elif kind < 0.15:
        data = random.choice(list(corpus().values()))
    else:
        session, rate = random.choice(honest()), random.choice((0, 0.01, 0.03))
        first = random.choice((0, random.randrange(len(session))))
        messages = session[first : first + random.randint(1, 8)]
        encode = Encoder(random.choice((b"pb", b"pb", b"none"))).encode
        data = b"".join(encode(changed(random, message, rate)) for message in messages)
        if rate and random.random() < 0.5:
            return data
    while random.random() < 0.6:
        data = damaged(random, data)
    return data


def changed(random, expression, rate):
    """Return an expression, with some of its parts replaced, repeated, left out or in another place."""
    if random.random() < rate:
        return random.choice(ODD)
    if not isinstance(expression, list):
        return expression
    items = [changed(random, item, rate) for item in expression]
    if items and random.random() < rate:
        at = random.randrange(len(items))
        items[at : at + 1] = random.choice(
            ([], items[at : at + 1] * 2, [list(items)], [items[at:]], [random.choice(ODD), items[at]])
        )
    return items


def damaged(random, data):
    """Return bytes, with some of them changed."""
    first = random.randint(0, len(data))
    end = random.randint(first, min(len(data), first + 20))
    middle = random.choice(
        (
            b"",
            data[first:end] * random.choice((2, 2, 100)),
            random.randbytes(end - first),
            bytes([random.choice(TYPES)]),
            bytes([random.choice(data or b"\0") ^ 1 << random.randrange(8)]) if data else b"",
            bytes(random.choice((1, 63, 64, 65))) + bytes([random.choice(TYPES)]),
            random.choice((b"\x01\x80", banana.LIST, banana.INT)) * random.choice((2, 20, 300)),
        )
    )
    return data[:first] + middle + (data[end:] if random.random() < 0.9 else b"")


def segments(random, data):
    """Return the bytes cut as a network might cut them."""
    most = random.choice((1, 3, 50, len(data) or 1))
    parts = []
    while data:
        size = random.randint(1, most)
        parts.append(data[:size])
        data = data[size:]
    return parts
