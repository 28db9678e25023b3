"""What a connection may call, who is in, and who has to go."""

import math

from doubles import EPOCH, Mind, Rig, RigCase, Sink, encoded, push_feeds
from twisted.internet.defer import Deferred
from twisted.spread.jelly import jelly
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import TooManyConnections, WrongCredentials
from clockd.hostclock import ClockState
from clockd.session import MOST_TOLD, REASON_LETTERS, Session
from clockd.values import SERVER_DRIFT, Limits, Rights


class RosterCase(SynchronousTestCase):
    """A roster of which the sessions are asked for by name; their clients are `Sink`s."""

    def roster(self, when_full="reject", **limits):
        self.rig = Rig(Limits(connections_per_account=2, **limits), when_full=when_full)
        return self.rig.roster

    def session(self, account="alice"):
        sink = Sink()
        sink.take_notices()
        return Session(account, sink, self.rig.roster, self.rig.desk, self.rig.host, lambda _: None)

    def admit(self, account="alice"):
        session = self.session(account)
        session.avatar = self.rig.realm._avatar(session)
        self.assertIsNone(self.rig.roster.admit(session))
        return session


class RosterTests(RosterCase):
    def test_an_account_has_as_many_places_as_the_limit_and_no_more(self):
        roster = self.roster()
        sessions = [self.admit(), self.admit()]
        with self.assertRaisesRegex(TooManyConnections, "2 connections"):
            roster.admit(self.session())
        self.assertEqual((roster.sessions("alice"), list(roster)), (sessions, sessions))

    def test_accounts_have_their_places_apart(self):
        roster = self.roster()
        sessions = [self.admit(name) for name in ("alice", "bob", "bob")]
        self.assertRaises(TooManyConnections, roster.admit, self.session("bob"))
        self.assertEqual(list(roster), sessions)

    def test_a_place_given_back_can_be_taken_again(self):
        roster = self.roster()
        first, second = self.admit(), self.admit()
        first.logout()
        third = self.admit()
        self.assertEqual(roster.sessions("alice"), [second, third])
        self.assertRaises(TooManyConnections, roster.admit, self.session())

    def test_anonymous_has_any_number_of_places(self):
        roster = self.roster()
        for session in [self.admit("anonymous") for _ in range(5)]:
            session.logout()
        self.assertEqual(roster._sessions, {})

    def test_an_account_without_connections_is_forgotten(self):
        roster = self.roster()
        self.admit().logout()
        self.assertEqual((roster._sessions, roster.sessions("alice")), ({}, []))

    def test_leaving_twice_is_leaving_once_and_who_never_came_may_leave(self):
        roster = self.roster()
        session, other = self.admit(), self.admit()
        for _ in range(2):
            roster.leave(session)
            roster.leave(self.session("bob"))
        self.assertEqual(list(roster), [other])


