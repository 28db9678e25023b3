"""The server as a stock Perspective Broker client, and one that is not so stock, meets it."""

import math
import sys
from datetime import date
from decimal import Decimal
from functools import partial
from itertools import pairwise
from types import MethodType, SimpleNamespace

from doubles import (
    EPOCH,
    SECRET,
    Broken,
    Delayed,
    DelayedRealm,
    Mind,
    RigCase,
    clockd_logs,
    encoded,
    written,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.cred.credentials import Anonymous
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogLevel
from twisted.spread import pb
from twisted.spread.jelly import jelly as jellied
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from clockd.boundary import Boundary
from clockd.broker import CLOSE_SECONDS, MAX_MIND_ID, SWEPT, TOLD, RemoteMind, printable_address
from clockd.errors import InvalidValue, UnknownMethod
from clockd.interfaces import IClient
from clockd.values import Limits

keys = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(), st.binary())
values = st.recursive(
    keys,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
    ),
    max_leaves=10,
)


@implementer(IRealm)
class FaultyRealm:
    """Its avatars have methods with bugs."""

    account = "alice"

    def __init__(self, realm):
        pass

    def requestAvatar(self, name, mind, *interfaces):
        return interfaces[0], self, lambda: None

    def begin(self):
        pass

    def perspective_raises(self):
        raise ZeroDivisionError("the secret is hunter2")

    def perspective_fails(self):
        return fail(ZeroDivisionError("the secret is hunter2"))

    def perspective_returns(self):
        return Unsendable()


class Unsendable(pb.Referenceable):
    def jellyFor(self, jellier):
        raise ZeroDivisionError("the secret is hunter2")


class LoginTests(RigCase):
    def test_a_login_gives_a_perspective_and_counts_the_connection_as_authenticated(self):
        rig = self.rig()
        peer = rig.peer()
        self.assertEqual((rig.tally.pending, rig.tally.authenticated, rig.tally.opened), (1, 0, 1))
        self.assertIsInstance(peer.enter(Mind()).perspective, pb.RemoteReference)
        self.assertEqual((rig.tally.pending, rig.tally.authenticated, rig.tally.avatars), (0, 1, 1))
        self.assertEqual(rig.tally.logins["secret", "ok"], 1)

    def test_the_first_push_follows_the_login_s_answer_at_once(self):
        mind = Mind()
        peer = self.rig().peer().enter(mind)
        said = [(e[0], e[3] if e[0] == b"message" else None) for e in written(peer.wire.serverIO)]
        self.assertEqual(said[-2:], [(b"answer", None), (b"message", b"notifyTime")])
        self.assertEqual(mind.stamps, [EPOCH])

    def test_pushes_go_on_once_a_period(self):
        rig, mind = self.rig(), Mind()
        rig.peer().enter(mind)
        rig.network.advance(3, 1)
        self.assertEqual(mind.stamps, [EPOCH, EPOCH + 1, EPOCH + 2, EPOCH + 3])
        self.assertEqual(rig.time.pushes, 4)

    def test_a_wrong_secret_and_an_unknown_name_are_wrong_credentials(self):
        rig = self.rig()
        for name, secret in ((b"alice", "wrong"), (b"mallory", SECRET)):
            failure = rig.peer().login(Mind(), name, secret)
            self.assert_failed(failure, "WrongCredentials")
            self.assertTrue(failure.check(UnauthorizedLogin))

    def test_a_failed_login_may_be_tried_again_twice(self):
        rig = self.rig()
        peer = rig.peer()
        for _ in range(2):
            self.assert_failed(peer.login(Mind(), secret="wrong"), "WrongCredentials")
        peer.enter(Mind())
        self.assertEqual(sum(rig.tally.closed.values()), 0)

    def test_the_third_failed_login_is_answered_and_ends_the_connection_for_limit(self):
        rig = self.rig()
        peer = rig.peer()
        for _ in range(3):
            self.assertEqual(rig.tally.closed["limit"], 0)
            self.assert_failed(peer.login(Mind(), secret="wrong"), "WrongCredentials")
        self.assertEqual((rig.tally.closed["limit"], peer.broker.disconnected), (1, 1))

    def test_logins_sent_ahead_get_three_tries_too(self):
        rig = self.rig()
        peer = rig.peer()
        peer.deafen()
        jellied, mind = [], [b"remote", 1]
        for luid in range(1, 11):
            jellied += [
                [b"message", 1, b"root", b"login", 1, [b"tuple", b"alice"], [b"dictionary"]],
                [b"message", 2, luid, b"respond", 1, [b"tuple", bytes(16), mind], [b"dictionary"]],
            ]
        peer.send(*jellied)
        self.assertEqual(rig.tally.logins["secret", "denied"], 3)

    def test_more_tries_than_there_are_order_one_close_that_goes_with_the_connection(self):
        message = [b"message", 1, b"root", b"login", 0, [b"tuple", b"alice"], [b"dictionary"]]
        for tries, ordered in ((3, 0), (4, 1), (6, 1)):
            rig = self.rig()
            peer = rig.peer()
            peer.server.dataReceived(encoded(peer.broker, message) * tries)
            self.assertEqual(len(rig.clock.getDelayedCalls()), ordered)
            peer.server.transport.loseConnection()

    def test_a_response_sent_behind_one_try_too_many_fits_no_challenge(self):
        rig = self.rig()
        peer = rig.peer()
        for _ in range(3):
            challenger, response = peer.challenge()
        login = [b"message", 90, b"root", b"login", 0, [b"tuple", b"alice"], [b"dictionary"]]
        respond = [
            b"message",
            91,
            challenger.luid,
            b"respond",
            0,
            [b"tuple", response, [b"remote", 1]],
            [b"dictionary"],
        ]
        peer.deafen()
        peer.server.dataReceived(encoded(peer.broker, login) + encoded(peer.broker, respond))
        rig.network.flush()
        self.assertEqual((rig.tally.logins["secret", "ok"], rig.tally.avatars), (0, 0))

    def test_anonymous_is_a_try_like_any_other(self):
        rig = self.rig(anonymous=True)
        peer = rig.peer()
        challenges = [peer.challenge() for _ in range(3)]
        self.assertEqual(len(challenges), 3)
        self.assert_failed(peer.ask(peer.root, "loginAnonymous", Mind()), "NotPermitted")

    def test_a_second_login_on_a_connection_is_refused_and_the_first_goes_on(self):
        rig, mind = self.rig(), Mind()
        peer = rig.peer().enter(mind)
        self.assert_failed(peer.login(Mind()), "NotPermitted")
        rig.network.advance(1)
        self.assertEqual((len(mind.stamps), rig.tally.authenticated), (2, 1))

    def test_a_fourth_challenge_is_refused_and_ends_the_connection_for_limit(self):
        rig = self.rig()
        peer = rig.peer()
        for _ in range(3):
            peer.challenge()
        self.assertEqual(rig.tally.closed["limit"], 0)
        self.assert_failed(peer.ask(peer.root, "login", b"alice"), "NotPermitted")
        self.assertEqual(rig.tally.closed["limit"], 1)

    def test_a_challenge_is_answered_once(self):
        peer = self.rig().peer()
        challenger, response = peer.challenge()
        self.assert_failed(peer.ask(challenger, "respond", bytes(16), Mind()), "WrongCredentials")
        self.assert_failed(peer.ask(challenger, "respond", response, Mind()), "NotPermitted")

    def test_a_connection_over_its_account_s_limit_is_refused_until_one_has_left(self):
        rig = self.rig(Limits(connections_per_account=2))
        peers = [rig.peer().enter(Mind()) for _ in range(2)]
        self.assert_failed(rig.peer().login(Mind()), "TooManyConnections")
        self.assertEqual(rig.tally.logins["secret", "limit"], 1)
        peers[0].leave()
        rig.peer().enter(Mind())

    def test_anonymous_is_refused_where_it_is_not_offered(self):
        peer = self.rig().peer()
        self.assert_failed(peer.ask(peer.root, "loginAnonymous", Mind()), "NotPermitted")

    def test_anonymous_logs_in_where_it_is_offered(self):
        rig, mind = self.rig(anonymous=True), Mind()
        peer = rig.peer()
        logins = []
        peer.factory.login(Anonymous(), mind).addBoth(logins.append)
        rig.network.flush()
        self.assertIsInstance(logins[0], pb.RemoteReference)
        self.assertEqual((rig.tally.logins["anonymous", "ok"], mind.stamps), (1, [EPOCH]))

    def test_anonymous_too_needs_a_mind(self):
        peer = self.rig(anonymous=True).peer()
        self.assert_failed(peer.ask(peer.root, "loginAnonymous", None), "InvalidValue")

    def test_a_broken_checker_is_logged_once_and_told_to_nobody(self):
        peer = self.rig(checker=Broken()).peer()
        failure = peer.login(Mind())
        self.assert_failed(failure, "ServerFault")
        self.assertNotIn(b"hunter2", peer.wire.serverIO.written)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_login_that_wants_no_answer_fails_in_silence(self):
        rig = self.rig()
        peer = rig.peer()
        challenger, _ = peer.challenge()
        peer.ask(challenger, "respond", bytes(16), Mind(), pbanswer=False)
        peer.leave()
        del rig.peers[:], rig.network.wires[:], peer, challenger
        self.collect()
        self.assertEqual(self.flushLoggedErrors(), [])


