import math

from doubles import EPOCH
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import InvalidValue, NotPermitted, UnknownFeed
from clockd.feeds import UNKNOWN, ClockFeed, FeedTable, LatestFeed, SampledFeed
from clockd.values import FEED_NAME, FeedTally, Published, Rights, Sample
from clockd.wire import ValueEncoder

encode = ValueEncoder(b"pb").encode


class ClockFeedTests(SynchronousTestCase):
    def test_the_time_is_read_in_each_call(self):
        stamps = [1000.5, 1001.75]
        feed = ClockFeed(lambda: stamps.pop(0))
        self.assertEqual(feed.latest(), Sample("time", None, 1000.5, 1000.5))
        self.assertEqual(feed.latest(), Sample("time", None, 1001.75, 1001.75))

    def test_the_time_is_not_read_before_it_is_asked_for(self):
        reads = []
        ClockFeed(lambda: reads.append(1))
        self.assertEqual(reads, [])


class FeedCase(SynchronousTestCase):
    def setUp(self):
        self.clock, self.counts = Clock(), FeedTally()

    def now(self):
        return EPOCH + self.clock.seconds()


class LatestFeedTests(FeedCase):
    def setUp(self):
        super().setUp()
        self.feed = LatestFeed("load", encode, self.counts, self.now)

    def test_before_the_first_there_is_no_sample(self):
        self.assertIsNone(self.feed.latest())
        self.assertEqual((self.counts.updates, self.counts.updated), (0, None))

    def test_each_sample_takes_the_place_of_the_one_before_and_has_the_next_number(self):
        self.assertEqual(self.feed.publish(0.5), 1)
        self.assertEqual(self.feed.latest(), Published("load", 1, EPOCH, 0.5, encode(0.5)))
        self.clock.advance(3)
        self.assertEqual(self.feed.publish(0.75), 2)
        self.assertEqual(self.feed.latest(), Published("load", 2, EPOCH + 3, 0.75, encode(0.75)))
        self.assertEqual((self.counts.updates, self.counts.updated), (2, EPOCH + 3))

    def test_what_is_published_again_is_a_sample_of_the_same_value_and_all_others_differ(self):
        values = (1, 1.0, True, [1], [True], (1,), "1", b"1", math.nan, 0.0, -0.0, None)
        for times in (1, 2):
            for value in values:
                self.feed.publish(value)
                self.assertEqual(self.feed.latest().encoded, encode(value), times)
        self.assertEqual(self.feed.latest().sequence, 2 * len(values))
        self.assertEqual(len(set(map(encode, values))), len(values))

    def test_a_source_may_say_when_the_value_was_true(self):
        for stamp in (0, -1.5, 1_700_000_000):
            self.feed.publish(1, stamp)
            self.assertEqual((self.feed.latest().stamp, type(self.feed.latest().stamp)), (stamp, float))
        self.assertEqual(self.counts.updated, EPOCH)

    def test_what_is_no_stamp_or_no_value_is_refused_and_changes_nothing(self):
        self.feed.publish(1)
        before = self.feed.latest()
        stamps = (math.nan, math.inf, -math.inf, True, "1", b"1", [1], 10**400)
        for bad in (*((2, stamp) for stamp in stamps), (object(), None)):
            self.assertRaises(InvalidValue, self.feed.publish, *bad)
        self.assertIs(self.feed.latest(), before)
        self.assertEqual(self.counts.updates, 1)
        self.assertEqual(self.feed.publish(1), 2)


