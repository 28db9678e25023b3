"""One avatar for all clients of an account."""

from doubles import EPOCH, Mind, RigCase, Sink, push_feeds
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase

from clockd.avatar import SinkSet
from clockd.errors import InvalidPeriod, UnknownFeed
from clockd.values import Limits, Remembered, Rights, Sample


class SinkSetTests(SynchronousTestCase):
    def test_each_takes_or_skips_for_itself(self):
        sinks, taking, skipping = SinkSet(), Sink(), Sink(takes=False)
        self.assertIs(sinks.push(Sample("time", None, 1.0, 1.0)), False)
        sinks.clients[skipping] = None
        self.assertIs(sinks.push(Sample("time", None, 2.0, 2.0)), False)
        sinks.clients[taking] = None
        self.assertIs(sinks.push(Sample("time", None, 3.0, 3.0)), True)
        self.assertEqual([[each.stamp for each in sink.samples] for sink in (taking, skipping)], [[3.0], [2.0, 3.0]])

    def test_who_takes_no_samples_is_pushed_the_time_only(self):
        sinks, taking, refusing = SinkSet(), Sink(), Sink()
        sinks.clients |= {taking: None, refusing: None}
        refusing.takes_samples = False
        self.assertIs(sinks.push(Sample("time", None, 1.0, 1.0)), True)
        self.assertIs(sinks.push(Sample("load", 1, 2.0, 2.0)), True)
        self.assertEqual(
            [[each.feed for each in sink.samples] for sink in (taking, refusing)], [["time", "load"], ["time"]]
        )
        del sinks.clients[taking]
        self.assertIs(sinks.push(Sample("load", 2, 3.0, 3.0)), False)


class Timely(pb.Referenceable):
    """A mind that knows the time only."""

    def __init__(self):
        self.stamps = []

    def remote_notifyTime(self, stamp):
        self.stamps.append(stamp)


class SharedCase(RigCase):
    def serve(self, sharing="account", limits=None, anonymous=False):
        feeds = push_feeds(dict.fromkeys(("load", "heat"), Rights(publish=("*",))))
        self.rig_ = self.rig(limits or Limits(), anonymous=anonymous, feeds=feeds, sharing=sharing)

    def login(self, name=b"alice"):
        """Log in without a connection; returns the session and its sink."""
        _, session, _ = self.rig_.realm.requestAvatar(name, Sink(), pb.IPerspective)
        session.begin()
        return session, session.client

    def stamps(self, sink):
        return [sample.stamp - EPOCH for sample in sink.samples if sample.feed == "time"]

    def values(self, sink, feed="load"):
        return [sample.value for sample in sink.samples if sample.feed == feed]

    def publish(self, value, feed="load"):
        self.rig_.feeds.to_publish(feed, "alice").publish(value)

    def leave(self, *sessions):
        for session in sessions:
            session.logout()


