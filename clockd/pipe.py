"""Lines of JSON on a descriptor become samples that are published.

What cannot be published is told by the number of its line, and what comes after it goes on. Neither lines nor calls
pile up: while as many calls are under way as may be, nothing is read.

Rules of this module: nothing blocks but `os.read` of a descriptor that has something to be read.
"""

import json
import math
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from errno import EIO
from typing import Any, NamedTuple, Self

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadDescriptor
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from clockd.errors import (
    InvalidValue,
    NotConnected,
    NotPermitted,
    ServerFault,
    TooManyPublishes,
    UnknownFeed,
)

LINE_BYTES = 65536
"""Longest line. A value has 4096 bytes at most; JSON takes up to six for one of them."""

READ_BYTES = 65536
"""As much is read at a time."""

IN_FLIGHT = 256
"""Calls that wait for an answer at a time, at most."""

PAUSE_SECONDS = 0.1
"""An account that has published as much as it may tries again after this long."""

LINE_ERRORS = (InvalidValue, NotConnected, NotPermitted, ServerFault, TooManyPublishes, UnknownFeed)
"""What is wrong with a line, or was at its moment; anything else ends the pipe."""

KEY_LETTERS = 40
"""As much is told of a key that there is not."""

KEYS = {"feed", "value", "stamp"}
OTHER_KEYS = {"sequence", "age", "offset", "bound", "round_trip"}
"""What `clockd watch --json` prints beside them; of no use here."""


class Line(NamedTuple):
    """One line.

    Attributes:
        number: From 1.
        text: Without its end; None if it was too long.
    """

    number: int
    text: bytes | None


class Outgoing(NamedTuple):
    """What is to be published."""

    feed: str
    value: object
    stamp: float | None


def value_of(text: str) -> object:
    """Return the value that JSON stands for.

    Raises:
        InvalidValue: It is no JSON. `NaN` and `Infinity` are none, nor is a number too large for a float.
    """
    refused: list[str] = []

    def number(digits: str) -> float:
        found = float(digits)
        if math.isinf(found):
            refused.append(f"a number too large for a float: {digits[:40]}")
        return found

    try:
        value: object = json.loads(
            text, parse_constant=lambda word: refused.append(f"no JSON: {word}"), parse_float=number
        )
    except json.JSONDecodeError as error:
        raise InvalidValue(f"no JSON: {error.msg}, at character {error.pos + 1}") from error
    except RecursionError as error:
        raise InvalidValue("too many levels") from error
    except ValueError as error:
        raise InvalidValue("a number of too many digits") from error
    if refused:
        raise InvalidValue(refused[0])
    return value


def outgoing_of(text: str) -> Outgoing:
    """Return what a line `{"feed": ..., "value": ..., "stamp": ...}` stands for.

    Raises:
        InvalidValue: It is something else.
    """
    found = value_of(text)
    if not isinstance(found, dict) or not isinstance(found.get("feed"), str) or "value" not in found:
        raise InvalidValue('no object with "feed", a string, and "value"')
    unknown = found.keys() - KEYS - OTHER_KEYS
    if unknown:
        told = ascii(min(unknown)[:KEY_LETTERS])[1:-1]
        raise InvalidValue(f"no such key: {told}; there are: feed, value, stamp")
    return Outgoing(found["feed"], found["value"], found.get("stamp"))


@implementer(IReadDescriptor)
class Lines:
    """The lines of a descriptor, to be iterated over once; it is read when a line is wanted and there is none.

    Args:
        descriptor: A pipe, a terminal or a file.
        reactor: Says when it can be read.

    Raises:
        OSError: It cannot be read; raised where a line is wanted.
    """

    def __init__(self, descriptor: int, reactor: IReactorFDSet) -> None:
        self._descriptor = descriptor
        self._reactor = reactor
        self._lines: deque[Line] = deque()
        self._number = 0
        self._rest = b""
        self._too_long = False
        self._ended = False
        self._error: OSError | None = None
        self._waiting: Deferred[None] | None = None

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> Line:
        """Return the next line, as soon as it is whole."""
        while not self._lines:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiting = Deferred(lambda _: self._reactor.removeReader(self))
            self._reactor.addReader(self)
            await self._waiting
        return self._lines.popleft()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def logPrefix(self) -> str:
        """Return a name for logs."""
        return "pipe"

    def doRead(self) -> None:
        """Read what there is."""
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            data = b""
            if error.errno != EIO:  # of a terminal that has gone
                self._error = OSError(f"the input cannot be read: {error.strerror}")
        if data:
            self._take(data)
        else:
            self._end()

    def connectionLost(self, reason: Failure) -> None:
        """Take note that nothing more will come."""
        self._end()

    def _take(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._put(self._rest + line)
            self._rest, self._too_long = b"", False
        self._rest += rest
        if len(self._rest) > LINE_BYTES:
            self._rest, self._too_long = b"", True
        self._pause()

    def _put(self, text: bytes) -> None:
        self._number += 1
        self._lines.append(Line(self._number, None if self._too_long or len(text) > LINE_BYTES else text))

    def _end(self) -> None:
        if self._rest or self._too_long:
            self._put(self._rest)
        self._ended = True
        self._pause()

    def _pause(self) -> None:
        self._reactor.removeReader(self)
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)


