import json
import math
import os
import tempfile

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import (
    InvalidValue,
    NotConnected,
    NotPermitted,
    ServerFault,
    TooManyPublishes,
    UnknownFeed,
    WrongCredentials,
)
from clockd.pipe import (
    IN_FLIGHT,
    KEY_LETTERS,
    LINE_BYTES,
    PAUSE_SECONDS,
    READ_BYTES,
    Line,
    Lines,
    Outgoing,
    Pump,
    outgoing_of,
    value_of,
)


class ValueTests(SynchronousTestCase):
    def test_json_is_a_value(self):
        for text, value in (
            *(("1", 1), ("-5", -5), ("1.5", 1.5), ("-0.0", -0.0), ("true", True), ("null", None), ('"x"', "x")),
            *(("[1, [2]]", [1, [2]]), ('{"a": 1}', {"a": 1}), (' "NaN" \r', "NaN"), ("1e308", 1e308), ("1e-999", 0.0)),
        ):
            self.assertEqual(repr(value_of(text)), repr(value))

    def test_what_is_none_is_told_by_name(self):
        for text, told in (
            ("NaN", "no JSON: NaN"),
            ("Infinity", "no JSON: Infinity"),
            ('{"a": [1, -Infinity]}', "no JSON: -Infinity"),
            ("1e999", "a number too large for a float: 1e999"),
            ("[-1e999]", "a number too large for a float: -1e999"),
            ("1" * 5000, "a number of too many digits"),
            ("[" * 60000, "too many levels"),
            ("hello", "no JSON: Expecting value, at character 1"),
            ("nan", "no JSON: Expecting value, at character 1"),
            ("[1,]", "no JSON: "),
            ("1 2", "no JSON: Extra data, at character 3"),
            ("NaN or none", "no JSON: Extra data, at character 5"),
            ("", "no JSON: "),
            ("\ufeff1", "no JSON: Unexpected UTF-8 BOM"),
        ):
            with self.assertRaises(InvalidValue) as caught:
                value_of(text)
            self.assertTrue(str(caught.exception).startswith(told), (text, str(caught.exception)))

    def test_an_object_is_a_sample(self):
        self.assertEqual(outgoing_of('{"feed": "a", "value": 1}'), Outgoing("a", 1, None))
        self.assertEqual(outgoing_of('{"stamp": 2.5, "value": null, "feed": "a"}'), Outgoing("a", None, 2.5))
        self.assertEqual(outgoing_of('{"feed": "a", "value": 1, "stamp": null}'), Outgoing("a", 1, None))

    def test_what_watch_prints_is_one(self):
        watched = dict.fromkeys(("sequence", "age", "offset", "bound", "round_trip"))
        line = json.dumps({"feed": "a", "value": {"b": 1}, "stamp": 3, **watched})
        self.assertEqual(outgoing_of(line), Outgoing("a", {"b": 1}, 3))

    def test_another_object_is_none(self):
        for text, told in (
            *(("[]", "no object with"), ("1", "no object with"), ("{}", "no object with")),
            *(('{"feed": "a"}', "no object with"), ('{"value": 1}', "no object with")),
            *(('{"feed": 1, "value": 1}', "no object with"), ('{"feed": null, "value": 1}', "no object with")),
            ('{"feed": "a", "value": 1, "stmp": 1, "z": 2}', "no such key: stmp; there are: feed, value, stamp$"),
            (f'{{"feed": "a", "value": 1, "{"k" * 60000}": 1}}', f"no such key: {'k' * KEY_LETTERS}; there"),
            ('{"feed": "a", "value": 1, "\\u001b[31m\\ud800": 1}', r"no such key: \\x1b\[31m\\ud800; there"),
        ):
            with self.assertRaisesRegex(InvalidValue, f"^{told}"):
                outgoing_of(text)


class Reactor:
    """Knows who is being read, and has them read what there is."""

    def __init__(self):
        self.readers = []

    def addReader(self, reader):
        self.readers.append(reader)

    def removeReader(self, reader):
        if reader in self.readers:
            self.readers.remove(reader)


class LinesTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = Reactor()
        self.out, self.into = os.pipe()
        self.addCleanup(os.close, self.out)
        self.lines = Lines(self.out, self.reactor)
        self.opened = True
        self.addCleanup(self.close)

    def close(self):
        if self.opened:
            self.opened = False
            os.close(self.into)

    def write(self, data):
        os.write(self.into, data)

    def next(self):
        return Deferred.fromCoroutine(anext(self.lines))

    def read(self):
        """Have everyone read who wants to."""
        for reader in list(self.reactor.readers):
            reader.doRead()

    def all(self, data):
        """Return all lines of what is written."""
        self.write(data)
        self.close()
        found = []
        while True:
            step = self.next()
            while not step.called:
                self.read()
            if isinstance(step.result, Failure):
                self.failureResultOf(step, StopAsyncIteration)
                return found
            found.append(self.successResultOf(step))

    def test_lines_are_numbered_and_have_no_end(self):
        self.assertEqual(self.all(b"a\n\n c \nd"), [Line(1, b"a"), Line(2, b""), Line(3, b" c "), Line(4, b"d")])

    def test_nothing_is_no_line(self):
        self.assertEqual(self.all(b""), [])

    def test_the_end_of_a_line_at_the_end_makes_no_other(self):
        self.assertEqual(self.all(b"a\n"), [Line(1, b"a")])

    def test_a_line_is_there_as_soon_as_it_is_whole(self):
        step = self.next()
        self.write(b"on")
        self.read()
        self.assertNoResult(step)
        self.assertEqual(self.reactor.readers, [self.lines])
        self.write(b"e\ntwo")
        self.read()
        self.assertEqual(self.successResultOf(step), Line(1, b"one"))

    def test_nothing_is_read_that_is_not_wanted(self):
        self.assertEqual(self.reactor.readers, [])
        step = self.next()
        self.assertEqual(self.reactor.readers, [self.lines])
        self.write(b"1\n2\n")
        self.read()
        self.successResultOf(step)
        self.assertEqual(self.reactor.readers, [])
        self.successResultOf(self.next())
        self.assertEqual(self.reactor.readers, [])
        self.next().addErrback(lambda _: None)
        self.assertEqual(self.reactor.readers, [self.lines])

    def test_who_waits_no_more_has_nothing_read(self):
        step = self.next()
        step.cancel()
        self.failureResultOf(step, CancelledError)
        self.assertEqual(self.reactor.readers, [])
        self.write(b"1\n")
        step = self.next()
        self.read()
        self.assertEqual(self.successResultOf(step), Line(1, b"1"))

    def test_the_longest_line_is_whole_and_a_longer_one_is_none(self):
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * LINE_BYTES + b"\n" + b"y" * (LINE_BYTES + 1) + b"\n" + b"z" * 10 * LINE_BYTES + b"\nend")
            file.seek(0)
            self.lines = Lines(file.fileno(), self.reactor)
            found = self.all(b"")
        self.assertEqual(found, [Line(1, b"x" * LINE_BYTES), Line(2, None), Line(3, None), Line(4, b"end")])

    def test_a_line_without_an_end_is_not_kept(self):
        with tempfile.TemporaryFile() as file:
            file.truncate(50 * READ_BYTES)
            self.lines = Lines(file.fileno(), self.reactor)
            step = self.next()
            longest = 0
            while not step.called:
                self.read()
                longest = max(longest, len(self.lines._rest))
            self.assertEqual(self.successResultOf(step), Line(1, None))
        self.assertLessEqual(longest, LINE_BYTES)

    def test_a_writer_that_has_gone_is_the_end(self):
        self.write(b"last")
        step = self.next()
        self.read()
        self.lines.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.successResultOf(step), Line(1, b"last"))
        self.failureResultOf(self.next(), StopAsyncIteration)

    def test_a_descriptor_that_has_nothing_after_all_is_no_end(self):
        os.set_blocking(self.out, False)
        step = self.next()
        self.read()
        self.assertNoResult(step)
        self.assertEqual(self.reactor.readers, [self.lines])
        self.close()
        self.read()
        self.failureResultOf(step, StopAsyncIteration)

    def test_a_terminal_that_has_gone_is_the_end(self):
        ours, theirs = os.openpty()
        os.write(theirs, b"1\n2")
        self.lines = Lines(ours, self.reactor)
        self.addCleanup(os.close, ours)
        step = self.next()
        self.read()
        self.assertEqual(self.successResultOf(step), Line(1, b"1\r"))
        os.close(theirs)
        step = self.next()
        self.read()
        self.assertEqual(self.successResultOf(step), Line(2, b"2"))
        self.failureResultOf(self.next(), StopAsyncIteration)

    def test_a_descriptor_that_cannot_be_read_is_told(self):
        with tempfile.TemporaryDirectory() as folder:
            descriptor = os.open(folder, os.O_RDONLY)
            self.addCleanup(os.close, descriptor)
            self.lines = Lines(descriptor, self.reactor)
            step = self.next()
            self.read()
        self.assertEqual(str(self.failureResultOf(step, OSError).value), "the input cannot be read: Is a directory")


