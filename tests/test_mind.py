"""The way of a push to the socket: what asks, what is held, what is owed, and what ends a connection."""

import struct

from doubles import EPOCH
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clockd.feeds import ClockFeed
from clockd.interfaces import ISink
from clockd.mind import RemoteMind
from clockd.values import Limits, Sample, Tally
from clockd.wire import PushTemplate, SampleEncoder

BUFFER = 65536


class Outlet:
    unsent = 0

    def __init__(self):
        self.written = []

    def write(self, data):
        self.written.append(data)


class Connection:
    """Where a mind lives; it counts its requests from 41."""

    def __init__(self):
        self.requests = 40
        self.probes = []
        self.ended = []
        self.owed = 0

    def new_request(self):
        self.requests += 1
        return self.requests

    def owe(self):
        self.owed += 1

    def probe(self, request):
        self.probes.append(request)

    def end(self, reason):
        self.ended.append(reason)


class MindCase(SynchronousTestCase):
    def make(self, dialect=b"pb", **limits):
        self.clock, self.tally, self.limits = Clock(), Tally(), Limits(**limits)
        self.counts = self.tally.feed("time")
        self.feed = ClockFeed(self.now)
        self.feeds = {"time": self.feed}
        self.firing, self.finishing = False, []
        self.connection, self.outlet = Connection(), Outlet()
        self.written = self.outlet.written
        self.template = PushTemplate(SampleEncoder(dialect), 7)
        self.reference = object()
        self.mind = RemoteMind(
            self.reference,
            self.connection,
            self.outlet,
            self.template,
            self.limits,
            self.tally,
            self.clock,
            self.now,
            lambda finish: self.finishing.append(finish) if self.firing else False,
        )
        self.mind.pull_from(lambda name: self.feeds[name].latest())
        return self.mind

    def now(self):
        return EPOCH + self.clock.seconds()

    def push(self):
        return self.mind.push(self.feed.latest())

    def one_way(self, stamp):
        return self.template.one_way(Sample("time", None, stamp, stamp))

    def asking(self, request, stamp):
        return self.template.asking(request, Sample("time", None, stamp, stamp))

    def skipped(self, reason):
        return self.counts.skipped[reason]

    def stamps(self):
        """Return the stamps that were written."""
        return [EPOCH + seconds for seconds in range(200) if any(self.holds(data, seconds) for data in self.written)]

    def holds(self, data, seconds):
        return struct.pack("!d", EPOCH + seconds) in data


class PushTests(MindCase):
    def test_it_is_a_sink(self):
        self.assertTrue(verifyObject(ISink, self.make()))

    def test_the_first_push_asks_and_the_next_do_not(self):
        for dialect in (b"pb", b"none"):
            self.make(dialect)
            self.assertIs(self.push(), True)
            self.assertIs(self.push(), True)
            self.assertEqual(self.written, [self.asking(41, EPOCH), self.one_way(EPOCH)])
            self.assertEqual((self.mind.request, self.mind.awaited), (41, self.template.answer(41)))

    def test_a_push_is_the_sample_s_stamp_and_not_the_moment_s(self):
        self.make()
        for stamp in (1.5, 2.5):
            self.mind.push(Sample("time", None, stamp, stamp))
        self.assertEqual(self.written, [self.asking(41, 1.5), self.one_way(2.5)])

    def test_pushes_and_their_bytes_are_counted(self):
        self.make()
        for _ in range(3):
            self.push()
        self.assertEqual((self.counts.pushes, self.counts.bytes), (3, sum(map(len, self.written))))
        self.assertEqual(set(self.counts.skipped.values()), {0})

    def test_a_push_that_is_skipped_counts_no_bytes(self):
        self.make()
        self.outlet.unsent = BUFFER + 1
        self.assertIs(self.push(), False)
        self.assertEqual((self.counts.pushes, self.counts.bytes, self.written), (0, 0, []))

    def test_a_push_while_an_answer_is_overdue_is_skipped_as_unacknowledged(self):
        self.make(ack_seconds=2)
        self.push()
        self.clock.advance(1.75)
        self.assertIs(self.push(), True)
        self.clock.advance(0.25)
        self.assertIs(self.push(), False)
        self.assertEqual((self.skipped("unacknowledged"), self.skipped("buffer"), self.counts.pushes), (1, 0, 2))

    def test_it_holds_the_reference_for_as_long_as_it_lives(self):
        self.make()
        self.assertIs(self.mind._reference, self.reference)