class NameTests(RigCase):
    def test_a_name_may_be_bytes_or_text(self):
        rig = self.rig(names=["älice"])
        rig.peer().enter(Mind(), "älice".encode())
        rig.peer().enter(Mind(), "älice")

    def test_a_name_has_up_to_64_bytes(self):
        longest = "ä" * 32
        rig = self.rig(names=[longest])
        for name in (longest, longest.encode()):
            rig.peer().enter(Mind(), name)

    def test_a_name_of_65_bytes_is_invalid(self):
        for name in ("ä" * 32 + "a", b"a" * 65):
            self.assert_failed(self.rig().peer().login(Mind(), name), "InvalidValue")

    def test_what_is_no_name_is_invalid(self):
        peer = self.rig().peer()
        for name in (b"", "", b"\xff", None, 1, ["alice"], {"a": 1}, True, 1.0):
            self.assert_failed(peer.ask(peer.root, "login", name), "InvalidValue")
        peer.enter(Mind())


class MindTests(RigCase):
    def test_what_is_no_remote_object_is_no_mind(self):
        for mind in (None, 7, [1], {}, "mind", b"mind", True):
            self.assert_failed(self.rig().peer().login(mind), "InvalidValue")

    def test_an_object_of_the_server_is_no_mind_and_ends_the_connection(self):
        rig = self.rig()
        peer = rig.peer()
        challenger, response = peer.challenge()
        peer.ask(challenger, "respond", response, challenger)
        self.assertEqual(rig.tally.closed["protocol"], 1)

    def test_a_mind_s_id_is_an_int_from_1_to_31_bits(self):
        rig = self.rig()
        for luid in (0, -1, MAX_MIND_ID + 1, 2**400):
            peer = rig.peer()
            challenger, response = peer.challenge()
            failure = peer.ask_raw(challenger.luid, b"respond", response, [b"remote", luid])
            self.assert_failed(failure, "InvalidValue")

    def test_an_id_of_another_type_ends_the_connection(self):
        rig = self.rig()
        for luid in (b"1", b"x" * 700, 1.0, [b"unicode", b"x"], []):
            peer = rig.peer()
            challenger, response = peer.challenge()
            peer.ask_raw(challenger.luid, b"respond", response, [b"remote", luid])
        self.assertEqual(rig.tally.closed["protocol"], 5)

    def test_the_least_and_the_largest_id_are_taken(self):
        rig = self.rig()
        for luid in (1, MAX_MIND_ID):
            peer = rig.peer()
            challenger, response = peer.challenge()
            answer = peer.ask_raw(challenger.luid, b"respond", response, [b"remote", luid])
            self.assertIsInstance(answer, pb.RemoteReference)
            self.flushLoggedErrors(pb.NoSuchMethod)
            pushes = [e for e in written(peer.wire.serverIO) if e[0] == b"message" and e[3] == b"notifyTime"]
            self.assertEqual([push[2] for push in pushes], [luid])

    def test_after_an_invalid_mind_the_challenge_is_still_open(self):
        peer = self.rig().peer()
        challenger, response = peer.challenge()
        self.assert_failed(peer.ask(challenger, "respond", response, None), "InvalidValue")
        self.assertIsInstance(peer.ask(challenger, "respond", response, Mind()), pb.RemoteReference)

    def test_a_response_that_is_not_16_bytes_is_invalid(self):
        peer = self.rig().peer()
        challenger, _ = peer.challenge()
        for response in (None, "text", 1, [], b"", b"x" * 15, b"x" * 17, b"x" * 900):
            self.assert_failed(peer.ask(challenger, "respond", response, Mind()), "InvalidValue")
        self.assert_failed(peer.ask(challenger, "respond", b"x" * 16, Mind()), "WrongCredentials")

    def test_an_unfinished_reference_leaves_no_trace(self):
        raised = []
        self.patch(sys, "unraisablehook", raised.append)
        peer = self.rig().peer()
        peer.enter(Mind())
        self.assert_failed(peer.ask_raw(b"root", b"login", [b"remote"]), "InvalidValue")
        self.collect()
        self.assertEqual(raised, [])


class LeavingTests(RigCase):
    def test_lost_while_the_checker_works_releases_the_avatar(self):
        for leave in ("leave", "cut"):
            checker = Delayed()
            rig = self.rig(checker=checker)
            peer = rig.peer()
            peer.login(Mind())
            peer.leave() if leave == "leave" else peer.wire.cut()
            rig.network.flush()
            checker.asked[0].callback(b"alice")
            self.assert_empty(rig)

    def test_lost_while_the_checker_works_and_then_refused_is_nothing(self):
        checker = Delayed()
        rig = self.rig(checker=checker)
        peer = rig.peer()
        peer.login(Mind())
        peer.leave()
        checker.asked[0].errback(UnauthorizedLogin())
        self.collect()
        self.assertEqual((rig.tally.logins["secret", "ok"], rig.roster._sessions), (0, {}))

    def test_lost_while_the_realm_works_releases_the_avatar(self):
        realms = []
        rig = self.rig(realm=lambda realm: realms.append(DelayedRealm(realm)) or realms[0])
        peer = rig.peer()
        peer.login(Mind())
        peer.leave()
        self.assertEqual(len(rig.roster.sessions("alice")), 1)
        realms[0].asked[0].callback(None)
        self.assert_empty(rig)

    def test_lost_between_the_answer_and_the_beginning_releases_the_avatar(self):
        checker = Delayed()
        rig = self.rig(checker=checker)
        peer = rig.peer()
        peer.login(Mind())
        checker.asked[0].callback(b"alice")
        self.assertEqual(len(rig.clock.getDelayedCalls()), 1)
        peer.wire.cut()
        while peer.wire.pump(advanceClock=False):
            pass
        self.assertEqual((rig.clock.getDelayedCalls(), rig.roster._sessions, rig.time.pushes), ([], {}, 0))

    def test_a_connection_closed_in_order_was_ended_by_the_client(self):
        rig = self.rig()
        rig.peer().enter(Mind()).leave()
        self.assertEqual(rig.tally.closed["client"], 1)

    def test_a_connection_that_breaks_was_lost(self):
        rig = self.rig()
        peer = rig.peer().enter(Mind())
        peer.wire.cut()
        rig.network.flush()
        self.assertEqual(rig.tally.closed["lost"], 1)

    def test_letting_go_of_the_perspective_logs_out_and_closes(self):
        rig, mind = self.rig(), Mind()
        peer = rig.peer().enter(mind)
        peer.perspective = None
        rig.network.flush()
        self.assertEqual((rig.tally.closed["client"], rig.tally.avatars, peer.broker.disconnected), (1, 0, 1))
        rig.network.advance(2, 1)
        self.assertEqual(mind.stamps, [EPOCH])

    def test_what_comes_behind_letting_go_is_not_served_and_nothing_is_pushed_any_more(self):
        rig, mind = self.rig(), Mind()
        peer = rig.peer().enter(mind)
        luid = peer.perspective.luid
        setperiod = [b"message", 9, luid, b"setperiod", 0, [b"tuple", 0.1], [b"dictionary"]]
        peer.server.dataReceived(encoded(peer.broker, [b"decref", luid]) + encoded(peer.broker, setperiod))
        self.assertEqual((rig.tally.avatars, rig.tally.periods["granted"]), (0, 0))
        peer.broker.sendDecRef = lambda _: None

    def test_letting_go_of_something_else_closes_nothing(self):
        rig = self.rig()
        peer = rig.peer()
        self.assert_failed(peer.login(Mind(), secret="wrong"), "WrongCredentials")  # lets go of the challenger
        peer.enter(Mind())
        self.collect()
        rig.network.flush()
        self.assertEqual((rig.tally.authenticated, sum(rig.tally.closed.values())), (1, 0))

    def test_a_server_that_stops_ends_every_connection(self):
        rig = self.rig()
        peers = [rig.peer(), rig.peer().enter(Mind())]
        rig.factory.end_all()
        rig.network.flush()
        self.assertEqual([peer.broker.disconnected for peer in peers], [1, 1])
        self.assertEqual(rig.tally.closed["drain"], 2)


