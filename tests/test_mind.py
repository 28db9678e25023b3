"""The way of a push to the socket: what asks, what is held, what is owed, and what ends a connection."""

import math
import struct
from itertools import count

from doubles import EPOCH
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import TimeoutError as NoAnswer
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clockd.feeds import ClockFeed, LatestFeed
from clockd.interfaces import IClient
from clockd.mind import RemoteMind
from clockd.values import MAX_SECONDS, Limits, Sample, Tally
from clockd.wire import Encoder, PushTemplate, SampleEncoder

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
        self.closed = []
        self.owed = 0

    def new_request(self):
        self.requests += 1
        return self.requests

    def owe(self):
        self.owed += 1

    def probe(self, request):
        self.probes.append(request)

    def peer(self):
        return "203.0.113.7:8787"

    def close(self, reason):
        self.closed.append(reason)

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
            self.finish_soon,
        )
        self.mind.pull_from(lambda name: self.feeds[name].latest())
        return self.mind

    def now(self):
        return EPOCH + self.clock.seconds()

    def finish_soon(self, finish):
        if self.firing:
            self.finishing.append(finish)
        return self.firing

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
        self.assertTrue(verifyObject(IClient, self.make()))

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


class SampleCase(MindCase):
    """Feeds `a`, `b` and so on, beside the time."""

    def make(self, **limits):
        super().make(**limits)
        self.sequence = count(1)
        self.mind.pull_from(self.pulled)
        self.pulls = []
        for name in "abc":
            self.tally.feed(name)

    def pulled(self, name):
        self.pulls.append(name)
        return self.feed.latest() if name == "time" else self.sample(name)

    def sample(self, name="a", value=None):
        return Sample(name, next(self.sequence), self.now(), value)

    def push_all(self, names="abc"):
        """Push a sample of each feed; returns their bytes, each apart, as if no answer was asked for."""
        samples = [self.sample(name) for name in names]
        self.assertEqual([self.mind.push(sample) for sample in samples], [True] * len(samples))
        return [self.template.one_way(sample) for sample in samples]

    def answered(self, **limits):
        """Make a mind whose first push was answered at once."""
        self.make(**limits)
        self.push()
        self.mind.heard(error=False)
        del self.written[:]

    def finish(self):
        """End the firing; returns what was finished for how many calls."""
        self.firing, finishing, self.finishing = False, self.finishing, []
        return [finish() for finish in finishing]

    def counted(self, name):
        counts = self.tally.feeds[name]
        return counts.pushes, counts.bytes, {reason: n for reason, n in counts.skipped.items() if n}