class BufferTests(MindCase):
    def test_its_connection_is_told_of_each_push_skipped_for_the_buffer_and_of_no_other(self):
        self.make()
        self.push()
        self.outlet.unsent = BUFFER + 1
        for skipped in (1, 2):
            self.push()
            self.assertEqual(self.connection.owed, skipped)
        self.outlet.unsent = 0
        self.clock.advance(2)
        self.push()
        self.assertEqual((self.skipped("unacknowledged"), self.connection.owed), (1, 2))

    def test_at_buffer_bytes_it_is_pushed_and_with_one_more_skipped(self):
        for buffer_bytes in (4096, BUFFER, 1_000_000):
            self.make(buffer_bytes=buffer_bytes)
            self.outlet.unsent = buffer_bytes
            self.assertIs(self.push(), True)
            self.outlet.unsent = buffer_bytes + 1
            self.assertIs(self.push(), False)
            self.assertEqual((self.skipped("buffer"), self.skipped("unacknowledged")), (1, 0))
            self.assertEqual((list(self.mind.window.owed), len(self.written)), (["time"], 1))

    def test_64_kib_is_the_default(self):
        self.make()
        self.assertEqual(self.limits.buffer_bytes, BUFFER)

    def test_a_push_skipped_for_the_buffer_is_no_push_on_the_way_to_the_next_ask(self):
        self.make()
        self.push()
        self.mind.heard(error=False)
        self.outlet.unsent = BUFFER + 1
        for _ in range(20):
            self.push()
        self.clock.advance(5)
        self.outlet.unsent = 0
        self.push()
        self.assertEqual(self.written[1:], [self.one_way(EPOCH + 5)])

    def test_what_was_skipped_is_paid_once_and_newest_when_the_buffer_has_drained(self):
        self.make()
        self.push()
        self.mind.heard(error=False)
        self.outlet.unsent = BUFFER + 1
        self.push()
        self.push()
        self.assertIs(self.mind.pay(), False)
        self.assertEqual((len(self.written), self.skipped("buffer")), (1, 2))  # it tried no push
        self.outlet.unsent = BUFFER
        self.clock.advance(3)
        self.assertIs(self.mind.pay(), True)
        self.assertEqual(self.written[1:], [self.one_way(EPOCH + 3)])
        self.assertIs(self.mind.pay(), True)
        self.assertEqual(len(self.written), 2)

    def test_it_is_not_paid_while_an_answer_is_overdue_but_with_the_answer(self):
        self.make()
        self.push()
        self.outlet.unsent = BUFFER + 1
        self.push()
        self.outlet.unsent = 0
        self.clock.advance(1)
        self.assertIs(self.mind.pay(), False)
        self.assertEqual((len(self.written), self.skipped("unacknowledged")), (1, 0))  # it tried no push
        self.mind.heard(error=False)
        self.assertEqual(self.stamps(), [EPOCH, EPOCH + 1])
        self.assertIs(self.mind.pay(), True)

    def test_just_before_the_answer_is_overdue_it_is(self):
        self.make()
        self.push()
        self.outlet.unsent = BUFFER + 1
        self.push()
        self.outlet.unsent = 0
        self.clock.advance(0.875)
        self.assertIs(self.mind.pay(), True)
        self.assertEqual(self.written[1:], [self.one_way(EPOCH + 0.875)])

    def test_an_answer_pushes_nothing_into_a_buffer_that_is_full(self):
        self.make()
        self.push()
        self.outlet.unsent = BUFFER + 1
        self.push()
        self.mind.heard(error=False)
        self.assertEqual((len(self.written), self.skipped("buffer")), (1, 2))
        self.outlet.unsent = 0
        self.assertIs(self.mind.pay(), True)
        self.assertEqual(len(self.written), 2)

    def test_where_nothing_is_owed_nothing_is_paid(self):
        self.make()
        for _ in range(10):
            self.clock.advance(1)
            self.assertIs(self.mind.pay(), True)
        self.assertEqual(self.written, [])

    def test_a_sweep_pays_nothing(self):
        self.make()
        self.push()
        self.mind.heard(error=False)
        self.outlet.unsent = BUFFER + 1
        self.push()
        self.outlet.unsent = 0
        self.assertIs(self.mind.sweep(), False)
        self.assertEqual(len(self.written), 1)

    def test_a_push_in_its_turn_pays_what_was_owed(self):
        self.make()
        self.push()
        self.outlet.unsent = BUFFER + 1
        self.push()
        self.outlet.unsent = 0
        self.push()
        self.assertEqual((len(self.written), list(self.mind.window.owed)), (2, []))
        self.mind.pay()
        self.mind.heard(error=False)
        self.assertEqual(len(self.written), 2)

    def test_a_push_of_one_feed_pays_nothing_of_another(self):
        self.make()
        self.mind.window.owe("load")
        self.push()
        self.assertEqual(list(self.mind.window.owed), ["load"])