class CallTests(RigCase):
    def setUp(self):
        self.server = self.rig(Limits(default_period=2))
        self.peer = self.server.peer().enter(Mind())

    def call(self, *args, **kwargs):
        return self.peer.ask(self.peer.perspective, *args, **kwargs)

    def assert_period(self, period):
        self.assertEqual(self.server.time.requested, 1 / period)

    def test_setperiod_answers_what_was_granted(self):
        for asked in (5, 5.0):
            self.assertEqual(self.call("setperiod", asked), 5.0)
        self.assertEqual(self.call("setperiod", period=7, feed="time"), 7.0)
        self.assert_period(7)
        self.assertEqual(self.server.tally.periods, {"granted": 3, "clamped": 0, "refused": 0})

    def test_setperiod_buys_no_push(self):
        for _ in range(50):
            self.call("setperiod", 2)
        self.assertEqual(self.server.time.pushes, 1)

    def test_what_is_no_period_is_refused_and_the_old_one_stays(self):
        wrong = [True, False, math.nan, math.inf, -math.inf, 0, 0.0, -0.0, -1, -(10**100), -1e-300, "1", b"1", None]
        wrong += [[1], (1,), {"period": 1}, Mind()]
        for period in wrong:
            self.assert_failed(self.call("setperiod", period), "InvalidPeriod")
        self.assertEqual(self.server.tally.periods, {"granted": 0, "clamped": 0, "refused": len(wrong)})
        self.assert_period(2)
        self.server.network.advance(2)
        self.assertEqual(self.server.time.pushes, 2)

    def test_a_period_within_the_limits_is_granted_and_one_outside_clamped(self):
        for asked, granted in ((0.01, 0.01), (86400, 86400.0)):
            self.assertEqual(self.call("setperiod", asked), granted)
        self.assertEqual(self.server.tally.periods["granted"], 2)
        low, high = (0.00999, 1e-300, 5e-324), (86401, 86400.01, 1e308, 10**100, 2**448 - 1)
        for asked in low:
            self.assertEqual(self.call("setperiod", asked), 0.01)
        for asked in high:
            self.assertEqual(self.call("setperiod", asked), 86400.0)
        self.assertEqual(self.server.tally.periods, {"granted": 2, "clamped": 8, "refused": 0})

    def test_types_that_no_call_takes_are_invalid(self):
        for value in (Decimal(1), {1}, date(2026, 1, 1), self.peer.perspective):
            self.assert_failed(self.call("setperiod", value), "InvalidValue")
        self.assert_period(2)

    def test_a_feed_that_is_not_subscribed_is_unknown(self):
        for feed in ("weather", None, 1, ["time"]):
            self.assert_failed(self.call("setperiod", 1, feed), "UnknownFeed")

    def test_a_wrong_number_or_name_of_arguments_is_invalid(self):
        for args, kwargs in (((), {}), ((1, "time", 3), {}), ((1,), {"seconds": 1}), ((1,), {"period": 1})):
            failure = self.call("setperiod", *args, **kwargs)
            self.assert_failed(failure, "InvalidValue")
            self.assertIn("setperiod takes (period, feed)", str(failure.value))
        self.assert_failed(self.peer.ask(self.peer.root, "login"), "InvalidValue")

    def test_an_unknown_method_is_one_and_also_twisted_s_own_error_for_it(self):
        for name in ("nonsense", "", "__init__", "logout", "_told", "x" * 10_000, "ä"):
            failure = self.call(name)
            self.assert_failed(failure, "UnknownMethod")
            self.assertTrue(failure.check(pb.NoSuchMethod))

    def test_an_unknown_method_is_one_before_login_too(self):
        peer = self.server.peer()
        self.assert_failed(peer.ask(peer.root, "respond", b"", Mind()), "UnknownMethod")

    def test_arguments_that_are_no_jelly_are_invalid(self):
        luid = self.peer.perspective.luid
        for argument in ([b"module", b"os"], [b"nonsense.Class"], [b"cached", 1], [b"dereference"], [[]], [1]):
            self.assert_failed(self.peer.ask_raw(luid, b"setperiod", argument), "InvalidValue")
        self.peer.broker.waitingForAnswers[7] = answer = Deferred()
        self.peer.send([b"message", 7, luid, b"setperiod", 1, 5, 5])
        self.assert_failed(self.failureResultOf(answer), "InvalidValue")

    def test_a_dictionary_of_no_pairs_is_invalid(self):
        for n, pairs in enumerate(([5], [[]], [[1]], [[1, 2, 3]], [b"ab"], [[[b"list"], 1]])):
            self.peer.broker.waitingForAnswers[n] = answer = Deferred()
            message = [b"message", n, self.peer.perspective.luid, b"setperiod", 1, [b"tuple"], [b"dictionary", *pairs]]
            self.peer.send(message)
            self.assert_failed(self.failureResultOf(answer), "InvalidValue")
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_keyword_may_come_as_text(self):
        self.peer.broker.waitingForAnswers[7] = answer = Deferred()
        keywords = [b"dictionary", [[b"unicode", b"period"], 3]]
        self.peer.send([b"message", 7, self.peer.perspective.luid, b"setperiod", 1, [b"tuple"], keywords])
        self.assertEqual(self.successResultOf(answer), 3.0)

    def test_a_call_that_wants_no_answer_gets_none(self):
        before = len(written(self.peer.wire.serverIO))
        for method, argument in (("setperiod", 5), ("setperiod", 0), ("nonsense", 1)):
            self.call(method, argument, pbanswer=False)
        self.assertEqual(len(written(self.peer.wire.serverIO)), before)
        self.assert_period(5)

    def test_a_refusal_is_the_same_each_time(self):
        """It does not tell, for one, how many failures the server has seen."""
        said = []
        for _ in range(2):
            self.assert_failed(self.call("nonsense"), "UnknownMethod")
            _, _, jelly = written(self.peer.wire.serverIO)[-1]
            said.append(jelly)
        self.assertEqual(said[0], said[1])

    def test_an_object_that_is_not_there_is_twisted_s_error(self):
        failure = self.peer.ask_raw(12345, b"setperiod", 1)
        self.assertTrue(failure.check(pb.Error))


class Taker:
    """Its one method keeps what it was given."""

    def __init__(self):
        self.refused = []

    def remote_take(self, value, more=None):
        self.taken = value, more

    def refused_take(self, value):
        self.refused.append(value)


class Refuser(Taker):
    """Its one method takes nothing."""

    def remote_take(self, *_):
        raise InvalidValue("nothing is taken")


class ArgumentTests(SynchronousTestCase):
    @settings(deadline=None)
    @given(*[values] * 2)
    @example([()], {None: {True: {1.5: ["a", b"b", "ä"]}}})
    def test_what_a_call_is_given_is_what_perspective_broker_makes_of_it(self, one, other):
        broker, taker = pb.Broker(), Taker()
        for arguments, keywords in (((one, other), {}), ((one,), {"more": other}), ((), {"value": one, "more": other})):
            message = map(jellied, (arguments, keywords))
            Boundary(taker, "remote_").remoteMessageReceived(broker, "take", *message)
            self.assertEqual(repr(taker.taken), repr((one, other)))

    def test_a_call_may_have_as_many_arguments_as_its_method_takes_and_no_more(self):
        broker, taker = pb.Broker(), Taker()

        def call(*arguments, **keywords):
            boundary = Boundary(taker, "remote_")
            return boundary.remoteMessageReceived(broker, "take", jellied(arguments), jellied(keywords))

        for arguments, keywords in (((1,), {}), ((1, 2), {}), ((1,), {"more": 2}), ((), {"value": 1})):
            self.assertEqual(call(*arguments, **keywords), [b"None"])
        for arguments, keywords in (
            *(((), {}), ((1, 2, 3), {}), ((1,), {"value": 2}), ((1, 2), {"more": 3}), ((1,), {"other": 2})),
            *(((), {"more": 1}), ((1,), {"self": 1})),
        ):
            with self.assertRaisesRegex(InvalidValue, r"^take takes \(value, more\)$"):
                call(*arguments, **keywords)

    def test_the_target_is_told_of_a_call_that_is_refused_and_of_its_first_argument_if_that_is_text(self):
        text, bad, nothing = [b"unicode", "ä".encode()], [b"instance"], [b"dictionary"]
        for args, kw, told in (
            *(([b"tuple", text, bad], nothing, "ä"), ([b"tuple", text], [b"dictionary", [b"more", bad]], "ä")),
            *(([b"tuple", text, 1, 2], nothing, "ä"), ([b"tuple", text, text], [b"dictionary", [b"value", 1]], "ä")),
            ([b"tuple"], [b"dictionary", [b"more", bad], [b"value", text]], "ä"),
            ([b"tuple"], [b"dictionary", [[b"unicode", b"value"], text], bad], "ä"),
            ([b"tuple", [b"unicode", b"\xff"]], nothing, "\ufffd"),
            ([b"tuple"], [b"dictionary", [b"value", [b"unicode", b"\xff"]]], "\ufffd"),
            *(([b"tuple"], nothing, None), ([b"tuple", bad], nothing, None), ([b"tuple", b"a", bad], nothing, None)),
            *(([b"tuple", bad, text], nothing, None), ([b"tuple"], [b"dictionary", [b"more", text]], None)),
            *(([b"tuple", [b"unicode", 1]], nothing, None), ([b"tuple", [b"unicode"]], nothing, None)),
            ([b"tuple", bad], [b"dictionary", [b"value", text]], None),
            *((5, nothing, None), ([], [], None), (text, [b"dictionary", 5, [], [b"value"]], None)),
        ):
            taker = Taker()
            with self.assertRaises(InvalidValue):
                Boundary(taker, "remote_").remoteMessageReceived(pb.Broker(), "take", args, kw)
            self.assertEqual(taker.refused, [told], (args, kw))

    def test_the_target_is_not_told_of_what_its_method_refuses_or_of_a_method_that_is_not_there(self):
        taker = Refuser()
        for name, error in (("take", InvalidValue), ("refuse", UnknownMethod), ("", UnknownMethod)):
            with self.assertRaises(error):
                Boundary(taker, "remote_").remoteMessageReceived(pb.Broker(), name, jellied(("a",)), jellied({}))
        self.assertEqual(taker.refused, [])


class KeyTests(RigCase):
    """Keys of a dictionary: a peer must not be able to choose many with one hash."""

    def assert_taken(self, taken, *keys):
        peer = self.rig().peer().enter(Mind())
        for key in keys:
            pairs = [b"dictionary", [key, 1]]
            answer = peer.ask_raw(peer.perspective.luid, b"setperiod", pairs)
            self.assertTrue(answer.check("clockd.errors." + ("InvalidPeriod" if taken else "InvalidValue")), key)

    def test_what_has_a_hash_that_no_peer_can_choose_may_be_one(self):
        self.assert_taken(True, 2**63 - 1, -(2**63), 0.5, b"x", [b"None"], [b"unicode", b"x"], [b"boolean", b"true"])

    def test_long_ints_tuples_and_references_may_not(self):
        self.assert_taken(
            False, 2**63, -(2**63) - 1, [b"tuple", 2**61 - 1], [b"remote", 2**61 - 1], [b"list"], [b"dictionary"]
        )


