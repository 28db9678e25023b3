"""The bytes of a push, encoded once.

A push that wants no answer needs no request number of its own, so all minds that are known under one id share its bytes
but for the stamp; and the bytes of a sample are the same for everybody. Templates are made with Perspective Broker's
own encoder, and equal what a stock server would send byte for byte (`tests/test_wire.py`).

Rules of this module: no I/O.
"""

import struct
from io import BytesIO
from typing import Any

from twisted.spread import banana
from twisted.spread.jelly import SecurityOptions, jelly, unjelly

from clockd.errors import InvalidValue
from clockd.values import Published, Sample

VALUE_BYTES = 4096
"""Longest value, encoded in the dialect `pb`."""

VALUE_DEPTH = 4
"""As many containers of a value may lie in each other."""

MOST = 2**448 - 1
"""Largest int: stock Banana takes 64 digits of 7 bits."""

_NO_VALUE = "the bytes are those of no value"
_LONGEST = 8 * VALUE_BYTES  # in another dialect than `pb` a value may be longer than when it was taken
_LARGEST_INT = 2**31 - 1  # beyond it Banana's number is a long one
_DIGITS = tuple(bytes((digit,)) for digit in range(128))
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


class ValueEncoder:
    """Encodes values as stock jelly and Banana do, at a fifth of their cost, and checks them on the way.

    A container that occurs twice is encoded twice; stock jelly would make a reference of it.

    Args:
        dialect: As for `Encoder`.
    """

    def __init__(self, dialect: bytes) -> None:
        encode = Encoder(dialect).encode
        self._words = {word: encode(word) for word in banana.Banana.outgoingVocabulary} if dialect == b"pb" else {}
        self._none, self._true, self._false = (encode(jelly(atom)) for atom in (None, True, False))
        self._unicode = encode([b"unicode", 0])[:-2]
        self._list, self._tuple, self._dictionary = map(encode, (b"list", b"tuple", b"dictionary"))

    def encode(self, value: object, most: int = VALUE_BYTES) -> bytes:
        """Return a value's bytes.

        Args:
            value: None, bool, int, float, str, bytes, or lists, tuples and dicts of these, `VALUE_DEPTH` in each other
                at most. A key of a dict is no container.
            most: Longest result.

        Raises:
            InvalidValue: It is something else, or too large.
        """
        parts: list[bytes] = []
        try:
            left = self._put(value, VALUE_DEPTH, most, parts)
        except UnicodeEncodeError as error:
            raise InvalidValue("a value's text cannot be written as UTF-8") from error
        except RuntimeError as error:  # a dict that another thread changes in this moment
            raise InvalidValue("a value that changes while it is read") from error
        if left < 0:
            raise _too_long(most)
        return b"".join(parts)

    def _put(self, value: object, depth: int, left: int, parts: list[bytes]) -> int:
        """Append the bytes of a value, and return how many more there may be; below 0 it ends early."""
        kind = type(value)
        if kind is list or kind is tuple or kind is dict:
            return self._put_container(value, depth, left, parts)
        data = self._atom(value)
        parts.append(data)
        return left - len(data)

    def _put_container(self, value: Any, depth: int, left: int, parts: list[bytes]) -> int:
        if not depth:
            raise InvalidValue(f"a value has {VALUE_DEPTH} levels at most")
        if 2 * len(value) > left:  # nothing is shorter than two bytes
            return -1
        kind = type(value)
        word = self._dictionary if kind is dict else self._list if kind is list else self._tuple
        items = tuple(value.items() if kind is dict else value)  # another thread may change the value meanwhile
        data = _number(len(items) + 1) + banana.LIST + word
        parts.append(data)
        left -= len(data)
        if kind is dict:
            for key, item in items:
                data = b"\x02" + banana.LIST + self._atom(key)
                parts.append(data)
                left = self._put(item, depth - 1, left - len(data), parts)
                if left < 0:
                    break
        else:
            for item in items:
                left = self._put(item, depth - 1, left, parts)
                if left < 0:
                    break
        return left

    def _atom(self, value: Any) -> bytes:
        kind = type(value)
        if kind is float:
            return banana.FLOAT + _STAMP(value)
        if kind is int:
            return _int(value)
        if kind is str or kind is bytes:
            if len(value) > _LONGEST:
                raise _too_long(VALUE_BYTES)
            return self._string(value) if kind is bytes else self._unicode + self._string(value.encode())
        if value is None:
            return self._none
        if kind is bool:
            return self._true if value else self._false
        raise InvalidValue("a value is None, bool, int, float, str, bytes, or lists, tuples and dicts of these")

    def _string(self, data: bytes) -> bytes:
        return self._words.get(data) or _number(len(data)) + banana.STRING + data


def decode_value(encoded: bytes) -> object:
    """Return the value that a `ValueEncoder` of the dialect `pb` made these bytes of.

    Raises:
        InvalidValue: It makes no such bytes of any value.
    """
    reader = _Reader()
    taster = SecurityOptions()
    taster.allowBasicTypes()
    try:
        if len(encoded) <= VALUE_BYTES:
            reader.dataReceived(encoded)
            (expression,) = reader.expressions
            value: object = unjelly(expression, taster)
            if ValueEncoder(b"pb").encode(value) == encoded:  # else there is more, or something else that jelly knows
                return value
    except Exception as error:
        raise InvalidValue(_NO_VALUE) from error
    raise InvalidValue(_NO_VALUE)


