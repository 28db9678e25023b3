"""The login's state machine: every state and every input, with the portal's answers given by hand."""

from hashlib import md5
from itertools import product

from doubles import SECRET, Broken, Delayed, Users, clockd_logs
from twisted.cred.checkers import AllowAnonymousAccess
from twisted.cred.error import LoginFailed, UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import LogLevel
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clockd.auth import SecretChecker, digest
from clockd.errors import NotPermitted, ServerFault, TooManyConnections, WrongCredentials
from clockd.login import Login, new_login
from clockd.values import Tally


@implementer(IRealm)
class Realm:
    """Answers as the test says."""

    def __init__(self):
        self.asked = []
        self.begun = 0
        self.logouts = 0
        self.answer = succeed(None)

    def requestAvatar(self, name, mind, *interfaces):
        self.asked.append((name, mind))
        return self.answer.addCallback(lambda _: (interfaces[0], self, self.logout))

    def begin(self):
        self.begun += 1

    def logout(self):
        self.logouts += 1


class LoginCase(SynchronousTestCase):
    def machine(self, *checkers):
        self.realm, self.tally, self.later, self.closed = Realm(), Tally(), [], []
        portal = Portal(self.realm, checkers or [SecretChecker(Users(["alice"])), AllowAnonymousAccess()])
        login = Login(portal, pb.IPerspective, lambda: "192.0.2.7:1", self.tally, self.later.append, self.closed.append)
        self.machine_ = new_login(login)
        return self.machine_

    def respond(self, machine, name="alice", secret=SECRET):
        challenge = machine.challenge(name)
        return machine.respond(md5(digest(secret) + challenge).digest(), self)

    def run_later(self):
        later, self.later[:] = self.later[:], []
        for call in later:
            call()

    def counted(self):
        return {labels: count for labels, count in self.tally.logins.items() if count}