class FaultTests(RigCase):
    def fault(self, method):
        peer = self.rig(realm=FaultyRealm).peer()
        perspective = peer.login(Mind())
        with clockd_logs(LogLevel.critical) as logged:
            failure = peer.ask(perspective, method)
        self.assert_failed(failure, "ServerFault")
        for secret in (b"hunter2", b"ZeroDivision", b"test_broker"):
            self.assertNotIn(secret, peer.wire.serverIO.written)
        self.assertEqual(len(logged), 1)
        return self.flushLoggedErrors()

    def test_an_exception_in_a_method_is_logged_once_and_the_peer_gets_no_details(self):
        self.assertEqual([error.type for error in self.fault("raises")], [ZeroDivisionError])

    def test_an_exception_in_a_method_s_deferred_is_too(self):
        self.assertEqual([error.type for error in self.fault("fails")], [ZeroDivisionError])

    def test_a_result_that_cannot_be_sent_is_too(self):
        self.assertEqual(len(self.fault("returns")), 1)


class ProtocolTests(RigCase):
    def assert_ended(self, *expressions, data=b"", login=False):
        """Have a peer send this; it ends the connection with one line in the log and no traceback."""
        rig = self.rig()
        peer = rig.peer()
        if login:
            peer.enter(Mind())
        with clockd_logs() as logged:
            peer.raw(data + b"".join(encoded(peer.broker, expression) for expression in expressions))
        lines = [event["log_format"] for event in logged if "closed" in event["log_format"]]
        self.assertEqual((len(lines), rig.tally.closed["protocol"], peer.broker.disconnected), (1, 1, 1))
        self.assertEqual([event["log_level"] for event in logged if event["log_level"] > LogLevel.info], [])

    def test_who_sends_what_is_nothing_to_the_broker_may_leave_no_more_unread_than_others(self):
        most = 2 * Limits().buffer_bytes
        for login in (False, True):
            rig = self.rig()
            peer = rig.peer()
            if login:
                peer.enter(Mind())
            turns = []
            rig.factory.give_way = lambda turns=turns: turns.append(1)
            peer.server._outlet = SimpleNamespace(unsent=most)
            rig.factory.took(peer.server)
            self.assertFalse(peer.wire.serverIO.aborted)
            peer.server._outlet.unsent += 1
            rig.factory.took(peer.server)
            self.assertTrue(peer.wire.serverIO.aborted)
            rig.factory.took(peer.server)  # it is being closed
            self.assertEqual(len(turns), 3)
            rig.network.flush()
            self.assertEqual(
                (rig.tally.closed["limit"], len(turns)), (1, 4)
            )  # the last for the connection that is lost

    def test_no_two_questions_have_numbers_that_tell_the_next(self):
        rig = self.rig()
        server = rig.peer().enter(Mind()).server
        numbers = [server.new_request() for _ in range(20)]
        self.assertEqual(len({after - before for before, after in pairwise(numbers)}), 19)
        self.assertTrue(all(2**30 <= number < 2**31 for number in numbers))

    def test_garbage_ends_the_connection(self):
        for data in (
            b"GET / HTTP/1.1\r\n\r\n\xff",
            b"\x80\x80\xff",
            b"\x01" * 65,
            b"\x01\xff",
            b"\x7f\x87",
            b"\x05\x86",
        ):
            self.assert_ended(data=data)
            self.assert_ended(data=data, login=True)

    def test_sixty_four_bytes_of_prefix_are_waited_for(self):
        rig = self.rig()
        rig.peer().raw(b"\x01" * 64)
        self.assertEqual(rig.tally.pending, 1)

    def test_what_is_too_long_ends_the_connection(self):
        self.assert_ended(data=b"\x01\x00\x28\x82")  # a string of 640 KiB + 1
        self.assert_ended(data=b"\x01\x00\x28\x80")  # a list of as many items

    def test_an_answer_to_nothing_ends_the_connection(self):
        for expression in ([b"answer", 12345, 1], [b"error", 12345, b"x"], [b"answer", [], 1], [b"answer"]):
            self.assert_ended(expression)
            self.assert_ended(expression, login=True)

    def test_what_is_no_message_ends_the_connection(self):
        for expression in (7, b"message", [], [7], [b"nonsense"], [b"\xff"], [b"version", 5], [b"message", 1]):
            self.assert_ended(expression)

    def test_letting_go_of_what_one_does_not_have_ends_the_connection(self):
        for expression in ([b"decref", 99], [b"decref", []], [b"decache", 1], [b"uncache", 1], [b"decref", b"root"]):
            self.assert_ended(expression, login=True)

    def test_a_method_s_name_that_is_no_utf_8_ends_the_connection(self):
        self.assert_ended([b"message", 1, b"root", b"\xff", 1, [b"tuple"], [b"dictionary"]])

    def test_what_comes_after_garbage_is_not_looked_at(self):
        rig = self.rig()
        peer = rig.peer()
        with clockd_logs() as logged:
            peer.server.dataReceived(b"\xff")
            peer.server.dataReceived(b"\xff")
        self.assertEqual(len(logged), 1)

    def test_an_object_s_id_may_be_anything(self):
        peer = self.rig().peer()
        peer.send([b"message", 1, [b"x"], b"login", 0, [b"tuple"], [b"dictionary"]])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_request_s_number_of_another_type_ends_the_connection(self):
        deep = [0]
        for _ in range(200):
            deep = [deep]
        for number in (deep, b"1", 1.5, []):
            self.assert_ended([b"message", number, b"root", b"login", 1, [b"tuple", b"alice"], [b"dictionary"]])

    def test_a_peer_that_does_not_read_its_last_answer_is_cut_off(self):
        rig = self.rig()
        peer = rig.peer()
        peer.wire.frozen = True
        server = peer.server
        server.close("limit")
        rig.network.advance(CLOSE_SECONDS, 1)
        self.assertTrue(peer.wire.serverIO.aborted)

    def test_a_message_to_a_cached_object_leaves_no_traceback(self):
        peer = self.rig().peer()
        peer.send([b"cachemessage", 1, 1, b"login", 0, [b"tuple"], [b"dictionary"]])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_dialect_that_we_do_not_speak_ends_the_connection_for_protocol(self):
        rig = self.rig()
        peer = rig.peer()
        peer.server.currentDialect = None
        peer.raw(b"\x05\x82dutch")
        self.assertEqual(rig.tally.closed["protocol"], 1)

    def test_what_a_peer_does_not_understand_is_not_logged(self):
        peer = self.rig().peer()
        with clockd_logs(LogLevel.debug) as logged:
            peer.send([b"didNotUnderstand", b"x" * 1000])
        self.assertEqual((logged, peer.broker.disconnected), ([], 0))

    def test_leaving_in_the_middle_of_a_message_is_leaving(self):
        rig = self.rig()
        peer = rig.peer().enter(Mind())
        message = encoded(peer.broker, [b"message", 1, peer.perspective.luid, b"setperiod", 0, [b"tuple", 5], []])
        with clockd_logs() as logged:
            peer.raw(message[:-3])
            peer.leave()
        self.assertEqual((len(logged), rig.tally.closed["client"], rig.tally.periods["granted"]), (1, 1, 0))

    def test_a_message_in_single_bytes_is_one(self):
        rig = self.rig()
        peer = rig.peer().enter(Mind())
        message = [b"message", 1, peer.perspective.luid, b"setperiod", 0, [b"tuple", 5], [b"dictionary"]]
        for byte in encoded(peer.broker, message):
            peer.raw(bytes([byte]))
        self.assertEqual(rig.tally.periods["granted"], 1)


