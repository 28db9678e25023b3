import gc
import math
from time import time

from doubles import Mind, Network
from twisted.cred.credentials import UsernamePassword
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.spread.pb import PBClientFactory
from twisted.trial.unittest import SynchronousTestCase

from clockd.client import ClockClient
from clockd.errors import InvalidPeriod, NotPermitted, TooManyConnections, UnknownMethod
from clockd.link import Way
from clockd.testing import Call, FakeServer


def awaited(awaitable):
    async def program():
        return await awaitable

    return Deferred.fromCoroutine(program())


class FakeServerTests(SynchronousTestCase):
    """Over connections in memory; `tests/integration/test_client_clock.py` has it listen."""

    def setUp(self):
        self.clock = Clock()
        self.server = FakeServer()
        self.network = Network(self.server.factory, self.clock)

    def client(self, name=b"alice"):
        way = Way(self.network, "tcp:fake:1", UsernamePassword(name, b"any"), 10, self.clock, time)
        client = ClockClient(way, time, 50e-6)
        self.addCleanup(self.leave, client)
        return client

    def entered(self):
        client = self.client()
        self.successResultOf(self.ask(client.__aenter__()))
        return client

    def leave(self, client):
        self.ask(client.__aexit__(None, None, None))
        gc.collect()

    def ask(self, awaitable):
        deferred = awaited(awaitable)
        self.addCleanup(deferred.addErrback, lambda _: None)
        self.network.flush()
        return deferred

    def test_everyone_is_let_in_and_known_by_name(self):
        client = self.entered()
        self.assertEqual(self.server.accounts, ["alice"])
        self.leave(client)
        self.assertEqual(self.server.accounts, [])

    def test_a_login_is_refused_as_the_test_says(self):
        self.server.refusal = TooManyConnections("one is enough")
        error = self.failureResultOf(self.ask(self.client().__aenter__()), TooManyConnections).value
        self.assertEqual((str(error), self.server.accounts), ("one is enough", []))

    def test_the_time_is_pushed_by_the_server_s_clock(self):
        samples = self.entered().samples()
        waiting = self.ask(anext(samples))
        self.assertNoResult(waiting)
        self.server.ahead = 3600.0
        self.server.push()
        self.network.flush()
        self.assertAlmostEqual(self.successResultOf(waiting).stamp, time() + 3600, -1)
        self.server.push(stamp=5.0)
        self.assertEqual(self.successResultOf(self.ask(anext(samples))).stamp, 5.0)

    def test_a_sample_is_pushed_to_who_is_subscribed_and_to_who_subscribes_later(self):
        client, other = self.entered(), self.entered()
        self.server.push({"celsius": 35.0}, "room", 7.0)
        samples = client.samples("room")
        sample = self.successResultOf(self.ask(anext(samples)))
        self.assertEqual((sample.sequence, sample.stamp, sample.value), (1, 7.0, {"celsius": 35.0}))
        self.server.push(2, "room")
        self.server.push(3, "hall")
        sample = self.successResultOf(self.ask(anext(samples)))
        self.assertEqual((sample.sequence, sample.value), (2, 2))
        self.assertEqual(other._feeds.keys(), {"time"})

    def test_calls_are_granted_and_remembered(self):
        client = self.entered()
        self.assertEqual(self.server.calls, [])
        self.assertEqual(self.successResultOf(self.ask(client.setperiod(0.5))), 0.5)
        self.assertEqual(self.successResultOf(self.ask(client.publish("room", 1))), 1)
        self.assertEqual(self.successResultOf(self.ask(client.publish("room", 2, 7.0))), 2)
        self.assertEqual(self.successResultOf(self.ask(client.feeds())), ["time"])
        self.assertEqual(self.successResultOf(self.ask(client.status())).account, "alice")
        self.assertEqual(self.successResultOf(self.ask(client.sessions())), [])
        self.assertEqual(self.successResultOf(self.ask(client.kick("bob", "late"))), 0)
        self.assertEqual(self.successResultOf(self.ask(client.unsubscribe("time"))), None)
        self.assertEqual(
            self.server.calls[:3],
            [
                Call("alice", "setperiod", (0.5, "time")),
                Call("alice", "publish", ("room", 1, None)),
                Call("alice", "publish", ("room", 2, 7.0)),
            ],
        )
        self.assertNotIn("exchange", {call.method for call in self.server.calls})

    def test_calls_are_answered_as_the_test_says(self):
        client = self.entered()
        self.server.answers["feeds"] = ["room", "time"]
        self.assertEqual(self.successResultOf(self.ask(client.feeds())), ["room", "time"])
        self.server.answers["publish"] = NotPermitted("not you")
        self.failureResultOf(self.ask(client.publish("room", 1)), NotPermitted)
        self.server.answers["publish"] = lambda _feed, value, _stamp: value * 2
        self.assertEqual(self.successResultOf(self.ask(client.publish("room", 21))), 42)
        self.server.answers["setperiod"] = lambda *_: InvalidPeriod("no")
        self.failureResultOf(self.ask(client.setperiod(1)), InvalidPeriod)
        self.server.answers["feeds"] = later = Deferred()
        waiting = self.ask(client.feeds())
        self.assertNoResult(waiting)
        later.callback(["late"])
        self.network.flush()
        self.assertEqual(self.successResultOf(waiting), ["late"])

    def test_arguments_by_name_are_those_of_that_place(self):
        call = self.entered()._link.perspective.callRemote
        self.assertEqual(self.successResultOf(self.ask(call("setperiod", period=2))), 2)
        self.server.answers["publish"] = lambda _feed, value, _stamp=None: value * 2
        self.assertEqual(self.successResultOf(self.ask(call("publish", value=21, feed="room"))), 42)
        called = [Call("alice", "setperiod", (2,)), Call("alice", "publish", ("room", 21))]
        self.assertEqual(self.server.calls, called)

    def test_arguments_that_a_method_does_not_take_are_refused(self):
        call = self.entered()._link.perspective.callRemote
        for words, names in (((), {}), ((1, "time", 3), {}), ((1,), {"deadband": 2}), ((1,), {"period": 2})):
            error = self.failureResultOf(self.ask(call("setperiod", *words, **names))).value
            self.assertEqual(error.remoteType, b"clockd.errors.InvalidValue")
        self.assertEqual(self.server.calls, [])

    def test_a_method_that_no_server_has_is_refused(self):
        client = self.entered()
        self.failureResultOf(self.ask(client._call("nonsense")), UnknownMethod)

    def test_a_connection_is_dropped_and_made_again(self):
        client = self.entered()
        self.server.drop()
        self.network.flush()
        self.assertFalse(client.connected)
        self.network.advance(1.5, 0.25)
        self.assertTrue(client.connected)

    def test_notices_reach_those_who_are_there(self):
        client = self.entered()
        self.server.notify("draining", retry_seconds=7.0)
        self.network.flush()
        self.assertEqual(client.trouble, "the server stops; connecting again in 7.0 s")
        self.network.advance(6.5, 0.5)
        self.assertEqual(self.server.accounts, [])
        self.network.advance(1, 0.5)
        self.assertTrue(client.connected)

    def test_notices_are_numbered_for_each_connection(self):
        minds = []
        for part in range(3):
            self.server.notify("news", part=part)
            minds.append(Mind())
            factory = PBClientFactory()
            self.network.connect(factory)
            avatar = self.successResultOf(self.ask(factory.login(UsernamePassword(b"bob", b"any"), minds[-1])))
            self.ask(avatar.callRemote("subscribe", "server"))
        self.server.notify("news", part=3)
        self.network.flush()
        told = [[(sequence, notice["part"]) for _, sequence, _, notice in mind.samples] for mind in minds]
        self.assertEqual(told, [[(1, 1), (2, 2), (3, 3)], [(1, 2), (2, 3)], [(1, 3)]])

    def test_a_step_by_what_is_no_number_is_a_step(self):
        client = self.entered()
        events = client.events()
        for odd in ({}, {"step_seconds": "1"}, {"step_seconds": math.nan}, {"step_seconds": [1.0]}):
            self.server.notify("clock_step", **odd)
            self.network.flush()
            self.assertEqual(self.successResultOf(self.ask(anext(events))).text, "the server's clock was set")

    def test_a_step_that_it_does_not_tell_of_is_proven_by_the_next_push(self):
        client = self.entered()
        self.network.advance(0.5, 0.05)
        events = client.events()
        self.server.answers["exchange"] = Deferred()
        self.server.step(10.0, told=False)
        self.network.flush()
        self.assertLess(client.now().bound, 1)
        self.server.push()
        self.network.flush()
        self.assertEqual(client.now().status, "unknown")
        self.assertEqual(self.successResultOf(self.ask(anext(events))).text, "the server's clock was set")

    def test_its_clock_is_exchanged_and_stepped(self):
        self.server.ahead, self.server.bound, self.server.status = -2.0, 0.25, "synchronized"
        client = self.entered()
        self.network.advance(0.5, 0.05)
        self.assertEqual(client.now().status, "synchronized")
        self.assertAlmostEqual(client.now().offset, -2.0, 1)
        self.assertGreater(client.now(utc=True).bound, 0.25)
        events = client.events()
        self.server.step(10.0)
        self.network.flush()
        self.assertEqual(client.now().status, "unknown")
        self.assertEqual(
            self.successResultOf(self.ask(anext(events))).text, "the server's clock was set by +10.000000 s"
        )
        self.network.advance(0.5, 0.05)
        self.assertAlmostEqual(client.now().offset, 8.0, 1)