class ExchangeTests(RigCase):
    def enter(self, **rig):
        self.server = self.rig(Limits(default_period=1000), **rig)
        self.mind = Mind()
        self.peer = self.server.peer().enter(self.mind)

    def exchange(self, *stamp):
        return self.peer.ask(self.peer.perspective, "exchange", *stamp)

    def test_it_returns_the_stamp_two_moments_and_what_the_kernel_says(self):
        for sharing in ("connection", "account"):
            self.enter(sharing=sharing)
            self.server.clock.advance(3)
            self.server.kernel = ClockState("synchronized", 0.25, 37)
            self.server.host.attend()
            self.server.clock.advance(2)
            for stamp in (12.5, -7, 0, 5e-324, 2**447):
                answer = self.exchange(stamp)
                self.assertEqual(answer, (stamp, EPOCH + 5, EPOCH + 5, 0.25 + 2 * SERVER_DRIFT, "synchronized"))
                self.assertIs(type(answer[0]), type(stamp))

    def test_while_the_kernel_says_nothing_the_bound_is_infinite(self):
        self.enter()
        self.assertEqual(self.exchange(1.5), (1.5, EPOCH, EPOCH, math.inf, "unknown"))

    def test_the_second_moment_is_that_of_the_answer_s_encoding(self):
        rig = self.rig()
        session = Session("alice", Sink(), rig.roster, rig.desk, rig.host, lambda _: None)
        session.client.received = EPOCH - 4
        rig.clock.advance(1)
        answer = session.perspective_exchange(1.5)
        rig.clock.advance(2)
        self.assertEqual(jelly(answer)[:4], [b"tuple", 1.5, EPOCH - 4, EPOCH + 3])

    def test_the_first_moment_is_that_of_the_call_s_last_byte(self):
        self.enter()
        call = [b"message", 9, self.peer.perspective.luid, b"exchange", 1, [b"tuple", 1.5], [b"dictionary"]]
        data = encoded(self.peer.broker, call)
        answers = []
        self.peer.broker.waitingForAnswers[9] = Deferred().addBoth(answers.append)
        self.peer.raw(data[:-1])
        self.server.clock.advance(3)
        received = self.peer.server.mind.received
        self.peer.raw(data[-1:])
        self.assertEqual((received, answers[0][1]), (EPOCH, EPOCH + 3))

    def test_each_connection_of_an_account_has_its_own(self):
        self.enter(sharing="account")
        other = self.server.peer().enter(Mind())
        self.server.clock.advance(3)
        self.assertEqual(self.exchange(1.5)[1], EPOCH + 3)
        self.assertEqual((self.peer.server.mind.received, other.server.mind.received), (EPOCH + 3, EPOCH))

    def test_what_is_no_stamp_is_refused(self):
        self.enter()
        for stamp in (math.nan, math.inf, -math.inf, True, None, "1.5", b"1.5", [1.5], (1.5,), {1: 1.5}, self.mind):
            self.assert_failed(self.exchange(stamp), "InvalidValue")
        self.assert_failed(self.exchange(), "InvalidValue")
        self.assert_failed(self.exchange(1.5, 2.5), "InvalidValue")
        self.assertEqual(self.exchange(1.5)[0], 1.5)

    def test_a_step_is_found_before_the_answer_and_its_moments_are_those_after_it(self):
        self.enter()
        self.peer.ask(self.peer.perspective, "subscribe", "server")
        self.peer.server.mind.received = EPOCH - 100  # as if it had come just before the step
        self.server.ahead = -3600.0
        self.server.kernel = ClockState("unsynchronized", math.inf, None)
        session = next(iter(self.server.roster))
        answer = jelly(session.perspective_exchange(1.5))
        self.assertEqual(answer[2:5], [EPOCH - 3600, EPOCH - 3600, math.inf])
        self.assertEqual(answer[5], [b"unicode", b"unsynchronized"])
        self.server.network.flush()
        self.assertEqual(self.mind.samples[0][3], {"kind": "clock_step", "step_seconds": -3600.0})


class ReplaceTests(RosterCase):
    def test_the_oldest_goes_for_one_more_and_is_told_why(self):
        roster = self.roster("replace")
        first, second = self.admit(), self.admit()
        for session in (first, second):
            session.begin()
        third = self.admit()
        self.assertEqual(roster.sessions("alice"), [second, third])
        self.assertEqual((first.client.closed, first.client.samples[-1]), (["replaced"], {"kind": "replaced"}))
        pushes = len(first.client.samples)
        self.rig.clock.advance(3)
        self.assertEqual((len(first.client.samples), second.client.closed), (pushes, []))
        first.logout()
        self.assertEqual(roster.sessions("alice"), [second, third])

    def test_where_the_limit_was_lowered_as_many_go_as_are_too_many(self):
        roster = self.roster("replace")
        sessions = [self.admit(), self.admit()]
        roster.limits = Limits(connections_per_account=1)
        newest = self.admit()
        self.assertEqual((roster.sessions("alice"), [len(each.client.closed) for each in sessions]), ([newest], [1, 1]))

    def test_others_are_left_alone(self):
        self.roster("replace")
        other = self.admit("bob")
        for _ in range(10):
            self.admit()
        self.assertEqual((self.rig.roster.sessions("bob"), other.client.closed), ([other], []))