class BoundsTests(RigCase):
    """What one expression may hold, before and after the login."""

    def assert_bounded(self, enters, within, beyond):
        """Have a peer send one expression that is taken and one that ends its connection."""
        rig = self.rig()
        for data, ended in ((within, 0), (beyond, 1)):
            peer = rig.peer()
            if enters:
                peer.enter(Mind())
            peer.deafen()
            peer.send(data)
            self.assertEqual((peer.broker.disconnected, rig.tally.closed["protocol"]), (ended, ended))

    @staticmethod
    def call(*arguments):
        return [b"message", 1, b"root", b"nonsense", 0, [b"tuple", *arguments], [b"dictionary"]]

    @staticmethod
    def deep(levels):
        value = 1
        for _ in range(levels):
            value = [b"tuple", value]
        return value

    def test_before_the_login_1024_bytes(self):
        self.assert_bounded(False, self.call(bytes(900)), self.call(bytes(1024)))

    def test_after_the_login_message_bytes(self):
        self.assert_bounded(True, self.call(bytes(16000)), self.call(bytes(16384)))

    def test_before_the_login_64_items(self):
        self.assert_bounded(False, self.call(*[1] * 50), self.call(*[1] * 64))

    def test_after_the_login_2112_items(self):
        self.assert_bounded(True, self.call(*[1] * 2100), self.call(*[1] * 2112))

    def test_16_levels_before_and_after_the_login(self):
        for enters in (False, True):
            self.assert_bounded(enters, self.call(self.deep(14)), self.call(self.deep(15)))

    def test_what_comes_behind_the_login_in_one_segment_has_the_bounds_of_after_it(self):
        rig = self.rig(anonymous=True)
        peer = rig.peer()
        peer.deafen()
        enter = [b"message", 1, b"root", b"loginAnonymous", 1, [b"tuple", [b"remote", 1]], [b"dictionary"]]
        peer.send(enter, self.call(bytes(16000)))
        self.assertEqual((rig.tally.authenticated, peer.broker.disconnected), (1, 0))

    def test_before_the_login_32_messages(self):
        rig = self.rig()
        peer = rig.peer()
        peer.send(*[[b"message", 1, b"root", b"nonsense", 0, [b"tuple"], [b"dictionary"]]] * 30)
        self.assertEqual(peer.broker.disconnected, 0)
        peer.send([b"message", 1, b"root", b"nonsense", 0, [b"tuple"], [b"dictionary"]])
        self.assertEqual((peer.broker.disconnected, rig.tally.closed["protocol"]), (1, 1))

    def test_before_the_login_arguments_of_other_types_end_the_connection(self):
        for jelly in ([b"reference", 1, 5], [b"local", b"root"], [b"set"], [b"class", b"os.system"], [b"lcache", 1]):
            self.assert_bounded(False, self.call(1), self.call(jelly))

    def test_after_it_they_are_invalid_and_the_connection_stays(self):
        peer = self.rig().peer().enter(Mind())
        for jelly in ([b"reference", 1, 5], [b"local", b"root"], [b"set"], [b"class", b"os.system"], [b"lcache", 1]):
            answer = peer.ask_raw(peer.perspective.luid, b"setperiod", jelly)
            self.assertTrue(answer.check("clockd.errors.InvalidValue"), jelly)
        self.assertEqual(peer.broker.disconnected, 0)


class TurnTests(RigCase):
    """A peer that sends much takes its turn with the others."""

    def setUp(self):
        self.turns = self.rig()
        self.flooder = self.turns.peer().enter(Mind())
        self.flooder.deafen()
        self.slow = 0.0003
        seconds = self.turns.clock.seconds

        def served(_, period):
            self.turns.clock.rightNow += self.slow
            return period

        self.flooder.server._perspective._target.perspective_setperiod = MethodType(served, self)
        self.seconds = seconds

    def flood(self, calls):
        call = [b"message", 1, self.flooder.perspective.luid, b"setperiod", 1, [b"tuple", 1], [b"dictionary"]]
        self.flooder.server.dataReceived(encoded(self.flooder.broker, call) * calls)

    def test_it_is_served_for_a_millisecond_and_goes_on_when_others_had_theirs(self):
        started = self.seconds()
        self.flood(10)
        self.assertAlmostEqual(self.seconds() - started, 4 * self.slow)
        self.turns.clock.advance(0)
        self.assertAlmostEqual(self.seconds() - started, 10 * self.slow)
        self.turns.network.flush()
        self.assertEqual(self.flooder.broker.disconnected, 0)

    def test_what_comes_meanwhile_waits_for_its_turn(self):
        started = self.seconds()
        self.flood(5)
        self.flood(1)
        self.assertAlmostEqual(self.seconds() - started, 4 * self.slow)
        self.turns.clock.advance(0)
        self.assertAlmostEqual(self.seconds() - started, 6 * self.slow)

    def test_while_it_waits_for_its_turn_nothing_is_read_from_it(self):
        told = []
        transport = self.flooder.server.transport
        transport.pauseProducing, transport.resumeProducing = partial(told.append, "pause"), partial(told.append, "go")
        self.flood(5)
        self.assertEqual(told, ["pause"])
        self.turns.clock.advance(0)
        self.assertEqual(told, ["pause", "go"])

    def test_one_that_is_ended_meanwhile_is_served_no_more(self):
        started = self.seconds()
        self.flood(10)
        self.flooder.server.end("kicked")
        self.turns.clock.advance(0)
        self.assertAlmostEqual(self.seconds() - started, 4 * self.slow)

    def test_pushes_that_are_due_are_made_in_between(self):
        self.turns.clock.rightNow += 1.0
        pushes = self.turns.time.pushes
        self.flood(1)
        self.assertEqual(self.turns.time.pushes, pushes + 1)


class LobbyTests(RigCase):
    def test_one_that_has_not_logged_in_after_login_seconds_is_closed(self):
        rig = self.rig()
        idle, slow = rig.peer(), rig.peer()
        slow.challenge()
        peer = rig.peer().enter(Mind())
        rig.clock.advance(9.99)
        rig.sweep()
        self.assertEqual(rig.tally.pending, 2)
        rig.clock.advance(0.01)
        rig.sweep()
        rig.network.flush()
        self.assertEqual((rig.tally.pending, rig.tally.closed["login_timeout"], rig.tally.authenticated), (0, 2, 1))
        self.assertEqual([p.broker.disconnected for p in (idle, slow, peer)], [1, 1, 0])

    def test_when_all_places_to_wait_are_taken_the_oldest_goes(self):
        rig = self.rig(Limits(pending=3))
        peers = [rig.peer() for _ in range(4)]
        rig.network.flush()
        self.assertEqual([peer.broker.disconnected for peer in peers], [1, 0, 0, 0])
        self.assertEqual(rig.tally.closed["limit"], 1)

    def test_when_all_places_are_taken_a_login_is_told_so(self):
        rig = self.rig(Limits(connections=2), anonymous=True)
        peers = [rig.peer().enter(Mind()) for _ in range(2)]
        late = rig.peer()
        self.assert_failed(late.login(Mind()), "TooManyConnections")
        self.assertEqual(rig.tally.logins["unknown", "limit"], 1)
        self.assert_failed(late.ask(late.root, "loginAnonymous", Mind()), "TooManyConnections")
        self.assertEqual(rig.tally.logins["anonymous", "limit"], 1)
        peers.pop().leave()
        self.assertEqual(type(rig.peer().login(Mind())), pb.RemoteReference)

    def test_accounts_that_are_no_more_are_closed(self):
        rig = self.rig()
        alice, bob = rig.peer().enter(Mind()), rig.peer().enter(Mind(), name=b"bob")
        stranger = rig.peer()
        rig.factory.expel({"alice", "carol"})
        rig.network.flush()
        self.assertEqual([peer.broker.disconnected for peer in (alice, bob, stranger)], [1, 0, 0])
        self.assertEqual(rig.tally.closed["kicked"], 1)


class LogQuotaTests(RigCase):
    def test_of_many_broken_connections_ten_are_logged_in_ten_seconds(self):
        rig = self.rig()
        with clockd_logs() as logged:
            for _ in range(50):
                rig.peer().raw(b"\xff")
            rig.clock.advance(10.0)
            rig.peer().raw(b"\xff")
        self.assertEqual(len(logged), 11)
        self.assertEqual(logged[-1]["rest"], " (40 more like it were left out)")
        self.assertEqual(rig.tally.closed["protocol"], 51)


