"""Who is in: the roster, the avatar, the realm."""

import gc
import math
import weakref
from typing import ClassVar

from doubles import EPOCH, Mind, Rig, RigCase, Sink, clockd_logs, push_feeds, written
from twisted.cred.checkers import ANONYMOUS as NOBODY
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clockd.desk import PublishRates
from clockd.errors import InvalidPeriod, TooManyConnections, TooManyPublishes, UnknownFeed
from clockd.feeds import UNKNOWN
from clockd.interfaces import ISession
from clockd.session import Session
from clockd.values import MOST_FEEDS, Limits, Rights


class RealmTests(SynchronousTestCase):
    def setUp(self):
        self.rig = Rig(Limits(default_period=2, connections_per_account=1))
        self.sink = Sink()

    def request(self, name=b"alice", mind=None, *interfaces):
        return self.rig.realm.requestAvatar(name, mind or self.sink, *(interfaces or (pb.IPerspective,)))

    def test_an_avatar_is_a_session_of_its_account(self):
        interface, avatar, logout = self.request()
        self.assertIs(interface, pb.IPerspective)
        self.assertTrue(verifyObject(ISession, avatar))
        self.assertEqual((avatar.account, list(avatar.avatar.subscriptions)), ("alice", ["time"]))
        self.assertEqual(logout, avatar.logout)

    def test_cred_s_anonymous_gets_the_account_anonymous_without_a_limit(self):
        avatars = [self.request(NOBODY)[1] for _ in range(3)]
        self.assertEqual({avatar.account for avatar in avatars}, {"anonymous"})

    def test_an_account_over_its_limit_is_refused_until_one_logs_out(self):
        _, _, logout = self.request()
        self.assertRaises(TooManyConnections, self.request)
        logout()
        self.request()

    def test_only_perspectives_are_made(self):
        self.assertRaises(NotImplementedError, self.request, b"alice", None, ISession)
        self.request()

    def test_an_avatar_does_nothing_before_it_begins(self):
        self.request()
        self.rig.clock.advance(100)
        self.assertEqual((self.sink.samples, self.rig.tally.avatars, self.rig.time.subscriptions), ([], 0, 0))

    def test_a_mind_that_is_no_sink_takes_no_place(self):
        self.assertRaises(TypeError, self.request, b"alice", object())
        self.request()


class AvatarTests(SynchronousTestCase):
    def setUp(self):
        self.rig = Rig(Limits(default_period=2))
        self.sink = Sink()
        _, self.avatar, self.logout = self.rig.realm.requestAvatar(b"alice", self.sink, pb.IPerspective)

    def test_beginning_pushes_at_once_and_then_once_a_period(self):
        self.avatar.begin()
        self.rig.clock.pump([2, 2])
        self.assertEqual([sample.stamp for sample in self.sink.samples], [EPOCH, EPOCH + 2, EPOCH + 4])
        self.assertEqual(self.rig.tally.avatars, 1)

    def test_beginning_twice_is_beginning_once(self):
        self.avatar.begin()
        self.avatar.begin()
        self.assertEqual((len(self.sink.samples), self.rig.tally.avatars, self.rig.time.subscriptions), (1, 1, 1))

    def test_logging_out_twice_is_logging_out_once(self):
        self.avatar.begin()
        self.logout()
        self.logout()
        self.assertEqual((self.rig.tally.avatars, self.rig.time.subscriptions), (0, 0))
        self.assertEqual((self.rig.roster._sessions, self.rig.clock.getDelayedCalls()), ({}, []))

    def test_beginning_after_logging_out_does_nothing(self):
        self.logout()
        self.avatar.begin()
        self.assertEqual((self.sink.samples, self.rig.tally.avatars, self.rig.clock.getDelayedCalls()), ([], 0, []))

    def test_logging_out_before_beginning_gives_the_place_back_only(self):
        self.logout()
        self.assertEqual((self.rig.roster._sessions, self.rig.tally.avatars), ({}, 0))

    def test_setperiod_changes_the_period_and_says_what_was_granted(self):
        self.avatar.begin()
        self.assertEqual(self.avatar.perspective_setperiod(5), 5.0)
        self.rig.clock.pump([4.99, 0.01])
        self.assertEqual([sample.stamp for sample in self.sink.samples], [EPOCH, EPOCH + 5])

    def test_setperiod_before_beginning_holds_from_then_on(self):
        self.assertEqual(self.avatar.perspective_setperiod(5, "time"), 5.0)
        self.avatar.begin()
        self.assertEqual(self.rig.time.requested, 0.2)

    def test_setperiod_on_a_feed_that_is_not_subscribed_is_refused_and_counted(self):
        for feed in ("weather", b"time", None, ["time"], {}):
            with self.assertRaisesRegex(UnknownFeed, "not subscribed to that feed"):
                self.avatar.perspective_setperiod(5, feed)
        self.assertEqual(self.rig.tally.periods, {"granted": 0, "clamped": 0, "refused": 5})
        self.assertEqual(self.avatar.periods(), {"time": 2})

    def test_setperiod_with_what_is_no_period_is_refused_and_counted(self):
        self.assertRaises(InvalidPeriod, self.avatar.perspective_setperiod, 0)
        self.assertEqual(self.rig.tally.periods["refused"], 1)


