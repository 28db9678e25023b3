"""The login's state machine: every state and every input, with the portal's answers given by hand."""

from collections import Counter
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

from clockd.auth import AccountChecker, CertificateChecker, new_challenge
from clockd.errors import Draining, NotPermitted, ServerFault, TooManyAttempts, TooManyConnections, WrongCredentials
from clockd.login import Login, new_login
from clockd.logs import Quota
from clockd.throttle import Throttle
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
        portal = Portal(self.realm, checkers or [AccountChecker(Users(["alice"]), None), AllowAnonymousAccess()])
        self.now = 0.0
        self.refusal = None
        self.challenges = []
        self.login = Login(
            portal,
            pb.IPerspective,
            self.challenge_for,
            Throttle(),
            lambda: self.now,
            lambda: "192.0.2.7",
            lambda: "192.0.2.7:1",
            self.tally,
            Quota(lambda: self.now),
            lambda: self.refusal,
            self.later.append,
            self.closed.append,
        )
        self.machine_ = new_login(self.login)
        return self.machine_

    def challenge_for(self, name):
        self.challenges.append((name, new_challenge()))
        return self.challenges[-1][1]

    def respond(self, machine, name="alice", secret=SECRET):
        return machine.respond(pb.respond(machine.challenge(name), secret.encode()), self)

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

    def test_the_challenge_is_the_one_for_the_name_that_is_claimed(self):
        machine = self.machine()
        challenges = [(name, machine.challenge(name)) for name in ("alice", "bob", "alice")]
        self.assertEqual(challenges, self.challenges)

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
        self.failureResultOf(self.machine(AccountChecker(Users([]), None)).anonymous(self), WrongCredentials)
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

    def test_more_attempts_than_can_be_checked_are_told_and_counted_as_throttled(self):
        checker = Delayed()
        machine = self.machine(checker)
        answer = self.respond(machine)
        checker.asked[0].errback(TooManyAttempts("in a moment"))
        self.assertEqual(str(self.failureResultOf(answer, TooManyAttempts).value), "in a moment")
        self.assertEqual(self.counted(), {("unknown", "throttled"): 1})
        answer = self.respond(machine)  # it may try again
        checker.asked[1].callback(b"alice")
        self.assertIs(self.successResultOf(answer), self.realm)

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

    def test_the_log_may_say_more_of_a_refusal_than_the_peer_is_told(self):
        checker = Delayed()
        answer = self.respond(self.machine(checker))
        with clockd_logs() as logged:
            checker.asked[0].errback(WrongCredentials("somebody could listen in"))
        self.assertEqual(logged[0]["error"], "somebody could listen in")
        error = self.failureResultOf(answer, WrongCredentials)
        self.assertEqual(str(error.value), "the name and the secret do not fit")

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
        self.failureResultOf(machine.respond(pb.respond(challenge, SECRET.encode()), self), WrongCredentials)


class CertificateTests(LoginCase):
    def machine(self):
        return super().machine(CertificateChecker(Users(["alice", "bob"])))

    def test_the_account_of_its_one_common_name_makes_a_session_without_a_challenge(self):
        self.assertIs(self.successResultOf(self.machine().certificate(["alice"], self)), self.realm)
        self.run_later()
        self.assertEqual((self.realm.asked, self.realm.begun), ([(b"alice", self)], 1))
        self.assertEqual((self.login.name, self.counted()), ("alice", {("certificate", "ok"): 1}))

    def test_one_that_proves_no_account_is_refused_and_the_log_knows_why(self):
        for names, why in (
            ([], "a certificate of one common name proves an account; here are 0"),
            (["alice", "bob"], "a certificate of one common name proves an account; here are 2"),
            (["alice", "alice"], "a certificate of one common name proves an account; here are 2"),
            (["mallory"], "the common name of the certificate is no account"),
        ):
            with clockd_logs() as logged:
                error = self.failureResultOf(self.machine().certificate(names, self), WrongCredentials)
            self.assertEqual(str(error.value), "the certificate proves no account")
            self.assertEqual((logged[0]["name"], logged[0]["error"]), (", ".join(names), why))
            self.assertEqual((self.counted(), self.realm.asked), ({("certificate", "denied"): 1}, []))

    def test_those_that_are_refused_are_no_guesses(self):
        throttle = Throttle()
        for _ in range(100):
            machine = self.machine()
            self.login.throttle = throttle
            self.failureResultOf(machine.certificate(["mallory"], self), WrongCredentials)
        self.assertTrue(throttle.permits("mallory", self.login.host(), self.login.seconds()))

    def test_each_is_a_try(self):
        machine = self.machine()
        for _ in range(3):
            self.failureResultOf(machine.certificate(["mallory"], self), WrongCredentials)
        self.assertRaises(NotPermitted, machine.certificate, ["alice"], self)
        self.run_later()
        self.assertEqual(self.closed, ["limit"])


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
        machine = self.machine(AccountChecker(Users([]), None), AllowAnonymousAccess())
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


