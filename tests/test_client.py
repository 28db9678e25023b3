"""The client library against a real server factory, in memory."""

import asyncio
import gc
import math
import shutil
import tempfile
from pathlib import Path

from certificates import HOST, Certified, Chain
from doubles import EPOCH, SECRET, Broken, Mind, Network, RigCase, Timeless, Users, clockd_logs
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString, wrapClientTLS
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import DNSLookupError, UnknownHostError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import formatEvent
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clockd.auth import CertificateChecker
from clockd.certificate import ServerTLS
from clockd.client import ClientTLS, ClockClient, Standing, TimeInterval, connect
from clockd.errors import (
    ConnectionFailed,
    InvalidPeriod,
    InvalidValue,
    Kicked,
    NotConnected,
    NotPermitted,
    Overflow,
    ReactorConflict,
    Replaced,
    ServerFault,
    TooManyConnections,
    TooManyPublishes,
    TooManySubscriptions,
    UnknownFeed,
    UnknownMethod,
    WrongCredentials,
)
from clockd.feeds import LatestFeed
from clockd.hostclock import UNKNOWN, ClockState
from clockd.link import ALIVE_SECONDS, CLOSE_SECONDS, EXPRESSION_BYTES, EXPRESSION_DEPTH, Way, typed
from clockd.transport import TLSFactory
from clockd.values import Limits, Rights
from clockd.wire import MOST, ValueEncoder

ENDPOINT = "tcp:clock.example:8787"
TIMEOUT = 10


def awaited(awaitable):
    """Return the Deferred of an awaitable, which is awaited as in a program that Twisted drives."""

    async def program():
        return await awaitable

    return Deferred.fromCoroutine(program())


class ClientCase(RigCase):
    def setUp(self):
        self.start()

    def start(self, *args, **kwargs):
        self.server = self.rig(*args, **kwargs)
        self.clock, self.network = self.server.clock, self.server.network

    def client(self, secret=SECRET, name="alice"):
        credentials = UsernamePassword(name.encode(), secret.encode())
        way = Way(self.network, ENDPOINT, credentials, TIMEOUT, self.clock, self.clock.seconds)
        client = ClockClient(way, lambda: EPOCH + self.clock.seconds() + 0.5, 50e-6)
        self.addCleanup(self.leave, client)
        return client

    def enter(self, client=None, **kwargs):
        """Enter a client; returns it and the Deferred of that."""
        client = client or self.client(**kwargs)
        entered = awaited(client.__aenter__())
        self.network.flush()
        return client, entered

    def entered(self, **kwargs):
        client, entered = self.enter(**kwargs)
        self.assertIs(self.successResultOf(entered), client)
        return client

    def leave(self, client):
        left = awaited(client.__aexit__(None, None, None))
        self.network.flush()
        if not left.called:
            self.network.advance(CLOSE_SECONDS)
        return left

    def ask(self, awaitable):
        deferred = awaited(awaitable)
        self.addCleanup(deferred.addErrback, lambda _: None)
        self.network.flush()
        return deferred

    def next(self, iterator):
        """Return the stamp of the next sample, relative to the start."""
        return self.successResultOf(self.ask(anext(iterator))).stamp - EPOCH

    def lose(self):
        self.network.wires[-1].cut()
        self.network.flush()


class EnteringTests(ClientCase):
    def test_entering_logs_in(self):
        client = self.entered()
        self.assertIsInstance(client, ClockClient)
        self.assertEqual(self.server.tally.authenticated, 1)

    def test_leaving_closes_the_connection_in_good_order(self):
        client = self.entered()
        self.successResultOf(self.leave(client))
        self.assertEqual((self.server.tally.closed["client"], self.clock.getDelayedCalls()), (1, []))

    def test_a_connection_that_failed_is_told_with_what_to_look_at(self):
        for down, told in (
            (Refused(), "Connection was refused by other side; does clockd listen there?"),
            (Refused(111, "in other words"), "Connection refused; does clockd listen there?"),
            (DNSLookupError("host"), "the name of the host is not known; is it spelt right?"),
            (UnknownHostError(), "the name of the host is not known; is it spelt right?"),
        ):
            self.network.down, before = down, self.network.attempts
            _, entered = self.enter()
            error = self.failureResultOf(entered, ConnectionFailed).value
            self.assertEqual(str(error), f"cannot connect to {ENDPOINT}: {told}")
            self.assertEqual((self.network.attempts - before, self.clock.getDelayedCalls()), (1, []))

    def test_a_connection_that_takes_too_long_failed(self):
        self.network.delays = True
        _, entered = self.enter()
        self.network.advance(TIMEOUT - 1)
        self.assertNoResult(entered)
        self.network.advance(1)
        self.failureResultOf(entered, ConnectionFailed)

    def test_wrong_credentials_are_told_as_such(self):
        for kwargs in ({"secret": "wrong"}, {"name": "mallory"}):
            _, entered = self.enter(**kwargs)
            self.failureResultOf(entered, WrongCredentials)
        self.assertEqual((self.network.attempts, self.clock.getDelayedCalls()), (2, []))

    def test_another_refusal_is_told_as_such(self):
        self.start(Limits(connections_per_account=1))
        self.entered()
        _, entered = self.enter()
        self.failureResultOf(entered, TooManyConnections)
        self.failureResultOf(self.enter(name="x" * 65)[1], InvalidValue)

    def test_a_fault_of_the_server_is_told_as_such(self):
        self.start(checker=Broken())
        self.failureResultOf(self.enter()[1], ServerFault)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_a_server_that_says_nothing_is_a_connection_that_failed(self):
        self.network = Network(Factory.forProtocol(Protocol), self.clock)
        _, entered = self.enter()
        self.network.advance(TIMEOUT)
        self.assertIn("no answer", str(self.failureResultOf(entered, ConnectionFailed).value))
        self.network.flush()
        self.assertTrue(self.network.wires[0].clientIO.reported)

    def test_a_server_that_closes_at_once_is_a_connection_that_failed(self):
        _, entered = self.enter_and_lose(before_login=True)
        self.failureResultOf(entered, ConnectionFailed)

    def test_a_connection_lost_during_the_login_failed(self):
        _, entered = self.enter_and_lose(before_login=False)
        self.failureResultOf(entered, ConnectionFailed)

    def enter_and_lose(self, *, before_login):
        client = self.client()
        entered = awaited(client.__aenter__())
        wire = self.network.wires[0]
        for _ in range(0 if before_login else 3):
            wire.pump()
        wire.cut()
        self.network.flush()
        return client, entered

    def test_entering_that_is_cancelled_leaves_nothing(self):
        _, entered = self.enter_delayed()
        entered.cancel()
        self.failureResultOf(entered, CancelledError)
        self.network.waiting[0].callback(None)
        self.network.flush()
        self.assertEqual((self.server.tally.authenticated, self.clock.getDelayedCalls()), (0, []))

    def test_leaving_while_connecting_connects_no_more(self):
        client, entered = self.enter_delayed()
        left = self.leave(client)
        self.successResultOf(left)
        self.failureResultOf(entered, NotConnected)
        self.assertEqual((self.network.attempts, self.clock.getDelayedCalls()), (1, []))

    def enter_delayed(self):
        self.network.delays = True
        return self.enter()


class SamplesTests(ClientCase):
    def setUp(self):
        self.start(Limits(default_period=2))

    def test_samples_begin_with_the_newest_and_go_on_as_they_arrive(self):
        samples = self.entered().samples()
        self.assertIs(aiter(samples), samples)
        self.assertEqual(self.next(samples), 0)
        waiting = self.ask(anext(samples))
        self.network.advance(1.5)
        self.assertNoResult(waiting)
        self.network.advance(0.5)
        reading = self.successResultOf(waiting)
        self.assertEqual(
            (reading.feed, reading.stamp, reading.value, reading.sequence), ("time", EPOCH + 2, EPOCH + 2, None)
        )
        self.assertEqual(reading.received, EPOCH + 2.5)
        self.assertAlmostEqual(reading.age, 0.0, 3)  # this host's clock is known to be half a second ahead

    def test_the_newest_sample_wins(self):
        samples = self.entered().samples()
        self.network.advance(6, 2)
        self.assertEqual(self.next(samples), 6)
        self.assertNoResult(self.ask(anext(samples)))

    def test_every_iterator_gets_every_sample(self):
        client = self.entered()
        first, second = client.samples(), client.samples("time")
        self.assertEqual([self.next(first), self.next(second)], [0, 0])
        self.network.advance(2)
        self.assertEqual([self.next(first), self.next(second)], [2, 2])

    def test_a_period_is_asked_for_first(self):
        samples = self.entered().samples(period=5)
        self.next(samples)
        self.assertEqual(self.server.time.requested, 0.2)
        self.next_after(samples, 5)
        self.assertEqual(self.server.tally.periods["granted"], 1)

    def next_after(self, samples, seconds):
        waiting = self.ask(anext(samples))
        self.network.advance(seconds, 1)
        self.successResultOf(waiting)

    def test_a_wrong_period_is_told_by_the_iterator(self):
        self.failureResultOf(self.ask(anext(self.entered().samples(period=0))), InvalidPeriod)

    def test_a_wait_that_is_cancelled_harms_no_later_one(self):
        samples = self.entered().samples()
        self.next(samples)
        waiting = self.ask(anext(samples))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.network.advance(2)
        self.assertEqual(self.next(samples), 2)

    def test_closing_ends_who_waits_and_who_comes_later(self):
        client = self.entered()
        first, second = client.samples(), client.samples()
        self.next(first)
        waiting = self.ask(anext(first))
        self.leave(client)
        self.failureResultOf(waiting, StopAsyncIteration)
        self.failureResultOf(self.ask(anext(first)), StopAsyncIteration)
        self.assertEqual(self.next(second), 0)
        self.failureResultOf(self.ask(anext(second)), StopAsyncIteration)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_samples_of_a_closed_client_end(self):
        client = self.entered()
        self.leave(client)
        samples = client.samples()
        self.failureResultOf(self.ask(anext(samples)), StopAsyncIteration)

    def test_a_client_that_was_not_entered_says_so(self):
        client = self.client()
        self.assertRaises(NotConnected, client.samples)
        self.failureResultOf(self.ask(client.setperiod(1)), NotConnected)

    def test_a_client_is_entered_once(self):
        client = self.entered()
        self.failureResultOf(self.ask(client.__aenter__()), NotConnected)
        self.leave(client)

    def test_a_program_reads_and_leaves_from_within_the_loop(self):
        stamps = []

        async def program():
            async with self.client() as clock:
                async for sample in clock.samples(period=1):
                    stamps.append(sample.stamp - EPOCH)
                    if len(stamps) == 3:
                        break

        done = Deferred.fromCoroutine(program())
        self.network.flush()
        self.network.advance(3, 1)
        self.successResultOf(done)
        self.assertEqual((stamps, self.server.tally.closed["client"]), ([0, 1, 2], 1))


class PeriodTests(ClientCase):
    def test_setperiod_answers_what_was_granted(self):
        client = self.entered()
        self.assertEqual(self.successResultOf(self.ask(client.setperiod(5))), 5.0)
        self.assertEqual(self.successResultOf(self.ask(client.setperiod(1e-9, "time"))), 0.01)

    def test_what_is_no_period_is_not_even_sent(self):
        client = self.entered()
        for period in (0, -1, math.nan, math.inf, True, "1", None):
            self.failureResultOf(self.ask(client.setperiod(period)), InvalidPeriod)
        self.assertEqual(self.server.tally.periods["refused"], 0)

    def test_a_refusal_comes_as_its_class_with_the_server_s_words(self):
        error = self.failureResultOf(self.ask(self.entered().setperiod(5, "weather")), UnknownFeed).value
        self.assertIn("not subscribed to that feed", str(error))

    def test_a_period_that_was_refused_is_not_remembered(self):
        client = self.entered()
        self.failureResultOf(self.ask(client.setperiod(5, "weather")), UnknownFeed)
        self.lose()
        self.network.advance(1.5)
        self.assertEqual((self.server.tally.authenticated, self.server.tally.periods["refused"]), (1, 1))

    def test_no_answer_for_as_long_as_a_call_may_take_is_not_connected(self):
        client = self.entered()
        self.network.wires[0].frozen = True
        granted = self.ask(client.setperiod(5))
        self.network.advance(TIMEOUT - 1)
        self.assertNoResult(granted)
        self.network.advance(1)
        self.assertIn(f"within {TIMEOUT} s", str(self.failureResultOf(granted, NotConnected).value))
        self.network.wires[0].frozen = False

    def test_a_connection_lost_before_the_answer_is_not_connected(self):
        client = self.entered()
        granted = awaited(client.setperiod(5))
        self.lose()
        self.failureResultOf(granted, NotConnected)

    def test_a_call_in_between_waits_for_the_next_connection(self):
        client = self.entered()
        self.lose()
        granted = self.ask(client.setperiod(5))
        self.assertNoResult(granted)
        self.network.advance(1.5)
        self.assertEqual(self.successResultOf(granted), 5.0)

    def test_a_call_without_a_connection_for_as_long_as_it_may_take_is_not_connected(self):
        client = self.entered()
        self.network.down = Refused()
        self.lose()
        granted = self.ask(client.setperiod(5))
        self.network.advance(TIMEOUT, 0.5)
        why = str(self.failureResultOf(granted, NotConnected).value)
        self.assertEqual(why, f"no connection within {TIMEOUT} s: {client.trouble}")
        self.assertIn("Connection was refused by other side", why)
        self.assertEqual(client._waiting, {})

    def test_a_call_made_again_as_soon_as_the_first_has_failed_waits_for_the_next_connection(self):
        client = self.entered()

        async def program():
            try:
                return await client.setperiod(5)
            except NotConnected:
                return await client.setperiod(6)

        granted = Deferred.fromCoroutine(program())
        self.lose()
        self.network.advance(1.5)
        self.assertEqual(self.successResultOf(granted), 6.0)

    def test_a_call_after_closing_is_not_connected(self):
        client = self.entered()
        self.leave(client)
        self.assertIn("closed", str(self.failureResultOf(self.ask(client.setperiod(5)), NotConnected).value))


