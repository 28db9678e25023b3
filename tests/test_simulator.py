import doctest
import math
from functools import partial
from itertools import count
from random import Random
from statistics import median

from networks import delays, explored
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.exchanges import ENOUGH, MOST
from clockd.testing import simulator
from clockd.testing.simulator import EPOCH, SimulatedClock, SimulatedLink, Simulation, jitter

STEPS = (0.1, -0.1, 0.7, -0.7, 3600.0, -3600.0)


def quick(random):
    """Return the delays of a network in which nothing takes longer than 20 ms."""
    return lambda: random.uniform(0.001, 0.02)


def simulation_of(seed, delays=quick):
    random = Random(seed)
    return Simulation(random, delays(random), delays(random))


class DocumentationTests(SynchronousTestCase):
    def test_its_example_is_true(self):
        found = doctest.testmod(simulator)
        self.assertEqual(found.failed, 0)
        self.assertGreater(found.attempted, 5)


class ClockTests(SynchronousTestCase):
    def setUp(self):
        self.time = Clock()
        self.clock = SimulatedClock(self.time, EPOCH)

    def check(self, shows):
        self.assertEqual(self.clock.nanoseconds(), int(EPOCH) * 10**9 + shows)
        self.assertEqual(self.clock(), (int(EPOCH) * 10**9 + shows) / 10**9)

    def test_it_goes_on_with_true_time(self):
        self.check(0)
        self.time.advance(1.5)
        self.check(1_500_000_000)

    def test_its_drift_holds_from_then_on(self):
        self.time.advance(10.0)
        self.clock.set_drift(100e-6)
        self.check(10_000_000_000)
        self.time.advance(10.0)
        self.check(20_001_000_000)
        self.clock.set_drift(-100e-6)
        self.time.advance(10.0)
        self.check(30_000_000_000)

    def test_it_is_set_by_so_much(self):
        self.clock.set_drift(100e-6)
        self.time.advance(10.0)
        self.clock.step(-5.0)
        self.check(5_001_000_000)
        self.time.advance(10.0)
        self.check(15_002_000_000)


class LinkTests(SynchronousTestCase):
    def setUp(self):
        self.time = Clock()
        self.delays = []
        self.link = SimulatedLink(self.time, lambda: self.delays.pop(0))
        self.arrived = []

    def send(self, what, delay):
        self.delays.append(delay)
        self.link.send(partial(self.arrived.append, what))

    def test_each_message_takes_its_delay(self):
        self.send("one", 1.0)
        self.send("two", 2.0)
        for passes, arrived in [(0.9, []), (0.2, ["one"]), (0.8, ["one"]), (0.2, ["one", "two"])]:
            self.time.advance(passes)
            self.assertEqual(self.arrived, arrived)

    def test_nothing_overtakes(self):
        self.send("slow", 2.0)
        self.send("fast", 1.0)
        self.time.advance(1.9)
        self.assertEqual(self.arrived, [])
        self.time.advance(0.2)
        self.assertEqual(self.arrived, ["slow", "fast"])

    def test_after_a_stall_all_comes_at_once(self):
        self.send("one", 1.0)
        self.link.stall(5.0)
        self.time.advance(2.0)
        self.send("two", 1.0)
        self.time.advance(2.9)
        self.assertEqual(self.arrived, [])
        self.time.advance(0.2)
        self.assertEqual(self.arrived, ["one", "two"])

    def test_what_is_under_way_when_it_is_cut_is_lost_and_holds_nothing_up(self):
        self.send("lost", 5.0)
        self.link.cut()
        self.send("one", 1.0)
        self.time.advance(1.1)
        self.assertEqual(self.arrived, ["one"])
        self.send("two", 10.0)
        self.time.advance(9.0)
        self.assertEqual(self.arrived, ["one"])

    def test_jitter_is_never_less_than_the_least_and_of_its_mean(self):
        delay = jitter(Random(1), 0.010, 0.005)
        delays = [delay() for _ in range(2000)]
        self.assertGreaterEqual(min(delays), 0.010)
        self.assertApproximates(sum(delays) / len(delays), 0.015, 0.001)