class PublishRatesTests(SynchronousTestCase):
    def publish(self, rates, now, account="alice", most=10_000):
        """Publish for as long as one may; returns how many samples that were."""
        for number in range(most):
            try:
                rates.take(account, now)
            except TooManyPublishes:
                return number
        return most

    def test_as_many_as_the_rate_may_be_published_at_a_time_and_no_more(self):
        for most in (1, 2, 7, 1000):
            self.assertEqual(self.publish(PublishRates(Limits(publishes_per_second=most)), 5.0), most)

    def test_they_come_back_with_time(self):
        rates = PublishRates(Limits(publishes_per_second=10))
        self.assertEqual(self.publish(rates, 5.0), 10)
        for now, number in ((5.0, 0), (5.04, 0), (5.1, 1), (5.1, 0), (5.5, 4), (6.5, 10), (100.0, 10)):
            self.assertEqual(self.publish(rates, now), number, now)

    def test_one_who_keeps_to_the_rate_is_never_refused(self):
        for most in (1, 3, 10_000):
            rates = PublishRates(Limits(publishes_per_second=most))
            for number in range(3 * most + 10):
                rates.take("alice", 86400.0 * 365 + number / most)

    def test_one_who_tries_on_and_on_gets_the_rate_and_one_burst(self):
        rates = PublishRates(Limits(publishes_per_second=10))
        published = sum(self.publish(rates, 7.0 + tick / 1000) for tick in range(10_001))
        self.assertIn(published, (109, 110, 111))

    def test_accounts_have_their_rates_apart(self):
        rates = PublishRates(Limits(publishes_per_second=3))
        self.assertEqual([self.publish(rates, 5.0, account) for account in ("alice", "bob")], [3, 3])

    def test_the_refusal_says_what_the_rate_is(self):
        rates = PublishRates(Limits(publishes_per_second=1))
        rates.take("alice", 5.0)
        with self.assertRaisesRegex(TooManyPublishes, "^an account may publish 1 samples a second$"):
            rates.take("alice", 5.0)


class FeedsCase(RigCase):
    """A stock client, alice, and a server with feeds.

    Everybody may read and alice publish `load` and `heat`; `secret` is bob's alone, and `box` is written by all and
    read by nobody.
    """

    RIGHTS: ClassVar = {
        "load": Rights(publish=("alice",)),
        "heat": Rights(publish=("alice", "bob")),
        "secret": Rights(read=("bob",), publish=("bob",)),
        "box": Rights(read=(), publish=("*",)),
    }

    def serve(self, names=(), **limits):
        """Start a server with these feeds too, which alice may publish."""
        rights = self.RIGHTS | dict.fromkeys(names, Rights(publish=("alice",)))
        self.rig_ = self.rig(Limits(**limits), feeds=push_feeds(rights))
        self.logs = self.enter_context(clockd_logs())
        self.mind, self.peer = self.enter(b"alice")
        return self.rig_

    def enter_context(self, manager):
        found = manager.__enter__()
        self.addCleanup(manager.__exit__, None, None, None)
        return found

    def enter(self, name):
        mind = Mind()
        return mind, self.rig_.peer().enter(mind, name)

    def ask(self, *args, peer=None, **kwargs):
        peer = peer or self.peer
        return peer.ask(peer.perspective, *args, **kwargs)

    def refused(self, name, *args, peer=None, **kwargs):
        """Check that a call is refused by this name, in a short sentence; returns the sentence."""
        result = self.ask(*args, peer=peer, **kwargs)
        self.assert_failed(result, name)
        text = result.getErrorMessage()
        self.assertLess(len(text), 160)
        for inside in ("Traceback", "clockd", "0x", "perspective_", "<", "object at", "Error"):
            self.assertNotIn(inside, text)
        return text

    def advance(self, seconds, step=1.0):
        self.rig_.network.advance(seconds, step)

    def counts(self, name="load"):
        return self.rig_.tally.feeds[name]


