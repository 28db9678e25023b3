"""Who is in: the roster, the avatar, the realm."""

from doubles import EPOCH, Rig, Sink
from twisted.cred.checkers import ANONYMOUS as NOBODY
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clockd.errors import InvalidPeriod, TooManyConnections, UnknownFeed
from clockd.interfaces import ISession
from clockd.realm import Roster
from clockd.values import Limits


class RosterTests(SynchronousTestCase):
    def test_an_account_has_as_many_places_as_the_limit_and_no_more(self):
        roster = Roster(2)
        roster.admit("alice")
        roster.admit("alice")
        with self.assertRaisesRegex(TooManyConnections, "2 connections"):
            roster.admit("alice")

    def test_accounts_have_their_places_apart(self):
        roster = Roster(1)
        roster.admit("alice")
        roster.admit("bob")
        self.assertRaises(TooManyConnections, roster.admit, "bob")

    def test_a_place_given_back_can_be_taken_again(self):
        roster = Roster(2)
        roster.admit("alice")
        release = roster.admit("alice")
        release()
        roster.admit("alice")
        self.assertRaises(TooManyConnections, roster.admit, "alice")

    def test_anonymous_has_any_number_of_places(self):
        roster = Roster(1)
        releases = [roster.admit("anonymous") for _ in range(5)]
        for release in releases:
            release()
        self.assertEqual(roster._connections, {})

    def test_an_account_without_connections_is_forgotten(self):
        roster = Roster(2)
        roster.admit("alice")()
        self.assertEqual(roster._connections, {})


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
        self.assertEqual((avatar.account, list(avatar.subscriptions)), ("alice", ["time"]))
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
        self.assertEqual((self.rig.roster._connections, self.rig.clock.getDelayedCalls()), ({}, []))

    def test_beginning_after_logging_out_does_nothing(self):
        self.logout()
        self.avatar.begin()
        self.assertEqual((self.sink.samples, self.rig.tally.avatars, self.rig.clock.getDelayedCalls()), ([], 0, []))

    def test_logging_out_before_beginning_gives_the_place_back_only(self):
        self.logout()
        self.assertEqual((self.rig.roster._connections, self.rig.tally.avatars), ({}, 0))

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
            with self.assertRaisesRegex(UnknownFeed, "subscribed: time"):
                self.avatar.perspective_setperiod(5, feed)
        self.assertEqual(self.rig.tally.periods, {"granted": 0, "clamped": 0, "refused": 5})
        self.assertEqual(self.avatar.subscriptions["time"].period, 2)

    def test_setperiod_with_what_is_no_period_is_refused_and_counted(self):
        self.assertRaises(InvalidPeriod, self.avatar.perspective_setperiod, 0)
        self.assertEqual(self.rig.tally.periods["refused"], 1)