class PingTests(RosterCase):
    def setUp(self):
        self.roster("ping", ack_seconds=1)
        self.first, self.second = self.admit(), self.admit()

    def ask(self):
        session = self.session()
        session.avatar = self.rig.realm._avatar(session)
        return session, self.rig.roster.admit(session)

    def test_if_the_oldest_answers_the_new_one_is_refused(self):
        _, waiting = self.ask()
        self.assertNoResult(waiting)
        self.first.client.pings[0].callback(True)
        self.failureResultOf(waiting, TooManyConnections)
        self.assertEqual(self.rig.roster.sessions("alice"), [self.first, self.second])
        self.assertEqual((self.first.client.closed, self.rig.clock.getDelayedCalls()), ([], []))

    def test_if_it_does_not_in_time_it_goes_for_the_new_one(self):
        session, waiting = self.ask()
        self.rig.clock.advance(0.999)
        self.assertNoResult(waiting)
        self.rig.clock.advance(0.001)
        self.successResultOf(waiting)
        self.assertEqual(self.rig.roster.sessions("alice"), [self.second, session])
        self.assertEqual((self.first.client.closed, self.first.client.samples), (["replaced"], [{"kind": "replaced"}]))
        self.assertEqual((self.second.client.pings, self.rig.clock.getDelayedCalls()), ([], []))

    def test_a_place_that_becomes_free_meanwhile_is_taken(self):
        session, waiting = self.ask()
        self.second.logout()
        self.rig.clock.advance(1)
        self.successResultOf(waiting)
        self.assertEqual(self.rig.roster.sessions("alice"), [self.first, session])

    def test_if_the_oldest_leaves_meanwhile_its_place_is_taken_at_once_and_nobody_is_replaced(self):
        session, waiting = self.ask()
        self.first.logout()
        self.first.client.pings[0].callback(False)
        self.successResultOf(waiting)
        self.assertEqual((self.rig.roster.sessions("alice"), self.second.client.closed), ([self.second, session], []))

    def test_an_account_that_is_removed_meanwhile_gets_no_place(self):
        _, waiting = self.ask()
        self.rig.removed.add("alice")
        self.rig.clock.advance(1)
        self.failureResultOf(waiting, WrongCredentials)
        self.assertNotIn("replaced", self.second.client.closed)

    def test_of_many_who_wait_one_gets_the_place_of_each_who_is_silent(self):
        asked = [self.ask() for _ in range(20)]
        self.rig.clock.advance(1)
        self.assertEqual(len(self.rig.roster.sessions("alice")), 2)
        self.assertEqual((self.first.client.closed, self.second.client.closed), (["replaced"], []))
        for ping in self.second.client.pings:
            if not ping.called:
                ping.callback(True)
        results = [waiting.result for _, waiting in asked]
        self.assertEqual([result for result in results if result is None], [None])
        for _, waiting in asked[1:]:
            self.failureResultOf(waiting, TooManyConnections)
        self.assertEqual((len(self.rig.roster.sessions("alice")), self.rig.clock.getDelayedCalls()), (2, []))


class AdminCase(RigCase):
    """A stock client `alice`, who is an administrator, and others."""

    def serve(self, **how):
        names, feeds = ("alice", "bob", "carol"), push_feeds({"load": Rights()})
        self.rig_ = self.rig(Limits(connections_per_account=1000), names, feeds=feeds, **how)
        self.rig_.admins.add("alice")
        self.mind, self.admin = self.enter("alice")

    def enter(self, name="bob"):
        mind = Mind()
        return mind, self.rig_.peer().enter(mind, name.encode())

    def ask(self, *args, peer=None, **kwargs):
        peer = peer or self.admin
        return peer.ask(peer.perspective, *args, **kwargs)

    def refused(self, name, *args, peer=None, **kwargs):
        result = self.ask(*args, peer=peer, **kwargs)
        self.assert_failed(result, name)
        return result.getErrorMessage()

    def connected(self, *peers):
        return [peer.server in self.rig_.factory.connections for peer in peers]

    def advance(self, seconds, step=1.0):
        self.rig_.network.advance(seconds, step)