class LoginTests(LoginCase):
    def test_the_right_response_makes_a_session_that_begins_once_the_answer_is_out(self):
        answer = self.respond(self.machine())
        self.assertIs(self.successResultOf(answer), self.realm)
        self.assertEqual((self.realm.asked, self.realm.begun), ([(b"alice", self)], 0))
        self.run_later()
        self.assertEqual((self.realm.begun, self.counted()), (1, {("secret", "ok"): 1}))

    def test_the_challenge_is_16_bytes_and_never_the_same(self):
        challenges = {self.machine().challenge("alice") for _ in range(10)}
        self.assertEqual((len(challenges), {len(challenge) for challenge in challenges}), (10, {16}))

    def test_a_wrong_secret_is_refused_and_counted_by_the_kind_of_its_account(self):
        error = self.failureResultOf(self.respond(self.machine(), secret="wrong"), WrongCredentials)
        self.assertTrue(error.check(UnauthorizedLogin))
        self.assertEqual((self.counted(), self.realm.asked), ({("secret", "denied"): 1}, []))

    def test_an_unknown_name_is_told_what_a_wrong_secret_is_told(self):
        wrong = self.failureResultOf(self.respond(self.machine(), secret="wrong"))
        unknown = self.failureResultOf(self.respond(self.machine(), name="mallory"))
        self.assertEqual((unknown.type, str(unknown.value)), (wrong.type, str(wrong.value)))
        self.assertEqual(self.counted(), {("unknown", "denied"): 1})

    def test_anonymous_needs_no_challenge(self):
        self.assertIs(self.successResultOf(self.machine().anonymous(self)), self.realm)
        self.assertEqual(self.counted(), {("anonymous", "ok"): 1})

    def test_credentials_that_no_checker_takes_are_wrong_ones(self):
        self.failureResultOf(self.respond(self.machine(AllowAnonymousAccess())), WrongCredentials)
        self.failureResultOf(self.machine(SecretChecker(Users([]))).anonymous(self), WrongCredentials)
        self.assertEqual(self.counted(), {("anonymous", "denied"): 1})

    def test_cred_s_own_refusals_become_ours(self):
        for kind in (LoginFailed, UnauthorizedLogin):
            checker = Delayed()
            answer = self.respond(self.machine(checker))
            checker.asked[0].errback(kind("no"))
            self.failureResultOf(answer, WrongCredentials)
            self.assertEqual(self.counted(), {("unknown", "denied"): 1})

    def test_a_refusal_by_the_realm_reaches_the_peer_and_counts_as_a_limit(self):
        machine = self.machine()
        self.realm.answer = fail(TooManyConnections("enough"))
        self.assertEqual(str(self.failureResultOf(self.respond(machine), TooManyConnections).value), "enough")
        self.assertEqual(self.counted(), {("secret", "limit"): 1})

    def test_an_unexpected_error_is_logged_once_and_the_peer_learns_nothing(self):
        with clockd_logs(LogLevel.critical) as logged:
            error = self.failureResultOf(self.respond(self.machine(Broken())), ServerFault)
        self.assertNotIn("hunter2", str(error.value))
        self.assertEqual((len(logged), self.counted()), (1, {("unknown", "error"): 1}))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_refusal_is_one_line_in_the_log_without_a_traceback(self):
        with clockd_logs() as logged:
            self.failureResultOf(self.respond(self.machine(), name="new\nline"))
        self.assertEqual([event["log_level"] for event in logged], [LogLevel.info])
        self.assertIn("{name!r}", logged[0]["log_format"])

    def test_two_failures_leave_the_connection_open_and_the_third_closes_it_for_limit(self):
        machine = self.machine()
        for failures in (1, 2, 3):
            self.failureResultOf(self.respond(machine, secret="wrong"))
            self.run_later()
            self.assertEqual(self.closed, ["limit"] if failures == 3 else [])

    def test_two_failures_and_then_a_success_leave_it_open(self):
        machine = self.machine()
        for secret in ("wrong", "wrong", SECRET):
            answer = self.respond(machine, secret=secret)
            answer.addErrback(lambda _: None)
        self.run_later()
        self.assertEqual((self.closed, self.realm.begun), ([], 1))

    def test_after_the_third_failure_nobody_can_try_before_it_is_closed(self):
        machine = self.machine()
        for _ in range(3):
            self.failureResultOf(self.respond(machine, secret="wrong"))
        self.assertRaises(NotPermitted, machine.challenge, "alice")
        self.assertRaises(NotPermitted, machine.anonymous, self)

    def test_a_challenge_that_is_not_answered_counts_as_a_try(self):
        machine = self.machine()
        for _ in range(3):
            machine.challenge("alice")
        self.assertEqual(self.later, [])
        self.assertRaises(NotPermitted, machine.challenge, "alice")
        self.run_later()
        self.assertEqual(self.closed, ["limit"])

    def test_the_third_challenge_can_be_answered(self):
        machine = self.machine()
        for _ in range(2):
            machine.challenge("alice")
        self.successResultOf(self.respond(machine))

    def test_a_new_challenge_takes_the_place_of_the_open_one(self):
        machine = self.machine()
        challenge = machine.challenge("alice")
        machine.challenge("alice")
        self.failureResultOf(machine.respond(md5(digest(SECRET) + challenge).digest(), self), WrongCredentials)