class GatheringTests(SampleCase):
    def test_samples_that_are_due_together_go_out_in_one_write_when_all_have_been_called(self):
        self.answered()
        self.firing = True
        parts = self.push_all()
        self.assertEqual((self.written, len(self.finishing)), ([], 1))
        self.assertEqual((self.finish(), self.written), ([3], [b"".join(parts)]))

    def test_the_next_firing_gathers_anew(self):
        self.answered()
        for _ in range(2):
            self.firing = True
            parts = self.push_all("ab")
            self.assertEqual((self.finish(), self.written[-1]), ([2], b"".join(parts)))
        self.assertEqual(len(self.written), 2)

    def test_outside_of_a_firing_each_goes_out_at_once(self):
        self.answered()
        parts = self.push_all()
        self.assertEqual((self.written, self.finishing), (parts, []))

    def test_the_time_goes_out_at_once_and_by_itself(self):
        self.answered()
        self.firing = True
        before, _ = self.push_all("a"), self.push()
        self.assertEqual(self.written, [self.one_way(EPOCH)])
        after = self.push_all("b")
        self.assertEqual((self.finish(), self.written[1:]), ([2], [b"".join(before + after)]))

    def test_two_clients_gather_apart(self):
        self.answered()
        one = self.mind, self.written
        self.firing = True
        finishing = self.finishing
        parts = self.push_all("ab")
        self.answered()
        self.firing, self.finishing = True, finishing
        others = self.push_all("c")
        self.assertEqual((self.finish(), one[1], self.written), ([2, 1], [b"".join(parts)], others))

    def test_each_is_counted_for_its_feed_when_it_is_gathered(self):
        self.answered()
        self.firing = True
        a, b, more = self.push_all("aba")
        self.assertEqual((self.counted("a"), self.counted("b")), ((2, len(a) + len(more), {}), (1, len(b), {})))

    def test_what_is_gathered_counts_as_unsent(self):
        self.answered(buffer_bytes=4096)
        self.firing = True
        size = len(self.template.one_way(self.sample(value=b"x" * 2041)))
        self.outlet.unsent = 4096 - size
        self.assertIs(self.mind.push(self.sample(value=b"x" * 2041)), True)
        self.assertIs(self.mind.push(self.sample("b")), True)
        self.assertIs(self.mind.push(self.sample("c")), False)
        self.assertEqual((self.counted("c"), self.connection.owed), ((0, 0, {"buffer": 1}), 1))
        self.assertIs(self.push(), False)
        self.outlet.unsent = 0
        self.assertEqual(self.finish(), [2])
        self.assertIs(self.mind.push(self.sample("c")), True)

    def test_what_has_gone_out_counts_no_more(self):
        self.answered(buffer_bytes=4096)
        for _ in range(10):
            self.firing = True
            self.assertIs(self.mind.push(self.sample(value=b"x" * 4000)), True)
            self.finish()

    def test_a_write_that_fails_takes_nothing_into_the_next_one(self):
        self.answered(buffer_bytes=4096)
        self.firing = True
        self.push_all()
        write, self.outlet.write = self.outlet.write, None
        self.assertRaises(TypeError, self.finish)
        self.outlet.write, self.firing = write, True
        self.assertIs(self.mind.push(self.sample(value=b"x" * 4000)), True)
        self.assertEqual(self.finish(), [1])