class StatusTests(AdminCase):
    def test_one_is_told_of_one_s_own_connection(self):
        self.serve()
        _, first = self.enter()
        self.advance(10)
        _, second = self.enter()
        self.ask("setperiod", 2, peer=second)
        self.ask("subscribe", "load", 5, peer=second)
        self.advance(4)
        self.assertEqual(
            self.ask("status", peer=second),
            {
                "account": "bob",
                "connections": 2,
                "periods": {"time": 2.0, "load": 5.0},
                "pushes": 3,
                "skipped": 0,
                "connected_since": EPOCH + 10,
            },
        )
        self.assertEqual(self.ask("status", peer=first)["pushes"], 15)

    def test_pushes_that_were_skipped_are_told(self):
        self.serve()
        _, bob = self.enter()
        bob.wire.frozen = True
        self.advance(20)
        skipped = self.rig_.time.skipped["unacknowledged"]
        bob.wire.frozen = False
        self.rig_.network.flush()
        status = self.ask("status", peer=bob)
        self.assertGreater(skipped, 8)
        self.assertEqual((status["pushes"], status["skipped"]), (self.rig_.time.pushes - 21, skipped))

    def test_it_takes_no_arguments(self):
        self.serve()
        self.refused("InvalidValue", "status", 1)


class SessionsTests(AdminCase):
    def test_each_is_told_of_with_what_there_is_to_know(self):
        self.serve()
        _, bob = self.enter()
        self.ask("subscribe", "load", 3, peer=bob)
        self.advance(10)
        found = {session["account"]: session for session in self.ask("sessions")}
        self.assertEqual(set(found), {"alice", "bob"})
        self.assertEqual(
            {name: value for name, value in found["bob"].items() if name not in {"address", "pushes_per_second"}},
            {
                "account": "bob",
                "periods": {"time": 1.0, "load": 3.0},
                "skipped": 0,
                "acknowledgement_seconds": 0.0,
                "connected_since": EPOCH,
            },
        )
        self.assertEqual(found["bob"]["address"], bob.server.peer())
        self.assertAlmostEqual(found["bob"]["pushes_per_second"], 1.1)

    def test_the_rate_is_a_mean_over_the_last_two_seconds_or_more_however_many_look(self):
        self.serve()
        self.ask("setperiod", 0.1)
        for _ in range(10):
            self.advance(2, 0.1)
            self.assertTrue(9.4 < self.ask("sessions")[0]["pushes_per_second"] < 10.6)
        self.ask("setperiod", 1)
        self.advance(4)
        for _ in range(40):  # one looks every two seconds, others in between
            self.advance(0.4, 0.1)
            self.assertTrue(0.49 < self.ask("sessions")[0]["pushes_per_second"] < 1.51)

    def test_the_rate_of_who_has_just_come_is_counted_over_two_seconds(self):
        self.serve()
        _kept = self.enter()
        for age, pushes in ((0, 1), (1, 2), (1, 3)):
            self.advance(age)
            told = {session["account"]: session["pushes_per_second"] for session in self.ask("sessions")}
            self.assertAlmostEqual(told["bob"], pushes / 2)

    def test_they_come_in_the_order_that_was_asked_for_and_no_more_than_the_limit(self):
        self.serve()
        for number, name in enumerate(("bob", "alice", "bob")):
            self.advance(1)
            _, peer = self.enter(name)
            peer.server.mind.skipped = number
            peer.server.mind.acknowledgement = [None, 3.0, 2.0][number]
        told = self.ask("sessions", sort="connected_since")
        since = [session["connected_since"] - EPOCH for session in told]
        self.assertEqual(since, [3, 2, 1, 0])
        self.assertEqual([each["skipped"] for each in self.ask("sessions", 2)], [2, 1])
        self.assertEqual([each["skipped"] for each in self.ask("sessions", limit=1, sort="skipped")], [2])
        self.assertEqual(
            [each["account"] for each in self.ask("sessions", sort="account")], ["alice"] * 2 + ["bob"] * 2
        )
        by_answer = [each["acknowledgement_seconds"] for each in self.ask("sessions", 2, "acknowledgement_seconds")]
        self.assertEqual(by_answer, [3.0, 2.0])
        addresses = [each["address"] for each in self.ask("sessions", sort="address")]
        self.assertEqual(addresses, sorted(addresses))
        rates = [each["pushes_per_second"] for each in self.ask("sessions", sort="pushes_per_second")]
        self.assertEqual(rates, sorted(rates, reverse=True))

    def test_those_with_equal_values_come_by_account_and_then_by_address(self):
        self.serve()
        peers = [self.enter(name) for name in ("carol", "bob", "carol", "bob")]
        self.assertEqual(len(peers), 4)
        expected = sorted((each.account, each.client.address) for each in self.rig_.roster)
        for sort in ("skipped", "account", "connected_since"):
            told = [(each["account"], each["address"]) for each in self.ask("sessions", sort=sort)]
            self.assertEqual(told, expected)

    def test_only_administrators_are_told_and_only_as_long_as_they_are(self):
        self.serve()
        _, bob = self.enter()
        self.assertRegex(self.refused("NotPermitted", "sessions", peer=bob), "role admin")
        self.refused("NotPermitted", "kick", "alice", "why not", peer=bob)
        self.rig_.admins.add("bob")
        self.assertEqual(len(self.ask("sessions", peer=bob)), 2)
        self.rig_.admins.remove("bob")
        self.refused("NotPermitted", "sessions", peer=bob)

    def test_other_limits_and_orders_are_refused(self):
        self.serve()
        for limit in (0, -1, MOST_TOLD + 1, True, 1.0, "1", None, math.nan, [1]):
            self.assertRegex(self.refused("InvalidValue", "sessions", limit), "from 1 to 200")
        for sort in ("", "periods", "nonsense", b"skipped", None, 1, ["skipped"]):
            self.assertRegex(self.refused("InvalidValue", "sessions", 1, sort), "sort is one of account, address")
        self.assertEqual(len(self.ask("sessions", MOST_TOLD)), 1)