class AskTests(RigCase):
    """Which pushes ask for an answer, and what becomes of a client that does not give it."""

    def enter(self, mind, **limits):
        self.server = self.rig(Limits(**limits))
        self.mind = mind
        return self.server.peer().enter(mind)

    def silent(self, **limits):
        """Let in a client whose answers the test gives by hand."""
        self.answers = []
        return self.enter(Mind(lambda: self.answers.append(Deferred()) or self.answers[-1]), **limits)

    def answer(self):
        answers, self.answers = self.answers, []
        for answer in answers:
            answer.callback(None)
        self.server.network.flush()

    def test_the_first_push_asks_and_the_next_after_eight_pushes_and_ack_seconds(self):
        peer = self.enter(Mind(), default_period=0.5)
        self.server.network.advance(5, 0.5)
        self.assertEqual(peer.pushes(), [True] + [False] * 8 + [True, False])

    def test_no_push_asks_before_ack_seconds_however_many_there_are(self):
        peer = self.enter(Mind(), default_period=0.0625)
        self.server.network.advance(1.0625, 0.0625)
        self.assertEqual(peer.pushes(), [True] + [False] * 15 + [True, False])

    def test_a_third_of_stale_seconds_is_enough_alone(self):
        peer = self.enter(Mind(), default_period=4, stale_seconds=24)
        self.server.network.advance(16, 4)
        self.assertEqual(peer.pushes(), [True, False, True, False, True])

    def test_answers_are_timed(self):
        peer = self.silent(default_period=10)
        self.server.network.advance(0.3)
        self.answer()
        histogram = self.server.tally.acknowledgement
        self.assertEqual((sum(histogram.counts), round(histogram.total, 6)), (1, 0.3))
        self.assertEqual(peer.pushes(), [True])

    def test_pushes_go_on_until_the_answer_is_overdue(self):
        self.silent(default_period=0.25)
        self.server.network.advance(0.75, 0.25)
        self.assertEqual((self.server.time.pushes, self.server.time.skipped["unacknowledged"]), (4, 0))
        self.server.network.advance(1, 0.25)
        self.assertEqual((self.server.time.pushes, self.server.time.skipped["unacknowledged"]), (4, 4))

    def test_when_an_overdue_answer_comes_the_newest_sample_is_pushed_once(self):
        self.silent(default_period=0.25)
        self.server.network.advance(2.125, 0.125)
        before = len(self.mind.stamps)
        self.answer()
        self.assertEqual(self.mind.stamps[before:], [EPOCH + 2.125])

    def test_when_an_answer_comes_in_time_nothing_is_owed(self):
        self.silent(default_period=0.25)
        self.server.network.advance(0.5, 0.25)
        self.answer()
        self.assertEqual(self.server.time.pushes, 3)

    def test_skipped_pushes_do_not_count_as_late(self):
        self.silent(default_period=0.25)
        self.server.network.advance(2, 0.25)
        self.assertEqual(sum(self.server.tally.lateness.counts), 3)

    def test_a_client_that_owes_an_answer_for_stale_seconds_is_aborted(self):
        peer = self.silent(default_period=1, stale_seconds=10)
        self.server.network.advance(9.5, 0.5)
        self.server.sweep()
        self.server.network.flush()
        self.assertEqual(self.server.tally.closed["stale"], 0)
        self.server.network.advance(0.5)
        self.server.sweep()
        self.assertFalse(peer.wire.serverIO.aborted)
        self.server.sweep()
        self.assertTrue(peer.wire.serverIO.aborted)
        self.server.network.flush()
        self.assertEqual((self.server.tally.closed["stale"], peer.broker.disconnected), (1, 1))

    def test_a_frozen_client_is_aborted_too(self):
        peer = self.enter(Mind(), default_period=100, stale_seconds=10)
        peer.wire.frozen = True
        for _ in range(11):
            self.assertEqual(self.server.tally.closed["stale"], 0)
            self.server.network.advance(1)
            self.server.sweep()
            self.server.network.flush()
        self.assertEqual((self.server.tally.closed["stale"], self.server.tally.avatars), (1, 0))

    def test_a_client_whose_answer_waited_out_a_stall_of_the_server_stays(self):
        peer = self.silent(default_period=1, stale_seconds=10)
        self.server.network.advance(100)
        self.server.sweep()
        peer.server.mind.heard(error=False)
        self.server.sweep()
        self.server.network.flush()
        self.assertEqual((self.server.tally.closed["stale"], self.server.tally.avatars), (0, 1))

    def test_a_client_of_whom_nothing_was_asked_for_half_of_stale_seconds_is_probed(self):
        peer = self.enter(Mind(), default_period=100, stale_seconds=10)
        for passed, probes in ((4.75, 0), (0.25, 1), (4.75, 1), (0.25, 2)):
            self.server.network.advance(passed)
            self.server.sweep()
            self.server.network.flush()
            sent = [e for e in written(peer.wire.serverIO) if e[0] == b"message" and e[2] == 0]
            self.assertEqual(len(sent), probes)
        self.assertEqual((self.server.tally.authenticated, sum(self.server.tally.acknowledgement.counts)), (1, 1))

    def test_a_probe_s_answer_lets_owed_samples_out(self):
        peer = self.enter(Mind(), default_period=8, stale_seconds=10, ack_seconds=2)
        peer.wire.frozen = False
        self.server.network.advance(5)
        peer.wire.frozen = True
        self.server.sweep()
        self.server.network.advance(3)
        self.assertEqual((self.server.time.skipped["unacknowledged"], len(self.mind.stamps)), (1, 1))
        peer.wire.frozen = False
        self.server.network.flush()
        self.assertEqual(self.mind.stamps, [EPOCH, EPOCH + 8])

    def test_leaving_with_a_probe_open_is_leaving(self):
        peer = self.enter(Mind(), default_period=100, stale_seconds=10)
        self.server.network.advance(5)
        self.server.sweep()
        peer.wire.cut()
        self.server.network.flush()
        self.assertEqual(self.server.tally.closed["lost"], 1)

    def test_a_connection_that_is_not_logged_in_is_not_probed(self):
        rig = self.rig(Limits(stale_seconds=10, login_seconds=1000))
        peer = rig.peer()
        before = len(written(peer.wire.serverIO))
        rig.network.advance(100)
        rig.sweep()
        rig.network.flush()
        self.assertEqual((len(written(peer.wire.serverIO)), peer.broker.disconnected), (before, 0))

    def test_the_third_error_in_a_row_ends_the_connection_and_the_second_does_not(self):
        for mind, error in ((pb.Referenceable(), pb.NoSuchMethod), (Mind(ValueError("x" * 1000)), ValueError)):
            with clockd_logs(LogLevel.warn) as logged:
                peer = self.enter(mind, default_period=1, stale_seconds=3)
                self.server.network.advance(1)
                self.assertEqual((peer.pushes(), peer.broker.disconnected), ([True] * 2, 0))
                self.server.network.advance(1)
            self.assertEqual((self.server.tally.closed["protocol"], peer.broker.disconnected, logged), (1, 1, []))
            self.assertEqual(len(self.flushLoggedErrors(error)), 3)  # the stock client's own

    def test_an_answer_in_between_begins_the_row_anew(self):
        mind = Mind()
        self.enter(mind, default_period=1, stale_seconds=3)
        for answer in (ValueError(), ValueError(), None, ValueError(), ValueError()):
            mind.answer = answer
            self.server.network.advance(1)
        self.assertEqual((self.server.tally.authenticated, len(self.flushLoggedErrors(ValueError))), (1, 4))

    def test_a_probe_s_answer_counts_neither_way(self):
        self.enter(Mind(ValueError()), default_period=8, stale_seconds=9)
        for _ in range(16):
            self.assertEqual(self.server.tally.closed["protocol"], 0)
            self.server.network.advance(1)
            self.server.sweep()
            self.server.network.flush()
        self.assertEqual((self.server.tally.closed["protocol"], self.server.time.pushes), (1, 3))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 3)

    def test_what_an_answer_holds_is_never_looked_at(self):
        peer = self.silent(default_period=10)
        request = next(e[1] for e in written(peer.wire.serverIO) if e[0] == b"message")
        peer.send([b"answer", request, [b"module", b"os"]])
        self.assertEqual((self.server.tally.authenticated, sum(self.server.tally.acknowledgement.counts)), (1, 1))

    def test_what_an_error_holds_is_never_looked_at(self):
        peer = self.silent(default_period=10)
        request = next(e[1] for e in written(peer.wire.serverIO) if e[0] == b"message")
        peer.send([b"error", request, [b"nonsense.Class", [b"dereference", 1]]])
        self.assertEqual((self.server.tally.authenticated, sum(self.server.tally.acknowledgement.counts)), (1, 1))

    def test_a_mind_is_a_sink(self):
        peer = self.enter(Mind())
        self.assertIsInstance(peer.server.mind, RemoteMind)
        self.assertTrue(verifyObject(IClient, peer.server.mind))