class SubscribeTests(FeedsCase):
    def test_who_subscribes_gets_the_current_value_at_once_and_then_what_is_new_once_a_period(self):
        self.serve()
        self.assertEqual(self.ask("publish", "load", [1, {"a": 2.5}]), 1)
        self.assertEqual(self.ask("subscribe", "load", 2), 2.0)
        self.assertEqual(self.mind.samples, [("load", 1, EPOCH, [1, {"a": 2.5}])])
        self.ask("publish", "load", 2, 1234.5)
        self.ask("publish", "load", 3)
        self.advance(4)
        self.assertEqual(self.mind.samples[1:], [("load", 3, EPOCH, 3)])
        self.assertEqual((self.counts().subscriptions, self.counts().requested, self.counts().pushes), (1, 0.5, 2))

    def test_the_stamp_is_the_source_s(self):
        self.serve()
        self.ask("publish", "load", None, stamp=1234.5)
        self.ask("subscribe", "load")
        self.assertEqual(self.mind.samples, [("load", 1, 1234.5, None)])

    def test_the_answer_comes_after_the_push_that_it_causes_or_before_it_but_both_come(self):
        self.serve()
        self.ask("publish", "load", 1)
        before = len(written(self.peer.wire.serverIO))
        self.ask("subscribe", "load")
        said = [e[0] if e[0] == b"answer" else e[3] for e in written(self.peer.wire.serverIO)[before:]]
        self.assertEqual(sorted(said), [b"answer", b"notifySample"])

    def test_without_a_period_the_default_holds_and_one_beyond_the_limits_is_clamped(self):
        self.serve(default_period=3, min_period=0.5, max_period=10)
        for period, granted in ((None, 3.0), (0.1, 0.5), (1e9, 10.0), (2, 2.0)):
            self.assertEqual(self.ask("subscribe", "load", period), granted)
        self.assertEqual(self.ask("subscribe", feed="heat", deadband=1, period=4), 4.0)

    def test_before_there_is_a_value_nothing_is_pushed(self):
        self.serve()
        self.ask("subscribe", "load", 1)
        self.advance(3)
        self.assertEqual(self.mind.samples, [])
        self.ask("publish", "load", False)
        self.advance(1)
        self.assertEqual(self.mind.samples, [("load", 1, EPOCH + 3, False)])

    def test_each_subscriber_has_its_own_period_and_gets_the_newest(self):
        self.serve()
        mind, bob = self.enter(b"bob")
        self.ask("subscribe", "load", 1)
        self.ask("subscribe", "load", 4, peer=bob)
        for number in range(8):
            self.ask("publish", "load", number)
            self.advance(1)
        self.assertEqual([sample[1] for sample in self.mind.samples], [1, 2, 3, 4, 5, 6, 7, 8])
        self.assertEqual([sample[1] for sample in mind.samples], [4, 8])

    def test_subscribing_again_replaces_period_and_deadband_and_pushes_nothing_at_once(self):
        self.serve()
        self.ask("publish", "load", 0)
        self.ask("subscribe", "load", 1, 5)
        for period in (2, 0.5, None):
            self.ask("publish", "load", 1)
            self.assertEqual(self.ask("subscribe", "load", period), period or 1.0)
        self.assertEqual(len(self.mind.samples), 1)
        self.assertEqual((self.counts().subscriptions, self.counts().requested), (1, 1.0))
        self.advance(1)
        self.assertEqual(self.mind.samples[1:], [("load", 4, EPOCH, 1)])  # there is no deadband any more
        self.ask("subscribe", "load", 1, 5)
        self.ask("publish", "load", 6)
        self.advance(3)
        self.assertEqual(len(self.mind.samples), 2)

    def test_what_is_refused_leaves_period_and_deadband_as_they_were(self):
        self.serve()
        self.ask("publish", "load", 0)
        self.ask("subscribe", "load", 2, 5)
        for period in (0, -1, math.nan, math.inf, True, "1", b"1", [1], {}):
            self.refused("InvalidPeriod", "subscribe", "load", period)
            self.refused("InvalidPeriod", "subscribe", "load", period=period)
            self.refused("InvalidPeriod", "subscribe", "heat", period)
        for deadband in (-1, math.nan, math.inf, True, False, "1", b"1", [1], {}):
            self.refused("InvalidValue", "subscribe", "load", 1, deadband)
            self.refused("InvalidValue", "subscribe", "load", deadband=deadband)
            self.refused("InvalidValue", "subscribe", "heat", 1, deadband)
        self.assertEqual((self.counts().subscriptions, self.counts().requested), (1, 0.5))
        self.assertEqual(self.counts("heat").subscriptions, 0)
        self.ask("publish", "load", 5)
        self.advance(4)
        self.assertEqual(len(self.mind.samples), 1)
        self.refused("UnknownFeed", "setperiod", 1, "heat")

    def test_a_deadband_holds_back_what_is_near(self):
        self.serve()
        self.ask("publish", "load", 10)
        self.ask("subscribe", "load", 1, 0.5)
        for value in (10.5, 9.5, 10.75, 11.0, 10.0):
            self.ask("publish", "load", value)
            self.advance(1)
        self.assertEqual([sample[3] for sample in self.mind.samples], [10, 10.75, 10.0])
        self.assertEqual(self.counts().skipped["unchanged"], 3)

    def test_the_time_has_no_deadband_and_another_period_if_one_is_asked_for(self):
        self.serve()
        self.refused("InvalidValue", "subscribe", "time", 1, 0)
        self.assertEqual(self.ask("subscribe", "time", 4), 4.0)
        self.advance(8)
        self.assertEqual(len(self.mind.stamps), 3)

    def test_setperiod_changes_the_period_of_a_feed_that_is_subscribed(self):
        self.serve()
        self.refused("UnknownFeed", "setperiod", 1, "load")
        self.ask("subscribe", "load", 1, 5)
        self.assertEqual(self.ask("setperiod", 4, "load"), 4.0)
        self.assertEqual(self.counts().requested, 0.25)
        self.ask("publish", "load", 1)
        self.advance(4)
        self.ask("publish", "load", 6)
        self.advance(4)
        self.assertEqual([sample[3] for sample in self.mind.samples], [1])  # the deadband still holds

    def test_what_stays_the_same_is_pushed_again_after_max_silence(self):
        self.serve(max_silence=5)
        self.ask("publish", "load", 1)
        self.ask("subscribe", "load", 1)
        self.advance(11)
        self.assertEqual(len(self.mind.samples), 3)
        self.assertEqual(self.counts().skipped["unchanged"], 9)

    def test_a_value_that_changes_and_comes_back_within_a_period_is_no_news(self):
        self.serve()
        self.ask("publish", "load", 1)
        self.ask("subscribe", "load", 1)
        for value in (2, 1):
            self.ask("publish", "load", value)
        self.advance(2)
        self.assertEqual(self.mind.samples, [("load", 1, EPOCH, 1)])
        self.assertEqual(self.counts().skipped["unchanged"], 2)

    def test_feeds_that_are_due_together_come_in_one_write(self):
        names = [f"n{number}" for number in range(20)]
        self.serve(names)
        for name in names:
            self.ask("subscribe", name, 1)
        for name in names:
            self.ask("publish", name, name)
        self.ask("unsubscribe", "time")
        writes = self.peer.wire.serverIO.writes
        del writes[:]
        self.rig_.clock.advance(1)
        self.rig_.network.flush()
        self.assertEqual((len(writes), sorted(sample[0] for sample in self.mind.samples)), (1, sorted(names)))