class Pump:
    """Publishes lines in their order, several at a time.

    From the first sample on for which the account had published as much as it may, it is one at a time: each is tried
    again until it is taken, or left out because a later one of its feed was taken before.

    Args:
        publish: Publishes a sample; raises what `ClockClient.publish` raises.
        parse: Makes a sample of a line.
        refused: Told a line's number and why it was not published.
        clock: Monotonic time.

    Attributes:
        counts: Lines published, refused, and left out.
    """

    def __init__(
        self,
        publish: Callable[[str, object, float | None], Awaitable[int]],
        parse: Callable[[str], Outgoing],
        refused: Callable[[int, str], object],
        clock: IReactorTime,
    ) -> None:
        self.counts = {"published": 0, "refused": 0, "left_out": 0}
        self._publish = publish
        self._parse = parse
        self._refused = refused
        self._clock = clock
        self._most = IN_FLIGHT
        self._flying: set[Deferred[None]] = set()
        self._landed: Deferred[None] | None = None
        self._newest: dict[str, int] = {}  # the last line of each feed that was taken
        self._again: list[tuple[int, Outgoing]] = []
        self._work: Deferred[None] | None = None
        self._failure: Failure | None = None

    async def run(self, lines: AsyncIterator[Line]) -> None:
        """Publish until there are no more lines, and all have been answered.

        Raises:
            Exception: What ended it, and is no fault of a line.
        """
        self._work = Deferred.fromCoroutine(self._run(lines))
        if self._failure is not None:
            self._work.cancel()
        try:
            await self._work
        except CancelledError:
            if self._failure is None:
                raise
        if self._failure is not None:
            self._failure.raiseException()

    async def _run(self, lines: AsyncIterator[Line]) -> None:
        try:
            async for line in lines:
                if line.text is not None and not line.text.strip():
                    continue
                try:
                    outgoing = self._parse(_text(line))
                except InvalidValue as error:
                    self._refuse(line.number, error)
                    continue
                await self._room()
                self._start(self._send(line.number, outgoing))
            self._most = 1
            await self._room()
        finally:
            self._again.clear()
            for working in list(self._flying):
                working.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        working = Deferred.fromCoroutine(work)
        self._flying.add(working)
        working.addErrback(self._failed).addBoth(lambda _: self._land(working))

    def _land(self, working: "Deferred[None]") -> None:
        self._flying.discard(working)
        if self._again and not self._flying:
            self._start(self._send_again())
        landed, self._landed = self._landed, None
        if landed is not None and not landed.called:
            landed.callback(None)

    def _failed(self, failure: Failure) -> None:
        if self._failure is None and not failure.check(CancelledError):
            self._failure = failure
            if self._work is not None:
                self._work.cancel()

    async def _room(self) -> None:
        """Wait until fewer are under way than may be."""
        while len(self._flying) >= self._most:
            self._landed = Deferred()
            await self._landed

    async def _send(self, number: int, outgoing: Outgoing) -> None:
        try:
            await self._publish(*outgoing)
        except TooManyPublishes:
            self._most = 1
            self._again.append((number, outgoing))
        except LINE_ERRORS as error:
            self._refuse(number, error)
        else:
            self.counts["published"] += 1
            self._newest[outgoing.feed] = number

    async def _send_again(self) -> None:
        """Publish what was too much, one after the other, while nothing else is under way."""
        while self._again:
            number, outgoing = self._again.pop(0)
            if self._newest.get(outgoing.feed, 0) > number:
                self.counts["left_out"] += 1
                continue
            await self._send(number, outgoing)
            if self._again and self._again[-1][0] == number:  # still too much
                self._again.insert(0, self._again.pop())
                await deferLater(self._clock, PAUSE_SECONDS)

    def _refuse(self, number: int, error: Exception) -> None:
        self.counts["refused"] += 1
        self._refused(number, str(error))


def _text(line: Line) -> str:
    if line.text is None:
        raise InvalidValue(f"longer than {LINE_BYTES} bytes")
    try:
        return line.text.decode()
    except UnicodeDecodeError as error:
        raise InvalidValue("no UTF-8") from error