class SharedTests(SharedCase):
    def test_a_period_that_one_sets_is_in_force_for_all(self):
        self.serve()
        (one, first), (two, second), (three, third) = self.login(), self.login(), self.login()
        self.assertIs(one.avatar, three.avatar)
        self.assertEqual(two.perspective_setperiod(3), 3.0)
        self.rig_.clock.pump([1] * 6)
        for sink in (first, second, third):
            self.assertEqual(self.stamps(sink), [0, 3, 6])
        self.assertEqual((self.rig_.tally.avatars, self.rig_.time.subscriptions), (1, 1))
        self.leave(one, two)
        self.rig_.clock.pump([1] * 3)
        self.assertEqual((self.stamps(third)[-1], self.stamps(first)[-1]), (9, 6))
        self.leave(three)
        self.assertEqual((self.rig_.tally.avatars, self.rig_.clock.getDelayedCalls()), (0, []))

    def test_what_one_subscribes_to_all_get(self):
        self.serve()
        (one, first), (two, second) = self.login(), self.login()
        self.publish(1)
        self.assertEqual(one.perspective_subscribe("load", 2), 2.0)
        self.publish(2)
        self.rig_.clock.advance(2)
        self.assertEqual((self.values(first), self.values(second)), ([1, 2], [1, 2]))
        self.assertEqual(two.perspective_status()["periods"], {"time": 1.0, "load": 2.0})
        two.perspective_unsubscribe("load")
        self.publish(3)
        self.rig_.clock.advance(2)
        self.assertEqual((self.values(first), self.values(second)), ([1, 2], [1, 2]))
        self.leave(one, two)

    def test_one_who_comes_later_gets_the_current_values_at_once_and_the_others_nothing(self):
        self.serve()
        one, first = self.login()
        self.publish(1)
        one.perspective_subscribe("load", 4)
        one.perspective_subscribe("heat", 4)
        self.rig_.clock.advance(0.5)
        self.publish(2)
        two, second = self.login()
        self.assertEqual((self.stamps(second), self.values(second), self.values(second, "heat")), ([0.5], [2], []))
        self.assertEqual((self.stamps(first), self.values(first)), ([0], [1]))
        self.rig_.clock.pump([0.5] * 8)
        self.assertEqual(self.values(first), [1, 2])
        self.leave(one, two)

    def test_a_client_that_is_owed_gets_the_newest_and_holds_back_nobody(self):
        self.serve()
        (one, first), (two, second) = self.login(), self.login()
        one.perspective_subscribe("load", 1)
        first.takes = False
        for number in range(3):
            self.publish(number)
            self.rig_.clock.advance(1)
        self.publish(3)
        self.assertEqual(self.values(second), [0, 1, 2])
        self.assertEqual(first.pull("load").value, 3)
        self.rig_.clock.advance(1)
        self.assertEqual(self.values(second), [0, 1, 2, 3])
        self.leave(one, two)

    def test_logging_in_again_and_again_is_one_avatar_until_all_have_left(self):
        self.serve()
        one, _ = self.login()
        _, two, _ = self.rig_.realm.requestAvatar(b"alice", Sink(), pb.IPerspective)
        self.leave(one)
        three, third = self.login()
        two.begin()
        self.assertIs(two.avatar, three.avatar)
        self.rig_.clock.advance(1)
        self.assertEqual((len(self.stamps(two.client)), len(self.stamps(third))), (2, 2))
        self.leave(two, three)
        self.assertEqual(self.rig_.avatars, {})

    def test_accounts_have_theirs_apart(self):
        self.serve()
        (one, first), (two, second) = self.login(), self.login(b"bob")
        one.perspective_setperiod(2)
        self.rig_.clock.pump([1, 1])
        self.assertEqual((self.stamps(first), self.stamps(second)), ([0, 2], [0, 1, 2]))
        self.leave(one, two)

    def test_anonymous_shares_nothing_and_nothing_is_kept_of_it(self):
        self.serve(anonymous=True)
        (one, first), (two, second) = self.login(()), self.login(())
        one.perspective_setperiod(2)
        self.rig_.clock.pump([1, 1])
        self.assertEqual((self.stamps(first), self.stamps(second)), ([0, 2], [0, 1, 2]))
        self.leave(one, two)
        self.assertEqual(self.rig_.store.account("anonymous"), Remembered())

    def test_of_connections_each_has_its_own(self):
        self.serve(sharing="connection")
        (one, first), (two, second) = self.login(), self.login()
        one.perspective_setperiod(2)
        self.rig_.clock.pump([1, 1])
        self.assertEqual((self.stamps(first), self.stamps(second), self.rig_.tally.avatars), ([0, 2], [0, 1, 2], 2))
        self.leave(one, two)

    def test_the_limit_of_subscriptions_is_the_avatar_s(self):
        self.serve(limits=Limits(subscriptions=2))
        (one, _), (two, _) = self.login(), self.login()
        one.perspective_subscribe("load")
        two.perspective_subscribe("load", 5)
        self.assertRaisesRegex(Exception, "2 subscriptions", two.perspective_subscribe, "heat")
        self.leave(one, two)

    def test_a_client_expects_samples_once_it_has_subscribed_to_some_itself(self):
        self.serve()
        (one, first), (two, second) = self.login(), self.login()
        self.assertEqual((first.expects, second.expects), (False, False))
        one.perspective_subscribe("load")
        one.perspective_setperiod(2)
        two.perspective_subscribe("time", 3)
        self.assertEqual((first.expects, second.expects), (True, False))
        two.perspective_subscribe("server")
        self.assertIs(second.expects, True)
        self.leave(one, two)
        self.serve("connection")
        one, first = self.login()
        self.assertIsNone(first.expects)
        self.leave(one)

    def test_a_stock_client_that_knows_the_time_only_stays_while_others_of_its_account_subscribe(self):
        self.serve()
        other = self.rig_.peer().enter(Mind())
        self.publish(0)
        self.assertEqual(other.ask(other.perspective, "subscribe", "load", 0.5), 0.5)
        mind, several = Timely(), Mind()
        peer = self.rig_.peer().enter(mind)
        for number in range(1, 60):
            self.publish(number)
            self.rig_.network.advance(0.5)
        self.assertEqual((peer.broker.disconnected, other.broker.disconnected), (0, 0))
        self.assertEqual(len(mind.stamps), 30)
        raised = len(self.flushLoggedErrors(pb.NoSuchMethod))
        self.assertLess(raised, 5)
        for number in range(1, 60):
            self.publish(-number)
            self.rig_.network.advance(0.5)
        self.assertEqual((self.flushLoggedErrors(), len(mind.stamps), peer.broker.disconnected), ([], 60, 0))
        third = self.rig_.peer().enter(several)
        self.publish(1000)
        self.rig_.network.advance(0.5)
        self.assertEqual([mind.samples[-1][3] for mind in (several,)], [1000])
        self.assertEqual(third.broker.disconnected, 0)

    def test_one_that_subscribed_itself_and_cannot_take_samples_is_sent_away(self):
        self.serve()
        peer = self.rig_.peer().enter(Timely())
        peer.ask(peer.perspective, "subscribe", "load", 0.1)
        for number in range(300):
            self.publish(number)
            self.rig_.network.advance(0.1)
        self.assertTrue(self.flushLoggedErrors(pb.NoSuchMethod))
        self.assertEqual((peer.broker.disconnected, self.rig_.tally.closed["protocol"]), (1, 1))

    def test_stock_clients_over_the_wire_share_too(self):
        self.serve()
        minds = [Mind() for _ in range(3)]
        peers = [self.rig_.peer().enter(mind) for mind in minds]
        peers[0].ask(peers[0].perspective, "setperiod", 4)
        self.rig_.network.advance(12, 1)
        self.assertEqual([mind.stamps for mind in minds], [[EPOCH, EPOCH + 4, EPOCH + 8, EPOCH + 12]] * 3)