async def given(texts):
    for number, text in enumerate(texts, 1):
        yield Line(number, text)


class PumpTests(SynchronousTestCase):
    """The server's answers are given by the test, in `calls`."""

    def setUp(self):
        self.clock = Clock()
        self.calls = []
        self.told = []
        self.pump = Pump(self.publish, outgoing_of, lambda number, why: self.told.append((number, why)), self.clock)

    def publish(self, feed, value, stamp):
        self.calls.append((value, Deferred()))
        return self.calls[-1][1]

    def run_over(self, count, feed=lambda _: "a"):
        texts = [json.dumps({"feed": feed(number), "value": number}).encode() for number in range(1, count + 1)]
        return Deferred.fromCoroutine(self.pump.run(given(texts)))

    def answer(self, at=0, error=None):
        """Answer a call, the oldest by default."""
        _, answer = self.calls.pop(at)
        if error is None:
            answer.callback(1)
        else:
            answer.errback(error)

    def waiting(self):
        return [value for value, _ in self.calls]

    @property
    def counts(self):
        """Lines published, and refused; and left out, if there are any."""
        published, refused, left_out = (self.pump.counts[each] for each in ("published", "refused", "left_out"))
        return (published, refused, left_out) if left_out else (published, refused)

    def test_so_many_are_under_way_at_a_time_and_no_more(self):
        done = self.run_over(IN_FLIGHT + 3)
        self.assertEqual(self.waiting(), list(range(1, IN_FLIGHT + 1)))
        self.answer(5)
        self.assertEqual(self.waiting()[-1], IN_FLIGHT + 1)
        self.assertEqual(len(self.calls), IN_FLIGHT)
        while self.calls:
            self.assertNoResult(done)
            self.answer()
        self.successResultOf(done)
        self.assertEqual((self.counts, self.told), ((IN_FLIGHT + 3, 0), []))

    def test_no_lines_are_done_at_once(self):
        self.successResultOf(self.run_over(0))
        self.assertEqual(self.counts, (0, 0))

    def test_what_is_no_sample_is_told_by_its_line_and_blank_lines_are_passed_over(self):
        lines = [b"", b"x", b' {"feed": "a", "value": 1}\r', b" \t\r", None, b"\xff", b'{"feed": "a", "value": NaN}']
        done = Deferred.fromCoroutine(self.pump.run(given(lines)))
        self.answer()
        self.successResultOf(done)
        told = [
            (2, "no JSON: Expecting value, at character 1"),
            (5, "longer than 65536 bytes"),
            (6, "no UTF-8"),
            (7, "no JSON: NaN"),
        ]
        self.assertEqual((self.told, self.counts), (told, (1, 4)))

    def test_a_refusal_is_told_by_its_line_and_the_rest_is_published(self):
        done = self.run_over(7)
        for kind in (InvalidValue, UnknownFeed, NotPermitted, NotConnected, ServerFault):
            self.answer(error=kind("no"))
        self.answer()
        self.answer()
        self.successResultOf(done)
        self.assertEqual((self.counts, self.told), ((2, 5), [(number, "no") for number in range(1, 6)]))

    def test_what_ends_the_client_ends_the_pipe_and_is_raised(self):
        done = self.run_over(3 * IN_FLIGHT)
        self.answer(error=WrongCredentials("no"))
        self.failureResultOf(done, WrongCredentials)
        self.assertEqual(self.told, [])

    def test_one_that_is_known_at_once_does_as_well(self):
        async def publish(*_):
            raise WrongCredentials("no")

        pump = Pump(publish, outgoing_of, self.fail, self.clock)
        lines = given([b'{"feed": "a", "value": 1}'] * 3)
        self.failureResultOf(Deferred.fromCoroutine(pump.run(lines)), WrongCredentials)

    def test_who_is_cancelled_tells_of_nothing(self):
        done = self.run_over(3 * IN_FLIGHT)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual((self.told, self.pump._flying, self.counts), ([], set(), (0, 0)))

    def test_too_many_at_a_time_are_tried_again_in_their_order(self):
        done = self.run_over(5)
        for _ in range(4):
            self.answer(error=TooManyPublishes("slowly"))
        self.assertEqual(self.waiting(), [5])
        self.answer(error=TooManyPublishes("slowly"))
        for number in range(1, 6):
            self.assertEqual(self.waiting(), [number])
            self.answer(error=TooManyPublishes("slowly"))
            self.clock.advance(PAUSE_SECONDS * 0.9)
            self.assertEqual(self.waiting(), [])
            self.clock.advance(PAUSE_SECONDS * 0.2)
            self.answer()
        self.successResultOf(done)
        self.assertEqual((self.counts, self.told), ((5, 0), []))

    def test_from_then_on_it_is_one_at_a_time_and_none_of_these_is_lost(self):
        done = self.run_over(IN_FLIGHT + 3)
        self.answer(error=TooManyPublishes("slowly"))
        for number in range(2, IN_FLIGHT + 1):
            self.assertEqual(self.waiting(), list(range(number, IN_FLIGHT + 1)))
            self.answer()
        for number in range(IN_FLIGHT + 1, IN_FLIGHT + 4):
            self.assertEqual(self.waiting(), [number])
            self.answer(error=TooManyPublishes("slowly"))
            self.assertEqual(self.waiting(), [number])
            self.answer(error=TooManyPublishes("slowly"))
            self.clock.advance(PAUSE_SECONDS)
            self.assertEqual(self.waiting(), [number])
            self.answer()
        self.successResultOf(done)
        self.assertEqual((self.counts, self.told), ((IN_FLIGHT + 2, 0, 1), []))

    def test_one_that_was_overtaken_in_its_feed_is_left_out_so_that_the_newest_stays(self):
        done = self.run_over(6, lambda number: "ab"[number % 2])
        for number in range(1, 7):
            self.answer(error=TooManyPublishes("slowly") if number in {1, 2, 5} else None)
        self.assertEqual(self.waiting(), [5])
        self.answer()
        self.successResultOf(done)
        self.assertEqual((self.counts, self.told), ((4, 0, 2), []))

    def test_a_refusal_of_another_kind_ends_the_trying(self):
        done = self.run_over(1)
        self.answer(error=TooManyPublishes("slowly"))
        self.answer(error=NotConnected("gone"))
        self.successResultOf(done)
        self.assertEqual(self.told, [(1, "gone")])

    def test_who_is_cancelled_tries_no_more(self):
        done = self.run_over(3)
        for _ in range(4):
            self.answer(error=TooManyPublishes("slowly"))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual((self.clock.getDelayedCalls(), self.told, self.waiting()), ([], [], []))

    def test_stamps_are_passed_on(self):
        found = []

        async def publish(*sample):
            found.append(sample)

        pump = Pump(publish, outgoing_of, self.fail, self.clock)
        lines = given([b'{"feed": "a", "value": [1], "stamp": 5}', b'{"feed": "b", "value": -1e3}'])
        self.successResultOf(Deferred.fromCoroutine(pump.run(lines)))
        self.assertEqual(found, [("a", [1], 5), ("b", -1000.0, None)])
        self.assertTrue(math.isfinite(found[1][1]))