class KickTests(AdminCase):
    def test_all_connections_of_an_account_are_closed_and_told_why_if_they_take_notices(self):
        self.serve()
        (mind, first), (_, second), (_, other) = self.enter(), self.enter(), self.enter("carol")
        self.ask("subscribe", "server", peer=first)
        self.assertEqual(self.ask("kick", "bob", "you know why"), 2)
        self.rig_.network.flush()
        self.assertEqual(mind.samples, [("server", 1, EPOCH, {"kind": "kicked", "reason": "you know why"})])
        self.assertEqual(self.connected(first, second, other), [False, False, True])
        self.assertEqual(self.rig_.tally.closed["kicked"], 2)
        self.assertEqual(self.rig_.roster.sessions("bob"), [])

    def test_the_connection_that_asks_is_not_closed(self):
        self.serve()
        _, other = self.enter("alice")
        self.assertEqual(self.ask("kick", "alice", ""), 1)
        self.rig_.network.flush()
        self.assertEqual(self.connected(other, self.admin), [False, True])

    def test_of_an_account_that_is_not_there_none_is(self):
        self.serve()
        self.assertEqual(self.ask("kick", "nobody", "x"), 0)

    def test_it_is_pushed_nothing_more_though_it_does_not_read(self):
        self.serve()
        _, bob = self.enter()
        bob.wire.frozen = True
        self.ask("kick", "bob", "x")
        before = self.rig_.time.subscriptions
        self.assertEqual(before, 1)
        self.advance(5)
        self.assertEqual((len(self.rig_.factory.connections), self.rig_.tally.closed["kicked"]), (1, 1))

    def test_what_is_no_name_or_no_reason_is_refused(self):
        self.serve()
        _, bob = self.enter()
        for args in ((None, "x"), (b"bob", "x"), (1, "x"), ("bob", None), ("bob", b"x"), ("bob", "x" * 201)):
            self.refused("InvalidValue", "kick", *args)
        self.refused("InvalidValue", "kick", "bob")
        self.assertEqual(self.connected(bob), [True])
        self.assertEqual(self.ask("kick", "bob", "x" * REASON_LETTERS), 1)