class UnsubscribeTests(FeedsCase):
    def test_who_unsubscribes_is_pushed_nothing_more(self):
        self.serve()
        self.ask("publish", "load", 1)
        self.ask("subscribe", "load", 1)
        self.assertIsNone(self.ask("unsubscribe", "load"))
        self.ask("publish", "load", 2)
        self.advance(5)
        self.assertEqual(len(self.mind.samples), 1)
        self.assertEqual((self.counts().subscriptions, self.counts().requested), (0, 0.0))
        self.refused("UnknownFeed", "setperiod", 1, "load")

    def test_it_is_idempotent_and_takes_any_name(self):
        self.serve()
        for name in ("load", "load", "nothing", "secret", "server", "", b"load", None, 1, 1.5, True, ["load"], {}):
            self.assertIsNone(self.ask("unsubscribe", name))
        self.assertEqual(self.rig_.time.subscriptions, 1)

    def test_the_time_can_be_left_and_taken_again(self):
        self.serve()
        self.ask("unsubscribe", "time")
        self.advance(10)
        self.assertEqual((len(self.mind.stamps), self.rig_.time.subscriptions), (1, 0))
        self.ask("subscribe", "time", 1)
        self.assertEqual(len(self.mind.stamps), 2)
        self.advance(3)
        self.assertEqual((len(self.mind.stamps), self.rig_.time.subscriptions), (5, 1))

    def test_unsubscribing_and_subscribing_again_and_again_buys_no_push(self):
        self.serve()
        self.ask("publish", "load", 1)
        for _ in range(20):
            self.ask("subscribe", "load", 2)
            self.ask("subscribe", "time", 2)
            self.ask("unsubscribe", "load")
            self.ask("unsubscribe", "time")
        self.assertEqual((len(self.mind.samples), len(self.mind.stamps)), (1, 1))
        self.advance(1.75, 0.25)
        self.ask("subscribe", "load", 2)
        self.assertEqual(len(self.mind.samples), 1)
        self.advance(2)
        self.assertEqual(len(self.mind.samples), 2)

    def test_after_a_period_the_current_value_is_pushed_at_once_again(self):
        self.serve()
        self.ask("publish", "load", 1)
        self.ask("subscribe", "load", 2)
        self.ask("unsubscribe", "load")
        self.advance(2)
        self.ask("subscribe", "load", 2)
        self.assertEqual(len(self.mind.samples), 2)

    def test_what_was_owed_is_not_pushed_after_it(self):
        self.serve(ack_seconds=1)
        self.ask("publish", "load", 1)
        self.ask("subscribe", "load", 1)
        self.peer.wire.frozen = True
        for number in range(10):
            self.rig_.feeds.to_publish("load", "alice").publish(number)
            self.advance(1)
        self.assertIn("load", self.peer.server.mind.window.owed)
        held = self.counts().pushes
        self.peer.server._perspective._target.perspective_unsubscribe("load")  # no call reaches it
        self.peer.wire.frozen = False
        self.advance(5)
        self.assertEqual((self.counts().pushes, len(self.mind.samples)), (held, held))


