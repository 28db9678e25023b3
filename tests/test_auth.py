from hypothesis import given
from hypothesis import strategies as st
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase

from clockd.auth import AccountChecker, CertificateChecker, ChallengeResponse, PeerCertificate, new_challenge
from clockd.errors import TooManyAttempts, WrongCredentials
from clockd.users import digest
from clockd.values import Account

SALT = bytes(range(16))
ALICE = Account("alice", "secret", digest(b"s3cret"))
CAROL = Account("carol", "password", b"a hash of the right response", SALT)


class Users:
    """Has alice, who has a secret, and carol, who has a password; other names imitate the kind that they begin with."""

    def __init__(self):
        self.accounts = {"alice": ALICE, "carol": CAROL}

    def account(self, name):
        return self.accounts.get(name)

    def imitate(self, name):
        salt = digest(name.encode())
        return Account(name, "password", b"", salt) if name.startswith("password") else Account(name, "secret", salt)


class ResponsesTests(SynchronousTestCase):
    def test_challenges_are_sixteen_bytes_and_never_the_same(self):
        challenges = {new_challenge() for _ in range(100)}
        self.assertEqual((len(challenges), {len(challenge) for challenge in challenges}), (100, {16}))

    def test_a_stock_clients_response_proves_the_secret(self):
        credentials = ChallengeResponse("alice", b"challenge", pb.respond(b"challenge", b"s3cret"))
        self.assertTrue(credentials.proves(digest(b"s3cret")))

    def test_a_response_to_another_challenge_or_of_another_secret_proves_nothing(self):
        others = (pb.respond(b"other", b"s3cret"), pb.respond(b"challenge", b"S3cret"), digest(b"s3cret"), b"")
        for response in others:
            self.assertFalse(ChallengeResponse("alice", b"challenge", response).proves(digest(b"s3cret")))

    @given(st.binary(max_size=32))
    def test_no_other_response_proves_anything(self, response):
        self.assertFalse(ChallengeResponse("alice", b"challenge", response).proves(digest(b"s3cret")))


class CheckerCase(SynchronousTestCase):
    def setUp(self):
        self.users = Users()
        self.asked = []
        self.found = succeed(False)
        self.checker = AccountChecker(self.users, self.fits)

    def fits(self, verifier, response):
        self.asked.append((verifier, response))
        return self.found

    def check(self, name, response, challenge=b"challenge"):
        credentials = ChallengeResponse(name, challenge, response)
        self.assertEqual(credentials.method, "unknown")
        return credentials, self.checker.requestAvatarId(credentials)

    def assert_refused(self, result):
        failure = self.failureResultOf(result, WrongCredentials)
        self.assertIsInstance(failure.value, UnauthorizedLogin)
        return str(failure.value)


class ChallengeTests(CheckerCase):
    def challenges(self, private, name):
        return {self.checker.challenge(private, name) for _ in range(10)}

    def test_a_secret_gets_a_fresh_one_each_time(self):
        for name in ("alice", "secret of nobody"):
            for private in (True, False):
                self.assertEqual(len(self.challenges(private, name)), 10)

    def test_a_password_gets_its_salt_where_nobody_listens_in(self):
        self.assertEqual(self.challenges(True, "carol"), {SALT})
        self.assertEqual(self.challenges(True, "password of nobody"), {digest(b"password of nobody")})

    def test_a_password_gets_a_fresh_one_where_somebody_may(self):
        for name in ("carol", "password of nobody"):
            challenges = self.challenges(False, name)
            self.assertEqual(len(challenges | {SALT, digest(name.encode())}), 12)

    def test_each_is_16_bytes(self):
        for name in ("alice", "carol", "password of nobody", "secret of nobody"):
            for private in (True, False):
                self.assertEqual({len(challenge) for challenge in self.challenges(private, name)}, {16})


class SecretTests(CheckerCase):
    def tearDown(self):
        self.assertEqual(self.asked, [], "no password is checked")

    def test_the_right_response_proves_the_account(self):
        credentials, result = self.check("alice", pb.respond(b"challenge", b"s3cret"))
        self.assertEqual((self.successResultOf(result), credentials.method), (b"alice", "secret"))

    def test_a_wrong_response_is_refused_and_counts_for_the_kind_of_the_account(self):
        credentials, result = self.check("alice", pb.respond(b"challenge", b"other"))
        self.assert_refused(result)
        self.assertEqual(credentials.method, "secret")

    def test_an_unknown_name_is_refused_in_the_same_words(self):
        _, wrong = self.check("alice", b"")
        credentials, unknown = self.check("secret of nobody", pb.respond(b"challenge", b"s3cret"))
        self.assertEqual(self.assert_refused(unknown), self.assert_refused(wrong))
        self.assertEqual(credentials.method, "unknown")

    def test_an_unknown_name_is_refused_even_if_the_response_fits_the_imitation(self):
        credentials, result = self.check("secret of nobody", pb.respond(b"challenge", b"secret of nobody"))
        self.assertTrue(credentials.proves(digest(b"secret of nobody")))
        self.assert_refused(result)