class ReconnectionTests(ClientCase):
    def setUp(self):
        self.start(Limits(default_period=2))

    def test_a_lost_connection_is_made_again_with_its_periods(self):
        client = self.entered()
        self.successResultOf(self.ask(client.setperiod(0.5)))
        self.lose()
        self.assertEqual((self.server.tally.authenticated, self.server.time.requested), (0, 0))
        self.network.advance(1.5, 0.25)
        self.assertEqual((self.server.tally.authenticated, self.server.time.requested), (1, 2))

    def test_iterators_go_on_over_a_lost_connection(self):
        samples = self.entered().samples()
        self.next(samples)
        waiting = self.ask(anext(samples))
        self.lose()
        self.assertNoResult(waiting)
        self.network.advance(1.5, 0.25)
        self.assertGreater(self.successResultOf(waiting).stamp, EPOCH)

    def test_the_log_says_once_for_each_try_why_and_when(self):
        self.entered()
        with clockd_logs() as events:
            self.lose()
            self.network.down = Refused()
            self.network.advance(5, 0.25)
        said = [formatEvent(event) for event in events if event["log_namespace"].startswith("clockd.client")]
        self.assertEqual(len(said), self.network.attempts)  # the one that was lost, and those that failed
        again = rf"^{ENDPOINT}: connecting again in \d\.\d s: "
        self.assertRegex(said[0], f"{again}the connection to {ENDPOINT} was lost$")
        for told in said[1:]:
            self.assertRegex(told, f"{again}cannot connect to {ENDPOINT}: .*; does clockd listen there")

    def test_the_first_delay_is_half_a_second_to_one_and_a_half(self):
        delays = []
        for _ in range(20):
            self.entered()
            before = {id(call) for call in self.clock.getDelayedCalls()}
            self.lose()
            (call,) = [call for call in self.clock.getDelayedCalls() if id(call) not in before]
            delays.append(call.getTime() - self.clock.seconds())
        self.assertTrue(all(0.5 <= delay <= 1.5 for delay in delays), delays)
        self.assertGreater(max(delays) - min(delays), 0.01)

    def test_later_delays_grow_to_half_a_minute_and_a_second_at_most(self):
        self.entered()
        self.network.down = Refused()
        self.lose()
        delays = []
        for _ in range(20):
            delays.append(self.delay())
            self.network.advance(delays[-1])
        for attempt, delay in enumerate(delays):
            least = min(30, 0.5 * 1.5**attempt)
            self.assertTrue(least - 1e-6 <= delay <= least + 1.000001, (attempt, delay))

    def test_a_connection_that_held_for_half_a_minute_begins_the_delays_anew(self):
        for held, least, most in ((29.9, 0.5 * 1.5**9, 31), (30.1, 0.5, 1.5)):
            self.start(Limits(default_period=100, stale_seconds=1000))
            self.entered()
            self.network.down = Refused()
            self.lose()
            for _ in range(9):
                self.network.advance(self.delay())
            self.network.down = None
            self.network.advance(self.delay())
            self.assertEqual(self.server.tally.authenticated, 1)
            self.network.advance(held)
            self.lose()
            self.assertTrue(least <= self.delay() <= most, (held, self.delay()))

    def delay(self):
        """Return how long the client waits, of which there is one."""
        (call,) = self.clock.getDelayedCalls()
        return call.getTime() - self.clock.seconds()

    def test_what_may_pass_is_tried_again(self):
        self.start(Limits(connections_per_account=1))
        self.entered()
        self.lose()
        rival = self.entered()
        self.network.advance(1.5)
        self.assertEqual(self.server.tally.logins["secret", "limit"], 1)
        self.leave(rival)
        self.network.advance(3, 0.25)
        self.assertEqual((self.server.tally.authenticated, self.network.attempts), (1, 4))

    def test_a_refusal_that_will_not_pass_ends_iterators_and_calls_with_it(self):
        names = ["alice"]
        self.start(names=names)
        client = self.entered()
        samples = client.samples()
        self.next(samples)
        waiting, names[:] = self.ask(anext(samples)), []
        self.lose()
        granted = self.ask(client.setperiod(5))
        self.network.advance(1.5)
        self.failureResultOf(waiting, WrongCredentials)
        self.failureResultOf(granted, WrongCredentials)
        self.failureResultOf(self.ask(anext(samples)), WrongCredentials)
        self.failureResultOf(self.ask(client.setperiod(5)), WrongCredentials)
        self.network.advance(60, 1)
        self.assertEqual((self.network.attempts, self.clock.getDelayedCalls()), (2, []))

    def test_closing_between_two_connections_leaves_no_delayed_call(self):
        client = self.entered()
        self.lose()
        self.successResultOf(self.leave(client))
        self.assertEqual((self.clock.getDelayedCalls(), self.network.attempts), ([], 1))

    def test_closing_while_the_periods_are_asked_for_leaves_nothing(self):
        client = self.entered()
        self.successResultOf(self.ask(client.setperiod(5)))
        self.lose()
        self.clock.advance(1.5)
        wire = self.network.wires[-1]
        while not self.server.tally.authenticated:
            wire.pump()
        self.assertEqual(self.server.tally.periods["granted"], 1)
        self.successResultOf(self.leave(client))
        self.assertEqual((self.server.tally.authenticated, self.clock.getDelayedCalls()), (0, []))

    def test_a_connection_that_takes_long_to_close_does_not_hide_the_next_one(self):
        self.start(Limits(connections_per_account=1))
        client = self.entered()
        self.lose()
        rival = self.entered()
        while self.network.attempts < 3:
            self.clock.advance(0.25)
        refused = self.network.wires[-1]
        while not refused.clientIO.disconnecting:
            refused.pump()
        refused.frozen = True  # its last bytes are not acknowledged
        self.leave(rival)
        self.network.advance(5, 0.25)
        self.assertEqual(self.server.tally.authenticated, 1)
        refused.frozen = False
        self.network.flush()
        self.assertEqual(self.successResultOf(self.ask(client.setperiod(5))), 5.0)


class FeedCase(ClientCase):
    """With three feeds; `shut` is bob's alone."""

    def start(self, *args, **kwargs):
        self.rights = {"load": Rights(publish=("*",)), "mood": Rights(publish=("*",)), "shut": Rights(read=("bob",))}
        super().start(*args, feeds=self.make_feeds, **kwargs)

    def make_feeds(self, rig):
        encode = ValueEncoder(b"pb").encode
        self.latest = {name: LatestFeed(name, encode, rig.tally.feed(name), rig.now) for name in self.rights}
        return [(self.latest[name], rights) for name, rights in self.rights.items()]

    def setUp(self):
        self.start(Limits(default_period=2))

    def values(self, iterator, count=1):
        return [self.successResultOf(self.ask(anext(iterator))).value for _ in range(count)]

    def subscribed(self):
        """Return which feeds the server pushes, of which those that are lost are none."""
        self.network.flush()
        return {name for name, counts in self.server.tally.feeds.items() if counts.subscriptions}

    def again(self):
        """Lose the connection and have it made again."""
        self.lose()
        self.network.advance(3, 0.25)  # the later the attempt, the longer it waits


class FeedSamplesTests(FeedCase):
    def test_a_feed_is_subscribed_by_its_first_step_and_tells_all_of_a_sample(self):
        self.latest["load"].publish({"one": [1, (2.5, None)], b"two": True}, EPOCH - 3)
        client = self.entered()
        samples = client.samples("load")
        self.assertEqual(self.subscribed(), {"time"})
        reading = self.successResultOf(self.ask(anext(samples)))
        self.assertEqual((reading.feed, reading.sequence, reading.stamp), ("load", 1, EPOCH - 3))
        self.assertEqual((reading.value, reading.received), ({"one": [1, (2.5, None)], b"two": True}, EPOCH + 0.5))
        self.assertEqual(self.subscribed(), {"time", "load"})

    def test_samples_come_as_they_are_news_and_the_newest_wins(self):
        samples = self.entered().samples("load", period=1)
        waiting = self.ask(anext(samples))
        self.network.advance(5, 1)
        self.assertNoResult(waiting)
        self.latest["load"].publish("a")
        self.network.advance(1)
        self.assertEqual(self.successResultOf(waiting).value, "a")
        for value in "bcd":
            self.latest["load"].publish(value)
            self.network.advance(1)
        self.assertEqual(self.successResultOf(self.ask(anext(samples))).sequence, 4)
        self.assertNoResult(self.ask(anext(samples)))

    def test_period_and_deadband_are_asked_for_and_the_period_granted_is_kept(self):
        samples = self.entered().samples("load", period=1e-9, deadband=2)
        self.latest["load"].publish(1)
        self.assertEqual((samples.granted, self.values(samples), samples.granted), (None, [1], 0.01))
        waiting = self.ask(anext(samples))
        self.latest["load"].publish(3)
        self.network.advance(0.02)
        self.assertNoResult(waiting)
        self.latest["load"].publish(3.5)
        self.network.advance(0.02)
        self.assertEqual(self.successResultOf(waiting).value, 3.5)

    def test_iterators_of_a_feed_share_it_and_its_newest_sample(self):
        client = self.entered()
        first = client.samples("load", period=0.5, deadband=1)
        self.latest["load"].publish(7)
        self.values(first)
        second = client.samples("load")
        self.assertEqual((self.values(second), second.granted), ([7], None))
        self.assertEqual(self.server.tally.feeds["load"].requested, 2)
        self.latest["load"].publish(9)
        self.network.advance(0.5)
        self.assertEqual(self.values(first) + self.values(second), [9, 9])
        self.latest["load"].publish(9.5)
        self.network.advance(0.5)
        self.assertNoResult(self.ask(anext(second)))

    def test_what_is_asked_for_last_holds_and_what_is_not_asked_for_stays(self):
        client = self.entered()
        first = client.samples("load", period=0.5, deadband=1)
        second, third = client.samples("load", period=0.25), client.samples("load", deadband=2)
        self.latest["load"].publish(0)
        for iterator, granted in ((first, 0.5), (second, 0.25), (third, 0.25)):
            self.values(iterator)
            self.assertEqual(iterator.granted, granted)
        self.again()
        self.assertEqual(self.server.tally.feeds["load"].requested, 4)
        self.values(first)
        for value, news in ((1.5, False), (2.5, True)):
            self.latest["load"].publish(value)
            self.network.advance(0.25)
            self.assertEqual(bool(first._arrived), news)

    def test_two_that_begin_at_once_both_begin_and_the_wishes_of_one_hold(self):
        client = self.entered()
        self.latest["load"].publish(1)
        both = [client.samples("load", period=0.5, deadband=2), client.samples("load")]
        steps = [awaited(anext(samples)) for samples in both]
        self.network.flush()
        self.assertEqual([self.successResultOf(step).value for step in steps], [1, 1])
        self.assertEqual(self.server.tally.feeds["load"].requested, 2)
        self.latest["load"].publish(3)
        self.network.advance(0.5)
        self.assertNoResult(self.ask(anext(both[1])))

    def test_wishes_that_were_refused_are_forgotten(self):
        client = self.entered()
        self.failureResultOf(self.ask(anext(client.samples(period=5, deadband=1))), InvalidValue)
        self.again()
        self.assertEqual(self.server.time.requested, 0.5)

    def test_a_refusal_reaches_who_iterates_and_nobody_else(self):
        self.start(Limits(default_period=2, subscriptions=2))
        self.latest["load"].publish(1)
        client = self.entered()
        good = client.samples("load", period=1)
        self.values(good)
        for feed, options, kind in (
            ("nope", {}, UnknownFeed),
            ("shut", {}, NotPermitted),
            ("mood", {}, TooManySubscriptions),
            ("load", {"period": 0}, InvalidPeriod),
            ("load", {"deadband": -1}, InvalidValue),
            ("load", {"deadband": math.nan}, InvalidValue),
            ("load", {"deadband": True}, InvalidValue),
            ("time", {"deadband": 1}, InvalidValue),
        ):
            bad = client.samples(feed, **options)
            for _ in range(2):
                self.failureResultOf(self.ask(anext(bad)), kind)
        self.assertEqual(self.subscribed(), {"time", "load"})
        self.latest["load"].publish(2)
        self.network.advance(1)
        self.assertEqual(self.values(good), [2])
        self.assertEqual(self.next(client.samples()), 0)

    def test_what_is_no_name_is_not_even_sent(self):
        client = self.entered()
        written = self.network.wires[-1].clientIO.written
        for name in ("", "server", "Load", "a" * 65, "a" * 100_000, "lo ad", "load\n", None, 5, ("load",)):
            for call in (
                lambda name=name: anext(client.samples(name)),
                lambda name=name: client.publish(name, 1),
                lambda name=name: client.unsubscribe(name),
                lambda name=name: client.setperiod(1, name),
            ):
                self.failureResultOf(self.ask(call()), UnknownFeed)
        self.assertEqual(self.network.wires[-1].clientIO.written, written)

    def test_a_long_period_and_a_wide_deadband_can_be_sent(self):
        samples = self.entered().samples("load", period=10**400, deadband=10**400)
        self.latest["load"].publish(1)
        self.assertEqual((self.values(samples), samples.granted), ([1], 86400.0))

    def test_setperiod_of_a_feed_is_remembered_with_its_deadband(self):
        client = self.entered()
        samples = client.samples("load", deadband=3)
        self.latest["load"].publish(1)
        self.values(samples)
        self.assertEqual(self.successResultOf(self.ask(client.setperiod(0.25, "load"))), 0.25)
        self.again()
        self.assertEqual(self.server.tally.feeds["load"].requested, 4)
        self.values(samples)
        self.latest["load"].publish(3)
        self.network.advance(1)
        self.assertNoResult(self.ask(anext(samples)))

    def test_a_step_that_is_cancelled_while_the_feed_is_subscribed_harms_no_later_one(self):
        samples = self.entered().samples("load", period=1)
        step = awaited(anext(samples))
        step.cancel()
        self.failureResultOf(step, CancelledError)
        self.latest["load"].publish(1)
        self.network.advance(1)
        self.assertEqual((self.values(samples), samples.granted), ([1], 1.0))

    def test_no_answer_for_as_long_as_a_call_may_take_is_told_and_can_be_tried_again(self):
        client = self.entered()
        samples = client.samples("load")
        wire = self.network.wires[-1]
        wire.frozen = True
        step = self.ask(anext(samples))
        self.network.advance(TIMEOUT - 1)
        self.assertNoResult(step)
        self.network.advance(1)
        self.failureResultOf(step, NotConnected)
        wire.frozen = False
        self.latest["load"].publish(1)
        self.assertEqual(self.values(samples), [1])

    def test_closing_the_client_while_a_feed_is_subscribed_ends_the_iteration(self):
        client = self.entered()
        self.network.wires[-1].frozen = True
        step = awaited(anext(client.samples("load")))
        self.successResultOf(self.leave(client))
        self.failureResultOf(step, StopAsyncIteration)


