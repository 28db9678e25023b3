"""The bytes of a push, encoded once.

A push that wants no answer needs no request number of its own, so all minds that are known under one id share its bytes
but for the stamp. Templates are made with Perspective Broker's own encoder, and equal what a stock server would send
byte for byte (`tests/test_wire.py`).

Rules of this module: no I/O.
"""

import struct
from io import BytesIO

from twisted.spread import banana
from twisted.spread.jelly import jelly

_STAMP = struct.Struct("!d").pack
_SOME_STAMP = -1.2345678901234567e-300
_SOME_REQUEST = 2**31 - 1


class Encoder:
    """Encodes expressions as stock Banana does.

    Args:
        dialect: The one that the connection speaks, `pb` or `none`: only `pb` abbreviates words.
    """

    def __init__(self, dialect: bytes) -> None:
        self._banana = banana.Banana()
        self._banana.connectionMade()
        self._banana.currentDialect = dialect

    def encode(self, expression: object) -> bytes:
        """Return an expression's bytes."""
        stream = BytesIO()
        self._banana.transport = stream  # type: ignore[assignment]  # all it needs is `write`
        self._banana.sendEncoded(expression)
        return stream.getvalue()


class PushTemplate:
    """The bytes of `notifyTime(stamp)` to a mind.

    Args:
        dialect: As for `Encoder`.
        mind: The id under which the client knows its mind.
    """

    __slots__ = ("_after", "_after_request", "_answer", "_before", "_encode", "_one_way", "_to_request")

    def __init__(self, dialect: bytes, mind: int) -> None:
        self._encode = encode = Encoder(dialect).encode
        request, stamp = encode(_SOME_REQUEST), _STAMP(_SOME_STAMP)

        def push(number: int, answer: int) -> bytes:
            arguments = jelly((_SOME_STAMP,))
            return encode([b"message", number, mind, b"notifyTime", answer, arguments, jelly({})])

        before, _, after = push(0, 0).partition(stamp)
        self._before, self._after = before, after
        self._one_way = struct.Struct(f"!{len(before)}sd{len(after)}s").pack
        asking, _, _ = push(_SOME_REQUEST, 1).partition(stamp)
        self._to_request, _, self._after_request = asking.partition(request)
        self._answer = encode([b"answer", _SOME_REQUEST, jelly(None)]).partition(request)

    def one_way(self, stamp: float) -> bytes:
        """Return a push that wants no answer; its request number is 0.

        Args:
            stamp: Unix seconds UTC.
        """
        one_way = self._one_way
        return one_way(self._before, stamp, self._after)

    def asking(self, request: int, stamp: float) -> bytes:
        """Return a push that wants an answer.

        Args:
            request: The request's number, 0 to 2**448 - 1.
            stamp: Unix seconds UTC.
        """
        return self._to_request + self._encode(request) + self._after_request + _STAMP(stamp) + self._after

    def answer(self, request: int) -> bytes:
        """Return the answer `None` to a request, as a stock client sends it."""
        before, _, after = self._answer
        return before + self._encode(request) + after