class OwedTests(FeedsCase):
    def test_a_client_that_stops_gets_each_feed_once_and_newest_when_it_goes_on(self):
        self.serve(("more",), ack_seconds=1)
        for name in ("load", "heat", "more"):
            self.ask("publish", name, 0)
            self.ask("subscribe", name, 1)
        self.advance(5)
        before = len(self.mind.samples)
        self.peer.wire.frozen = True
        for number in range(1, 21):
            for name in ("load", "heat"):
                self.rig_.feeds.to_publish(name, "alice").publish(number)
            self.advance(1)
        held = self.counts().pushes
        self.advance(3)
        self.assertEqual(self.counts().pushes, held)
        self.assertGreater(self.counts().skipped["unacknowledged"], 5)
        stamps = len(self.mind.stamps)
        self.peer.wire.frozen = False
        self.rig_.network.flush()
        got = self.mind.samples[before:]
        self.assertEqual(sorted(sample[0] for sample in got if sample[1] == 21), ["heat", "load"])
        for name in ("load", "heat"):
            numbers = [sample[1] for sample in got if sample[0] == name]
            self.assertEqual(numbers, sorted(set(numbers)))
            self.assertLess(len(numbers), 15)
        self.assertGreater(len(self.mind.stamps), stamps)
        after = len(self.mind.samples)
        self.advance(1)
        self.assertEqual([sample[0] for sample in self.mind.samples[after:] if sample[0] != "more"], [])


class RightsTests(FeedsCase):
    def test_feeds_are_those_that_one_may_read(self):
        self.serve()
        _, bob = self.enter(b"bob")
        self.assertEqual(self.ask("feeds"), ["time", "load", "heat"])
        self.assertEqual(self.ask("feeds", peer=bob), ["time", "load", "heat", "secret"])

    def test_who_may_not_read_a_feed_is_refused(self):
        self.serve()
        _, bob = self.enter(b"bob")
        self.refused("NotPermitted", "subscribe", "secret")
        self.refused("NotPermitted", "subscribe", "box")
        self.assertEqual(self.ask("subscribe", "secret", 1, peer=bob), 1.0)
        self.assertEqual(self.counts("box").subscriptions, 0)
        self.assertEqual((self.counts("secret").errors, self.counts("box").errors), (1, 1))

    def test_who_may_not_publish_is_refused_and_changes_nothing(self):
        self.serve()
        _, bob = self.enter(b"bob")
        for feed, peer in (("secret", self.peer), ("load", bob), ("time", self.peer), ("time", bob)):
            self.refused("NotPermitted", "publish", feed, 1, peer=peer)
        self.assertEqual((self.ask("publish", "box", 1), self.ask("publish", "box", 1, peer=bob)), (1, 2))
        self.assertEqual(self.ask("publish", "heat", 1, peer=bob), 1)
        self.assertEqual((self.counts("load").updates, self.counts("secret").updates), (0, 0))

    def test_a_feed_that_is_not_there_is_unknown_and_so_is_what_is_no_name(self):
        self.serve()
        for feed in (
            "nothing",
            "",
            "x" * 10_000,
            "LOAD",
            b"load",
            None,
            1,
            1.5,
            True,
            ["load"],
            {"load": 1},
            ("load",),
        ):
            self.refused("UnknownFeed", "subscribe", feed)
            self.refused("UnknownFeed", "publish", feed, 1)
            self.refused("UnknownFeed", "setperiod", 1, feed)
        self.refused("UnknownFeed", "publish", "server", 1)
        self.assertEqual(self.peer.broker.disconnected, 0)

    def test_arguments_that_a_call_does_not_take_are_refused(self):
        self.serve()
        for method, *bad in (
            ("subscribe", (), ("load", 1, None, 1)),
            ("unsubscribe", (), ("load", 1)),
            ("feeds", (1,)),
            ("publish", (), ("load",), ("load", 1, None, 1)),
        ):
            for arguments in bad:
                self.assertIn(f"{method} takes (", self.refused("InvalidValue", method, *arguments))
            self.refused("InvalidValue", method, *bad[-1][:-1], nonsense=1)
        self.refused("InvalidValue", "subscribe", "load", feed="load")

    def test_an_argument_of_a_type_that_no_call_takes_is_refused_by_every_call_and_changes_nothing(self):
        self.serve()
        self.ask("subscribe", "load", 1)
        before = self.rig_.tally.periods.copy()
        calls = {name.removeprefix("perspective_") for name in dir(Session) if name.startswith("perspective_")}
        self.assertGreater(len(calls), 4)
        for call in calls:
            for arguments in ((range,), ("load", range), ("load", 1, range), ([[range]],), ("load", {"a": range})):
                self.refused("InvalidValue", call, *arguments)
            self.refused("InvalidValue", call, feed=range)
        for call in ("login", "loginAnonymous", "loginCertificate"):
            self.assert_failed(self.peer.ask(self.peer.root, call, range), "InvalidValue")
        self.assertEqual((self.rig_.tally.periods, self.counts().subscriptions), (before, 1))
        self.assertEqual((self.counts().updates, self.peer.broker.disconnected), (0, 0))