class SampledFeedTests(FeedCase):
    def setUp(self):
        super().setUp()
        self.values = iter(range(100))
        self.reports = []
        self.feed = SampledFeed(
            *("host", encode, self.counts, self.now, lambda: next(self.values), 2.0, self.clock),
            lambda name, error: self.reports.append((name, type(error))),
        )

    def test_a_sample_is_taken_when_it_is_wanted_and_the_last_is_old(self):
        found = []
        for _ in range(5):
            found.append(self.feed.latest().value)
            self.clock.advance(1)
        self.assertEqual(found, [0, 0, 1, 1, 2])
        self.assertEqual(self.counts.updates, 3)

    def test_who_wants_one_as_often_as_it_is_taken_gets_a_new_one_each_time_though_now_and_then_later(self):
        for late in (0.0, 0.003, 0.001, 0.002, 0.0005, 0.25, 0.0, 0.001, -0.00001, -0.09, 0.0, -0.09):
            self.clock.rightNow += late
            number = self.counts.updates
            self.assertEqual(self.feed.latest().value, number)
            self.clock.advance(2.0 - late)

    def test_after_a_pause_none_is_taken_sooner_than_it_should(self):
        found = []
        for seconds in (0, 7.5, 1.75, 0.25, 1.75, 0.25):
            self.clock.advance(seconds)
            found.append(self.feed.latest().value)
        self.assertEqual(found, [0, 1, 1, 2, 2, 3])

    def test_one_that_cannot_be_taken_is_reported_once_and_the_last_stays(self):
        self.feed.latest()
        self.values = iter([])
        self.clock.advance(2)
        self.assertEqual([self.feed.latest().value for _ in range(3)], [0] * 3)
        self.assertEqual(self.reports, [("host", StopIteration)])
        self.values = iter([7])
        self.clock.advance(2)
        self.assertEqual(self.feed.latest().value, 7)

    def test_a_value_that_cannot_be_sent_is_an_error_as_well(self):
        self.values = iter([object()])
        self.assertIsNone(self.feed.latest())
        self.assertEqual(self.reports, [("host", InvalidValue)])


class FeedTableTests(FeedCase):
    def setUp(self):
        super().setUp()
        self.time = ClockFeed(self.now)
        self.open, self.closed = (LatestFeed(name, encode, self.counts, self.now) for name in ("open", "closed"))
        self.table = FeedTable(
            [
                (self.time, Rights(publish=("*",))),
                (self.open, Rights(publish=("bob",))),
                (self.closed, Rights(read=("bob", "carol"), publish=("*",))),
            ]
        )

    def test_an_account_reads_what_is_open_to_all_or_to_it(self):
        for account, names in (("alice", ["time", "open"]), ("bob", ["time", "open", "closed"])):
            self.assertEqual(self.table.readable(account), names)
            for name in names:
                self.assertEqual(self.table.to_read(name, account).name, name)
        with self.assertRaisesRegex(NotPermitted, "^this account may not read closed$"):
            self.table.to_read("closed", "alice")

    def test_an_account_publishes_where_it_may_even_if_it_may_not_read(self):
        self.assertIs(self.table.to_publish("open", "bob"), self.open)
        self.assertIs(self.table.to_publish("closed", "alice"), self.closed)
        with self.assertRaisesRegex(NotPermitted, "^this account may not publish to open$"):
            self.table.to_publish("open", "alice")

    def test_nobody_publishes_the_time(self):
        self.assertRaises(NotPermitted, self.table.to_publish, "time", "alice")

    def test_a_star_is_no_account_and_an_account_is_no_part_of_a_name(self):
        self.assertRaises(NotPermitted, self.table.to_read, "closed", "*")
        self.assertRaises(NotPermitted, self.table.to_read, "closed", "bo")

    def test_an_unknown_name_is_refused(self):
        for find in (self.table.to_read, self.table.to_publish):
            for name in ("tide", "", None, 1, b"time", ["time"], {}):
                with self.assertRaisesRegex(UnknownFeed, "^there is no such feed$"):
                    find(name, "alice")

    def test_a_feed_is_counted_under_its_name_and_what_is_none_under_one_that_no_feed_can_have(self):
        for name in ("time", "open", "closed"):
            self.assertEqual(self.table.counted_as(name), name)
        for name in ("tide", "", UNKNOWN, None, 1, b"time", ["time"], {}):
            self.assertEqual(self.table.counted_as(name), UNKNOWN)
        self.assertIsNone(FEED_NAME.fullmatch(UNKNOWN))

    def test_nobody_may_do_more_than_read_unless_it_is_said(self):
        self.assertEqual(Rights(), Rights(read=("*",), publish=()))
