"""What stock Perspective Broker (PB) has on the wire.

Encoding is Twisted's own. Decoding is written here: Twisted's decoder is a protocol and too slow for a load generator.
"""

import hashlib
import io
import struct

from twisted.spread import pb
from twisted.spread.banana import Banana, encode

LIST, INT, STRING, NEG, FLOAT, LONGINT, LONGNEG, VOCAB = range(0x80, 0x88)
STAMP = struct.Struct("!d")
MIND = 1
"""The id that a stock client gives the first object it passes."""


def expression(*items: object) -> bytes:
    """Encode a list as both sides do once they agreed on the dialect `pb`."""
    banana = Banana()
    banana.setPrefixLimit(64)
    banana.currentDialect = b"pb"
    banana.transport = io.BytesIO()
    banana.sendEncoded(items)
    return banana.transport.getvalue()


def call(number: int, target: int | bytes, name: bytes, *arguments: object, answer: int = 1) -> bytes:
    """Encode a call of an object of the other side."""
    return expression(b"message", number, target, name, answer, [b"tuple", *arguments], [b"dictionary"])


def response(secret: bytes, challenge: bytes) -> bytes:
    """Return what proves the knowledge of a secret."""
    return hashlib.md5(hashlib.md5(secret).digest() + challenge).digest()


GREETING = encode(b"pb") + expression(b"version", pb.Broker.version)
"""What a client sends when it has seen the dialects."""

_MARK = 1234.5
_PUSH = call(0, MIND, b"notifyTime", _MARK, answer=0)

PUSH_BYTES = len(_PUSH)
"""Length of a one-way push whose request number takes one byte."""

NAME = b"notifyTime"
MESSAGE = _PUSH[:4]
"""How a call begins, up to its request number."""

NAME_WITHIN = 5 + 1 + 2 + 2 + len(MESSAGE) + len(NAME)
"""A push has its name ended after this many bytes: before it are a number of at most 5 bytes and the mind's id."""

REST = len(_PUSH) - _PUSH.index(NAME)
ANSWER_AT = len(NAME)
STAMP_AT = _PUSH.index(STAMP.pack(_MARK)) - _PUSH.index(NAME)
"""Counted from the name: where a push ends, where it says whether an answer is required, where the stamp is."""


def text(name: bytes) -> list[bytes]:
    """Return a str as an argument of a call; `name` is its UTF-8."""
    return [b"unicode", name]


def integer(number: int) -> bytes:
    """Encode a number of 0 to 2**31 - 1, at a fraction of what `expression` takes."""
    digits = []
    while number >= LIST:
        digits.append(number & 127)
        number >>= 7
    return bytes((*digits, number, INT))


def publish(avatar: int, feed: bytes) -> tuple[bytes, bytes, bytes]:
    """Encode calls of `publish(feed, value)`, whose value is a float.

    Returns:
        What stands before the request's number, between it and the value's eight bytes, and behind them.
    """
    number = 2**31 - 1
    before, _, rest = call(number, avatar, b"publish", text(feed), _MARK).partition(integer(number))
    between, _, after = rest.partition(STAMP.pack(_MARK))
    return before, between, after


_FEED = b"00"
_SAMPLE = call(0, MIND, b"notifySample", text(_FEED), 1, _MARK, _MARK, answer=0)

SAMPLE = b"notifySample"
SAMPLE_WITHIN = NAME_WITHIN - len(NAME) + len(SAMPLE)
SAMPLE_ANSWER_AT = len(SAMPLE)
SEQUENCE_AT = _SAMPLE.index(_FEED) + len(_FEED) - _SAMPLE.index(SAMPLE)
"""Counted from the name, in a push of a float by a feed whose name has two bytes: where the sequence number begins."""

SAMPLE_REST = len(_SAMPLE) - _SAMPLE.index(SAMPLE) - SEQUENCE_AT - 1
"""Counted from the end of the sequence number's digits: where the push ends."""

SAMPLE_STAMP_AT = 2
"""Counted from there, too: where the stamp is."""

_ANSWER, _NONE = expression(b"answer", 0, [b"None"]).split(b"\0\x81")
_ERROR, _UNKNOWN = expression(
    b"error", 0, pb.Broker(True).serialize(pb.CopyableFailure(pb.Error("Invalid Object ID")))
).split(b"\0\x81")


def answer(number: bytes) -> bytes:
    """Return the answer of a mind whose method returned None; `number` is the request's, as it was encoded."""
    return _ANSWER + number + _NONE


def unknown_object(number: bytes) -> bytes:
    """Return the answer to a call of an object that there is not."""
    return _ERROR + number + _UNKNOWN


def decode(data: bytes | bytearray, at: int, size: int) -> tuple[object, int]:
    """Decode one expression of the dialect `pb`.

    Args:
        data: Bytes.
        at: Where the expression begins.
        size: Where the bytes end.

    Returns:
        The expression, and where it ends.

    Raises:
        IndexError: It is not complete.
    """
    number = shift = 0
    while True:
        if at >= size:
            raise IndexError
        kind = data[at]
        at += 1
        if kind >= LIST:
            break
        number |= kind << shift
        shift += 7
    if kind == LIST:
        items = []
        for _ in range(number):
            item, at = decode(data, at, size)
            items.append(item)
        return items, at
    if kind in {INT, LONGINT}:
        return number, at
    if kind in {NEG, LONGNEG}:
        return -number, at
    if kind == VOCAB:
        return Banana.incomingVocabulary[number], at
    end = at + (number if kind == STRING else STAMP.size)
    if end > size:
        raise IndexError
    return (bytes(data[at:end]) if kind == STRING else STAMP.unpack_from(data, at)[0]), end