class UnsubscribingTests(FeedCase):
    def iterate(self, client, feed="load", **options):
        """Return an iterator that has had a sample."""
        self.latest[feed].publish(self.clock.seconds())
        samples = client.samples(feed, **options)
        self.values(samples)
        return samples

    def test_the_last_iterator_that_is_closed_unsubscribes_the_feed(self):
        client = self.entered()
        first, second = self.iterate(client), client.samples("load")
        self.latest["load"].publish("unseen")
        self.network.advance(2)
        self.successResultOf(self.ask(first.aclose()))
        self.assertEqual(self.subscribed(), {"time", "load"})
        self.failureResultOf(self.ask(anext(first)), StopAsyncIteration)
        waiting = self.ask(anext(second))
        self.successResultOf(waiting)
        waiting = self.ask(anext(second))
        self.successResultOf(self.ask(second.aclose()))
        self.failureResultOf(waiting, StopAsyncIteration)
        self.assertEqual(self.subscribed(), {"time"})
        self.successResultOf(self.ask(second.aclose()))

    def test_the_last_one_that_is_forgotten_unsubscribes_it_by_the_next_sample(self):
        client = self.entered()
        self.iterate(client, period=1)
        gc.collect()
        self.latest["load"].publish("news")
        self.network.advance(1)
        self.assertEqual(self.subscribed(), {"time"})
        self.network.advance(3, 1)
        self.assertEqual(client._feeds.keys(), {"time"})

    def test_one_that_is_forgotten_is_in_nobody_s_way(self):
        self.start(Limits(default_period=2, subscriptions=2))
        client = self.entered()
        for feed in ("load", "mood"):
            self.iterate(client, feed)
            gc.collect()
        self.assertEqual(self.subscribed(), {"time", "mood"})

    def test_one_that_is_forgotten_in_its_first_step_unsubscribes_it_as_well(self):
        client = self.entered()
        step = awaited(anext(client.samples("load")))
        step.cancel()
        self.failureResultOf(step, CancelledError)
        del step
        gc.collect()
        self.assertEqual(self.subscribed(), {"time", "load"})
        self.network.advance(2)
        self.assertEqual(self.subscribed(), {"time"})

    def test_one_that_is_forgotten_is_not_subscribed_again(self):
        client = self.entered()
        self.iterate(client)
        gc.collect()
        self.again()
        self.assertEqual(self.subscribed(), {"time"})

    def test_the_time_goes_on_without_iterators(self):
        client = self.entered()
        samples = client.samples()
        self.next(samples)
        self.successResultOf(self.ask(samples.aclose()))
        self.assertEqual(self.subscribed(), {"time"})
        self.network.advance(2)
        self.assertEqual(self.next(client.samples()), 2)

    def test_unsubscribe_ends_the_iterators_of_a_feed(self):
        client = self.entered()
        samples, other = self.iterate(client), self.iterate(client, "mood")
        waiting = self.ask(anext(samples))
        self.successResultOf(self.ask(client.unsubscribe("load")))
        self.assertEqual(self.subscribed(), {"time", "mood"})
        self.failureResultOf(waiting, StopAsyncIteration)
        self.latest["mood"].publish("fine")
        self.network.advance(2)
        self.assertEqual(self.values(other), ["fine"])
        self.successResultOf(self.ask(client.unsubscribe("load")))

    def test_a_feed_can_be_subscribed_again_and_begins_with_what_is_new(self):
        client = self.entered()
        self.iterate(client, period=1, deadband=5)
        self.successResultOf(self.ask(client.unsubscribe("load")))
        self.latest["load"].publish("new")
        self.network.advance(2)
        self.assertEqual(self.values(client.samples("load")), ["new"])
        self.assertEqual(self.server.tally.feeds["load"].requested, 0.5)

    def test_the_time_can_be_unsubscribed_and_stays_so(self):
        client = self.entered()
        samples = client.samples(period=1)
        self.next(samples)
        self.successResultOf(self.ask(client.unsubscribe("time")))
        self.failureResultOf(self.ask(anext(samples)), StopAsyncIteration)
        self.assertEqual(self.subscribed(), set())
        self.again()
        self.assertEqual((self.subscribed(), self.server.tally.authenticated), (set(), 1))
        waiting = self.ask(anext(client.samples()))
        self.network.advance(2)
        self.assertGreater(self.successResultOf(waiting).stamp, EPOCH)
        self.again()
        self.assertEqual(self.subscribed(), {"time"})

    def test_unsubscribing_without_a_connection_holds_for_the_next(self):
        client = self.entered()
        self.iterate(client)
        self.network.down = Refused()
        self.lose()
        done = self.ask(client.unsubscribe("load"))
        self.network.advance(TIMEOUT, 0.5)
        self.failureResultOf(done, NotConnected)
        self.network.down = None
        self.network.advance(30, 0.5)
        self.assertEqual(self.subscribed(), {"time"})

    def test_what_is_let_go_while_it_is_subscribed_again_is_unsubscribed(self):
        client = self.entered()
        samples = self.iterate(client)
        self.lose()
        self.clock.advance(1.5)
        wire = self.network.wires[-1]
        while "load" not in {name for name, counts in self.server.tally.feeds.items() if counts.subscriptions}:
            wire.pump()
        self.successResultOf(awaited(samples.aclose()))
        self.assertEqual(self.subscribed(), {"time"})

    def test_late_samples_are_dropped(self):
        client = self.entered()
        samples = self.iterate(client)
        self.latest["load"].publish("late")
        wire = self.network.wires[-1]
        wire.frozen = True
        self.network.advance(2)
        done = awaited(client.unsubscribe("load"))
        fresh = client.samples("mood")
        wire.frozen = False
        self.network.flush()
        self.successResultOf(done)
        self.failureResultOf(self.ask(anext(samples)), StopAsyncIteration)
        self.assertEqual(client._feeds.keys(), {"time", "mood"})
        self.assertNoResult(self.ask(anext(fresh)))


class FeedReconnectionTests(FeedCase):
    def test_feeds_are_subscribed_again_with_their_period_and_deadband(self):
        client = self.entered()
        self.latest["load"].publish(1)
        samples = client.samples("load", period=0.5, deadband=2)
        self.values(samples)
        waiting = self.ask(anext(samples))
        self.again()
        self.assertEqual(self.server.tally.feeds["load"].requested, 2)
        self.assertEqual(self.successResultOf(waiting).sequence, 1)
        self.latest["load"].publish(2)
        self.network.advance(0.5)
        self.assertNoResult(self.ask(anext(samples)))

    def test_a_refusal_ends_the_iterators_of_that_feed_and_nothing_else(self):
        client = self.entered()
        self.latest["load"].publish(1)
        self.latest["mood"].publish(2)
        load, mood, time = client.samples("load"), client.samples("mood"), client.samples(period=0.5)
        self.values(load)
        self.values(mood)
        waiting = self.ask(anext(load))
        self.server.feeds._feeds["load"] = self.latest["load"], Rights(read=())
        self.again()
        self.failureResultOf(waiting, NotPermitted)
        self.failureResultOf(self.ask(anext(load)), NotPermitted)
        self.assertEqual(self.values(mood), [2])
        self.assertGreater(self.next(time), 0)
        self.assertEqual((self.subscribed(), self.server.tally.authenticated), ({"time", "mood"}, 1))
        self.server.feeds._feeds["load"] = self.latest["load"], Rights()
        self.latest["load"].publish(3)
        self.assertEqual(self.values(client.samples("load")), [3])

    def test_an_iterator_that_has_not_begun_has_nothing_subscribed(self):
        client = self.entered()
        samples = client.samples("load")
        self.again()
        self.assertEqual(self.subscribed(), {"time"})
        self.latest["load"].publish(1)
        self.assertEqual(self.values(samples), [1])

    def test_a_feed_that_was_refused_is_not_asked_for_again(self):
        client = self.entered()
        bad = client.samples("nope")
        self.failureResultOf(self.ask(anext(bad)), UnknownFeed)
        self.again()
        self.assertEqual((self.subscribed(), self.server.tally.authenticated), ({"time"}, 1))
        self.failureResultOf(self.ask(anext(bad)), UnknownFeed)

    def subscribing_again(self):
        """Stop where a new connection has subscribed to the feeds of the last; return client, samples and wire."""
        client = self.entered()
        self.latest["load"].publish(1)
        samples = client.samples("load")
        self.values(samples)
        self.lose()
        self.clock.advance(1.5)
        wire = self.network.wires[-1]
        while not self.server.tally.feeds["load"].subscriptions:
            wire.pump()
        return client, samples, wire

    def test_no_answer_to_a_subscription_is_no_session_and_is_tried_again(self):
        _, samples, wire = self.subscribing_again()
        wire.frozen = True
        self.network.advance(TIMEOUT + 4, 0.5)
        wire.frozen = False
        self.assertEqual((self.subscribed(), self.network.attempts), ({"time", "load"}, 3))
        self.assertEqual(self.values(samples), [1])

    def test_closing_while_feeds_are_subscribed_again_leaves_nothing(self):
        client, *_ = self.subscribing_again()
        self.successResultOf(self.leave(client))
        self.assertEqual((self.subscribed(), self.clock.getDelayedCalls()), (set(), []))