class SampleWindowTests(SampleCase):
    def test_the_first_sample_of_a_connection_asks_and_the_answer_is_recognised(self):
        self.make()
        self.firing = True
        samples = [self.sample("a"), self.sample("b")]
        for sample in samples:
            self.mind.push(sample)
        self.finish()
        self.assertEqual(self.written, [self.template.asking(41, samples[0]) + self.template.one_way(samples[1])])
        self.assertEqual(self.mind.awaited, self.template.answer(41))

    def test_samples_and_the_time_have_one_window(self):
        self.answered(ack_seconds=1)
        self.clock.advance(1)
        for _ in range(8):
            self.assertEqual(self.push_all("a"), self.written[-1:])
        sample = self.sample("b")
        self.mind.push(sample)
        self.assertEqual(self.written[-1], self.template.asking(42, sample))
        self.clock.advance(1)
        self.assertEqual((self.push(), self.mind.push(self.sample("c"))), (False, False))
        self.assertEqual((self.skipped("unacknowledged"), self.counted("c")), (1, (0, 0, {"unacknowledged": 1})))
        self.assertEqual(list(self.mind.window.owed), ["time", "c"])

    def test_with_the_answer_all_feeds_owed_go_out_newest_and_in_one_write(self):
        self.make()
        self.mind.push(self.sample("a"))
        self.clock.advance(1)
        for name in "abcab":
            self.assertIs(self.mind.push(self.sample(name)), False)
        del self.written[:]
        self.clock.advance(1)
        self.mind.heard(error=False)
        newest = [self.template.one_way(Sample(name, 7 + at, EPOCH + 2, None)) for at, name in enumerate("abc")]
        self.assertEqual((self.pulls, self.written), (["a", "b", "c"], [b"".join(newest)]))
        self.assertEqual((list(self.mind.window.owed), self.finishing), ([], []))
        self.assertEqual(self.counted("a")[2], {"unacknowledged": 2})

    def test_what_is_owed_goes_out_once(self):
        self.make()
        self.mind.push(self.sample("a"))
        self.clock.advance(1)
        self.mind.push(self.sample("b"))
        self.mind.heard(error=False)
        del self.written[:]
        self.mind.pay()
        self.clock.advance(15)
        self.mind.sweep()
        self.mind.heard(error=False)
        self.assertEqual((self.written, self.pulls), ([], ["b"]))

    def test_a_feed_that_is_owed_no_more_when_it_is_pulled_is_left_out(self):
        self.make()
        self.mind.push(self.sample("a"))
        self.clock.advance(1)
        for name in "abc":
            self.mind.push(self.sample(name))
        del self.written[:]
        self.mind.pull_from(lambda name: self.sample(name) if name == "b" else None)
        self.mind.heard(error=False)
        self.assertEqual(
            [self.written, self.counted("b")[0]], [[self.template.one_way(Sample("b", 5, EPOCH + 1, None))], 1]
        )
        self.mind.pull_from(lambda _: None)
        self.clock.advance(1)
        self.mind.window.owe("a")
        self.assertIs(self.mind.pay(), True)
        self.assertEqual(len(self.written), 1)

    def test_the_time_that_is_owed_too_goes_out_by_itself(self):
        self.make()
        self.push()
        self.clock.advance(1)
        self.push()
        for name in "ab":
            self.mind.push(self.sample(name))
        del self.written[:]
        self.mind.heard(error=False)
        self.assertEqual(self.written[0], self.one_way(EPOCH + 1))
        self.assertEqual(len(self.written), 2)

    def test_after_a_full_buffer_all_that_is_owed_is_paid_in_one_write(self):
        self.answered()
        self.outlet.unsent = BUFFER + 1
        for name in "abab":
            self.mind.push(self.sample(name))
        self.assertIs(self.mind.pay(), False)
        self.outlet.unsent = 0
        self.assertIs(self.mind.pay(), True)
        self.assertEqual((len(self.written), self.pulls), (1, ["a", "b"]))

    def test_what_there_is_no_room_for_stays_owed(self):
        self.make(buffer_bytes=4096)
        self.push()
        self.mind.heard(error=False)
        self.outlet.unsent = 4097
        for name in "abc":
            self.mind.push(self.sample(name))
        del self.written[:]
        self.mind.pull_from(lambda name: self.sample(name, b"x" * 4000))
        self.outlet.unsent = 0
        self.assertIs(self.mind.pay(), False)
        self.assertEqual((len(self.written), list(self.mind.window.owed)), (1, ["c"]))
        self.assertIs(self.mind.pay(), True)
        self.assertEqual((len(self.written), list(self.mind.window.owed)), (2, []))

    def test_a_push_that_is_not_skipped_is_owed_no_more(self):
        self.answered()
        self.outlet.unsent = BUFFER + 1
        for name in "ab":
            self.mind.push(self.sample(name))
        self.outlet.unsent = 0
        self.push_all("a")
        self.assertEqual(list(self.mind.window.owed), ["b"])


class NoticeTests(SampleCase):
    def notices(self):
        return [data for data in self.written if b"server" in data]

    def notice(self, number, notice):
        return self.template.one_way(Sample("server", number, self.now(), notice))

    def test_only_who_takes_notices_gets_them_numbered_from_1_and_at_once(self):
        self.make()
        self.mind.notify({"kind": "replaced"})
        self.assertEqual(self.written, [])
        self.mind.take_notices()
        self.firing = True
        for number, seconds in ((1, 0), (2, 5)):
            self.clock.advance(seconds)
            self.mind.notify({"kind": "draining", "retry_seconds": 1.5})
            self.assertEqual(self.written[-1], self.notice(number, {"kind": "draining", "retry_seconds": 1.5}))
        self.assertEqual((len(self.written), self.finishing), (2, []))

    def test_taking_them_twice_is_taking_them_once(self):
        self.make()
        for number in (1, 2):
            self.mind.take_notices()
            self.mind.notify({})
            self.assertEqual(self.written[-1], self.notice(number, {}))

    def test_who_takes_them_no_more_gets_none_and_counts_from_1_if_it_does_again(self):
        self.make()
        self.mind.take_notices()
        self.mind.notify({})
        self.mind.take_notices(False)
        self.mind.take_notices(False)
        self.mind.notify({})
        self.assertEqual(len(self.written), 1)
        self.mind.take_notices()
        self.mind.notify({"kind": "replaced"})
        self.assertEqual(self.written[1:], [self.notice(1, {"kind": "replaced"})])

    def test_one_is_dropped_when_too_much_is_unsent_and_is_not_owed(self):
        self.make()
        self.mind.take_notices()
        for unsent, written in ((BUFFER + 1, 0), (BUFFER, 1)):
            self.outlet.unsent = unsent
            self.mind.notify({})
            self.assertEqual((len(self.written), list(self.mind.window.owed)), (written, []))
        self.assertEqual(self.written, [self.notice(1, {})])

    def test_one_goes_out_though_an_answer_is_overdue_and_asks_for_none(self):
        self.make()
        self.push()
        self.clock.advance(5)
        self.mind.take_notices()
        self.mind.notify({"kind": "kicked", "reason": "x"})
        self.assertEqual(self.written[1:], [self.notice(1, {"kind": "kicked", "reason": "x"})])
        self.assertEqual((self.counts.pushes, "server" in self.tally.feeds), (1, False))


