from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.pulse import Pulse, mean_since
from clockd.values import Histogram, Tally
from clockd.wire import ValueEncoder


class PulseTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.tally = Clock(), Tally()
        self.time, self.load = self.tally.feed("time"), self.tally.feed("load")
        self.clock.advance(100)
        self.pulse = Pulse(self.tally, self.clock)

    def test_before_anything_has_happened_it_is_all_zero(self):
        nothing = dict.fromkeys(("unacknowledged", "buffer", "unchanged", "stall"), 0)
        self.assertEqual(
            self.pulse.take(),
            {
                "avatars": 0,
                "connections": {"pending": 0, "authenticated": 0},
                "push_requested_hertz": 0.0,
                "push_achieved_hertz": 0.0,
                "push_lateness_seconds": 0.0,
                "pushes_skipped": nothing,
                "unhandled_errors": 0,
            },
        )

    def test_it_tells_what_the_tally_has(self):
        self.tally.avatars, self.tally.pending, self.tally.authenticated, self.tally.unhandled_errors = 1, 2, 3, 4
        self.time.subscribed(0.5)
        self.load.subscribed(0.25)
        self.time.skipped["stall"], self.load.skipped["stall"], self.load.skipped["unchanged"] = 5, 6, 7
        value = self.pulse.take()
        self.assertEqual((value["avatars"], value["unhandled_errors"]), (1, 4))
        self.assertEqual(value["connections"], {"pending": 2, "authenticated": 3})
        self.assertEqual(value["push_requested_hertz"], 6.0)
        self.assertEqual(value["pushes_skipped"], {"unacknowledged": 0, "buffer": 0, "unchanged": 7, "stall": 11})

    def test_its_rate_is_that_since_the_reading_before(self):
        found = []
        for pushes, seconds in ((10, 4), (90, 1), (0, 2), (6, 3)):
            self.time.pushes += pushes // 2
            self.load.pushes += pushes // 2
            self.clock.advance(seconds)
            found.append(self.pulse.take()["push_achieved_hertz"])
        self.assertEqual(found, [2.5, 90.0, 0.0, 2.0])

    def test_its_lateness_is_the_mean_since_the_reading_before(self):
        found = []
        for observed in ((0.25, 0.75), (), (2.0,)):
            for seconds in observed:
                self.tally.lateness.observe(seconds)
            found.append(self.pulse.take()["push_lateness_seconds"])
        self.assertEqual(found, [0.5, 0.0, 2.0])

    def test_it_can_be_sent(self):
        self.assertTrue(ValueEncoder(b"pb").encode(self.pulse.take()))


class MeanTests(SynchronousTestCase):
    def test_each_who_asks_has_a_mean_of_its_own(self):
        histogram = Histogram([1.0])
        histogram.observe(4.0)
        mean, observed = mean_since((0, 0.0), histogram)
        self.assertEqual(mean, 4.0)
        histogram.observe(2.0)
        self.assertEqual(mean_since(observed, histogram)[0], 2.0)
        self.assertEqual(mean_since((0, 0.0), histogram)[0], 3.0)