class RecognisedAnswerTests(RigCase):
    """A stock client's `None` is known by its bytes; whatever else comes goes the ordinary way."""

    def setUp(self):
        self.enter()

    def enter(self, **limits):
        """Let in a client whose answers the test gives, in bytes; nothing that it is sent reaches it."""
        self.server = self.rig(Limits(**{"default_period": 10, **limits}))
        self.peer = self.server.peer().enter(Mind(Deferred))
        self.peer.wire.frozen = True
        self.broker = self.peer.server
        self.decoded = []
        decode = self.broker.callExpressionReceived
        self.broker.callExpressionReceived = lambda expression: self.decoded.append(expression) or decode(expression)

    def setperiod(self, period):
        message = [b"message", 9, self.peer.perspective.luid, b"setperiod", 0, [b"tuple", period], [b"dictionary"]]
        return encoded(self.peer.broker, message)

    def assert_answered(self, times=1):
        self.assertEqual(sum(self.server.tally.acknowledgement.counts), times)
        self.assertEqual(self.broker.mind.request is None, times > 0)
        self.assertFalse(self.peer.wire.serverIO.aborted)

    def assert_ended(self, answered=0):
        self.assertTrue(self.peer.wire.serverIO.aborted)
        self.assertEqual(sum(self.server.tally.acknowledgement.counts), answered)
        self.server.network.flush()
        self.assertEqual(self.server.tally.closed["protocol"], 1)

    def test_none_is_taken_without_decoding_it(self):
        self.broker.dataReceived(self.broker.mind.awaited)
        self.assert_answered()
        self.assertEqual(self.decoded, [])

    def test_what_it_is_known_by_is_what_a_stock_client_sends(self):
        for dialects in ([b"pb"], [b"none"]):
            self.patch(pb.Broker, "knownDialects", [b"pb", b"none"])
            self.patch(pb.PBClientFactory, "protocol", type("Speaker", (pb.Broker,), {"knownDialects": dialects}))
            rig = self.rig()
            peer = rig.peer().enter(Mind())
            self.assertEqual(peer.server.currentDialect, dialects[0])
            sent = []
            decode = peer.server.callExpressionReceived
            peer.server.callExpressionReceived = lambda e, decode=decode, sent=sent: sent.append(e) or decode(e)
            rig.network.advance(20, 1)
            self.assertEqual(peer.pushes().count(True), 3)
            self.assertEqual((sum(rig.tally.acknowledgement.counts), sent), (3, []))

    def aware(self, *pair):
        return encoded(self.peer.broker, [b"answer", self.broker.mind.request, [b"tuple", *pair]])

    def observed(self):
        return self.server.tally.subscriber_offset.total, self.server.tally.subscriber_bound.total

    def test_what_an_aware_client_tells_is_taken_without_decoding_it(self):
        self.server.clock.advance(0.5)
        self.broker.dataReceived(self.aware(EPOCH + 0.75, 0.25))
        self.assert_answered()
        self.assertEqual((self.decoded, self.observed()), ([], (0.5, 0.25)))

    def test_what_it_tells_is_the_same_when_it_comes_in_parts_or_with_something_else(self):
        for cut in range(1, len(self.aware(EPOCH, 0.5))):
            self.enter()
            data = self.aware(EPOCH + 0.5, 0.25)
            self.broker.dataReceived(data[:cut])
            self.broker.dataReceived(data[cut:])
            self.assert_answered()
            self.assertEqual((len(self.decoded), self.observed()), (1, (0.5, 0.25)))
        self.enter()
        self.broker.dataReceived(self.setperiod(5) + self.aware(EPOCH + 0.5, 0.25))
        self.assert_answered()
        self.assertEqual(self.observed(), (0.5, 0.25))

    def test_nonsense_about_its_clock_is_an_answer_as_any_other(self):
        nan, inf = math.nan, math.inf
        for pair in (
            *((nan, 0.5), (inf, 0.5), (EPOCH, nan), (EPOCH, -1.0), (EPOCH, 0), (1, 0.5), (b"x", 0.5), (EPOCH,)),
            *(
                (EPOCH, b"1234567"),
                (EPOCH, 0.5, 0.5),
                (),
                ([b"tuple", EPOCH], 0.5),
                ([b"boolean", b"true"], 0.5),
                (2**447, 0.5),
            ),
        ):
            self.enter()
            self.broker.dataReceived(self.aware(*pair))
            self.assert_answered()
            self.assertEqual(self.observed(), (0.0, 0.0), pair)
        self.enter()
        data = encoded(self.peer.broker, [b"answer", self.broker.mind.request, [b"list", EPOCH, 0.5]])
        self.broker.dataReceived(data)
        self.assert_answered()
        self.assertEqual(self.observed(), (0.0, 0.0))

    def test_what_is_told_with_another_number_ends_the_connection_and_is_not_counted(self):
        for cut in (0, 3):
            self.enter()
            self.broker.mind.request, request = self.broker.mind.request + 1, self.broker.mind.request
            data = self.aware(EPOCH + 0.5, 0.25)
            self.broker.mind.request = request
            for part in (data[:cut], data[cut:]) if cut else (data,):
                self.broker.dataReceived(part)
            self.assert_ended()
            self.assertEqual(self.observed(), (0.0, 0.0))

    def test_a_client_that_tells_is_compared_by_real_answers(self):
        rig = self.rig(Limits(default_period=10))
        rig.peer().enter(Mind(lambda: (rig.now() + 3, 0.125)))
        rig.network.advance(50, 10)
        offset, bound = rig.tally.subscriber_offset, rig.tally.subscriber_bound
        self.assertEqual((sum(offset.counts), offset.total, bound.total), (6, 18.0, 0.75))

    def test_in_two_segments_it_is_the_same_answer(self):
        for cut in range(1, len(self.broker.mind.awaited)):
            self.enter()
            awaited = self.broker.mind.awaited
            self.broker.dataReceived(awaited[:cut])
            self.assert_answered(0)
            self.broker.dataReceived(awaited[cut:])
            self.assert_answered()
            self.assertEqual(len(self.decoded), 1)

    def test_behind_and_before_another_message_it_is_the_same_answer(self):
        for behind in (True, False):
            self.enter()
            parts = [self.setperiod(5), self.broker.mind.awaited]
            self.broker.dataReceived(b"".join(parts if behind else parts[::-1]))
            self.assert_answered()
            self.assertEqual(self.server.time.requested, 1 / 5)

    def test_behind_the_beginning_of_another_message_it_is_not_taken_for_an_answer(self):
        for size, beginning in ((None, b"\x03\x80"), (None, b"\x01\x80\x02\x80"), (1, b"\x82")):
            self.enter()
            awaited = self.broker.mind.awaited
            self.broker.dataReceived(bytes([len(awaited)]) + beginning if size else beginning)
            self.broker.dataReceived(awaited[:-1] if size else awaited)
            self.assert_answered(0)
            self.broker.dataReceived(awaited[-1:] if size else b"\x01\x81\x01\x81")
            self.assert_ended()

    def test_behind_a_message_s_first_byte_it_is_not_taken_for_an_answer(self):
        self.broker.dataReceived(b"\x01")
        self.broker.dataReceived(self.broker.mind.awaited)
        self.assertEqual(sum(self.server.tally.acknowledgement.counts), 0)

    def test_another_answer_than_none_is_one_too(self):
        for answer in ([b"tuple", 1.5, 0], 7, b"x", [b"unpersistable", b"x"]):
            self.enter()
            self.broker.dataReceived(encoded(self.peer.broker, [b"answer", self.broker.mind.request, answer]))
            self.assert_answered()
            self.assertEqual(len(self.decoded), 1)

    def test_answers_that_are_no_none_are_no_errors(self):
        mind = Mind(7)
        rig = self.rig(Limits(default_period=10))
        rig.peer().enter(mind)
        rig.network.advance(50, 10)
        self.assertEqual((sum(rig.tally.acknowledgement.counts), rig.tally.closed["protocol"]), (6, 0))

    def test_an_error_is_an_answer(self):
        self.broker.dataReceived(encoded(self.peer.broker, [b"error", self.broker.mind.request, [b"x"]]))
        self.assert_answered()

    def test_an_answer_with_another_number_ends_the_connection(self):
        for wrong in (-1, 1):
            for whole in (True, False):
                self.enter()
                template = self.server.factory.template(b"pb", 1)
                data = template.answer(self.broker.mind.request + wrong)
                self.assertNotEqual(data, self.broker.mind.awaited)
                for part in [data] if whole else [data[:3], data[3:]]:
                    self.broker.dataReceived(part)
                self.assert_ended()

    def test_a_second_answer_ends_the_connection(self):
        for together in (True, False):
            self.enter()
            awaited = self.broker.mind.awaited
            for data in [awaited * 2] if together else [awaited, awaited]:
                self.broker.dataReceived(data)
            self.assert_ended(answered=1)

    def test_an_answer_with_no_question_open_ends_the_connection(self):
        self.broker.dataReceived(self.broker.mind.awaited)
        template = self.server.factory.template(b"pb", 1)
        self.broker.dataReceived(template.answer(self.broker.currentRequestID + 1))
        self.assert_ended(answered=1)

    def test_an_answer_before_login_ends_the_connection(self):
        rig = self.rig()
        peer = rig.peer()
        peer.raw(rig.factory.template(b"pb", 1).answer(1))
        self.assertEqual(rig.tally.closed["protocol"], 1)

    def test_an_answer_behind_an_end_is_not_taken(self):
        awaited = self.broker.mind.awaited
        self.broker.end("protocol")
        self.broker.dataReceived(awaited)
        self.assert_ended(answered=0)

    def test_a_probe_s_answer_may_be_none(self):
        self.enter(default_period=100)
        self.broker.dataReceived(self.broker.mind.awaited)
        self.server.network.advance(15)
        self.server.sweep()
        self.assertIsNotNone(self.broker.mind.request)
        self.broker.dataReceived(self.broker.mind.awaited)
        self.assert_answered()  # it is not timed
        self.assertEqual(self.decoded, [])


class UnsentTests(RigCase):
    """What a client does not read is bounded, by skipping pushes and, where it calls and calls, by an end."""

    def enter(self, buffer_bytes=65536, **limits):
        self.server = self.rig(Limits(buffer_bytes=buffer_bytes, **limits))
        self.peer = self.server.peer().enter(Mind())
        return self.peer

    def unsent(self, number):
        self.peer.server._outlet._lowest = SimpleNamespace(unsent=number)

    def assert_ended(self, *reasons):
        self.server.network.flush()
        closed = {reason: number for reason, number in self.server.tally.closed.items() if number}
        self.assertEqual(closed, dict.fromkeys(reasons, 1))

    def test_over_buffer_bytes_pushes_are_skipped_and_later_a_sweep_pushes_the_newest(self):
        for buffer_bytes in (4096, 65536):
            self.enter(buffer_bytes)
            self.unsent(buffer_bytes)
            self.server.network.advance(1)
            self.assertEqual((self.server.time.pushes, self.server.time.skipped["buffer"]), (2, 0))
            self.unsent(buffer_bytes + 1)
            self.server.network.advance(3, 1)
            self.assertEqual((self.server.time.pushes, self.server.time.skipped["buffer"]), (2, 3))
            self.unsent(buffer_bytes)
            self.server.network.advance(0.5)
            self.server.sweep()
            self.server.network.flush()
            self.assertEqual((self.server.time.pushes, self.server.time.skipped["buffer"]), (3, 3))
            self.assertEqual(self.peer.perspective.broker.disconnected, 0)

    def test_skipping_ends_no_connection_however_much_waits(self):
        self.enter()
        self.unsent(10**9)
        self.server.network.advance(5, 1)
        self.server.sweep()
        self.assert_ended()

    def test_one_that_calls_and_does_not_read_is_ended_over_twice_buffer_bytes(self):
        for buffer_bytes in (4096, 65536):
            self.enter(buffer_bytes)
            for unsent, ended in ((2 * buffer_bytes, ()), (2 * buffer_bytes + 1, ("limit",))):
                self.unsent(unsent)
                self.peer.perspective.callRemote("setperiod", 5).addErrback(lambda _: None)
                self.assert_ended(*ended)

    def test_before_login_4096_bytes_may_wait_whatever_buffer_bytes_says(self):
        for buffer_bytes in (4096, 10**6):
            self.server = self.rig(Limits(buffer_bytes=buffer_bytes))
            self.peer = self.server.peer()
            for unsent, ended in ((4096, ()), (4097, ("limit",))):
                self.unsent(unsent)
                self.peer.root.callRemote("nonsense").addErrback(lambda _: None)
                self.assert_ended(*ended)

    def test_an_end_for_another_reason_stays_that_though_much_is_unsent(self):
        self.enter()
        self.unsent(10**6)
        self.peer.raw(b"\xff")
        self.assert_ended("protocol")

    def test_one_that_leaves_has_left_though_much_is_unsent(self):
        self.enter()
        self.unsent(10**6)
        self.peer.perspective = None
        self.assert_ended("client")
        self.assertFalse(self.peer.wire.serverIO.aborted)  # it has its time to read

    def test_the_first_reason_for_an_end_is_the_one_that_counts(self):
        self.enter()
        for reason in ("protocol", "limit"):
            self.peer.server.end(reason)
        self.assert_ended("protocol")

    def test_one_that_leaves_while_it_is_owed_leaves_nothing_behind(self):
        self.enter()
        self.unsent(65537)
        self.server.network.advance(1)
        self.assertEqual(len(self.server.factory.owing), 1)
        self.peer.leave()
        self.assertEqual(self.server.factory.owing, set())

    def test_who_is_owed_nothing_any_more_is_not_looked_at(self):
        self.enter()
        self.unsent(65537)
        self.server.network.advance(1)
        self.server.sweep()
        self.assertEqual(len(self.server.factory.owing), 1)
        self.unsent(0)
        self.server.sweep()
        self.assertEqual(self.server.factory.owing, set())


