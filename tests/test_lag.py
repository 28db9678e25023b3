"""How long a reactor is busy is counted, and what it waits with works as ever."""

import os
from types import SimpleNamespace

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from clockd.lag import LagWatch
from clockd.values import Histogram


class Pipe:
    """Reads what is written to a pipe."""

    def __init__(self):
        self.near, self.far = os.pipe()
        self.read = b""

    def fileno(self):
        return self.near

    def logPrefix(self):
        return "a pipe"

    def doRead(self):
        self.read += os.read(self.near, 100)

    def connectionLost(self, reason):
        os.close(self.near)
        os.close(self.far)


class LagTests(SynchronousTestCase):
    def reactor(self, kind):
        reactor, self.clock = kind(), Clock()
        reactor.seconds = self.clock.seconds
        if hasattr(reactor, "_poller") and hasattr(reactor._poller, "close"):
            self.addCleanup(reactor._poller.close)
        self.addCleanup(reactor.waker.connectionLost, None)
        return reactor

    def test_the_time_between_two_waits_is_counted_and_that_of_the_waits_is_not(self):
        for kind in (EPollReactor, PollReactor):
            reactor, lag = self.reactor(kind), Histogram((0.05,))
            reactor._poller = SimpleNamespace(poll=lambda *_: self.clock.advance(7) or [])
            LagWatch(reactor, lag).startService()
            for busy in (5, 0.01, 0.1):  # the first is before it is watched
                self.clock.advance(busy)
                reactor.doIteration(0)
            self.assertEqual(lag.counts, [1, 1])
            self.assertAlmostEqual(lag.total, 0.11)

    def test_what_comes_is_read_before_it_while_it_lasts_and_after_it(self):
        for kind in (EPollReactor, PollReactor):
            reactor, lag, pipe = self.reactor(kind), Histogram((0.05,)), Pipe()
            self.addCleanup(pipe.connectionLost, None)
            reactor.addReader(pipe)
            watch = LagWatch(reactor, lag)
            watch.startService()
            for sent in (b"a", b"ab", b"abc"):
                os.write(pipe.far, sent[-1:])
                reactor.doIteration(1)
                self.assertEqual(pipe.read, sent)
                reactor.removeReader(pipe)
                reactor.addReader(pipe)
            self.assertEqual(sum(lag.counts), 2)
            watch.stopService()
            os.write(pipe.far, b"d")
            reactor.doIteration(1)
            self.assertEqual((pipe.read, sum(lag.counts)), (b"abcd", 2))

    def test_of_other_reactors_nothing_is_counted(self):
        for reactor in (self.reactor(SelectReactor), MemoryReactorClock()):
            lag = Histogram((0.05,))
            watch = LagWatch(reactor, lag)
            watch.startService()
            watch.stopService()
            self.assertEqual(sum(lag.counts), 0)