class PublishTests(FeedCase):
    def publish(self, client, *args):
        return self.successResultOf(self.ask(client.publish(*args)))

    def test_publishing_answers_with_the_number(self):
        client = self.entered()
        self.clock.advance(5)
        self.assertEqual([self.publish(client, "load", value) for value in (1, 1, 2.5)], [1, 2, 3])
        sample = self.latest["load"].latest()
        self.assertEqual((sample.sequence, sample.value, sample.stamp), (3, 2.5, EPOCH + 5))

    def test_the_source_may_say_when_it_was_true(self):
        client = self.entered()
        for stamp in (0, 12.5, -7):
            self.publish(client, "load", 1, stamp)
            self.assertEqual(self.latest["load"].latest().stamp, stamp)

    def test_every_kind_of_value_arrives_as_it_is(self):
        client = self.entered()
        for value in (
            *(None, True, False, 0, -1, MOST, -MOST, 1.5, -0.0, math.inf, "", "ä\n", b"", b"\xff", [], (), {}),
            {1: [2], 2.5: (3,), "a": {b"b": None}, None: True, False: "x"},
            [[[[1]]]],
            ["None", b"list", b"dictionary", "unicode"],
        ):
            self.publish(client, "mood", value)
            self.assertEqual(repr(self.latest["mood"].latest().value), repr(value))

    def test_a_container_may_be_in_a_value_twice(self):
        client = self.entered()
        both, empty = [1, {"a": 2}], ()
        for value in ([both, both], (both, [both]), {"x": both, "y": both}, [empty, empty], [{}, {}, (empty, empty)]):
            self.publish(client, "load", value)
            self.assertEqual(self.latest["load"].latest().value, value)

    def test_a_value_is_what_it_was_at_the_call(self):
        client = self.entered()
        value = [1]
        self.lose()
        number = self.ask(client.publish("load", value))
        value.append(2)
        self.network.advance(1.5)
        self.assertEqual((self.successResultOf(number), self.latest["load"].latest().value), (1, [1]))

    def test_what_is_no_value_or_no_stamp_is_not_even_sent(self):
        client = self.entered()
        written = self.network.wires[-1].clientIO.written
        cycle = []
        cycle.append(cycle)
        for value in (object(), {1}, [[[[[1]]]]], cycle, {"a": cycle}, "x" * 4097, [0] * 4096, MOST + 1, 1j, "\ud800"):
            self.failureResultOf(self.ask(client.publish("load", value)), InvalidValue)
        for stamp in (math.nan, math.inf, -math.inf, True, "1", [1], 10**400, -(10**400)):
            self.failureResultOf(self.ask(client.publish("load", 1, stamp)), InvalidValue)
        self.assertEqual(self.network.wires[-1].clientIO.written, written)

    def test_a_refusal_comes_as_its_class_and_ends_nothing(self):
        self.start(Limits(publishes_per_second=2))
        client = self.entered()
        self.failureResultOf(self.ask(client.publish("nope", 1)), UnknownFeed)
        self.failureResultOf(self.ask(client.publish("shut", 1)), NotPermitted)
        self.failureResultOf(self.ask(client.publish("time", 1)), NotPermitted)
        self.failureResultOf(self.ask(client.publish("load", {2**100: 1})), InvalidValue)
        self.assertEqual([self.publish(client, "load", value) for value in range(2)], [1, 2])
        self.failureResultOf(self.ask(client.publish("load", 1)), TooManyPublishes)
        self.clock.advance(0.5)
        self.assertEqual(self.publish(client, "load", 1), 3)

    def test_calls_in_between_are_published_in_their_order(self):
        client = self.entered()
        self.lose()
        calls = [self.ask(client.publish("load", value)) for value in range(50)]
        self.network.advance(1.5)
        self.assertEqual([self.successResultOf(call) for call in calls], list(range(1, 51)))
        self.assertEqual(self.latest["load"].latest().value, 49)

    def test_one_of_many_that_wait_may_be_cancelled(self):
        client = self.entered()
        self.lose()
        first, second, third = (self.ask(client.publish("load", value)) for value in range(3))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.network.advance(1.5)
        self.assertEqual((self.successResultOf(first), self.successResultOf(third)), (1, 2))

    def test_no_answer_for_as_long_as_a_call_may_take_is_not_connected(self):
        client = self.entered()
        self.network.wires[0].frozen = True
        number = self.ask(client.publish("load", 1))
        self.network.advance(TIMEOUT - 1)
        self.assertNoResult(number)
        self.network.advance(1)
        self.failureResultOf(number, NotConnected)
        self.network.wires[0].frozen = False

    def test_a_client_that_was_not_entered_says_so(self):
        client = self.client()
        for call in (client.publish("load", 1), client.feeds(), client.unsubscribe("load")):
            self.failureResultOf(self.ask(call), NotConnected)

    def test_feeds_are_those_that_may_be_read(self):
        self.assertEqual(self.successResultOf(self.ask(self.entered().feeds())), ["time", "load", "mood"])
        names = self.successResultOf(self.ask(self.entered(name="bob").feeds()))
        self.assertEqual(names, ["time", "load", "mood", "shut"])


class NoticeCase(FeedCase):
    """With a server whose notices the test sends."""

    def notify(self, **notice):
        """Have the server write a notice, which is not delivered yet."""
        (broker,) = self.server.factory.connections
        broker.mind.notify(notice)

    def drain(self, retry, **more):
        self.notify(kind="draining", retry_seconds=retry, **more)
        self.network.flush()

    def iterating(self, **options):
        """Return an entered client, and an iterator that has had a sample."""
        client = self.entered()
        self.latest["load"].publish(1)
        samples = client.samples("load", **options)
        self.values(samples)
        return client, samples

    def assert_back_after(self, seconds):
        """Check that the client is away, and connects again so many seconds from now."""
        before = self.network.attempts
        self.assertEqual(self.server.tally.authenticated, 0)
        self.network.advance(seconds - 0.01)
        self.assertEqual(self.network.attempts, before)
        self.network.advance(0.02)
        self.assertEqual((self.network.attempts, self.server.tally.authenticated), (before + 1, 1))


class DrainingTests(NoticeCase):
    def test_a_server_that_stops_is_left_at_once_and_in_good_order(self):
        self.entered()
        self.drain(7)
        self.assertEqual((self.server.tally.authenticated, self.server.tally.closed["client"]), (0, 1))
        self.assertFalse(self.network.wires[0].clientIO.aborted)

    def test_who_waits_for_no_answer_calls_nothing_before_it_leaves(self):
        self.entered()
        written = self.network.wires[0].clientIO.written
        self.drain(7)
        self.assertEqual(self.network.wires[0].clientIO.written, written)

    def test_it_is_asked_again_after_the_time_that_it_named(self):
        self.entered()
        for retry in (7, 0.5, 0.75, 12.25, 300):
            self.drain(retry)
            self.assert_back_after(retry)

    def test_a_time_out_of_bounds_is_the_next_that_is_not(self):
        self.entered()
        for retry, least in ((0, 0.5), (0.0, 0.5), (0.499, 0.5), (1e-300, 0.5), (300.1, 300), (1e300, 300)):
            self.drain(retry)
            self.assert_back_after(least)

    def test_iterators_go_on_with_their_period_and_deadband(self):
        client, samples = self.iterating(period=0.25, deadband=2)
        self.successResultOf(self.ask(client.setperiod(0.5)))
        waiting, time = self.ask(anext(samples)), client.samples()
        self.drain(3)
        self.assertNoResult(waiting)
        self.network.advance(3)
        self.assertEqual((self.server.time.requested, self.server.tally.feeds["load"].requested), (2, 4))
        self.assertEqual(self.successResultOf(waiting).sequence, 1)
        self.latest["load"].publish(3)
        self.network.advance(0.5)
        self.assertNoResult(self.ask(anext(samples)))
        self.assertEqual(self.next(time), 3.5)

    def test_it_is_one_line_of_the_log_and_no_failure(self):
        self.entered()
        with clockd_logs() as events:
            for _ in range(10):
                self.drain(2.26, unheard_of=[1])
                self.network.advance(3, 1)
        said = [formatEvent(event) for event in events if event["log_namespace"].startswith("clockd.client")]
        self.assertEqual(said, 10 * [f"{ENDPOINT}: the server stops; connecting again in 2.3 s"])
        before = set(self.clock.getDelayedCalls())
        self.network.down = Refused()
        self.lose()
        (call,) = set(self.clock.getDelayedCalls()) - before
        self.assertTrue(0.5 <= call.getTime() - self.clock.seconds() <= 1.5)

    def test_a_server_that_is_not_back_by_then_is_looked_for_as_after_a_loss(self):
        self.entered()
        self.drain(5)
        self.network.down = Refused()
        self.network.advance(5)
        self.assertEqual(self.network.attempts, 2)
        self.network.down = None
        self.network.advance(1.5, 0.25)
        self.assertEqual((self.network.attempts, self.server.tally.authenticated), (3, 1))

    def test_told_twice_it_does_what_it_was_told_first(self):
        self.entered()
        self.notify(kind="draining", retry_seconds=2)
        self.drain(9)
        self.assert_back_after(2)

    def test_told_while_the_feeds_are_subscribed_again_it_leaves_as_well(self):
        _, samples = self.iterating(period=0.5)
        self.lose()
        self.clock.advance(1.5)
        while not self.server.tally.feeds["load"].subscriptions:
            self.network.wires[-1].pump()
        self.drain(4)
        self.assert_back_after(4)
        self.assertEqual(self.server.tally.feeds["load"].requested, 2)
        self.assertEqual(self.values(samples), [1])

    def test_a_call_under_way_is_answered_before_it_leaves(self):
        client = self.entered()
        calls = [awaited(client.publish("load", value)) for value in range(100)]
        self.drain(2)
        self.assertEqual([self.successResultOf(call) for call in calls], list(range(1, 101)))
        self.assert_back_after(2)

    def test_a_call_that_is_not_answered_keeps_it_for_a_moment_only(self):
        client = self.entered()
        wire = self.network.wires[-1]
        self.notify(kind="draining", retry_seconds=2)
        call = awaited(client.setperiod(5))
        wire.pump()
        wire.frozen = True
        self.network.advance(2 * CLOSE_SECONDS - 0.25, 0.25)
        self.assertNoResult(call)
        self.network.advance(0.25)
        self.failureResultOf(call, NotConnected)
        self.assertTrue(wire.clientIO.aborted)
        wire.frozen = False
        self.network.flush()
        self.assert_back_after(2)
        self.flushLoggedErrors()

    def test_calls_in_between_wait_for_the_next_connection(self):
        client = self.entered()
        self.drain(5)
        calls = [self.ask(client.publish("load", 7)), self.ask(client.setperiod(0.5)), self.ask(client.feeds())]
        self.network.advance(4.9)
        for call in calls:
            self.assertNoResult(call)
        self.network.advance(0.1)
        self.assertEqual([self.successResultOf(call) for call in calls[:2]], [1, 0.5])
        self.successResultOf(calls[2])

    def test_a_call_in_between_waits_no_longer_than_a_call_may_take(self):
        client = self.entered()
        self.drain(TIMEOUT + 2)
        call = self.ask(client.setperiod(0.5))
        self.network.advance(TIMEOUT)
        why = "no connection within 10 s: the server stops; connecting again in 12.0 s"
        self.assertEqual(str(self.failureResultOf(call, NotConnected).value), why)

    def test_a_call_made_while_it_leaves_is_one_of_the_next_connection(self):
        client = self.entered()
        self.notify(kind="draining", retry_seconds=2)
        first = awaited(client.publish("load", 1))
        self.network.wires[-1].pump()
        second = awaited(client.publish("load", 2))
        self.network.flush()
        self.assertEqual(self.successResultOf(first), 1)
        self.assertNoResult(second)
        self.network.advance(2)
        self.assertEqual(self.successResultOf(second), 2)

    def test_cut_off_before_it_could_leave_it_comes_back_as_it_was_told(self):
        self.entered()
        self.notify(kind="draining", retry_seconds=6)
        (broker,) = self.server.factory.connections
        broker.transport.loseConnection()
        self.network.flush()
        self.assert_back_after(6)
        self.notify(kind="draining", retry_seconds=7)
        self.network.wires[-1].pump()
        self.lose()
        self.assert_back_after(7)

    def test_leaving_meanwhile_leaves_nothing(self):
        client, samples = self.iterating()
        waiting = self.ask(anext(samples))
        self.drain(5)
        self.successResultOf(self.leave(client))
        self.failureResultOf(waiting, StopAsyncIteration)
        self.assertEqual((self.clock.getDelayedCalls(), self.network.attempts), ([], 1))

    def test_leaving_while_it_leaves_leaves_nothing(self):
        for pumps_before in (1, 2, 3):
            client = self.entered()
            call = awaited(client.setperiod(5))
            self.notify(kind="draining", retry_seconds=5)
            for _ in range(pumps_before):
                self.network.wires[-1].pump()
            before = self.network.attempts
            self.successResultOf(self.leave(client))
            call.addErrback(lambda failure: failure.trap(NotConnected))
            self.assertEqual((self.clock.getDelayedCalls(), self.network.attempts), ([], before))

    def test_two_hundred_times_leave_nothing(self):
        self.start(Limits(default_period=1000, stale_seconds=10_000))
        client = self.entered()
        calls = len(self.clock.getDelayedCalls())
        for _ in range(200):
            self.drain(0.5)
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
            self.network.advance(0.5)
            self.network.wires[:-1] = []
        self.assertEqual((self.network.attempts, self.server.tally.authenticated), (201, 1))
        self.assertEqual((len(self.clock.getDelayedCalls()), client._waiting), (calls, {}))


