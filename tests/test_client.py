"""The client library against a real server factory, in memory."""

import asyncio
import gc
import math
import shutil
import tempfile
from pathlib import Path

from certificates import HOST, Certified, Chain
from doubles import EPOCH, SECRET, Broken, Mind, Network, RigCase, Users
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import clientFromString, wrapClientTLS
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase

from clockd.auth import CertificateChecker
from clockd.certificate import ServerTLS
from clockd.client import ALIVE_SECONDS, CLOSE_SECONDS, ClientTLS, ClockClient, _typed, connect
from clockd.errors import (
    ConnectionFailed,
    InvalidPeriod,
    InvalidValue,
    NotConnected,
    NotPermitted,
    ReactorConflict,
    ServerFault,
    TooManyConnections,
    UnknownFeed,
    WrongCredentials,
)
from clockd.transport import TLSFactory
from clockd.values import Limits

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
        client = ClockClient(self.network, ENDPOINT, credentials, TIMEOUT, self.clock, lambda: self.server.now() + 0.5)
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

    def test_nobody_there_is_a_connection_that_failed(self):
        self.network.down = Refused()
        _, entered = self.enter()
        error = self.failureResultOf(entered, ConnectionFailed).value
        self.assertIn(f"cannot connect to {ENDPOINT}: Connection was refused by other side", str(error))
        self.assertEqual((self.network.attempts, self.clock.getDelayedCalls()), (1, []))

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
        self.assertEqual((reading.received, reading.age), (EPOCH + 2.5, 0.5))

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

    def test_another_feed_is_not_subscribed(self):
        self.assertRaises(UnknownFeed, self.entered().samples, "weather")

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
        self.assertIn("subscribed: time", str(error))

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
        self.failureResultOf(granted, NotConnected)
        self.assertEqual(client._waiting, set())

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


class ClosingTests(ClientCase):
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
        client._where = clientFromString(reactor, "tcp:192.0.2.1:8787")
        self.lose()
        self.network.advance(1.5)
        self.assertEqual(len(reactor.tcpClients), 1)
        self.successResultOf(self.leave(client))
        self.network.advance(10, 0.5)
        self.assertEqual((len(reactor.tcpClients), self.clock.getDelayedCalls()), (1, []))


class ConnectTests(SynchronousTestCase):
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
        client = ClockClient(where, ENDPOINT, credentials, TIMEOUT, self.clock, self.server.now)
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
        answer = self.stock_answer(self.client()._where, Mind())
        self.assertTrue(answer.check("clockd.errors.WrongCredentials"))
        self.assertEqual(self.server.tally.logins["certificate", "denied"], 1)

    def test_a_mind_that_is_none_is_told(self):
        self.listen()
        client = self.client("alice")
        for mind in (7, None, [Mind()]):
            answer = self.stock_answer(client._where, mind)
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

        class Perspective(pb.Referenceable):
            def remote_setperiod(self, period, feed):
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
                _typed(odd)

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