class StepTests(SampleCase):
    def make(self, **limits):
        super().make(**limits)
        self.mind.take_notices()
        self.mind.push(self.sample("c"))
        self.mind.heard(error=False)
        del self.written[:]

    def notice(self, number, seconds):
        notice = {"kind": "clock_step", "step_seconds": seconds}
        return self.template.one_way(Sample("server", number, self.now(), notice))

    def test_it_is_told_before_the_next_push_and_once(self):
        self.make()
        self.mind.stepped(-3600.0, self.now())
        self.assertEqual(self.written, [])
        self.push()
        self.push()
        self.mind.tell_step()
        self.assertEqual(self.written, [self.notice(1, -3600.0), self.one_way(EPOCH), self.one_way(EPOCH)])

    def test_or_when_it_is_its_turn(self):
        self.make()
        self.mind.stepped(0.5, self.now())
        self.mind.tell_step()
        self.push()
        self.assertEqual(self.written, [self.notice(1, 0.5), self.one_way(EPOCH)])

    def test_it_goes_out_before_samples_that_are_gathered_and_those_owed(self):
        self.make()
        self.mind.stepped(0.5, self.now())
        self.firing = True
        parts = self.push_all("ab")
        self.finish()
        self.assertEqual(self.written, [self.notice(1, 0.5), b"".join(parts)])
        self.outlet.unsent = BUFFER + 1
        self.mind.push(self.sample("a"))
        self.mind.stepped(0.25, self.now())
        self.outlet.unsent = 0
        self.mind.pay()
        self.assertEqual((self.written[2], len(self.written)), (self.notice(2, 0.25), 4))

    def test_what_is_still_to_be_told_becomes_one_sum(self):
        self.make()
        for seconds in (1.0, -0.25):
            self.mind.stepped(seconds, self.now())
        self.push()
        self.assertEqual(self.written[0], self.notice(1, 0.75))

    def test_it_waits_while_too_much_is_unsent(self):
        self.make()
        self.mind.stepped(1.0, self.now())
        self.outlet.unsent = BUFFER + 1
        self.assertIs(self.push(), False)
        self.mind.tell_step()
        self.assertEqual(self.written, [])
        self.outlet.unsent = BUFFER
        self.mind.tell_step()
        self.assertEqual(self.written, [self.notice(1, 1.0)])

    def test_who_takes_no_notices_is_told_nothing_and_who_takes_them_later_nothing_of_before(self):
        self.make()
        self.mind.take_notices(False)
        self.mind.stepped(1.0, self.now())
        self.mind.take_notices()
        self.push()
        self.assertEqual(self.written, [self.one_way(EPOCH)])

    def test_what_has_come_before_it_counts_as_come_now(self):
        self.make()
        self.assertEqual(self.mind.received, EPOCH)
        self.clock.advance(5)
        self.mind.stepped(1.0, self.now())
        self.assertEqual(self.mind.received, EPOCH + 5)

    def test_pushes_ask_no_more_often_than_without(self):
        self.make()
        for _ in range(3):
            self.mind.stepped(1.0, self.now())
            self.push()
        self.assertIsNone(self.mind.request)