class RememberedTests(SharedCase):
    def kept(self, name="alice"):
        return self.rig_.store.account(name)

    def test_periods_subscriptions_and_deadbands_come_back(self):
        self.serve()
        one, _ = self.login()
        one.perspective_setperiod(3)
        one.perspective_subscribe("load", 2, 10)
        one.perspective_subscribe("heat", 5)
        one.perspective_unsubscribe("heat")
        self.assertEqual(self.kept().subscriptions, {"time": (3.0, 0.0), "load": (2.0, 10.0)})
        self.leave(one)
        self.publish(1)
        counted = dict(self.rig_.tally.periods)
        two, second = self.login()
        self.assertIsNot(one.avatar, two.avatar)
        self.assertEqual(self.rig_.tally.periods, counted)
        for value in (5, 12):
            self.publish(value)
            self.rig_.clock.pump([1, 1])
        self.assertEqual((self.values(second), self.stamps(second)), ([1, 12], [0, 3]))
        self.leave(two)

    def test_what_is_refused_is_not_kept(self):
        self.serve()
        one, _ = self.login()
        one.perspective_setperiod(3)
        self.assertRaises(InvalidPeriod, one.perspective_setperiod, -1)
        self.assertRaises(UnknownFeed, one.perspective_subscribe, "nonsense")
        one.perspective_unsubscribe("nonsense")
        self.assertEqual(self.kept().subscriptions, {"time": (3.0, 0.0)})
        self.leave(one)

    def test_what_is_kept_is_within_the_limits_and_rights_of_today(self):
        self.serve(limits=Limits(min_period=1, max_period=10))
        kept = {"time": (0.1, 0.0), "load": (60.0, 0.0), "gone": (1.0, 0.0)}
        self.rig_.store.remember("alice", Remembered(kept))
        one, _ = self.login()
        self.assertEqual(one.periods(), {"time": 1.0, "load": 10.0})
        self.leave(one)

    def test_who_comes_back_when_none_of_its_feeds_are_there_any_more_is_pushed_the_time(self):
        self.serve()
        self.rig_.store.remember("alice", Remembered({"gone": (5.0, 0.0)}))
        one, first = self.login()
        self.assertEqual((one.periods(), self.stamps(first)), ({"time": 1.0}, [0]))
        self.leave(one)

    def test_who_has_left_the_time_is_not_pushed_it_but_one_who_left_everything_is(self):
        self.serve()
        one, _ = self.login()
        one.perspective_subscribe("load")
        one.perspective_unsubscribe("time")
        self.leave(one)
        two, second = self.login()
        self.assertEqual((two.periods(), self.stamps(second)), ({"load": 1.0}, []))
        two.perspective_unsubscribe("load")
        self.leave(two)
        three, third = self.login()
        self.assertEqual((three.periods(), self.stamps(third)), ({"time": 1.0}, [0]))
        self.leave(three)

    def test_connections_keep_nothing_of_theirs_and_do_not_forget_the_account_s(self):
        self.serve(sharing="connection")
        self.rig_.store.remember("alice", Remembered({"time": (7.0, 0.0)}))
        one, _ = self.login()
        one.perspective_setperiod(3)
        self.leave(one)
        self.assertEqual(self.kept().subscriptions, {"time": (7.0, 0.0)})
        two, _ = self.login()
        self.assertEqual(two.periods(), {"time": 1.0})
        self.leave(two)

    def test_logins_and_pushes_are_counted_and_when_it_was_seen(self):
        for sharing in ("connection", "account"):
            self.serve(sharing)
            one, _ = self.login()
            self.rig_.clock.advance(5)
            two, _ = self.login()
            self.assertEqual(self.kept(), Remembered({}, 2, 0, EPOCH, EPOCH + 5))
            self.rig_.clock.advance(4)
            self.leave(one)
            self.assertEqual(self.kept(), Remembered({}, 2, one.client.pushes, EPOCH, EPOCH + 9))
            self.leave(two)
            self.assertEqual(self.kept().pushes, one.client.pushes + two.client.pushes)