class SimulationTests(SynchronousTestCase):
    def test_it_goes_the_same_way_each_time(self):
        ends = []
        for _ in range(2):
            simulation = simulation_of(1, delays)
            simulation.connect()
            simulation.run(100.0)
            ends.append((simulation.timekeeper.now(), simulation.exchanges))
        self.assertEqual(*ends)

    def test_exchanges_are_close_at_first_and_then_one_in_six_seconds(self):
        simulation = simulation_of(1)
        simulation.connect()
        simulation.run(1.0)
        first = simulation.exchanges
        self.assertTrue(ENOUGH < first <= MOST)
        simulation.run(60.0)
        self.assertApproximates(simulation.exchanges, first + 10, 1)

    def test_what_the_client_knows_is_what_the_server_says(self):
        simulation = simulation_of(1)
        simulation.bound = 0.5
        simulation.connect()
        simulation.run(1.0)
        self.assertApproximates(simulation.timekeeper.now(utc=True).bound, 0.51, 0.01)
        simulation.status, simulation.bound = "unsynchronized", math.inf
        simulation.run(9.0)
        self.assertEqual(simulation.timekeeper.now().status, "unsynchronized")

    def test_the_clocks_are_those_of_the_timekeeper(self):
        simulation = simulation_of(1)
        simulation.wall.step(-2.0)
        simulation.connect()
        simulation.run(1.0)
        self.assertApproximates(simulation.timekeeper.now().offset, 2.0, 0.02)

    def test_without_a_connection_nothing_happens_until_there_is_one_again(self):
        simulation = simulation_of(1)
        simulation.connect()
        simulation.run(0.9)
        simulation.lose()
        simulation.run(3600.0)
        first = simulation.exchanges
        self.assertGreater(first, ENOUGH)
        self.assertEqual(simulation.timekeeper.now().status, "holdover")
        self.assertTrue(simulation.holds())
        simulation.connect()
        simulation.run(0.9)
        self.assertGreater(simulation.exchanges, first + ENOUGH)
        self.assertEqual(simulation.timekeeper.now().status, "synchronized")

    def test_an_interval_that_is_wrong_does_not_hold(self):
        simulation = simulation_of(1)
        self.assertTrue(simulation.holds())
        simulation.connect()
        simulation.run(1.0)
        self.assertTrue(simulation.holds())
        width = 2 * simulation.timekeeper.now().bound
        for seconds in (-width, width):
            simulation.server.step(seconds)
            self.assertFalse(simulation.holds())
            simulation.server.step(-seconds)

    def test_a_drift_beyond_what_is_assumed_is_wrong_in_the_end(self):
        for drift, holds in [(49e-6, True), (100e-6, False)]:
            simulation = simulation_of(1)
            simulation.local.set_drift(drift)
            simulation.connect()
            simulation.run(1.0)
            simulation.lose()
            simulation.run(3600.0)
            self.assertIs(simulation.holds(), holds)


class TruthTests(SynchronousTestCase):
    """A part of what `python -m tests.networks --exchanges 1000000` looks at."""

    def test_no_interval_is_wrong_and_none_is_much_wider_than_it_has_to_be(self):
        found = explored(3_000, count(1_000_000), in_each=100)
        self.assertEqual(found.wrong, [])
        self.assertEqual(found.contradictions, 0)
        self.assertGreater(found.looks, 30_000)
        self.assertLess(median(ratio for _, ratio in found.ratios), 1.2)


class StepTests(SynchronousTestCase):
    def step(self, seed, seconds, *, told, delays=quick):
        """Set the clock of a server that has been asked for a while; return the moment, and what is there."""
        simulation = simulation_of(seed, delays)
        simulation.connect()
        simulation.run(Random(seed).uniform(2.0, 60.0))
        simulation.step(seconds, told=told)
        return simulation.time.seconds(), simulation

    def check_holds(self, simulation):
        self.assertTrue(simulation.holds(), simulation.time.seconds())

    def test_two_pushes_after_a_step_every_interval_holds_whether_there_was_a_notice_or_not(self):
        for seconds in STEPS:
            for seed in range(20):
                _, simulation = self.step(seed, seconds, told=seed % 2 == 0)
                simulation.run(2.02)
                simulation.run(20.0, partial(self.check_holds, simulation))
                self.assertGreaterEqual(simulation.timekeeper.steps, 1)
                self.assertLess(simulation.timekeeper.now().bound, 0.021)

    def test_with_a_notice_this_is_so_however_slow_the_network_is(self):
        def look():
            if simulation.timekeeper.steps:
                self.check_holds(simulation)

        for seconds in STEPS:
            for seed in range(20):
                _, simulation = self.step(seed, seconds, told=True, delays=delays)
                simulation.run(30.0, look)
                self.assertGreaterEqual(simulation.timekeeper.steps, 1)

    def test_a_clock_that_is_set_between_the_stamps_of_an_answer_harms_nothing(self):
        for seconds in STEPS:
            simulation = simulation_of(1)
            simulation.takes = lambda: 0.3
            simulation.connect()
            simulation.run(0.1)
            simulation.step(seconds)
            simulation.run(2.02)
            simulation.run(20.0, partial(self.check_holds, simulation))
            self.assertEqual(simulation.timekeeper.now().status, "synchronized")