class AnswerTests(MindCase):
    def test_an_answer_is_timed_and_closes_the_question(self):
        self.make()
        self.push()
        self.clock.advance(0.25)
        self.mind.heard(error=False)
        self.assertEqual((self.mind.request, self.mind.awaited), (None, None))
        self.assertEqual((sum(self.tally.acknowledgement.counts), self.tally.acknowledgement.total), (1, 0.25))

    def test_each_question_has_a_number_of_its_own(self):
        self.make()
        for number in (41, 42, 43):
            self.push()
            self.assertEqual((self.mind.request, self.mind.awaited), (number, self.template.answer(number)))
            self.mind.heard(error=False)
            self.clock.advance(10)

    def test_what_became_due_while_the_answer_was_overdue_is_pushed_once_and_newest(self):
        self.make()
        self.push()
        for _ in range(4):
            self.clock.advance(1)
            self.push()
        self.clock.advance(1)
        self.mind.heard(error=False)
        self.assertEqual((self.stamps(), self.skipped("unacknowledged")), ([EPOCH, EPOCH + 5], 4))

    def test_the_third_error_in_a_row_ends_the_connection_and_pushes_nothing_more(self):
        self.make()
        for errors in range(3):
            self.assertEqual(self.connection.ended, [])
            self.push()
            self.clock.advance(5)
            self.push()
            before = len(self.written)
            self.mind.heard(error=True)
            self.assertEqual(len(self.written) - before, errors < 2)  # what was owed
            self.clock.advance(10)
        self.assertEqual(self.connection.ended, ["protocol"])
        self.assertEqual(sum(self.tally.acknowledgement.counts), 3)

    def test_an_error_is_an_answer_and_one_that_is_none_begins_the_row_anew(self):
        self.make()
        for error in (True, True, False, True, True):
            self.push()
            self.mind.heard(error=error)
            self.clock.advance(10)
        self.assertEqual((self.connection.ended, sum(self.tally.acknowledgement.counts)), ([], 5))