class SweepTests(RigCase):
    """A sweep holds the reactor for no longer than it takes to probe or end a few clients."""

    def enter(self, number):
        self.server = self.rig(Limits(default_period=1000, stale_seconds=64, connections_per_account=1000))
        self.peers = [self.server.peer().enter(Mind()) for _ in range(number)]

    def probed(self):
        """Return which of the clients have been probed, by number."""
        return [
            number
            for number, peer in enumerate(self.peers)
            if any(e[0] == b"message" and e[2] == 0 for e in written(peer.wire.serverIO))
        ]

    def test_it_probes_so_many_clients_at_most_and_the_next_sweep_the_others(self):
        for number in (SWEPT + 1, SWEPT + 2):
            self.enter(number)
            self.server.network.advance(32)
            self.server.sweep()
            self.assertEqual(len(self.probed()), SWEPT + 1)
            self.server.sweep()
            self.assertEqual(len(self.probed()), number)

    def test_who_was_asked_least_recently_is_first(self):
        self.enter(3)
        self.server.network.advance(30)
        self.peers[0].server.mind.push(self.server.feeds.to_read("time", "alice").latest())
        self.server.network.flush()
        self.assertEqual(self.peers[0].pushes(), [True, True])
        self.server.network.advance(2)
        self.server.sweep()
        self.assertEqual(self.probed(), [1, 2])
        self.server.network.advance(30)
        self.server.sweep()
        self.assertEqual(self.probed(), [0, 1, 2])

    def test_it_ends_so_many_clients_at_most_and_the_next_sweep_the_others(self):
        self.enter(SWEPT + 2)
        for peer in self.peers:
            peer.wire.frozen = True
        self.server.network.advance(32)
        for _ in range(2):
            self.server.sweep()
        self.server.network.advance(32)
        ended = []
        for _ in range(4):
            self.server.sweep()
            self.server.network.flush()
            ended.append(self.server.tally.closed["stale"])
        self.assertEqual(ended, [0, SWEPT + 1, SWEPT + 2, SWEPT + 2])

    def test_one_that_is_not_logged_in_keeps_no_other_from_being_looked_after(self):
        self.enter(1)
        for _ in range(3):
            self.server.peer()
        self.peers.append(self.server.peer().enter(Mind()))
        self.server.network.advance(32)
        self.server.sweep()
        self.assertEqual(self.probed(), [0, 1])

    def test_one_that_has_left_keeps_no_other_from_being_looked_after(self):
        self.enter(3)
        self.peers[0].leave()
        self.peers[1].wire.cut()
        self.server.network.advance(32)
        self.server.sweep()
        self.assertEqual(self.probed(), [2])
        self.assertEqual(len(self.server.factory._questioned), 1)


class StepTests(RigCase):
    def step(self, seconds):
        self.server.ahead += seconds

    def enter(self, clients=1, period=10, takes=True, **rig):
        self.server = self.rig(Limits(default_period=period, connections_per_account=10_000), **rig)
        self.minds = [Mind() for _ in range(clients)]
        self.peers = [self.server.peer().enter(mind) for mind in self.minds]
        for peer in self.peers if takes else ():
            peer.ask(peer.perspective, "subscribe", "server")

    def notices(self, mind):
        return [(number, stamp - EPOCH, notice["step_seconds"]) for _, number, stamp, notice in mind.samples]

    def methods(self, peer):
        """Return what was called of a client's mind, in the order it was written."""
        return [e[3] for e in written(peer.wire.serverIO) if e[0] == b"message"]

    def test_who_takes_notices_is_told_of_it_before_the_next_push(self):
        for seconds in (3600.0, -3600.0):
            for sharing in ("connection", "account"):
                self.enter(2, sharing=sharing)
                self.server.network.advance(5)
                self.step(seconds)
                self.server.network.advance(5)
                for peer, mind in zip(self.peers, self.minds, strict=True):
                    self.assertEqual(self.notices(mind), [(1, seconds + 10, seconds)])
                    self.assertEqual(self.methods(peer), [b"notifyTime", b"notifySample", b"notifyTime"])
                    self.assertEqual([stamp - EPOCH for stamp in mind.stamps], [0, seconds + 10])
                self.assertEqual(self.server.tally.clock_steps, 1)

    def test_who_is_pushed_to_seldom_is_told_soon(self):
        self.enter(3 * TOLD + 1, period=1000)
        self.step(0.5)
        self.server.host.attend()
        self.server.network.flush()
        for mind in self.minds:
            self.assertEqual((self.notices(mind), len(mind.stamps)), ([(1, 0.5, 0.5)], 1))

    def test_so_many_are_told_in_a_turn(self):
        self.enter(3 * TOLD + 1, period=1000)
        self.step(0.5)
        self.server.host.attend()
        told = []
        while self.server.factory._telling is not None:
            self.server.factory._telling.cancel()
            self.server.factory._tell_steps()
            told.append(sum(b"notifySample" in self.methods(peer) for peer in self.peers))
        self.assertEqual(told, [TOLD, 2 * TOLD, 3 * TOLD, 3 * TOLD + 1, 3 * TOLD + 1])

    def test_who_takes_no_notices_is_told_nothing(self):
        self.enter(takes=False)
        self.step(0.5)
        self.server.network.advance(10)
        self.assertEqual((self.minds[0].samples, len(self.minds[0].stamps)), ([], 2))

    def test_two_steps_are_told_apart_if_there_is_time_for_it(self):
        self.enter()
        for seconds in (1.0, -2.0):
            self.step(seconds)
            self.server.network.advance(10)
        self.assertEqual([notice[2] for notice in self.notices(self.minds[0])], [1.0, -2.0])

    def test_who_leaves_meanwhile_and_who_has_not_logged_in_is_none_of_those(self):
        self.enter(2, period=1000)
        stranger = self.server.peer()
        self.step(0.5)
        self.server.host.attend()
        self.peers[0].wire.cut()
        self.server.network.flush()
        self.assertEqual([len(mind.samples) for mind in self.minds], [0, 1])
        self.assertNotIn(b"notifySample", self.methods(stranger))

    def test_a_server_that_stops_tells_nobody_any_more(self):
        self.enter(period=1000)
        self.step(0.5)
        self.server.host.attend()
        self.assertEqual([call.getTime() for call in self.server.clock.getDelayedCalls()], [0, 1000])
        self.server.factory.end_all()
        self.assertEqual([call.getTime() for call in self.server.clock.getDelayedCalls()], [1000])

    def test_a_stall_is_no_step(self):
        self.enter()
        self.server.network.advance(100)
        self.assertEqual((self.server.tally.clock_steps, self.minds[0].samples), (0, []))


class AddressTests(SynchronousTestCase):
    def test_what_a_proxy_claims_is_one_short_word(self):
        for host, printed in (
            ("1\x1b[2J\n2", "1\\x1b[2J\\n2:7"),
            ("x" * 60_000, "x" * 108 + ":7"),
            ("\x00" * 60_000, ("\\x00" * 27) + ":7"),
        ):
            self.assertEqual(printable_address(IPv4Address("TCP", host, 7)), printed)
        self.assertEqual(printable_address(UNIXAddress(b"/run/\x1b\xff\n")), "/run/\\x1b\\udcff\\n")

    def test_an_address_is_printed_as_people_write_it(self):
        for address, text in (
            (IPv4Address("TCP", "192.0.2.7", 1), "192.0.2.7:1"),
            (IPv6Address("TCP", "2001:db8::7", 1), "[2001:db8::7]:1"),
            (UNIXAddress("/run/clockd"), "/run/clockd"),
            (UNIXAddress(None), "a local socket"),
        ):
            self.assertIn(printable_address(address), (text, f"b'{text}'"))