class PublishTests(FeedsCase):
    VALUES = (
        *(None, True, False, 0, -1, 2**31, 2**400, -(2**400), 0.5, math.inf, "", "ä", "list", b"", b"\xff", b"list"),
        *([], (), {}, [1, [2, [3, [4]]]], {"a": (1, [2.5])}, {1: 2, None: 3, b"a": 4, 1.5: 6}, "x" * 4082),
        *([0] * 2045, [[] for _ in range(1022)], dict.fromkeys(range(512), 1)),
    )

    def test_any_value_arrives_as_it_was_published_and_is_numbered(self):
        self.serve()
        self.ask("subscribe", "load", 1)
        for number, value in enumerate(self.VALUES, 1):
            self.assertEqual(self.ask("publish", "load", value), number)
            self.advance(1)
            *_, pushed = self.mind.samples
            self.assertEqual((pushed[1], pushed[3], type(pushed[3])), (number, value, type(value)))
        self.assertEqual(self.counts().updates, len(self.VALUES))
        self.assertEqual(self.counts().updated, EPOCH + len(self.VALUES) - 1)

    def test_nan_is_a_value(self):
        self.serve()
        self.ask("publish", "load", math.nan)
        self.ask("subscribe", "load", 1)
        self.assertTrue(math.isnan(self.mind.samples[0][3]))

    def test_what_is_no_value_is_refused_and_counted_and_the_one_before_stays(self):
        self.serve(message_bytes=65536)
        self.ask("publish", "load", 1)
        bad = ("x" * 4083, b"x" * 4094, [[[[[1]]]]], {"a": {"a": {"a": {"a": {}}}}}, [0] * 2046, self.mind)
        for number, value in enumerate(bad, 1):
            self.refused("InvalidValue", "publish", "load", value)
            self.refused("InvalidValue", "publish", feed="load", value=value)
            self.assertEqual(self.counts().errors, 2 * number)
        for number, stamp in enumerate((math.nan, math.inf, True, "1", b"1", [1], {}), len(bad) + 1):
            self.refused("InvalidValue", "publish", "load", 2, stamp)
            self.refused("InvalidValue", "publish", "load", 2, stamp=stamp)
            self.assertEqual(self.counts().errors, 2 * number)
        self.ask("subscribe", "load")
        self.assertEqual((self.mind.samples, self.counts().updates), ([("load", 1, EPOCH, 1)], 1))
        self.assertEqual(self.ask("publish", "load", 1), 2)

    def test_what_is_shared_or_holds_itself_or_is_an_instance_is_refused(self):
        self.serve()
        shared, cycle = [1], []
        cycle.append(cycle)
        values = ([shared, shared], cycle, ((), ()), [self.rig_.limits.__class__], {1, 2}, range)
        for number, value in enumerate(values, 1):
            for told in (
                self.refused("InvalidValue", "publish", "load", value),
                self.refused("InvalidValue", "publish", "load", 1, value),
                self.refused("InvalidValue", "publish", value=value, feed="load"),
            ):
                self.assertEqual(told.startswith("a list, tuple or dict that occurs twice"), number <= 3)
            self.assertEqual(self.counts().errors, 3 * number)
        self.assertEqual((self.counts().updates, self.peer.broker.disconnected), (0, 0))

    def test_each_that_is_refused_counts_one_for_its_feed(self):
        self.serve(publishes_per_second=1)
        self.ask("publish", "load", 1)
        for feed, name, *arguments in (
            *(("load", "TooManyPublishes", 1), ("load", "InvalidValue"), ("load", "InvalidValue", 1, 2, 3)),
            *(("load", "InvalidValue", range), ("secret", "InvalidValue", range), ("secret", "NotPermitted", 1)),
            *(("time", "NotPermitted", 1), ("time", "InvalidValue", range)),
        ):
            before = self.counts(feed).errors
            self.refused(name, "publish", feed, *arguments)
            self.assertEqual(self.counts(feed).errors, before + 1)
        self.ask("publish", "load", range, pbanswer=False)
        self.assertEqual((self.counts().errors, self.counts("heat").errors, self.counts(UNKNOWN).errors), (5, 0, 0))

    def test_those_of_a_feed_that_is_not_there_are_counted_together_and_make_no_label(self):
        self.serve()
        labels = list(self.rig_.tally.feeds)
        names = ("nothing", "x" * 10_000, "", UNKNOWN, "other", "LOAD", b"load", None, 1, ["load"], {})
        for number, name in enumerate(names, 1):
            self.refused("UnknownFeed", "publish", name, 1)
            self.refused("UnknownFeed", "subscribe", name)
            self.refused("InvalidValue", "publish", name, range)
            self.assertEqual(self.counts(UNKNOWN).errors, 3 * number)
        self.refused("UnknownFeed", "publish", "server", 1)
        self.refused("InvalidValue", "publish", range, 1)
        self.refused("InvalidValue", "publish")
        self.assertEqual(self.counts(UNKNOWN).errors, 3 * len(names) + 3)
        self.assertEqual(list(self.rig_.tally.feeds), labels)
        self.assertEqual({self.counts(name).errors for name in labels if name != UNKNOWN}, {0})

    def test_an_account_publishes_so_many_a_second_over_all_its_connections(self):
        self.serve(publishes_per_second=5)
        _, other = self.enter(b"alice")
        _, bob = self.enter(b"bob")
        for number in range(5):
            self.assertEqual(self.ask("publish", "load", number, peer=(self.peer, other)[number % 2]), number + 1)
        for peer in (self.peer, other):
            self.assertIn(
                "may publish 5 samples a second", self.refused("TooManyPublishes", "publish", "load", 1, peer=peer)
            )
        self.assertEqual(self.ask("publish", "heat", 1, peer=bob), 1)
        self.advance(0.2, 0.2)
        self.assertEqual(self.ask("publish", "load", 6), 6)
        self.refused("TooManyPublishes", "publish", "load", 7)
        self.advance(10)
        self.assertEqual([self.ask("publish", "load", number) for number in range(5)], [7, 8, 9, 10, 11])
        self.refused("TooManyPublishes", "publish", "load", 1)

    def test_whoever_may_not_publish_uses_up_nothing(self):
        self.serve(publishes_per_second=2)
        for _ in range(5):
            self.refused("NotPermitted", "publish", "secret", 1)
            self.refused("UnknownFeed", "publish", "nothing", 1)
        self.assertEqual([self.ask("publish", "load", 1) for _ in range(2)], [1, 2])

    def test_one_who_wants_no_answer_publishes_too(self):
        self.serve()
        self.assertIsNone(self.ask("publish", "load", 1, pbanswer=False))
        self.assertIsNone(self.ask("publish", "load", object, pbanswer=False))
        self.assertEqual(self.counts().updates, 1)


