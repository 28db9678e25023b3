"""Banana's expressions, decoded from bytes as they come.

Stock Banana bounds each string and each list, but not what they add up to nor how deep they lie, and it copies the rest
of its bytes for each item. What this decoder yields is what stock Banana would (`tests/test_decoder.py`), but within
bounds, and at a cost that grows with the number of bytes alone, however they are cut. What it holds of an unfinished
expression is bounded too: nothing is made because a header announces it.

An item is a number in base 128, least digit first, then a byte of 0x80 or more that says what the number means: itself,
the length of a string or of a list, or a word of the vocabulary. The items of a list follow it.

Rules of this module: no I/O. What is raised says nothing of what the peer sent.
"""

import struct
from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct
from twisted.spread import banana

Expression: TypeAlias = int | float | bytes | list["Expression"]

DIGITS = 64
"""Longest number, in digits; stock Banana's limit."""

_LIST, _STRING, _FLOAT, _VOCAB = banana.LIST[0], banana.STRING[0], banana.FLOAT[0], banana.VOCAB[0]
_POSITIVE = banana.INT + banana.LONGINT
_NEGATIVE = banana.NEG + banana.LONGNEG
_DOUBLE = struct.Struct("!d")


class Malformed(Exception):
    """Bytes that are no expression, or too large a one; says which rule they break."""


class Bounds(Struct, frozen=True):
    """How large one expression may be.

    Attributes:
        bytes: From its first byte to its last, 1 or more.
        depth: Lists in each other, the outermost counted.
        items: Items that all its lists have together.
    """

    bytes: int
    depth: int
    items: int


class Decoder:
    """Takes bytes; iterating over it takes out expressions that are whole, and may stop and go on at any time.

    After a `Malformed` it raises that again whatever is asked of it.

    Args:
        bounds: What holds from the start.

    Attributes:
        bounds: What holds for the expression that is taken next, and for what has come of it already.
        vocabulary: The words of the dialect spoken, by number; stock Banana's for `pb`, else none.
    """

    __slots__ = (
        "_broken",
        "_buffer",
        "_items",
        "_lists",
        "_number",
        "_shift",
        "_taken",
        "bounds",
        "vocabulary",
    )

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.vocabulary: dict[int, bytes] = {}
        self._buffer = bytearray()
        self._broken = ""
        self._begin()
        self._lists: list[tuple[list[Expression], int]] = []  # those that are open, and how many items each will have

    def _begin(self) -> None:
        self._taken = 0  # bytes of the expression in hand that have left the buffer
        self._items = 0
        self._number = 0  # what its last digits say so far
        self._shift = 0

    @property
    def pending(self) -> int:
        """Bytes that have not been decoded; of them there may be no whole expression."""
        return len(self._buffer)

    @property
    def clean(self) -> bool:
        """Whether all that came has been taken out, to the last byte."""
        return not (self._buffer or self._taken)

    def feed(self, data: bytes) -> None:
        """Take bytes from the peer.

        Raises:
            Malformed: Others were, before them.
        """
        if self._broken:
            raise Malformed(self._broken)
        self._buffer += data

    def __iter__(self) -> Iterator[Expression]:
        return self

    def __next__(self) -> Expression:
        """Take out the next expression.

        Raises:
            StopIteration: It is not whole yet.
            Malformed: It will not be one within the bounds, whatever comes.
        """
        if self._broken:
            raise Malformed(self._broken)
        expression = self._decode() if self._buffer else None
        if expression is None:
            raise StopIteration
        return expression

    def _decode(self) -> Expression | None:
        """Decode until an expression is whole, or until there are no more bytes for it."""
        buffer, lists = self._buffer, self._lists
        end = min(len(buffer), self.bounds.bytes - self._taken)
        at, number, shift, missing = 0, self._number, self._shift, 1
        while at < end:
            byte = buffer[at]
            at += 1
            if byte < _LIST:
                number |= byte << shift
                shift += 7
                if shift > 7 * DIGITS:
                    raise self._malformed(f"a number of more than {DIGITS} digits")
                continue
            item: Expression
            if byte == _LIST:
                self._announce(number, at)
                item = []
                if number:
                    lists.append((item, number))
                    number = shift = 0
                    continue
            elif byte in {_STRING, _FLOAT}:
                size = number if byte == _STRING else _DOUBLE.size
                if size > end - at:
                    at, missing = at - 1, 1 + size
                    break
                item = bytes(buffer[at : at + size]) if byte == _STRING else _DOUBLE.unpack_from(buffer, at)[0]
                at += size
            else:
                item = self._atom(byte, number)
            number = shift = 0
            while lists:
                items, size = lists[-1]
                items.append(item)
                if len(items) < size:
                    break
                item = items
                lists.pop()
            else:
                del buffer[:at]
                self._begin()
                return item
        del buffer[:at]
        self._taken += at
        self._number, self._shift = number, shift
        self._require(missing, 0)
        return None

    def _announce(self, size: int, at: int) -> None:
        """Count a list that has so many items."""
        self._items += size
        if len(self._lists) >= self.bounds.depth:
            raise self._malformed("lists too deep in each other")
        if self._items > self.bounds.items:
            raise self._malformed("lists of too many items")
        self._require(size, at)

    def _require(self, size: int, at: int) -> None:
        """See that so many more bytes are within the bounds."""
        if self._taken + at + size > self.bounds.bytes:
            raise self._malformed("an expression of too many bytes")

    def _atom(self, byte: int, number: int) -> int | bytes:
        """Return what a number means by itself."""
        if byte == _VOCAB:
            word = self.vocabulary.get(number)
            if word is None:
                raise self._malformed("a word that is not in the vocabulary")
            return word
        if byte in _POSITIVE:
            return number
        if byte in _NEGATIVE:
            return -number
        raise self._malformed("an item of an unknown type")

    def _malformed(self, rule: str) -> Malformed:
        self._broken = rule
        return Malformed(rule)