class SentAwayTests(NoticeCase):
    def send_away(self, **notice):
        """Have the server send everyone away and close, as it does then."""
        self.notify(**notice)
        (broker,) = self.server.factory.connections
        broker.transport.loseConnection()
        self.network.flush()

    def test_who_is_kicked_is_told_why_and_comes_back_no_more(self):
        client, samples = self.iterating()
        waiting, time = self.ask(anext(samples)), client.samples()
        self.send_away(kind="kicked", reason="go home", unheard_of=1)
        for step in (waiting, self.ask(anext(samples)), self.ask(client.setperiod(5)), self.ask(client.feeds())):
            error = self.failureResultOf(step, Kicked).value
            self.assertEqual(str(error), "the server has closed the connections of this account: go home")
            self.assertEqual(error.reason, "go home")
        self.assertEqual(self.next(time), 0)
        self.failureResultOf(self.ask(anext(time)), Kicked)
        self.failureResultOf(self.ask(anext(client.samples())), Kicked)
        self.network.advance(400, 1)
        self.assertEqual((self.network.attempts, self.clock.getDelayedCalls()), (1, []))

    def test_who_is_replaced_is_told_and_comes_back_no_more(self):
        client, samples = self.iterating()
        waiting = self.ask(anext(samples))
        self.send_away(kind="replaced")
        error = self.failureResultOf(waiting, Replaced).value
        self.assertEqual(str(error), "a newer login of this account has taken the place of this one")
        self.failureResultOf(self.ask(client.publish("load", 1)), Replaced)
        self.network.advance(400, 1)
        self.assertEqual((self.network.attempts, self.clock.getDelayedCalls()), (1, []))

    def test_it_leaves_by_itself_if_the_server_does_not_close(self):
        for kind in ("kicked", "replaced"):
            self.entered()
            self.notify(kind=kind, reason="")
            self.network.flush()
            self.assertEqual(self.server.tally.authenticated, 0)
        self.assertEqual((self.server.tally.closed["client"], self.clock.getDelayedCalls()), (2, []))

    def test_a_reason_is_shown_in_one_line_that_does_nothing_to_a_terminal(self):
        for reason in ("\x1b[2J\r\nx" * 100, "\u202e\u2028\0" * 50, "\x9b" + "x" * 3000):
            _, samples = self.iterating()
            waiting = self.ask(anext(samples))
            self.send_away(kind="kicked", reason=reason)
            error = self.failureResultOf(waiting, Kicked).value
            self.assertEqual(error.reason, reason)
            self.assertTrue(str(error).isprintable())
            self.assertLess(len(str(error)), 300)

    def test_a_call_under_way_ends_with_it_and_is_not_said_to_be_lost(self):
        for notice, kind in (({"kind": "kicked", "reason": "x"}, Kicked), ({"kind": "replaced"}, Replaced)):
            client = self.entered()
            self.notify(**notice)
            call = awaited(client.publish("load", 1))
            self.network.wires[-1].pump()
            self.lose()
            self.failureResultOf(call, kind)

    def test_who_leaves_for_it_leaves_nothing(self):
        async def program():
            async with self.client() as clock:
                async for _ in clock.samples():
                    pass

        done = Deferred.fromCoroutine(program())
        self.network.flush()
        self.notify(kind="kicked", reason="go home")
        self.network.flush()
        self.failureResultOf(done, Kicked)
        self.assertEqual((self.server.tally.authenticated, self.clock.getDelayedCalls()), (0, []))

    def test_kicked_while_it_leaves_a_server_that_stops_it_does_not_come_back(self):
        client, samples = self.iterating()
        waiting = self.ask(anext(samples))
        self.notify(kind="draining", retry_seconds=1)
        self.notify(kind="kicked", reason="go home")
        call = awaited(client.setperiod(5))
        self.network.flush()
        self.failureResultOf(waiting, Kicked)
        call.addErrback(lambda failure: failure.trap(Kicked))
        self.network.advance(10, 1)
        self.assertEqual((self.network.attempts, self.clock.getDelayedCalls()), (1, []))

    def test_what_ended_it_first_is_what_is_told(self):
        client, samples = self.iterating()
        self.send_away(kind="kicked", reason="first")
        self.successResultOf(self.leave(client))
        self.assertEqual(self.failureResultOf(self.ask(anext(samples)), Kicked).value.reason, "first")
        client, samples = self.iterating()
        waiting = self.ask(anext(samples))
        left = awaited(client.__aexit__(None, None, None))
        self.notify(kind="kicked", reason="late")
        self.network.flush()
        self.successResultOf(left)
        self.failureResultOf(waiting, StopAsyncIteration)
        self.failureResultOf(self.ask(anext(samples)), StopAsyncIteration)


class OddNoticeTests(ClientCase):
    """Servers that are not ours, and what they send as notices."""

    class Root(Timeless, pb.Root):
        """Takes every login, and answers it and what comes then as the test says.

        Args:
            subscribed: What `subscribe` answers.
            notice: What is sent before the answer to each login, if anything.
        """

        def __init__(self, subscribed=0.0, notice=None):
            self.subscribed = subscribed
            self.notice = notice
            self.feeds = []
            self.answers = []

        def remote_login(self, name):
            return b"challenge", self

        def remote_respond(self, response, mind):
            self.mind = mind
            if self.notice is not None:
                self.send(self.notice)
            return self

        def remote_subscribe(self, feed, *_):
            self.feeds.append(feed)
            return self.subscribed if feed == "server" else 1.0

        def remote_setperiod(self, period, feed):
            return self.subscribed if feed == "never" else period

        def send(self, notice, number=1, stamp=EPOCH):
            sent = self.mind.callRemote("notifySample", "server", number, stamp, notice)
            sent.addCallbacks(self.answers.append, lambda failure: failure.trap(pb.PBConnectionLost))
            sent.addErrback(self.answers.append)

        def tick(self):
            self.mind.callRemote("notifyTime", EPOCH + 1.0)

    def serve(self, *args, **kwargs):
        """Enter a client of such a server; returns the client, the Deferred of that, and the server."""
        root = self.Root(*args, **kwargs)
        self.network = Network(pb.PBServerFactory(root), self.clock)
        self.network.factory.noisy = False
        return *self.enter(), root

    def test_notices_are_asked_for_after_each_login(self):
        _, entered, root = self.serve()
        self.successResultOf(entered)
        self.assertEqual(root.feeds, ["server"])
        self.lose()
        self.network.advance(1.5)
        self.assertEqual(root.feeds, ["server", "server"])

    def test_nobody_waits_for_the_answer(self):
        client, entered, root = self.serve(Deferred())
        self.successResultOf(entered)
        self.successResultOf(self.ask(client.setperiod(5)))
        samples = client.samples()
        self.lose()
        self.network.advance(1.5)
        root.tick()
        self.network.flush()
        self.assertEqual(self.next(samples), 1)
        self.successResultOf(self.ask(client.setperiod(6)))

    def test_a_server_that_refuses_or_answers_nonsense_is_a_server_without_notices(self):
        for answer in (None, "no", [1], math.nan):
            client, entered, _ = self.serve(answer)
            self.successResultOf(entered)
            self.assertEqual(self.successResultOf(self.ask(client.setperiod(5))), 5)

    def test_the_server_of_twisted_s_how_to_is_one(self):
        ticks = []

        class Avatar(pb.Avatar):
            def perspective_setperiod(self, period, feed="time"):
                return period

        @implementer(IRealm)
        class Realm:
            def requestAvatar(self, name, mind, *interfaces):
                ticks.append(lambda: mind.callRemote("notifyTime", EPOCH + 1.0))
                return pb.IPerspective, Avatar(), lambda: None

        checker = InMemoryUsernamePasswordDatabaseDontUse(alice=SECRET.encode())
        self.network = Network(pb.PBServerFactory(Portal(Realm(), [checker])), self.clock)
        self.network.factory.noisy = False
        client = self.entered()
        samples = client.samples()
        self.assertEqual(self.successResultOf(self.ask(client.setperiod(5))), 5)
        self.lose()
        self.network.advance(1.5)
        ticks[-1]()
        self.network.flush()
        self.assertEqual((self.next(samples), len(ticks)), (1, 2))
        self.successResultOf(self.leave(client))
        self.flushLoggedErrors(AttributeError)  # the server's, whose avatar has no such method

    def test_what_is_no_notice_or_of_a_kind_not_known_changes_nothing(self):
        client, _, root = self.serve()
        for notice in (
            *(None, 5, "draining", b"kicked", [], ["kind", "kicked"], ("kind", "kicked"), root, {1, 2}, {}),
            *({"kind": kind} for kind in (None, 5, True, math.nan, b"kicked", ["kicked"], {"kind": "kicked"}, root)),
            *({"kind": kind, "retry_seconds": 1} for kind in ("", "Kicked", "drain", "x" * 5000, "clock_step")),
            *({"kind": "clock_step", "step_seconds": -3.5}, {"Kind": "kicked"}, {b"kind": "kicked"}, {root: "kicked"}),
        ):
            root.send(notice)
        self.network.flush()
        self.assertEqual(root.answers, 27 * [None])
        self.assertEqual(self.successResultOf(self.ask(client.setperiod(5))), 5)

    def test_a_notice_is_one_whatever_its_number_and_stamp(self):
        for number, stamp in ((None, EPOCH), (True, None), ("x", math.nan), (-1, "now")):
            client, _, root = self.serve()
            root.send({"kind": "replaced"}, number, stamp)
            self.network.flush()
            self.failureResultOf(self.ask(client.setperiod(5)), Replaced)

    def test_a_notice_is_no_sample(self):
        client, _, root = self.serve()
        self.failureResultOf(self.ask(anext(client.samples("server"))), UnknownFeed)
        root.send({"kind": "clock_step", "step_seconds": 1.0})
        self.network.flush()
        self.assertIsNone(client._feeds["time"].newest)

    def test_a_time_to_come_back_that_makes_no_sense_is_the_usual_one(self):
        for retry in (-1, -0.1, -math.inf, math.nan, None, "1", b"1", True, False, [1], {"seconds": 1}):
            self.serve()[2].send({"kind": "draining", "retry_seconds": retry})
            self.assert_back_as_usual()
        self.serve()[2].send({"kind": "draining"})
        self.assert_back_as_usual()

    def assert_back_as_usual(self):
        with clockd_logs() as events:
            self.assert_back_within(0.5, 1.5)
        (said,) = map(formatEvent, events)
        self.assertRegex(said, rf"^{ENDPOINT}: connecting again in [01]\.\d s: the server stops$")

    def test_a_time_to_come_back_without_end_is_five_minutes(self):
        for retry in (math.inf, 2**400, 301, 1e308):
            self.serve()[2].send({"kind": "draining", "retry_seconds": retry})
            self.assert_back_within(300, 300)

    def assert_back_within(self, least, most):
        before = set(self.clock.getDelayedCalls())
        self.network.flush()
        self.assertEqual(self.network.attempts, 1)
        (call,) = set(self.clock.getDelayedCalls()) - before
        self.assertTrue(least <= call.getTime() - self.clock.seconds() <= most)

    def test_a_reason_that_makes_no_sense_is_none(self):
        for reason in (None, 5, b"go", ["go"], "", math.nan):
            client, _, root = self.serve()
            root.send({"kind": "kicked", "reason": reason})
            self.network.flush()
            error = self.failureResultOf(self.ask(client.setperiod(5)), Kicked).value
            self.assertEqual(str(error), "the server has closed the connections of this account")
            self.assertEqual(error.reason, "")

    def test_sent_away_with_the_login_s_answer_a_client_is_not_entered(self):
        for kind, error in (("kicked", Kicked), ("replaced", Replaced)):
            _, entered, _ = self.serve(notice={"kind": kind})
            self.failureResultOf(entered, error)
            self.network.advance(60, 1)
            self.assertEqual((self.network.attempts, self.clock.getDelayedCalls()), (1, []))

    def test_a_server_that_stops_with_the_login_s_answer_is_entered_when_it_is_back(self):
        _, entered, root = self.serve(notice={"kind": "draining", "retry_seconds": 4})
        root.notice = None
        self.assertNoResult(entered)
        self.network.advance(4)
        self.successResultOf(entered)
        self.assertEqual(self.network.attempts, 2)

    def test_cut_off_while_it_subscribes_again_it_comes_back_as_it_was_told(self):
        client, _, root = self.serve()
        self.successResultOf(self.ask(client.setperiod(5)))
        root.remote_setperiod = lambda *_: Deferred()
        self.lose()
        self.network.advance(1.5)
        root.send({"kind": "draining", "retry_seconds": 9})
        self.network.flush()
        self.lose()
        del root.remote_setperiod
        self.network.advance(8.9)
        self.assertEqual(self.network.attempts, 2)
        self.network.advance(0.2)
        self.assertEqual(self.network.attempts, 3)
        self.successResultOf(self.ask(client.setperiod(5)))