class PasswordTests(CheckerCase):
    def test_the_right_response_to_its_salt_proves_the_account(self):
        self.found = succeed(True)
        credentials, result = self.check("carol", b"right", SALT)
        self.assertEqual((self.successResultOf(result), credentials.method), (b"carol", "password"))
        self.assertEqual(self.asked, [(CAROL.verifier, b"right")])

    def test_a_wrong_response_is_refused_and_counts_for_the_kind_of_the_account(self):
        credentials, result = self.check("carol", b"wrong", SALT)
        self.assert_refused(result)
        self.assertEqual((credentials.method, self.asked), ("password", [(CAROL.verifier, b"wrong")]))

    def test_an_unknown_name_is_checked_as_long_and_refused_in_the_same_words(self):
        _, wrong = self.check("carol", b"wrong", SALT)
        credentials, unknown = self.check("password of nobody", b"wrong", digest(b"password of nobody"))
        self.assertEqual(self.assert_refused(unknown), self.assert_refused(wrong))
        self.assertEqual((credentials.method, self.asked[1:]), ("unknown", [(b"", b"wrong")]))

    def test_an_unknown_name_is_refused_whatever_is_found(self):
        self.found = succeed(True)
        self.assert_refused(self.check("password of nobody", b"", digest(b"password of nobody"))[1])

    def test_what_answers_another_challenge_is_refused_and_costs_no_check(self):
        self.found = succeed(True)
        for name in ("carol", "password of nobody"):
            self.assert_refused(self.check(name, pb.respond(b"challenge", b"hunter2"))[1])
        self.assertEqual(self.asked, [])

    def test_who_knows_the_hash_cannot_log_in_with_it_as_with_a_secret(self):
        credentials, result = self.check("carol", digest(CAROL.verifier + b"challenge"))
        self.assertTrue(credentials.proves(CAROL.verifier))
        self.assert_refused(result)

    def test_who_was_asked_by_somebody_else_s_salt_proves_nothing(self):
        self.found = succeed(True)
        self.assert_refused(self.check("carol", b"right", digest(b"password of nobody"))[1])
        self.assert_refused(self.check("alice", b"right", SALT)[1])
        self.assertEqual(self.asked, [])

    def test_the_log_can_tell_a_password_that_was_overheard_from_one_that_is_wrong(self):
        _, result = self.check("carol", b"right")
        self.assertIn("TLS, a Unix socket or loopback only", self.assert_refused(result))
        _, result = self.check("password of nobody", b"right")
        self.assertNotIn("TLS", self.assert_refused(result))

    def test_more_than_can_be_checked_is_told(self):
        self.found = fail(TooManyAttempts("enough"))
        credentials, result = self.check("carol", b"right", SALT)
        self.failureResultOf(result, TooManyAttempts)
        self.assertEqual(credentials.method, "password")

    def test_an_account_that_has_gone_or_changed_while_it_was_checked_is_refused(self):
        for now in (None, Account("carol", "password", b"another hash", SALT), Account("carol", "secret", b"")):
            self.users.accounts["carol"] = CAROL
            self.found = Deferred()
            _, result = self.check("carol", b"right", SALT)
            self.assertNoResult(result)
            self.users.accounts["carol"] = now
            self.found.callback(True)
            self.assert_refused(result)

    def test_a_name_that_has_become_an_account_while_it_was_checked_is_refused(self):
        self.found = Deferred()
        _, result = self.check("password of nobody", b"right", digest(b"password of nobody"))
        self.users.accounts["password of nobody"] = CAROL
        self.found.callback(True)
        self.assert_refused(result)


class CertificateTests(SynchronousTestCase):
    def check(self, *common_names):
        credentials = PeerCertificate(common_names)
        self.assertEqual(credentials.method, "certificate")
        return CertificateChecker(Users()).requestAvatarId(credentials)

    def test_one_common_name_proves_the_account_of_that_name_whatever_its_kind(self):
        for account in (ALICE, CAROL):
            self.assertEqual(self.successResultOf(self.check(account.name)), account.name.encode())

    def test_any_other_number_of_them_proves_nothing(self):
        for names in ((), ("alice", "alice"), ("alice", "carol"), ("", "alice")):
            self.failureResultOf(self.check(*names), WrongCredentials)

    def test_a_name_that_is_no_account_proves_nothing(self):
        for name in ("mallory", "Alice", "alice ", "", "secret of nobody", "password of nobody"):
            self.failureResultOf(self.check(name), WrongCredentials)
