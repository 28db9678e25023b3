from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import UnknownFeed
from clockd.feeds import ClockFeed, FeedTable
from clockd.values import Sample


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


class FeedTableTests(SynchronousTestCase):
    def setUp(self):
        self.feed = ClockFeed(lambda: 0.0)
        self.table = FeedTable([self.feed])

    def test_a_feed_is_found_by_its_name(self):
        self.assertIs(self.table["time"], self.feed)

    def test_an_unknown_name_is_refused_and_the_known_ones_are_told(self):
        with self.assertRaisesRegex(UnknownFeed, "there are: time"):
            self.table["tide"]

    def test_what_is_no_name_is_refused_even_if_it_cannot_be_hashed(self):
        for name in (None, 1, b"time", ["time"], {}):
            with self.assertRaises(UnknownFeed):
                self.table[name]