class ClosingTests(ClientCase):
    def test_a_program_whose_driver_has_stopped_is_closed_without_a_word(self):
        for lost in (False, True):
            client, steps = self.client(), []

            async def program(client=client, steps=steps):
                async with client:
                    steps.append("entered")
                    async for _ in client.samples("none"):
                        pass

            running = program()
            running.send(None)
            self.network.flush()
            running.send(None)
            self.assertEqual(steps, ["entered"])
            if lost:
                self.lose()
            running.close()
            self.network.flush()
            self.assertFalse(client.connected)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closing_twice_is_closing_once(self):
        client = self.entered()
        self.successResultOf(self.leave(client))
        self.successResultOf(self.leave(client))

    def close_frozen(self):
        client = self.entered()
        self.network.wires[0].frozen = True
        left = awaited(client.__aexit__(None, None, None))
        self.network.flush()
        self.network.advance(CLOSE_SECONDS * 0.75)
        self.assertNoResult(left)
        self.network.advance(CLOSE_SECONDS * 0.25)
        self.successResultOf(left)
        self.assertTrue(self.network.wires[0].clientIO.aborted)

    def test_a_connection_that_does_not_close_is_aborted_without_a_word(self):
        self.close_frozen()
        self.network.flush()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_connection_that_does_not_close_is_aborted(self):
        self.close_frozen()
        self.flushLoggedErrors()
        self.assertEqual(self.clock.getDelayedCalls()[1:], [])  # the server's own for its client

    def test_closing_while_connecting_again_over_tcp_ends_it(self):
        reactor = MemoryReactorClock()
        self.network = Network(self.server.factory, self.clock)
        client = self.entered()
        client._way.where = clientFromString(reactor, "tcp:192.0.2.1:8787")
        self.lose()
        self.network.advance(1.5)
        self.assertEqual(len(reactor.tcpClients), 1)
        self.successResultOf(self.leave(client))
        self.network.advance(10, 0.5)
        self.assertEqual((len(reactor.tcpClients), self.clock.getDelayedCalls()), (1, []))


class ConnectTests(SynchronousTestCase):
    def test_a_drift_that_is_none_is_told(self):
        for drift in (-1e-9, 1.0, math.nan, math.inf):
            self.assertRaises(
                ValueError, connect, "tcp:host:1", "alice", SECRET, drift=drift, reactor=MemoryReactorClock()
            )

    def test_a_string_that_is_no_endpoint_is_told(self):
        for nonsense in ("", "tcp", "tcp:host", "nonsense:x", "tcp:host:1:nonsense=2"):
            with self.assertRaisesRegex(ConnectionFailed, "tcp:host:8787"):
                connect(nonsense, "alice", SECRET, reactor=MemoryReactorClock())

    def test_a_string_that_is_one_makes_a_client_that_does_nothing_yet(self):
        reactor = MemoryReactorClock()
        self.assertIsInstance(connect("tcp:host:1", "alice", SECRET, reactor=reactor), ClockClient)
        self.assertEqual((reactor.tcpClients, reactor.getDelayedCalls()), ([], []))

    def test_an_attempt_that_takes_too_long_over_tcp_is_a_connection_that_failed(self):
        reactor = MemoryReactorClock()
        entered = awaited(connect("tcp:192.0.2.1:1", "alice", SECRET, timeout=3, reactor=reactor).__aenter__())
        reactor.advance(2.9)
        self.assertNoResult(entered)
        reactor.advance(0.1)
        self.failureResultOf(entered, ConnectionFailed)
        self.assertEqual(reactor.getDelayedCalls(), [])

    def test_an_attempt_that_takes_too_long_over_tcp_is_told_as_such(self):
        reactor = MemoryReactorClock()
        entered = awaited(connect("tcp:192.0.2.1:1", "alice", SECRET, timeout=3, reactor=reactor).__aenter__())
        reactor.advance(3)
        self.assertIn("within 3 s", str(self.failureResultOf(entered, ConnectionFailed).value))

    def test_without_an_asyncio_loop_the_installed_reactor_is_taken(self):
        from twisted.internet import reactor

        self.assertIs(connect("tcp:host:1", "alice", SECRET)._reactor, reactor)

    def test_on_an_asyncio_loop_a_reactor_that_runs_elsewhere_is_a_conflict(self):
        import twisted.internet.reactor  # noqa: F401  # installs one

        async def program():
            connect("tcp:host:1", "alice", SECRET)

        self.assertRaises(ReactorConflict, asyncio.run, program())

    def test_what_is_no_login_is_a_mistake_of_the_program(self):
        certified = ClientTLS(HOST)
        certified.has_certificate = True
        for tls, more in ((None, [()]), (ClientTLS(HOST), [()]), (certified, [])):
            for words in (("alice",), ("alice", None), (None, SECRET), (b"alice", SECRET), ("alice", b"secret"), *more):
                with self.assertRaisesRegex(TypeError, "the name and the secret are str"):
                    connect("tcp:host:1", *words, tls=tls, reactor=MemoryReactorClock())

    def test_twisted_s_own_way_to_tls_is_not_taken(self):
        for endpoint in ("tls:host:1", "ssl:host:1", "tls:host:1:trustRoots=."):
            with self.assertRaisesRegex(ConnectionFailed, r"write tcp:host:port, and pass tls=ClientTLS\(host\)"):
                connect(endpoint, "alice", SECRET, reactor=MemoryReactorClock())

    def test_with_tls_the_handshake_begins_as_soon_as_there_is_a_connection(self):
        reactor = MemoryReactorClock()
        awaited(connect("tcp:192.0.2.1:8788", "alice", SECRET, tls=ClientTLS(HOST), reactor=reactor).__aenter__())
        (host, port, factory, *_), transport = reactor.tcpClients[0], StringTransport()
        factory.buildProtocol(None).makeConnection(transport)
        self.assertEqual((host, port), ("192.0.2.1", 8788))
        self.assertEqual(transport.value()[:1], b"\x16")  # a record of the handshake (RFC 8446, 5.1)
        self.assertIn(HOST.encode(), transport.value())


