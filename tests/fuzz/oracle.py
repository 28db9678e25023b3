"""What stock Banana makes of bytes, and what a decoder with bounds has to make of them."""

import struct
from typing import NamedTuple

from twisted.spread import banana

from clockd.decoder import Decoder, Malformed

WORDS = banana.Banana.incomingVocabulary


class Stock(banana.Banana):
    """Stock Banana, which keeps what it decodes; `words` tells whether it speaks the dialect `pb`."""

    def __init__(self, words):
        super().__init__()
        self.connectionMade()
        self.currentDialect = b"pb" if words else b"none"
        self.found = []

    def callExpressionReceived(self, obj):
        self.found.append(obj)


class Outcome(NamedTuple):
    """What came of bytes: the expressions, and whether something malformed followed them."""

    expressions: list
    malformed: bool


def decode(segments, bounds, words=True):
    """Return what our decoder makes of bytes that come in segments, having checked that it holds little meanwhile."""
    decoder = Decoder(bounds)
    decoder.vocabulary = WORDS if words else {}
    found = []
    for segment in segments:
        try:
            decoder.feed(segment)
            found.extend(decoder)
        except Malformed:
            return Outcome(found, malformed=True)
        assert held(decoder) <= 2 * bounds.bytes + 256 * bounds.items + 1024
    return Outcome(found, malformed=False)


def expect(data, bounds, words=True):
    """Return the outcomes of which one has to come of bytes, as stock Banana and the bounds have it."""
    stock, begun = Stock(words), 0
    for end in range(1, len(data) + 1):
        whole = list(stock.found)
        try:
            stock.dataReceived(data[end - 1 : end])
        except Exception:  # noqa: BLE001  # it raises many kinds
            return [Outcome(whole, malformed=True)]
        if len(stock.found) > len(whole):
            if not within(stock.found[-1], end - begun, bounds):
                return [Outcome(whole, malformed=True)]
            begun = end
    outcomes = [Outcome(stock.found, malformed=False)]
    if not can_be_completed(data[begun:], bounds, words):
        outcomes.append(Outcome(stock.found, malformed=True))
    return outcomes


def can_be_completed(data, bounds, words):
    """Tell whether the beginning of an expression can become one within the bounds."""
    stock = Stock(words)
    stock.dataReceived(data)
    token = stock.buffer.lstrip(bytes(range(128)))
    missing = 0
    if token:
        digits = stock.buffer[: -len(token)]
        size = banana.b1282int(digits) if token[:1] == banana.STRING else 8
        missing = size + 1 - len(token)
    elif not stock.buffer and not stock.listStack:
        return True
    items = sum(size - len(items) - 1 for size, items in stock.listStack) + 1
    if missing + items > 2 * bounds.bytes:
        return False
    rest = b"\0" * missing + banana.INT * (items - bool(token))
    stock.dataReceived(rest)
    return within(stock.found[0], len(data + rest), bounds)


def within(expression, size, bounds):
    """Tell whether an expression of so many bytes is within the bounds."""
    depth, items = extent(expression)
    return size <= bounds.bytes and depth <= bounds.depth and items <= bounds.items


def extent(expression):
    """Return how deep an expression is, and how many items its lists have."""
    depth, items, level = 0, 0, [expression]
    while lists := [item for item in level if isinstance(item, list)]:
        level = [item for inner in lists for item in inner]
        depth, items = depth + 1, items + len(level)
    return depth, items


def exact(expression):
    """Return what tells an expression or an outcome from any other: the bits of floats, and the types of numbers."""
    if isinstance(expression, list | tuple):
        return [exact(item) for item in expression]
    if isinstance(expression, float):
        return "float", struct.pack("!d", expression)
    return type(expression).__name__, expression


def held(decoder):
    """Return how many bytes of memory a decoder holds for what came."""
    return decoder._buffer.__sizeof__() + _size([items for items, _ in decoder._lists])


def _size(expression):
    inner = sum(map(_size, expression)) if isinstance(expression, list) else 0
    return expression.__sizeof__() + inner