class ThrottleTests(LoginCase):
    def guess(self, times, name="alice"):
        """Fail so many times, each on a connection of its own, as a guesser does."""
        for _ in range(times):
            self.failureResultOf(self.respond(self.with_kept(), name, "wrong"))

    def setUp(self):
        self.kept = Throttle()

    def with_kept(self):
        self.machine()
        self.login.throttle = self.kept
        return self.machine_

    def test_after_many_failures_no_more_is_checked_until_time_has_passed(self):
        self.guess(20)
        machine = self.with_kept()
        self.failureResultOf(self.respond(machine), TooManyAttempts)
        self.assertEqual((self.realm.asked, self.counted()), ([], {("unknown", "throttled"): 1}))
        machine = self.with_kept()
        self.now = 1.0
        self.assertIs(self.successResultOf(self.respond(machine)), self.realm)

    def test_successes_take_nothing_and_what_the_server_refuses_neither(self):
        for _ in range(100):
            machine = self.with_kept()
            self.realm.answer = fail(TooManyConnections("full"))
            self.failureResultOf(self.respond(machine), TooManyConnections)
            self.successResultOf(self.respond(self.with_kept()))

    def test_who_leaves_before_it_is_decided_has_failed_too(self):
        for _ in range(20):
            checker = Delayed()
            self.machine(checker)
            self.login.throttle = self.kept
            self.respond(self.machine_, secret="wrong")
            self.machine_.left("lost")
            checker.asked[0].errback(UnauthorizedLogin())
        self.failureResultOf(self.respond(self.with_kept()), TooManyAttempts)

    def test_anonymous_is_not_throttled(self):
        self.guess(20)
        self.successResultOf(self.with_kept().anonymous(self))

    def test_who_is_admitted_when_nobody_is_any_more_is_refused_and_logged_out(self):
        checker = Delayed()
        machine = self.machine(checker)
        machine.challenge("alice")
        answer = machine.respond(b"x" * 16, None)
        self.refusal = Draining("this server is about to stop")
        checker.asked[0].callback(b"alice")
        self.failureResultOf(answer, Draining)
        self.assertEqual((self.realm.logouts, self.counted()), (1, {("unknown", "limit"): 1}))

    def test_why_the_server_could_not_check_is_told_to_the_log_and_not_to_the_peer(self):
        self.machine()
        told = TooManyAttempts("try again")
        told.__cause__ = MemoryError("no thread left")
        self.realm.answer = fail(told)
        with clockd_logs() as logged:
            error = self.failureResultOf(self.respond(self.machine_), TooManyAttempts)
        self.assertEqual((str(error.value), logged[0]["error"]), ("try again", "try again (no thread left)"))

    def test_of_an_account_s_many_sessions_ten_are_logged_and_all_of_others(self):
        self.machine(AccountChecker(Users(["alice", "bob"]), None))
        quota = self.login.quota
        with clockd_logs() as logged:
            for name in ["alice"] * 30 + ["bob"] * 3:
                self.machine(AccountChecker(Users(["alice", "bob"]), None))
                self.login.quota = quota
                self.successResultOf(self.respond(self.machine_, name))
                self.machine_.left("client")
        lines = Counter((event["name"], "reason" in event) for event in logged)
        self.assertEqual(lines, {("alice", False): 10, ("alice", True): 10, ("bob", False): 3, ("bob", True): 3})

    def test_of_many_refusals_ten_are_logged(self):
        machine = self.machine()
        quota = self.login.quota
        with clockd_logs() as logged:
            for _ in range(30):
                machine = self.machine()
                self.login.quota = quota
                self.failureResultOf(self.respond(machine, secret="wrong"))
        self.assertEqual(len(logged), 10)


class TimeoutTests(LoginCase):
    def test_who_takes_too_long_is_counted_by_what_it_tried(self):
        self.machine().left("login_timeout")
        self.assertEqual(self.counted(), {("unknown", "timeout"): 1})
        machine = self.machine()
        machine.challenge("alice")
        machine.left("login_timeout")
        self.assertEqual(self.counted(), {("unknown", "timeout"): 1})
        machine = self.machine(Delayed())
        self.respond(machine)
        machine.left("login_timeout")
        self.assertEqual(self.counted(), {("unknown", "timeout"): 1})

    def test_who_leaves_by_itself_is_not(self):
        machine = self.machine()
        machine.challenge("alice")
        machine.left("client")
        self.assertEqual(self.counted(), {})


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

    def test_a_certificate_is_taken_from_who_is_not_logging_in(self):
        for state in ("greeting", "challenged"):
            self.failureResultOf(self.reach(state).certificate(["alice"], self), WrongCredentials)  # as above
        for state in ("checking", "serving", "abandoned", "gone"):
            self.assertRaises(NotPermitted, self.reach(state).certificate, ["alice"], self)

    def test_what_is_refused_changes_nothing(self):
        asked = (("challenge", "bob"), ("anonymous", self), ("certificate", ["bob"], self))
        for state, (ask, *arguments) in product(("checking", "serving"), asked):
            machine = self.reach(state)
            self.assertRaises(NotPermitted, getattr(machine, ask), *arguments)
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
        self.assertRaises(NotPermitted, machine.respond, pb.respond(challenge, SECRET.encode()), self)