class TLSTests(ClientCase):
    """With the server behind TLS, and a client of its authority."""

    def setUp(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.folder, self.chain = folder, Chain()
        self.root, *self.files = self.chain.write(folder)
        self.start()
        self.server.portal.registerChecker(CertificateChecker(Users(["alice"])))

    def listen(self, client_ca=True):
        """Have the server listen with TLS from now on."""
        creator = ServerTLS(*self.files, self.root if client_ca else None)
        self.network.factory = TLSFactory(creator, self.server.factory, self.clock, self.server.factory.took)

    def client(self, *names, host=HOST, ca=None, secret=None):
        """Return a client that shows a certificate of these common names, if there are any."""
        path = self.folder / "client.pem"
        if names:
            certified = Certified(*names, issuer=self.chain.root)
            path.write_bytes(certified.pem + certified.key_pem())
        tls = ClientTLS(host, ca=ca or self.root, certificate=path if names else None)
        where = wrapClientTLS(tls, self.network, self.clock)
        credentials = UsernamePassword(b"alice", secret.encode()) if secret else None
        way = Way(where, ENDPOINT, credentials, TIMEOUT, self.clock, self.clock.seconds)
        client = ClockClient(way, self.server.now, 50e-6)
        self.addCleanup(self.leave, client)
        return client

    def refused(self, kind, *names, **kwargs):
        """Return the words with which a client is not let in."""
        _, entered = self.enter(self.client(*names, **kwargs))
        error = self.failureResultOf(entered, kind).value
        self.network.flush()
        self.assertEqual((self.server.tally.pending, self.server.tally.authenticated), (0, 0))
        return str(error)

    def test_a_name_and_its_secret_are_a_login(self):
        self.listen()
        client, entered = self.enter(self.client(secret=SECRET))
        self.successResultOf(entered)
        self.assertEqual(self.next(client.samples()), 0)
        self.assertEqual(self.server.tally.logins["secret", "ok"], 1)

    def test_a_certificate_is_one(self):
        self.listen()
        client, entered = self.enter(self.client("alice"))
        self.successResultOf(entered)
        self.assertEqual(self.next(client.samples()), 0)
        self.assertEqual(self.successResultOf(self.ask(client.setperiod(5))), 5)
        self.assertEqual(self.server.tally.logins["certificate", "ok"], 1)
        (broker,) = self.server.factory.connections
        self.assertEqual(broker.account, "alice")

    def test_a_certificate_logs_in_again_when_the_connection_was_lost(self):
        self.listen()
        self.successResultOf(self.enter(self.client("alice"))[1])
        self.lose()
        self.network.advance(1.5)
        self.assertEqual(self.server.tally.logins["certificate", "ok"], 2)

    def test_a_server_that_stops_is_left_in_good_order_and_asked_again(self):
        self.listen()
        client, entered = self.enter(self.client("alice"))
        self.successResultOf(entered)
        call = awaited(client.setperiod(5))
        (broker,) = self.server.factory.connections
        broker.mind.notify({"kind": "draining", "retry_seconds": 3})
        self.network.flush()
        self.assertEqual(self.successResultOf(call), 5)
        self.assertEqual((self.server.tally.authenticated, self.server.tally.closed["client"]), (0, 1))
        self.network.advance(3)
        self.assertEqual((self.server.tally.authenticated, self.server.time.requested), (1, 0.2))

    def test_a_secret_is_taken_even_if_a_certificate_is_shown(self):
        self.listen()
        self.successResultOf(self.enter(self.client("bob", secret=SECRET))[1])
        self.assertEqual(self.server.tally.logins["secret", "ok"], 1)

    def test_a_certificate_that_proves_no_account_is_told_and_counted(self):
        self.listen()
        for names in (("mallory",), ("alice", "alice"), ("Alice",), ("anonymous",)):
            self.assertEqual(self.refused(WrongCredentials, *names), "the certificate proves no account")
        self.assertEqual(self.server.tally.logins["certificate", "denied"], 4)

    def test_where_nobody_is_asked_for_a_certificate_that_is_told(self):
        self.listen(client_ca=False)
        self.assertIn("nobody is asked for a certificate here", self.refused(NotPermitted, "alice"))

    def test_without_tls_nobody_is_either(self):
        answer = self.stock_answer(self.network, Mind())
        self.assertTrue(answer.check("clockd.errors.NotPermitted"))

    def test_who_is_asked_for_a_certificate_and_shows_none_proves_nothing(self):
        self.listen()
        answer = self.stock_answer(self.client()._way.where, Mind())
        self.assertTrue(answer.check("clockd.errors.WrongCredentials"))
        self.assertEqual(self.server.tally.logins["certificate", "denied"], 1)

    def test_a_mind_that_is_none_is_told(self):
        self.listen()
        client = self.client("alice")
        for mind in (7, None, [Mind()]):
            answer = self.stock_answer(client._way.where, mind)
            self.assertTrue(answer.check("clockd.errors.InvalidValue"))
        self.assertEqual(self.server.tally.logins["certificate", "ok"], 0)

    def test_all_places_taken_is_told(self):
        self.start(Limits(connections=1))
        self.server.portal.registerChecker(CertificateChecker(Users(["alice", "bob"])))
        self.listen()
        self.successResultOf(self.enter(self.client("alice"))[1])
        _, entered = self.enter(self.client("bob"))
        self.failureResultOf(entered, TooManyConnections)

    def stock_answer(self, where, mind):
        """Return what a stock client is answered that wants to log in by certificate."""
        factory, answers = pb.PBClientFactory(), []
        factory.noisy = False
        where.connect(factory)
        login = factory.getRootObject().addCallback(lambda root: root.callRemote("loginCertificate", mind))
        login.addBoth(answers.append)
        self.network.flush()
        factory.disconnect()
        self.network.flush()
        return answers[0]

    def test_a_certificate_of_others_ends_the_handshake(self):
        self.listen()
        self.chain.root = Certified("an authority of others", authority=True)
        told = f"no TLS with {ENDPOINT}: "
        self.assertTrue(self.refused(ConnectionFailed, "alice").startswith(told))

    def test_a_server_that_does_not_prove_itself_is_told_in_a_sentence(self):
        self.listen()
        told = self.refused(ConnectionFailed, "alice", host="clock.example")
        what = "the server's certificate is for 'localhost', '127.0.0.1', not for 'clock.example'"
        self.assertEqual(told, f"no TLS with {ENDPOINT}: {what}")
        other = self.folder / "other.pem"
        other.write_bytes(Chain().root.pem)
        self.assertIn("of no authority that is trusted here", self.refused(ConnectionFailed, "alice", ca=other))
        self.assertEqual(self.server.tally.logins["certificate", "denied"], 0)

    def test_a_server_without_tls_is_told_in_a_sentence(self):
        self.network.factory = self.server.factory
        told = self.refused(ConnectionFailed, "alice")
        self.assertRegex(told, rf"^no TLS with {ENDPOINT}: .*; does it listen there with TLS")

    def test_the_time_is_known_over_tls(self):
        self.listen()
        client, entered = self.enter(self.client("alice"))
        self.successResultOf(entered)
        self.network.advance(0.25, 0.05)
        self.assertLess(client.now().bound, 0.001)

    def test_once_there_was_a_session_a_server_that_does_not_prove_itself_is_tried_again(self):
        self.listen()
        client, entered = self.enter(self.client("alice"))
        self.successResultOf(entered)
        good, self.files = self.files, self.with_files_of(Certified(HOST, issuer=self.chain.root, hosts=()))
        self.listen()
        self.lose()
        self.network.advance(3, 0.25)
        self.assertEqual(self.server.tally.authenticated, 0)
        self.files = good
        self.listen()
        self.network.advance(5, 0.25)
        self.assertEqual(self.successResultOf(self.ask(client.setperiod(5))), 5)

    def with_files_of(self, certified):
        paths = [self.folder / "new.pem", self.folder / "new.key"]
        for path, data in zip(paths, (certified.pem, certified.key_pem()), strict=True):
            path.write_bytes(data)
        return paths


class OtherServerTests(ClientCase):
    """A server that speaks Perspective Broker and is no clockd."""

    def other(self, root):
        self.network = Network(pb.PBServerFactory(root), self.clock)
        self.network.factory.noisy = False
        return self.enter()

    def test_an_error_of_another_kind_is_the_server_s_fault(self):
        class Root(pb.Root):
            def remote_login(self, name):
                raise pb.Error("I know no clock")

        _, entered = self.other(Root())
        self.assertIn("twisted.spread.pb.Error", str(self.failureResultOf(entered, ServerFault).value))

    def test_an_error_of_cred_is_wrong_credentials(self):
        class Denied(pb.Error, UnauthorizedLogin):
            pass

        class Root(pb.Root):
            def remote_login(self, name):
                raise Denied

        self.failureResultOf(self.other(Root())[1], WrongCredentials)

    def test_a_login_that_answers_nonsense_leaves_no_connection(self):
        class Root(pb.Root):
            def remote_login(self, name):
                return 7

        _, entered = self.other(Root())
        self.failureResultOf(entered)
        closed = self.network.wires[0].clientIO.reported
        self.network.wires[0].clientIO.loseConnection()
        self.network.flush()
        self.assertTrue(closed)
        gc.collect()

    def lying(self, granted=1.0, perspective=True):
        """Enter a client of a server that takes every login; returns it, the Deferred of that, and the server."""

        class Perspective(Timeless, pb.Referenceable):
            def remote_setperiod(self, period, feed):
                return granted

            def remote_subscribe(self, feed, period=None, deadband=None):
                return granted

            def remote_publish(self, feed, value, stamp):
                return granted

            def remote_feeds(self):
                return granted

        class Root(pb.Root):
            def remote_login(self, name):
                return b"challenge", self

            def remote_respond(self, response, mind):
                self.mind = mind
                return Perspective() if perspective else granted

        root = Root()
        client, entered = self.other(root)
        return client, entered, root

    def test_a_login_that_answers_with_no_perspective_is_no_session(self):
        for answer in (5, None, "perspective", 1.5, [1]):
            _, entered, _ = self.lying(granted=answer, perspective=False)
            self.failureResultOf(entered, ConnectionFailed)

    def test_a_period_granted_that_is_none_is_the_server_s_fault(self):
        for granted in ("1", None, math.nan, 0, True):
            client, _, _ = self.lying(granted)
            self.failureResultOf(self.ask(client.setperiod(1)), ServerFault)

    def test_answers_about_feeds_that_make_no_sense_are_the_server_s_fault(self):
        for granted in ("1", None, math.nan, 0, True, [1], ["Time"], [b"time"], ("time",)):
            client, _, _ = self.lying(granted)
            for call in (anext(client.samples("load")), client.publish("load", 1), client.feeds()):
                self.failureResultOf(self.ask(call), ServerFault)

    def test_samples_that_are_none_are_refused_and_not_handed_out(self):
        client, _, root = self.lying()
        samples = client.samples("load")
        waiting = self.ask(anext(samples))
        refused = []
        for bad in (
            *((b"load", 1, EPOCH, 1), (None, 1, EPOCH, 1), (["load"], 1, EPOCH, 1)),
            *(("load", 1.0, EPOCH, 1), ("load", None, EPOCH, 1), ("load", True, EPOCH, 1), ("load", "1", EPOCH, 1)),
            *(("load", 1, None, 1), ("load", 1, math.nan, 1), ("load", 1, 2**400, 1), ("load", 1, "now", 1)),
            *(("load", 1, EPOCH, root), ("load", 1, EPOCH, [[[[[1]]]]]), ("load", 1, EPOCH, {1, 2})),
        ):
            root.mind.callRemote("notifySample", *bad).addErrback(refused.append)
        for unasked in ("other", "server", "LOAD", ""):
            root.mind.callRemote("notifySample", unasked, 1, EPOCH, 1)
        self.network.flush()
        self.assertNoResult(waiting)
        self.assertEqual(
            [failure.check("clockd.errors.InvalidValue") for failure in refused], 14 * ["clockd.errors.InvalidValue"]
        )
        root.mind.callRemote("notifySample", "load", 7, EPOCH + 3.0, [1])
        self.network.flush()
        self.assertEqual(self.successResultOf(waiting).sequence, 7)

    def test_a_server_without_feeds_says_so_to_who_wants_one(self):
        class Root(pb.Root):
            def remote_login(self, name):
                return b"challenge", self

            def remote_respond(self, response, mind):
                self.mind = mind
                return Old()

        class Old(Timeless, pb.Referenceable):
            def remote_subscribe(self, *_):
                raise UnknownMethod("there is no such method")

        root = Root()
        client, _ = self.other(root)
        self.failureResultOf(self.ask(anext(client.samples("load"))), UnknownMethod)
        root.mind.callRemote("notifyTime", EPOCH + 1.0)
        self.network.flush()
        self.assertEqual(self.next(client.samples()), 1)

    def test_an_error_of_any_make_is_the_server_s_fault(self):
        states = (
            {},
            {"type": 5, "value": "x", "parents": []},
            {"type": None, "value": 1, "parents": 3},
            {"type": "clockd.errors.InvalidPeriod", "parents": ["clockd.errors.Refused"]},
            {"type": b"clockd.errors.Misconfigured", "value": "x", "parents": []},
            {"type": b"\xff", "value": "x", "parents": [b"\xff"]},
        )
        for state in states:
            odd = pb.CopiedFailure.__new__(pb.CopiedFailure)
            odd.__dict__ |= state
            with self.assertRaises(ServerFault):
                typed(odd)

    def test_what_a_server_says_of_an_error_does_nothing_to_a_terminal(self):
        for kind in ("clockd.errors.NotPermitted", "clockd.errors.\x1b[31m", "\x1b]0;" + 1000 * "x"):
            odd = pb.CopiedFailure.__new__(pb.CopiedFailure)
            odd.__dict__ |= {"type": kind.encode(), "value": "\x1b[2J\nclockd: fine" + 5000 * "x", "parents": []}
            with self.assertRaises((NotPermitted, ServerFault)) as raised:
                typed(odd)
            self.assertTrue(str(raised.exception).isprintable())
            self.assertLess(len(str(raised.exception)), 1100)

    def test_a_stamp_that_is_none_is_refused_and_not_handed_out(self):
        client, _, root = self.lying()
        samples = client.samples()
        refused = []
        for stamp in ("now", None, math.nan, math.inf, 2**400, [1.0]):
            root.mind.callRemote("notifyTime", stamp).addErrback(refused.append)
        root.mind.callRemote("notifyTime", EPOCH + 3.0)
        self.network.flush()
        self.assertEqual(self.next(samples), 3)
        self.assertEqual(
            [failure.check("clockd.errors.InvalidValue") for failure in refused], 6 * ["clockd.errors.InvalidValue"]
        )

    def test_calls_that_no_client_has_are_refused_and_nothing_is_logged(self):
        client, _, root = self.lying()
        samples = client.samples()
        refused = []
        for call in (
            *((), ("notifyTime",), ("notifyTime", 1.0, 2.0), ("notifySample", "load"), ("notifyTimes", 1.0)),
            *(("notifyTime", root), ("remote_notifyTime", 1.0), ("__class__",)),
        ):
            root.mind.callRemote(*(call or ("",))).addErrback(refused.append)
        root.mind.callRemote("notifyTime", time=1.0).addErrback(refused.append)
        server = self.network.wires[-1].server
        for number, target, jelly in ((0, 1, [b"whatever"]), (0, [1], [b"tuple"]), (0, b"\xff", [b"tuple"])):
            server.sendCall(b"message", number, target, b"notifyTime", 0, jelly, [b"dictionary"])
        root.mind.callRemote("notifyTime", EPOCH + 3.0)
        self.network.flush()
        self.assertEqual(self.next(samples), 3)
        self.assertEqual([failure.check("clockd.errors.InvalidValue") is not None for failure in refused], 9 * [True])

    def test_a_server_that_talks_nonsense_is_left_and_looked_for_again(self):
        for nonsense in (
            *([b"answer", 999, 1], [b"answer", [1], 1], [b"error", 999, 1], [b"decref", 77], [b"message", 1], [1], 1),
            *([b"cachemessage", 1, 1, b"x", 1, [b"tuple"], [b"dictionary"]], [b"uncache", 1], [b"version"]),
            [b"message", 1, 1, b"\xff", 0, [b"tuple"], [b"dictionary"]],
        ):
            client, _, _ = self.lying()
            self.network.wires[-1].server.sendEncoded(nonsense)
            self.network.flush()
            self.assertIn("makes no sense", client.trouble)
            self.network.advance(4, 1)
            self.assertEqual((self.network.attempts, client.connected), (2, True))

    def test_a_server_whose_expression_has_no_end_is_left(self):
        client, _, _ = self.lying()
        server = self.network.wires[-1].server
        for _ in range(EXPRESSION_BYTES // 600_000 + 1):
            server.sendCall(b"message", 1, 0, b"probe", 0, [b"tuple", b"x" * 600_000], [b"dictionary"])
            self.network.flush()
        self.assertTrue(client.connected)  # they were long, and each had an end
        server.transport.write(b"\x7f\x80")
        for _ in range(EXPRESSION_BYTES // 600_000 + 1):
            server.sendEncoded(b"x" * 600_000)
            self.network.flush()
        self.assertIn("makes no sense", client.trouble)

    def test_a_server_that_begins_lists_in_lists_is_left(self):
        client, _, _ = self.lying()
        server = self.network.wires[-1].server
        server.transport.write(b"\x01\x80" * EXPRESSION_DEPTH)
        self.network.flush()
        self.assertTrue(client.connected)
        server.transport.write(b"\x01\x80")
        self.network.flush()
        self.assertIn("makes no sense", client.trouble)

    def test_an_answer_that_cannot_be_read_ends_the_connection(self):
        for kind in (b"answer", b"error"):
            for jelly in ([b"whatever"], [b"module", b"os"], [b"dictionary", 1], [b"unicode", b"\xff"]):
                client, _, _ = self.lying()
                server = self.network.wires[-1].server
                words = server.sendCall, kind, jelly
                server._sendAnswer = lambda _, number, words=words: words[0](words[1], number, words[2])
                asked = self.ask(client.feeds())
                self.assertIn("makes no sense", client.trouble)
                self.network.advance(TIMEOUT, 1)
                self.failureResultOf(asked, NotConnected)

    def test_a_server_that_answers_no_more_is_left_and_looked_for_again(self):
        self.entered()
        self.network.wires[-1].frozen = True
        self.network.advance(ALIVE_SECONDS + TIMEOUT - 1, 1)
        self.assertEqual(self.network.attempts, 1)
        self.network.advance(4, 1)
        self.assertEqual(self.network.attempts, 2)

    def test_a_server_that_answers_is_not_left(self):
        self.entered()
        self.network.advance(10 * ALIVE_SECONDS, 1)
        self.assertEqual((self.network.attempts, self.server.tally.authenticated), (1, 1))


class ClockTests(ClientCase):
    """What a client knows of the time; its own clock is half a second ahead of the server's."""

    def setUp(self):
        self.start(Limits(default_period=2))

    def start(self, *args, **kwargs):
        super().start(*args, **kwargs)
        self.synchronize(ClockState("synchronized", 0.25, 37))

    def synchronize(self, state):
        self.server.kernel = state
        self.server.host.attend()

    def settled(self):
        """Return an entered client that has had its first exchanges."""
        client = self.entered()
        self.network.advance(0.25, 0.05)
        return client

    def true(self, client):
        """Return whether the interval contains the server's time, and is finite."""
        now = client.now()
        return now.earliest <= self.server.now() <= now.latest and now.bound < math.inf

    def test_before_it_is_entered_nothing_is_known(self):
        client = self.client()
        self.assertEqual(client.now(), TimeInterval(-math.inf, math.inf, "unknown", None, math.inf, EPOCH + 0.5))
        self.assertEqual((client.before(1e300), client.after(-1e300), client.round_trip), (False, False, None))

    def test_the_time_is_the_server_s(self):
        client = self.settled()
        now = client.now()
        self.assertTrue(self.true(client))
        self.assertAlmostEqual(now.offset, -0.5, 4)
        self.assertLess(now.bound, 0.001)
        self.assertEqual((now.status, client.round_trip), ("synchronized", 0.0))

    def test_utc_is_as_uncertain_as_the_server_in_addition(self):
        client = self.settled()
        self.assertTrue(0.25 <= client.now(utc=True).bound < 0.252)
        self.synchronize(UNKNOWN)
        self.network.advance(9, 1)
        self.assertEqual((client.now(utc=True).bound, client.now().status), (math.inf, "unknown"))
        self.assertTrue(self.true(client))

    def test_before_and_after_are_certain(self):
        client = self.settled()
        time = self.server.now()
        self.assertEqual((client.before(time + 0.001), client.after(time - 0.001)), (True, True))
        self.assertEqual((client.before(time), client.after(time)), (False, False))
        self.assertEqual((client.before(time - 0.001), client.after(time + 0.001)), (False, False))
        self.assertEqual((client.before(time + 0.1, utc=True), client.after(time - 0.1, utc=True)), (False, False))
        self.assertEqual((client.before(time + 0.3, utc=True), client.after(time - 0.3, utc=True)), (True, True))

    def test_a_reading_knows_how_far_the_clock_was_off_when_it_arrived(self):
        client = self.settled()
        samples = client.samples()
        self.next(samples)
        waiting = self.ask(anext(samples))
        self.network.advance(2)
        reading = self.successResultOf(waiting)
        self.assertAlmostEqual(reading.offset, -0.5, 3)
        self.assertLess(reading.bound, 0.001)
        self.assertAlmostEqual(reading.age, 0.0, 3)

    def test_before_the_first_exchange_a_reading_does_not(self):
        reading = self.successResultOf(self.ask(anext(self.entered().samples())))
        self.assertEqual((reading.offset, reading.bound, reading.age), (None, math.inf, 0.5))

    def test_without_a_connection_what_is_known_holds_and_widens(self):
        client = self.settled()
        self.network.down = Refused()
        self.lose()
        bound = client.now().bound
        self.assertEqual(client.now().status, "holdover")
        self.network.advance(100, 1)
        now = client.now()
        self.assertEqual(now.status, "holdover")
        self.assertAlmostEqual(now.bound - bound, 100 * 50e-6, 4)
        self.assertTrue(self.true(client))

    def test_the_next_connection_may_be_to_another_server(self):
        client = self.settled()
        self.lose()
        self.server.host.stepped = lambda _: None
        self.server.ahead = 3600.0
        self.network.advance(1.5, 0.05)
        self.assertTrue(client.connected)
        self.assertTrue(self.true(client))
        self.assertEqual(client.now().status, "synchronized")

    def test_a_step_that_the_server_tells_of_is_told_to_the_program(self):
        client = self.settled()
        events, samples = client.events(), client.samples()
        for step in (0.125, -3600.0):
            self.server.ahead += step
            self.server.host.look()
            while not self.clock.seconds() % 2 < 0.01:
                self.network.advance(0.01)
            event = self.successResultOf(self.ask(anext(events)))
            self.assertEqual((event.kind, event.text), ("step", f"the server's clock was set by {step:+.6f} s"))
            self.network.advance(0.5, 0.05)
            self.assertTrue(self.true(client))
        self.successResultOf(self.ask(anext(samples)))

    def test_by_how_much_is_told_if_that_is_a_number_of_seconds(self):
        client = self.settled()
        events = client.events()
        (broker,) = self.server.factory.connections
        for told, by in (
            *(
                (5, " by +5.000000 s"),
                (-0.5, " by -0.500000 s"),
                (0, " by +0.000000 s"),
                (2**39, " by +549755813888.000000 s"),
            ),
            *((told, "") for told in (None, True, "5", math.inf, math.nan, 2**40, -(2**440), [5])),
        ):
            broker.mind.notify({"kind": "clock_step", "step_seconds": told})
            self.network.flush()
            event = self.successResultOf(self.ask(anext(events)))
            self.assertEqual((event.kind, event.text), ("step", f"the server's clock was set{by}"))

    def test_between_the_notice_and_the_next_exchange_nothing_is_known(self):
        client = self.settled()
        self.server.host.stepped(10.0)
        self.server.ahead += 10.0
        self.network.wires[0].frozen = True
        self.assertTrue(client.now().bound < math.inf)
        self.network.wires[0].frozen = False
        self.network.advance(1.75)
        self.assertEqual(client.now().bound, math.inf)

    def test_a_step_that_a_push_proves_is_followed_by_an_exchange_at_once(self):
        client = self.settled()
        events = client.events()
        self.server.host.stepped = lambda _: None
        self.server.ahead = 100.0
        self.network.advance(1.75)
        self.assertTrue(self.true(client))
        event = self.successResultOf(self.ask(anext(events)))
        self.assertEqual((event.kind, event.text), ("step", "the server's clock was set"))

    def test_a_step_that_an_exchange_proves_is_told_too(self):
        client = self.settled()
        self.successResultOf(self.ask(client.unsubscribe("time")))
        events = client.events()
        self.server.host.stepped = lambda _: None
        self.server.ahead = -100.0
        self.network.advance(9, 1)
        self.assertTrue(self.true(client))
        self.assertEqual(self.successResultOf(self.ask(anext(events))).kind, "step")

    def test_a_push_that_asks_is_answered_with_the_clock_and_its_bound(self):
        self.settled()
        offsets, bounds = self.server.tally.subscriber_offset, self.server.tally.subscriber_bound
        # the first push came before the first exchange
        self.assertEqual((sum(offsets.counts), sum(bounds.counts)), (1, 0))
        self.network.advance(40, 1)
        self.assertGreater(sum(offsets.counts), 1)
        self.assertEqual(sum(bounds.counts), sum(offsets.counts) - 1)
        self.assertAlmostEqual(offsets.total / sum(offsets.counts), 0.5, 3)
        self.assertLess(bounds.total, 0.01)

    def test_a_server_without_exchange_is_no_fault(self):
        for network in (self.without_exchange(), self.without_exchange()):
            self.network = network
            client = self.entered()
            self.network.advance(30, 1)
            self.assertTrue(client.connected)
            self.assertEqual((client.now().bound, client.round_trip), (math.inf, None))

    def without_exchange(self):
        class Root(Timeless, pb.Root):
            def remote_login(self, name):
                return b"challenge", self

            def remote_respond(self, response, mind):
                return self

            def remote_subscribe(self, feed):
                return 0.0

        return Network(pb.PBServerFactory(Root()), self.clock)

    def test_an_error_of_ours_ends_the_client_and_is_told(self):
        client = self.entered()
        samples = client.samples()
        self.next(samples)
        waiting = self.ask(anext(samples))
        client._timekeeper.begin = lambda: 1 / 0
        self.network.advance(10, 1)
        self.failureResultOf(waiting, ZeroDivisionError)
        self.assertEqual((client.connected, client.trouble), (False, "division by zero"))

    def test_the_server_tells_of_the_connection(self):
        client = self.entered()
        self.assertEqual(
            self.successResultOf(self.ask(client.status())), Standing("alice", 1, {"time": 2.0}, 1, 0, EPOCH)
        )

    def test_an_overflow_policy_that_is_none_is_told(self):
        self.assertRaises(ValueError, self.entered().samples, overflow="oldest")

    def test_who_wants_to_know_is_told_of_samples_that_were_replaced(self):
        samples = self.entered().samples(overflow="error")
        self.next(samples)
        self.network.advance(6, 2)
        self.failureResultOf(self.ask(anext(samples)), Overflow)
        self.assertEqual(self.next(samples), 6)


class EventTests(ClientCase):
    def kinds(self, events):
        """Return the kinds and texts of the events that wait."""
        found = []
        while events._arrived:
            found.append(self.successResultOf(self.ask(anext(events))))
        return [(event.kind, event.text) for event in found]

    def test_a_client_that_was_not_entered_has_no_events(self):
        client = self.client()
        self.assertRaises(NotConnected, client.events)
        self.assertEqual((client.connected, client.trouble), (False, f"no connection to {ENDPOINT} yet"))

    def test_a_connection_lost_and_made_again(self):
        client = self.entered()
        self.assertEqual((client.connected, client.trouble), (True, None))
        events = client.events()
        self.lose()
        lost = f"the connection to {ENDPOINT} was lost"
        self.assertEqual((client.connected, client.trouble), (False, lost))
        self.network.advance(1.5)
        self.assertEqual((client.connected, client.trouble), (True, None))
        self.assertEqual(self.kinds(events), [("lost", lost), ("connected", f"connected to {ENDPOINT}")])

    def test_an_event_has_its_time(self):
        client = self.entered()
        events = client.events()
        self.network.advance(5)
        self.lose()
        self.assertEqual(self.successResultOf(self.ask(anext(events))).at, EPOCH + 5.5)

    def test_while_nobody_is_there_the_trouble_is_why(self):
        client = self.entered()
        self.network.down = Refused()
        self.lose()
        self.network.advance(1.5)
        self.assertIn("Connection was refused by other side", client.trouble)
        self.network.down = None
        self.network.advance(5, 0.5)
        self.assertIsNone(client.trouble)

    def test_a_server_that_answers_no_more_is_the_trouble(self):
        client = self.entered()
        self.network.wires[-1].frozen = True
        self.network.advance(ALIVE_SECONDS + TIMEOUT, 1)
        self.assertEqual(client.trouble, f"no answer from {ENDPOINT} within {TIMEOUT} s")

    def test_a_server_that_stops(self):
        client = self.entered()
        events = client.events()
        (broker,) = self.server.factory.connections
        broker.mind.notify({"kind": "draining", "retry_seconds": 7.25})
        self.network.flush()
        why = "the server stops; connecting again in 7.2 s"
        self.assertEqual(self.kinds(events), [("draining", why)])
        self.assertEqual(client.trouble, why)
        self.network.advance(7.25)
        self.lose()
        lost = f"the connection to {ENDPOINT} was lost"
        self.assertEqual(self.kinds(events), [("connected", f"connected to {ENDPOINT}"), ("lost", lost)])

    def test_events_end_with_the_client(self):
        client = self.entered()
        events = client.events()
        waiting = self.ask(anext(events))
        self.leave(client)
        self.failureResultOf(waiting, StopAsyncIteration)
        self.failureResultOf(self.ask(anext(client.events())), StopAsyncIteration)
        self.assertEqual(client.trouble, "the client was closed")

    def test_events_of_a_client_that_was_sent_away_end_with_why(self):
        client = self.entered()
        events = client.events()
        (broker,) = self.server.factory.connections
        broker.mind.notify({"kind": "kicked", "reason": "you are late"})
        self.network.flush()
        self.assertEqual(self.kinds(events)[:1], [("lost", f"the connection to {ENDPOINT} was lost")])
        self.assertIn("you are late", str(self.failureResultOf(self.ask(anext(events)), Kicked).value))
        self.assertIn("you are late", client.trouble)

    def test_events_that_nobody_iterates_over_are_kept_for_nobody(self):
        client = self.entered()
        client.events()
        gc.collect()
        self.assertEqual(len(client._events), 0)