class SweepTests(MindCase):
    def answered(self, **limits):
        """Make a mind whose first push was answered at once."""
        self.make(**limits)
        self.push()
        self.mind.heard(error=False)

    def test_it_is_probed_half_of_stale_seconds_after_the_last_question(self):
        self.answered(stale_seconds=10)
        self.clock.advance(4.875)
        self.mind.sweep()
        self.assertEqual(self.connection.probes, [])
        self.clock.advance(0.125)
        self.mind.sweep()
        self.assertEqual((self.connection.probes, self.mind.request), ([42], 42))
        self.assertEqual(self.mind.awaited, self.template.answer(42))
        self.assertEqual((len(self.written), self.counts.pushes), (1, 1))  # a probe is no push

    def test_a_probe_that_is_open_is_not_repeated(self):
        self.answered(stale_seconds=10)
        for _ in range(9):
            self.clock.advance(1)
            self.mind.sweep()
        self.assertEqual(self.connection.probes, [42])

    def test_the_answer_to_a_probe_is_not_timed_and_counts_as_no_error(self):
        self.answered(stale_seconds=10)
        for number in range(5):
            self.clock.advance(5)
            self.mind.sweep()
            self.mind.heard(error=True)
            self.assertEqual(len(self.connection.probes), number + 1)
        self.assertEqual((self.connection.ended, sum(self.tally.acknowledgement.counts)), ([], 1))

    def test_the_answer_to_a_probe_takes_no_error_back(self):
        self.make(stale_seconds=12)
        for _ in range(3):
            self.assertEqual(self.connection.ended, [])
            self.push()
            self.mind.heard(error=True)
            self.clock.advance(6)
            self.mind.sweep()
            self.mind.heard(error=False)
            self.clock.advance(6)
        self.assertEqual(self.connection.ended, ["protocol"])

    def test_the_push_after_a_probe_that_was_answered_is_timed_again(self):
        self.answered(stale_seconds=10)
        self.clock.advance(5)
        self.mind.sweep()
        self.mind.heard(error=True)
        self.clock.advance(4)
        self.push()
        self.clock.advance(0.5)
        self.mind.heard(error=False)
        self.assertEqual((sum(self.tally.acknowledgement.counts), self.tally.acknowledgement.total), (2, 0.5))

    def test_the_answer_to_a_probe_lets_out_what_is_owed(self):
        self.answered(stale_seconds=10)
        self.clock.advance(5)
        self.mind.sweep()
        self.clock.advance(1)
        self.push()
        self.assertEqual((len(self.written), self.skipped("unacknowledged")), (1, 1))
        self.clock.advance(1)
        self.mind.heard(error=True)
        self.assertEqual(self.stamps(), [EPOCH, EPOCH + 7])

    def test_it_ends_at_the_second_sweep_that_finds_it_stale_and_not_at_the_first(self):
        self.make(stale_seconds=10)
        self.push()
        self.clock.advance(9.875)
        self.mind.sweep()
        self.mind.sweep()
        self.assertEqual(self.connection.ended, [])
        self.clock.advance(0.125)
        self.mind.sweep()
        self.assertEqual(self.connection.ended, [])
        self.mind.sweep()
        self.assertEqual(self.connection.ended, ["stale"])

    def test_an_answer_between_two_sweeps_clears_it_of_suspicion(self):
        self.make(stale_seconds=10)
        for _ in range(3):
            self.push()
            self.clock.advance(100)
            self.mind.sweep()
            self.mind.heard(error=False)
            self.mind.sweep()
            self.mind.heard(error=False)
            self.clock.advance(100)
        self.assertEqual(self.connection.ended, [])

    def test_an_answer_ends_a_suspicion_though_no_sweep_comes_until_it_is_stale_again(self):
        self.make(stale_seconds=10)
        self.push()
        self.clock.advance(10)
        self.mind.sweep()
        self.mind.heard(error=False)
        self.push()
        self.assertEqual(self.mind.request, 42)  # so it is not quiet, and not swept
        self.clock.advance(10)
        self.mind.sweep()
        self.assertEqual(self.connection.ended, [])
        self.mind.sweep()
        self.assertEqual(self.connection.ended, ["stale"])

    def test_it_is_quiet_from_half_of_stale_seconds_after_the_last_question_on(self):
        self.make(stale_seconds=10)
        for ask in (lambda: None, self.push, lambda: self.mind.heard(error=False) or self.mind.sweep()):
            ask()
            self.clock.advance(4.875)
            self.assertFalse(self.mind.quiet())
            self.clock.advance(0.125)
            self.assertTrue(self.mind.quiet())
        self.assertEqual(self.connection.probes, [42])

    def test_whoever_is_to_be_probed_or_is_stale_is_quiet(self):
        for stale_seconds in (0.5, 10, 30):
            for answers in (False, True):
                self.make(stale_seconds=stale_seconds)
                self.push()
                if answers:
                    self.mind.heard(error=False)
                for _ in range(100):
                    self.clock.advance(stale_seconds / 32)
                    quiet = self.mind.quiet()
                    if self.mind.sweep():
                        self.assertTrue(quiet)
                        break
                self.assertEqual(
                    (self.connection.probes, self.connection.ended), ([42], []) if answers else ([], ["stale"])
                )

    def test_a_sweep_tells_whether_it_did_something(self):
        self.answered(stale_seconds=10)
        self.assertIs(self.mind.sweep(), False)
        self.clock.advance(5)
        self.assertIs(self.mind.sweep(), True)
        self.clock.advance(5)
        self.assertIs(self.mind.sweep(), False)  # it is suspected
        self.assertIs(self.mind.sweep(), True)

    def test_a_stale_one_is_neither_probed_nor_pushed_to(self):
        self.make(stale_seconds=10)
        self.push()
        self.clock.advance(1)
        self.push()
        self.clock.advance(20)
        self.mind.sweep()
        self.assertEqual((len(self.written), self.connection.probes), (1, []))


class AnyCourseOfEventsTests(MindCase):
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["push", "sweep", "pay", "answer", "error", "full", "drained"]),
                st.sampled_from([0, 0.25, 1, 5]),
            ),
            max_size=60,
        )
    )
    def test_every_push_is_counted_once_and_nothing_is_written_that_may_not_be(self, events):
        self.make(buffer_bytes=4096)
        asked, tried = None, 0
        for event, seconds in events:
            self.clock.advance(seconds)
            before = len(self.written)
            if event in ("full", "drained"):
                self.outlet.unsent = 4097 if event == "full" else 4096
            elif event == "push":
                self.assertEqual(self.push(), len(self.written) == before + 1)
                tried += 1
            elif event in ("sweep", "pay"):
                getattr(self.mind, event)()
            elif self.mind.request is not None:
                self.mind.heard(error=event == "error")
                asked = None
            if self.connection.ended:
                return
            wrote = len(self.written) - before
            if self.outlet.unsent > 4096 or (asked is not None and self.clock.seconds() - asked >= 1):
                self.assertEqual(wrote, 0)
            if self.mind.request is not None and asked is None:
                asked = self.clock.seconds()
            self.assertEqual(self.counts.pushes, len(self.written))
            self.assertEqual(self.counts.bytes, sum(map(len, self.written)))
            self.assertEqual(self.mind.awaited is None, self.mind.request is None)
            if event == "push" or wrote:  # what was written is the newest: nothing is owed then
                self.assertEqual(list(self.mind.window.owed), [] if wrote else ["time"])
        self.assertGreaterEqual(self.counts.pushes + sum(self.counts.skipped.values()), tried)