class ToldTests(MindCase):
    def ask(self, answered=2.0):
        """Ask, and let the answer come so many seconds later."""
        self.make()
        self.push()
        self.clock.advance(answered)
        self.mind.received = self.now()

    def seen(self):
        offset, bound = self.tally.subscriber_offset, self.tally.subscriber_bound
        return sum(offset.counts), offset.total, sum(bound.counts), bound.total

    def test_its_clock_is_compared_with_the_middle_of_ask_and_answer(self):
        for received, off in ((1.0, 0.0), (1.5, 0.5), (0.0, 1.0)):
            self.ask()
            self.mind.told(EPOCH + received, 0.25)
            self.assertEqual(self.seen(), (1, off, 1, 0.25))

    def test_a_bound_that_is_not_known_is_not_counted(self):
        self.ask()
        self.mind.told(EPOCH, math.inf)
        self.assertEqual(self.seen(), (1, 1.0, 0, 0.0))

    def test_nonsense_about_a_clock_is_passed_over(self):
        for pair in ((math.nan, 0.5), (math.inf, 0.5), (-math.inf, 0.5), (EPOCH, math.nan), (EPOCH, -0.5)):
            self.ask()
            self.mind.told(*pair)
            self.assertEqual(self.seen(), (0, 0.0, 0, 0.0))

    def test_a_clock_that_is_off_without_end_counts_as_a_year(self):
        for received in (1e308, -1e308):
            self.ask()
            self.mind.told(received, 1e308)
            self.assertEqual(self.seen(), (1, MAX_SECONDS, 1, MAX_SECONDS))

    def test_after_a_step_between_ask_and_answer_nothing_is_counted(self):
        self.ask()
        self.mind.stepped(1.0, self.now())
        self.mind.told(EPOCH, 0.5)
        self.assertEqual(self.seen(), (0, 0.0, 0, 0.0))
        self.mind.heard(error=False)
        self.clock.advance(10)
        self.push()
        self.mind.received = self.now()
        self.mind.told(EPOCH + 12, 0.5)
        self.assertEqual(self.seen(), (1, 0.0, 1, 0.5))

    def test_with_the_answer_to_a_probe_nothing_is_told(self):
        self.make()
        self.clock.advance(20)
        self.mind.sweep()
        self.mind.told(EPOCH, 0.5)
        self.assertEqual(self.seen(), (0, 0.0, 0, 0.0))

    def test_it_is_known_by_its_bytes(self):
        for dialect in (b"pb", b"none"):
            self.make(dialect)
            answer = Encoder(dialect).encode([b"answer", 41, [b"tuple", EPOCH, 0.5]])
            self.assertIs(self.mind.tells(answer), False)
            self.push()
            for other in (answer[:-1], answer + b"x", self.template.answer(41), b""):
                self.assertIs(self.mind.tells(other), False)
            self.assertIs(self.mind.tells(answer), True)
            self.assertEqual(self.seen(), (1, 0.0, 1, 0.5))
            self.assertEqual(self.mind.request, 41)


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