class _Reader(banana.Banana):
    """Collects expressions in the dialect `pb`."""

    def __init__(self) -> None:
        super().__init__()
        self.connectionMade()
        self.currentDialect = b"pb"
        self.expressions: list[Any] = []

    def expressionReceived(self, obj: Any) -> None:
        """Take one."""
        self.expressions.append(obj)


class SampleEncoder:
    """The bytes of samples, as the arguments of a call; of each feed those of the sample asked for last are kept.

    Args:
        dialect: As for `Encoder`.
    """

    def __init__(self, dialect: bytes) -> None:
        self.dialect = dialect
        self._encode_value = ValueEncoder(dialect).encode
        self._before = b"\x05" + banana.LIST + Encoder(dialect).encode(b"tuple")
        self._after = Encoder(dialect).encode(jelly({}))
        self._kept: dict[str, tuple[Sample, bytes]] = {}

    def arguments(self, sample: Sample) -> bytes:
        """Return the arguments `(feed, sequence, stamp, value)`, and no keywords."""
        kept = self._kept.get(sample.feed)
        if kept is not None and kept[0] is sample:
            return kept[1]
        encode = self._encode_value
        if type(sample) is Published and self.dialect == b"pb":
            value = sample.encoded
        else:
            value = encode(sample.value, _LONGEST)
        items = (encode(item) for item in (sample.feed, sample.sequence, float(sample.stamp)))
        data = b"".join((self._before, *items, value, self._after))
        self._kept[sample.feed] = sample, data
        return data


class PushTemplate:
    """The bytes of a push to a mind: `notifyTime(stamp)`, or `notifySample(feed, sequence, stamp, value)`.

    Args:
        samples: Encodes samples in the dialect that the connection speaks; shared by all that speak it.
        mind: The id under which the client knows its mind.
    """

    __slots__ = (
        "_after",
        "_after_request",
        "_answer",
        "_before",
        "_encode",
        "_one_way",
        "_pair",
        "_sample",
        "_sample_after_request",
        "_samples",
        "_to_request",
    )

    def __init__(self, samples: SampleEncoder, mind: int) -> None:
        self._samples = samples
        self._encode = encode = Encoder(samples.dialect).encode
        request, stamp = encode(_SOME_REQUEST), _STAMP(_SOME_STAMP)

        def push(number: int, method: bytes, answer: int) -> bytes:
            arguments = jelly((_SOME_STAMP,))
            return encode([b"message", number, mind, method, answer, arguments, jelly({})])

        def before_arguments(number: int, answer: int) -> bytes:
            before, _, _ = push(number, b"notifySample", answer).partition(encode(jelly((_SOME_STAMP,))))
            return before

        before, _, after = push(0, b"notifyTime", 0).partition(stamp)
        self._before, self._after = before, after
        self._one_way = struct.Struct(f"!{len(before)}sd{len(after)}s").pack
        asking, _, _ = push(_SOME_REQUEST, b"notifyTime", 1).partition(stamp)
        self._to_request, _, self._after_request = asking.partition(request)
        self._sample = before_arguments(0, 0)
        _, _, self._sample_after_request = before_arguments(_SOME_REQUEST, 1).partition(request)
        self._answer = encode([b"answer", _SOME_REQUEST, jelly(None)]).partition(request)
        before, between, _ = encode(jelly((_SOME_STAMP, _SOME_STAMP))).split(stamp)
        pair = struct.Struct(f"!{len(before)}sd{len(between)}sd")
        self._pair = len(encode(jelly(None))), pair, (before, between)

    def one_way(self, sample: Sample) -> bytes:
        """Return a push that wants no answer; its request number is 0.

        Args:
            sample: Without a sequence number it is one of the feed `time`.
        """
        if sample.sequence is None:
            one_way = self._one_way
            return one_way(self._before, sample.stamp, self._after)
        return self._sample + self._samples.arguments(sample)

    def asking(self, request: int, sample: Sample) -> bytes:
        """Return a push that wants an answer.

        Args:
            request: The request's number, 0 to 2**448 - 1.
            sample: As for `one_way`.
        """
        before = self._to_request + self._encode(request)
        if sample.sequence is None:
            return before + self._after_request + _STAMP(sample.stamp) + self._after
        return before + self._sample_after_request + self._samples.arguments(sample)

    def answer(self, request: int) -> bytes:
        """Return the answer `None` to a request, as a stock client sends it."""
        before, _, after = self._answer
        return before + self._encode(request) + after

    def pair(self, answer: bytes, data: bytes) -> tuple[float, float] | None:
        """Return the two floats that data answers to a request in place of None.

        Args:
            answer: What `answer` returns for the request.
            data: What has come.

        Returns:
            None, if data is anything else.
        """
        none, pair, frame = self._pair
        start = len(answer) - none
        if len(data) != start + pair.size or data[:start] != answer[:start]:
            return None
        before, first, between, second = pair.unpack_from(data, start)
        return (first, second) if (before, between) == frame else None


def _number(number: int) -> bytes:
    """Return a number to the base of 128, least digit first."""
    if number < 128:
        return _DIGITS[number]
    parts = []
    while number:
        parts.append(_DIGITS[number & 127])
        number >>= 7
    return b"".join(parts)


def _int(value: int) -> bytes:
    if 0 <= value <= _LARGEST_INT:
        return _number(value) + banana.INT
    if -MOST <= value <= MOST:
        kind = banana.LONGINT if value > 0 else banana.NEG if value >= -_LARGEST_INT - 1 else banana.LONGNEG
        return _number(abs(value)) + kind
    raise InvalidValue("an int of a value is within 2**448 of 0")


def _too_long(most: int) -> InvalidValue:
    return InvalidValue(f"a value has {most} bytes at most, encoded")