class LimitsTests(FeedsCase):
    def test_so_many_subscriptions_a_connection_the_time_among_them(self):
        names = [f"n{number}" for number in range(64)]
        self.serve(names)
        for name in names[:63]:
            self.assertEqual(self.ask("subscribe", name, 10), 10.0)
        refusal = self.refused("TooManySubscriptions", "subscribe", names[63])
        self.assertEqual(refusal, "a connection may have 64 subscriptions")
        self.assertEqual(self.ask("subscribe", names[0], 20), 20.0)
        self.assertEqual(self.ask("subscribe", "server"), 0.0)
        self.refused("UnknownFeed", "subscribe", "nothing")
        self.refused("NotPermitted", "subscribe", "secret")
        self.ask("unsubscribe", "time")
        self.assertEqual(self.ask("subscribe", names[63]), 1.0)
        self.refused("TooManySubscriptions", "subscribe", "time")
        self.assertEqual(sum(counts.subscriptions for counts in self.rig_.tally.feeds.values()), 64)

    def test_one_subscription_is_the_least(self):
        self.serve(subscriptions=1)
        self.refused("TooManySubscriptions", "subscribe", "load")
        self.ask("unsubscribe", "time")
        self.assertEqual(self.ask("subscribe", "load"), 1.0)

    def test_connections_have_theirs_apart(self):
        self.serve(subscriptions=2)
        _, bob = self.enter(b"bob")
        for peer in (self.peer, bob):
            self.ask("subscribe", "load", peer=peer)
            self.refused("TooManySubscriptions", "subscribe", "heat", peer=peer)

    def test_a_refusal_stays_short_with_all_the_feeds_there_may_be(self):
        names = [f"{number:064}" for number in range(MOST_FEEDS - len(self.RIGHTS) - 1)]
        self.serve(names, subscriptions=MOST_FEEDS)
        for name in names:
            self.ask("subscribe", name, 10)
        self.refused("UnknownFeed", "setperiod", 1, "nothing")