class LeavingTests(LoginCase):
    def setUp(self):
        self.checker = Delayed()
        self.answer = self.respond(self.machine(self.checker))

    def test_leaving_while_the_credentials_are_checked_logs_out_what_comes_of_it(self):
        self.machine_.left("client")
        self.checker.asked[0].callback(b"alice")
        self.run_later()
        self.assertEqual((self.realm.logouts, self.realm.begun, self.counted()), (1, 0, {}))
        self.assertNoResult(self.answer)

    def test_leaving_while_the_realm_makes_the_avatar_logs_it_out(self):
        made = self.realm.answer = Deferred()
        self.checker.asked[0].callback(b"alice")
        self.machine_.left("client")
        self.assertEqual(self.realm.logouts, 0)
        made.callback(None)
        self.assertEqual((self.realm.logouts, self.realm.begun, self.later), (1, 0, []))

    def test_leaving_and_then_a_refusal_is_nothing(self):
        self.machine_.left("client")
        self.checker.asked[0].errback(WrongCredentials("no"))
        self.assertEqual((self.realm.logouts, self.later), (0, []))
        self.assertNoResult(self.answer)

    def test_leaving_does_not_hide_a_bug_of_the_server(self):
        self.machine_.left("client")
        self.checker.asked[0].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_leaving_during_the_last_try_and_then_a_refusal_is_nothing(self):
        machine = self.machine(SecretChecker(Users([])), AllowAnonymousAccess())
        for _ in range(2):
            self.failureResultOf(self.respond(machine))
        self.realm.answer = Deferred()
        answer = machine.anonymous(self)
        machine.left("client")
        self.realm.answer.errback(TooManyConnections("enough"))
        self.assertNoResult(answer)
        self.assertEqual((self.later, self.closed), ([], []))

    def test_leaving_once_logged_in_logs_out_once(self):
        self.checker.asked[0].callback(b"alice")
        self.assertEqual(self.realm.logouts, 0)
        self.machine_.left("client")
        self.machine_.left("client")
        self.assertEqual(self.realm.logouts, 1)


class StateTests(LoginCase):
    """What each state makes of each input; inputs of the portal come only where it was asked."""

    def reach(self, state):
        checker = Delayed()
        machine = self.machine(checker)
        if state == "challenged":
            machine.challenge("alice")
        elif state != "greeting":
            self.respond(machine)
        if state == "serving":
            checker.asked[0].callback(b"alice")
        elif state in {"abandoned", "gone"}:
            machine.left("client")
            if state == "gone":
                checker.asked[0].callback(b"alice")
        return machine

    def test_a_challenge_is_given_to_who_has_not_answered_one(self):
        for state in ("greeting", "challenged"):
            self.assertEqual(len(self.reach(state).challenge("bob")), 16)
        for state in ("checking", "serving", "abandoned", "gone"):
            self.assertRaises(NotPermitted, self.reach(state).challenge, "bob")

    def test_a_response_is_taken_for_an_open_challenge_only(self):
        self.assertIsInstance(self.reach("challenged").respond(b"", self), Deferred)
        for state in ("greeting", "checking", "serving", "abandoned", "gone"):
            self.assertRaises(NotPermitted, self.reach(state).respond, b"", self)

    def test_anonymous_is_taken_from_who_is_not_logging_in(self):
        for state in ("greeting", "challenged"):
            self.failureResultOf(self.reach(state).anonymous(self), WrongCredentials)  # the checker takes none
        for state in ("checking", "serving", "abandoned", "gone"):
            self.assertRaises(NotPermitted, self.reach(state).anonymous, self)

    def test_what_is_refused_changes_nothing(self):
        for state, ask in product(("checking", "serving"), ("challenge", "anonymous")):
            machine = self.reach(state)
            self.assertRaises(NotPermitted, getattr(machine, ask), "bob")
            machine.left("client")
            self.assertEqual(self.realm.logouts, state == "serving")

    def test_leaving_is_possible_at_any_time_and_leads_nowhere_else(self):
        for state in ("greeting", "challenged", "checking", "serving", "abandoned", "gone"):
            machine = self.reach(state)
            machine.left("client")
            machine.left("client")
            self.assertRaises(NotPermitted, machine.challenge, "bob")
            self.assertEqual(self.realm.logouts, state in {"serving", "gone"})

    def test_a_challenge_is_answered_once(self):
        machine = self.machine()
        challenge = machine.challenge("alice")
        self.failureResultOf(machine.respond(b"wrong", self), WrongCredentials)
        self.assertRaises(NotPermitted, machine.respond, md5(digest(SECRET) + challenge).digest(), self)