class UnexpectedTests(MindCase):
    """Samples that others have subscribed to, pushed to a client that may not know them."""

    def make(self, **limits):
        super().make(**limits)
        self.load = LatestFeed("load", Encoder(b"pb").encode, self.tally.feed("load"), self.now)
        self.feeds["load"] = self.load
        self.mind.expect_samples(False)

    def err(self, feed, times=1):
        """Push what is asked about, and have it answered with an error."""
        for number in range(times):
            self.load.publish(number)
            self.clock.advance(10)
            self.mind.push(self.feeds[feed].latest())
            self.assertIsNotNone(self.mind.request)
            self.mind.heard(error=True)

    def test_the_first_error_to_a_sample_ends_samples_and_not_the_connection(self):
        self.make()
        self.assertIs(self.mind.takes_samples, True)
        self.err("load")
        self.assertIs(self.mind.takes_samples, False)
        self.err("time", 2)
        self.assertEqual(self.connection.ended, [])
        self.err("time")
        self.assertEqual(self.connection.ended, ["protocol"])

    def test_errors_to_the_time_and_to_probes_end_no_samples(self):
        self.make()
        self.err("time", 2)
        self.clock.advance(60)
        self.mind.sweep()
        self.mind.heard(error=True)
        self.assertIs(self.mind.takes_samples, True)
        self.err("time")
        self.assertEqual((self.mind.takes_samples, self.connection.ended), (True, ["protocol"]))

    def test_the_probe_after_a_sample_ends_no_samples(self):
        self.make()
        self.load.publish(1)
        self.mind.push(self.load.latest())
        self.mind.heard(error=False)
        self.clock.advance(60)
        self.mind.sweep()
        self.mind.heard(error=True)
        self.assertIs(self.mind.takes_samples, True)

    def test_the_first_sample_that_can_be_asked_of_is_though_the_window_would_not(self):
        self.make()
        self.load.publish(1)
        self.push()
        self.mind.push(self.load.latest())  # while the other ask is open
        self.mind.heard(error=False)
        self.clock.advance(1)
        self.push()
        self.assertIsNone(self.mind.request)
        for asked in (True, False, False):
            self.mind.push(self.load.latest())
            self.assertIs(self.mind.request is not None, asked)
            self.clock.advance(0.5)
            if asked:
                self.mind.heard(error=False)
        self.assertEqual(sum(self.tally.acknowledgement.counts), 2)
        self.assertEqual(self.tally.acknowledgement.total, 0.5)

    def test_a_sample_that_is_owed_when_it_ends_is_not_pushed(self):
        self.make()
        self.load.publish(1)
        self.mind.push(self.load.latest())
        self.clock.advance(5)
        for feed in ("time", "load"):
            self.mind.push(self.feeds[feed].latest())
        self.mind.heard(error=True)
        self.assertEqual((self.tally.feeds["load"].pushes, self.counts.pushes), (1, 1))
        self.assertEqual(self.mind.window.owed, {})

    def test_one_that_expects_them_is_ended_after_three(self):
        self.make()
        self.err("load")
        self.mind.expect_samples(True)
        self.assertIs(self.mind.takes_samples, True)
        self.err("load", 2)
        self.assertEqual(self.connection.ended, [])
        self.err("load")
        self.assertEqual((self.connection.ended, self.mind.takes_samples), (["protocol"], True))


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

    def test_a_ping_asks_at_once_and_fires_at_the_answer(self):
        self.make()
        self.push()
        self.mind.heard(error=False)
        pinged = [self.mind.ping(), self.mind.ping()]
        self.assertEqual((self.connection.probes, self.mind.request), ([42], 42))
        for each in pinged:
            self.assertNoResult(each)
        self.mind.heard(error=True)
        for each in pinged:
            self.assertIs(self.successResultOf(each), True)
        self.assertEqual(sum(self.tally.acknowledgement.counts), 1)
        pinged = self.mind.ping()
        self.assertEqual(self.connection.probes, [42, 43])
        self.mind.lost()
        self.assertIs(self.successResultOf(pinged), False)
        self.mind.lost()

    def test_a_ping_while_a_question_is_open_waits_for_that(self):
        self.make()
        self.push()
        pinged = self.mind.ping()
        self.assertEqual(self.connection.probes, [])
        self.mind.heard(error=False)
        self.successResultOf(pinged)

    def test_who_has_given_up_on_a_ping_is_told_nothing(self):
        self.make()
        first, second = self.mind.ping(), self.mind.ping()
        first.addTimeout(1, self.clock)
        self.clock.advance(1)
        self.failureResultOf(first, NoAnswer)
        self.mind.heard(error=False)
        self.successResultOf(second)

    def test_its_pushes_skips_and_latest_answer_are_known(self):
        self.make()
        self.assertEqual((self.mind.pushes, self.mind.skipped, self.mind.acknowledgement), (0, 0, None))
        self.push()
        self.clock.advance(1)
        self.push()
        self.clock.advance(0.5)
        self.mind.heard(error=False)
        self.assertEqual((self.mind.pushes, self.mind.skipped, self.mind.acknowledgement), (2, 1, 1.5))
        self.mind.ping()
        self.clock.advance(0.5)
        self.mind.heard(error=True)
        self.assertEqual((self.mind.acknowledgement, self.mind.address), (1.5, "203.0.113.7:8787"))

    def test_closing_it_closes_its_connection(self):
        self.make().close("kicked")
        self.assertEqual((self.connection.closed, self.connection.ended), (["kicked"], []))

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