class NoticesTests(FeedsCase):
    def notify(self):
        self.peer.server.mind.notify({"kind": "replaced"})
        self.rig_.network.flush()

    def test_notices_come_to_who_asked_for_them_and_count_as_no_subscription(self):
        self.serve(subscriptions=1)
        self.notify()
        self.assertEqual(self.mind.samples, [])
        self.assertEqual(self.ask("subscribe", "server"), 0.0)
        self.notify()
        self.assertEqual(self.mind.samples, [("server", 1, EPOCH, {"kind": "replaced"})])
        self.assertNotIn("server", self.ask("feeds"))
        self.refused("UnknownFeed", "setperiod", 1, "server")
        self.assertNotIn("server", self.rig_.tally.feeds)

    def test_who_takes_them_no_more_gets_none(self):
        self.serve()
        self.ask("subscribe", "server", 5, 1)
        self.assertIsNone(self.ask("unsubscribe", "server"))
        self.notify()
        self.assertEqual(self.mind.samples, [])


class LogoutTests(FeedsCase):
    def test_nothing_is_left_of_subscriptions_when_their_connection_ends(self):
        names = [f"n{number}" for number in range(10)]
        for leave in ("leave", "cut", "drop"):
            rig = self.serve(names)
            for name in names:
                self.ask("subscribe", name, 1)
                self.ask("publish", name, 1)
            self.ask("unsubscribe", names[0])
            self.advance(2)
            if leave == "leave":
                self.peer.leave()
            elif leave == "cut":
                self.peer.wire.cut()
            else:
                self.peer.perspective = None
                gc.collect()
            rig.network.flush()
            self.assertEqual({counts.subscriptions for counts in rig.tally.feeds.values()}, {0})
            self.assertEqual((rig.tally.avatars, rig.clock.getDelayedCalls() if leave != "drop" else []), (0, []))
            before = rig.tally.feeds[names[1]].pushes
            rig.feeds.to_publish(names[1], "alice").publish(2)
            self.advance(3)
            self.assertEqual(rig.tally.feeds[names[1]].pushes, before)

    def test_what_a_connection_has_left_goes_without_a_collection(self):
        self.serve()
        for feed in ("load", "heat", "server"):
            self.ask("publish", feed, 1)
            self.ask("subscribe", feed)
        session = self.peer.server._perspective._target
        subscriptions = session.avatar.subscriptions
        own = [weakref.ref(each) for each in (session, *(its.timer for its in subscriptions.values()))]
        former = weakref.ref(subscriptions["heat"].timer)
        del session, subscriptions
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        self.ask("unsubscribe", "heat")
        self.assertIsNone(former())
        self.advance(3)
        self.peer.leave()
        self.assertEqual([each() for each in own], [None] * 4)

    def test_a_value_outlives_who_published_it(self):
        self.serve()
        self.ask("publish", "heat", 7)
        self.peer.leave()
        mind, bob = self.enter(b"bob")
        self.ask("subscribe", "heat", peer=bob)
        self.assertEqual(mind.samples, [("heat", 1, EPOCH, 7)])

    def test_none_of_this_is_logged_as_more_than_a_login(self):
        self.serve()
        for call in (("subscribe", "load"), ("subscribe", "x"), ("publish", "load", object), ("publish", "load", 1)):
            self.ask(*call)
        self.advance(3)
        self.peer.leave()
        self.assertEqual(
            {event["log_format"].split(" ")[0] for event in self.logs if event["log_level"].name != "info"}, set()
        )


class ReferenceTests(RigCase):
    def test_a_reference_in_place_of_a_name_is_refused(self):
        peer = self.rig().peer().enter(Mind())
        for call in ("subscribe", "publish"):
            self.assert_failed(peer.ask(peer.perspective, call, Mind(), 1), "UnknownFeed")
        self.assertIsNone(peer.ask(peer.perspective, "unsubscribe", Mind()))
        self.assert_failed(peer.ask(peer.perspective, "setperiod", Mind()), "InvalidPeriod")

    def test_a_reference_in_place_of_a_number_is_refused(self):
        rig = self.rig(feeds=push_feeds({"load": Rights(publish=("*",))}))
        peer = rig.peer().enter(Mind())
        for arguments, name in (
            (("subscribe", "load", Mind()), "InvalidPeriod"),
            (("subscribe", "load", 1, Mind()), "InvalidValue"),
            (("publish", "load", Mind()), "InvalidValue"),
            (("publish", "load", 1, Mind()), "InvalidValue"),
        ):
            self.assert_failed(peer.ask(peer.perspective, *arguments), name)
        self.assertEqual(self.flushLoggedErrors(), [])
