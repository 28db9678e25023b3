import contextlib
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from unittest import SkipTest

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from hypothesis import given, settings
from hypothesis.strategies import lists, sampled_from, tuples
from twisted.logger import LogLevel, capturedLogs
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import UsersFileError
from clockd.users import (
    UsersFile,
    add_account,
    add_password_account,
    change_password,
    digest,
    remove_account,
    renew_secret,
    response_to,
)
from clockd.values import Account

KEY = "key:" + 32 * "5a" + "\n"
ALICE = "alice:secret:" + 16 * "a1" + "\n"
BOB = "bob:secret:" + 16 * "b0" + "\n"
HASH = "$argon2id$v=19$m=65536,t=3,p=4$+L5BG0hCNDwxv46+l/72Wg$ChsfhiXvGsUIOMh3QwFc1gyDJHnjW1YeuXhm5aWOu1E"
CAROL = "carol:password:" + 16 * "c0" + ":" + HASH + "\n"
ADMIN = "root:secret:" + 16 * "d0" + ":admin\n"
BROKEN_ROLES = (
    ":",
    ":Admin",
    ":root",
    ":admin:",
    ":admin:admin",
    ":admin ",
    ": admin",
    "admin",
    ":adm\N{LATIN SMALL LETTER DOTLESS I}n",
)
CHEAP = PasswordHasher(1, 1024, 1)


def answer(secret, challenge):
    """Return what a stock client answers."""
    return pb.respond(challenge, secret)


def names(users):
    return [account.name for account in users.accounts()]


class UsersCase(SynchronousTestCase):
    def setUp(self):
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder / "users"

    def write(self, text, mode=0o600):
        data = text if isinstance(text, bytes) else text.encode()
        self.path.write_bytes(data)
        self.path.chmod(mode)

    def loaded(self, text):
        self.write(text)
        users = UsersFile(self.path)
        users.load()
        return users

    def assert_refused(self, pattern, call, *args):
        with self.assertRaisesRegex(UsersFileError, pattern) as caught:
            call(*args)
        self.assertIn(str(self.path), str(caught.exception))


class ResponsesTests(SynchronousTestCase):
    def test_the_digest_of_a_secret_is_its_md5(self):
        self.assertEqual(digest(b"s3cret").hex(), "33e1b232a4e6fa0028a6670753749a17")

    def test_the_response_to_a_challenge_is_the_stock_client_s(self):
        self.assertEqual(response_to(b"challenge", digest(b"s3cret")), answer(b"s3cret", b"challenge"))


class LoadingTests(UsersCase):
    def test_accounts_are_found_by_name(self):
        users = self.loaded(KEY + ALICE + BOB + CAROL)
        self.assertEqual(users.account("alice"), Account("alice", "secret", bytes.fromhex(16 * "a1")))
        self.assertEqual(users.account("carol"), Account("carol", "password", HASH.encode(), bytes.fromhex(16 * "c0")))
        self.assertIsNone(users.account("dave"))
        self.assertEqual(users.accounts(), [users.account(name) for name in ("alice", "bob", "carol")])

    def test_a_line_that_ends_in_admin_is_an_administrator_s(self):
        users = self.loaded(KEY + ALICE + ADMIN + CAROL.replace("\n", ":admin\n"))
        self.assertEqual([account.role for account in users.accounts()], ["", "admin", "admin"])
        self.assertEqual(users.account("root").verifier, bytes.fromhex(16 * "d0"))
        self.assertEqual(users.account("carol").verifier, HASH.encode())

    def test_names_are_told_sorted(self):
        self.assertEqual(names(self.loaded(BOB + KEY + ALICE)), ["alice", "bob"])

    def test_a_file_with_a_key_alone_has_no_accounts(self):
        self.assertEqual(names(self.loaded(KEY)), [])

    def test_empty_lines_are_passed_over_and_a_last_line_needs_no_end(self):
        self.assertEqual(names(self.loaded("\n" + KEY + "\n" + ALICE.rstrip())), ["alice"])

    def test_an_absent_file_is_told_with_the_way_out(self):
        self.assert_refused("make one with: clockd user add --users", UsersFile(self.path).load)

    def test_a_file_that_is_no_text_is_told(self):
        self.write(KEY.encode() + b"\xff\n")
        self.assert_refused("cannot be read: 'utf-8' codec", UsersFile(self.path).load)

    def test_a_folder_is_told(self):
        self.path.mkdir()
        self.assert_refused("is no regular file", UsersFile(self.path).load)

    def test_a_fifo_is_told_and_not_waited_for(self):
        os.mkfifo(self.path)
        self.assert_refused("is no regular file", UsersFile(self.path).load)

    def test_a_broken_line_is_told_by_its_number(self):
        hexes = 16 * "a1"
        for line in (
            "alice",
            "alice:secret",
            f"alice:secret:{hexes[:-1]}",
            f"alice:secret:{hexes}0",
            f"alice:secret:{hexes.upper()}",
            f"alice:secret:{hexes} ",
            f"alice:password:{hexes}",
            f"alice:secret:{hexes}:{HASH}",
            f"alice:password::{HASH}",
            f"alice:password:{hexes[:-1]}:{HASH}",
            f"alice:password:{hexes.upper()}:{HASH}",
            f"alice:password:{hexes}:{HASH} ",
            f"alice:Password:{hexes}:{HASH}",
            f":secret:{hexes}",
            f"-alice:secret:{hexes}",
            f"al ice:secret:{hexes}",
            f"{'a' * 65}:secret:{hexes}",
            "# a comment",
            "key:5a",
            *(f"bob:secret:{hexes}{end}" for end in BROKEN_ROLES),
            *(f"bob:password:{hexes}:{HASH}{end}" for end in BROKEN_ROLES),
            "bob:admin",
            "bob:secret:admin",
            f"bob:password:{hexes}:admin",
            f"key:{32 * '5a'}:admin",
        ):
            self.write(KEY + ALICE + line + "\n")
            self.assert_refused(":3: a broken line", UsersFile(self.path).load)

    def test_a_hash_that_could_not_be_checked_is_a_broken_line(self):
        head, salt, own = HASH.rsplit("$", 2)
        for broken in (
            HASH.replace("argon2id", "argon2i"),
            HASH.replace("v=19", "v=16"),
            HASH.replace("m=65536", "m=999"),
            HASH.replace("m=65536", "m=10000000"),
            HASH.replace("m=65536", "m=0655360"),
            HASH.replace("t=3", "t=0"),
            HASH.replace("t=3", "t=100"),
            HASH.replace("p=4", "p=0"),
            HASH.replace("p=4", "p=100"),
            HASH.replace("m=65536", "m=6553٦"),  # a digit, too
            HASH.replace("t=3", "t=1٣"),
            HASH.replace("p=4", "p=1٤"),
            HASH.replace(",t=3", ""),
            f"{head}${salt[:-1]}${own}",
            f"{head}${salt}A${own}",
            f"{head}${salt[:-1]}B${own}",  # its last bits are not 0
            f"{head}${salt}${own[:-1]}",
            f"{head}${salt}${own}A",
            f"{head}${salt}${own[:-1]}B",
            f"{head}${salt}${own[:-1]}=",
        ):
            self.assertNotEqual(broken, HASH)
            self.write(KEY + CAROL.replace(HASH, broken))
            self.assert_refused(":2: a broken line; .* as clockd user writes it", UsersFile(self.path).load)

    def test_a_hash_at_the_bounds_of_what_is_read_can_be_checked(self):
        for parameters in ("m=1000,t=1,p=99", "m=1000,t=99,p=1"):
            hashed = HASH.replace("m=65536,t=3,p=4", parameters)
            account = self.loaded(KEY + CAROL.replace(HASH, hashed)).account("carol")
            self.assertRaises(VerifyMismatchError, CHEAP.verify, account.verifier, bytes(16))

    def test_every_hash_that_is_made_is_read(self):
        for number in range(64):
            hashed = CHEAP.hash(bytes([number]))
            self.assertEqual(names(self.loaded(KEY + CAROL.replace(HASH, hashed))), ["carol"])

    def test_a_name_of_64_characters_is_read(self):
        line = f"{'a' * 64}:secret:{16 * 'a1'}\n"
        self.assertEqual(names(self.loaded(KEY + line)), ["a" * 64])

    def test_an_account_that_is_there_twice_is_told(self):
        self.write(KEY + ALICE + BOB + ALICE)
        self.assert_refused(":4: a second account alice", UsersFile(self.path).load)

    def test_a_second_key_is_told(self):
        self.write(KEY + ALICE + KEY)
        self.assert_refused(":3: a second key", UsersFile(self.path).load)

    def test_a_file_without_a_key_is_told(self):
        for text in (ALICE, ""):
            self.write(text)
            self.assert_refused("has no line key:", UsersFile(self.path).load)

    def test_a_file_that_cannot_be_loaded_leaves_the_accounts_as_they_were(self):
        users = self.loaded(KEY + ALICE)
        self.write(KEY + "broken")
        self.assert_refused("broken line", users.load)
        self.assertEqual(names(users), ["alice"])


class ModeTests(UsersCase):
    def warnings(self, mode):
        self.write(KEY, mode)
        with capturedLogs() as events:
            UsersFile(self.path).load()
        return [event for event in events if event["log_level"] is LogLevel.warn]

    def test_a_file_that_others_can_get_at_is_warned_of_with_the_way_out(self):
        for mode in (0o604, 0o640, 0o620, 0o601, 0o777):
            (warning,) = self.warnings(mode)
            self.assertIn(f"chmod 600 {self.path}", warning["log_format"].format(**warning))

    def test_a_file_of_its_owner_alone_is_not(self):
        for mode in (0o600, 0o400, 0o700):
            self.assertEqual(self.warnings(mode), [])

    def test_one_of_root_s_may_be_read_by_the_group_that_another_server_is_in(self):
        if os.geteuid():
            raise SkipTest("only root can have a file of root's")
        self.assertEqual(len(self.warnings(0o440)), 1)
        self.patch(os, "geteuid", lambda: 8787)
        self.assertEqual(self.warnings(0o440), [])
        for mode in (0o460, 0o450, 0o444):
            self.assertEqual(len(self.warnings(mode)), 1)


class ReadingAgainTests(UsersCase):
    def setUp(self):
        super().setUp()
        self.users = self.loaded(KEY + ALICE)

    def logins(self, count=3):
        """Look for alice some times; return what was logged by level."""
        with capturedLogs() as events:
            for _ in range(count):
                self.assertIsNotNone(self.users.account("alice"))
        return [event["log_level"] for event in events]

    def test_a_file_that_has_not_changed_is_not_read_again(self):
        self.assertEqual(self.logins(), [])

    def test_a_change_is_in_force_at_the_next_login(self):
        self.write(KEY + ALICE + BOB)
        self.assertEqual(self.logins(), [LogLevel.info])
        self.assertIsNotNone(self.users.account("bob"))

    def test_an_account_that_was_removed_is_gone(self):
        self.write(KEY + BOB)
        self.assertIsNone(self.users.account("alice"))

    def test_a_role_that_was_given_or_taken_away_is_in_force_at_once(self):
        for text, role in ((ALICE.replace("\n", ":admin\n"), "admin"), (ALICE, "")):
            self.write(KEY + text)
            self.assertEqual(self.users.account("alice").role, role)
        self.assertEqual(self.users.refresh(), frozenset())

    def test_a_change_that_keeps_the_size_is_seen(self):
        self.path.write_text(KEY + ALICE.replace("a1", "a2"))
        os.utime(self.path, ns=(0, self.path.stat().st_mtime_ns + 1))
        self.assertEqual(self.users.account("alice").verifier, bytes.fromhex(16 * "a2"))

    def test_a_file_that_takes_the_place_of_the_old_one_is_seen(self):
        status = self.path.stat()
        other = self.path.with_name("other")
        other.write_text(KEY + ALICE.replace("a1", "a2"))
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(self.path)
        self.assertEqual(self.users.account("alice").verifier, bytes.fromhex(16 * "a2"))

    def test_a_file_that_breaks_later_keeps_the_accounts_and_warns_once_and_not_once_a_login(self):
        self.write(KEY + ALICE + "broken")
        with capturedLogs() as events:
            self.assertIsNotNone(self.users.account("alice"))
        (warning,) = events
        self.assertIn(f"{self.path}:3: a broken line", warning["error"])
        self.assertIs(warning["log_level"], LogLevel.warn)
        self.assertEqual(self.logins(), [])

    def test_a_file_that_breaks_otherwise_is_warned_of_again(self):
        self.write(KEY + ALICE + "broken")
        self.assertEqual(self.logins(), [LogLevel.warn])
        self.write(KEY + ALICE + "broken too")
        self.assertEqual(self.logins(), [LogLevel.warn])

    def test_a_file_that_is_removed_keeps_the_accounts_and_warns_once(self):
        self.path.unlink()
        self.assertEqual(self.logins(), [LogLevel.warn])

    def test_a_file_that_is_mended_is_in_force_again(self):
        self.path.unlink()
        self.logins()
        self.write(KEY + ALICE + BOB)
        self.assertEqual(self.logins(), [LogLevel.info])
        self.assertIsNotNone(self.users.account("bob"))


class RemovedTests(UsersCase):
    """What was removed since one asked last."""

    def setUp(self):
        super().setUp()
        self.users = self.loaded(KEY + ALICE + BOB)

    def test_of_a_file_as_it_was_read_first_nothing_is_removed(self):
        self.assertEqual(self.users.refresh(), frozenset())

    def test_an_account_that_is_removed_is_told_once(self):
        self.write(KEY + BOB)
        self.assertEqual(self.users.refresh(), {"alice"})
        self.assertEqual(self.users.refresh(), frozenset())
        self.assertEqual(names(self.users), ["bob"])

    def test_an_account_that_was_found_to_be_removed_at_a_login_is_told_too(self):
        self.write(KEY + BOB)
        self.assertIsNone(self.users.account("alice"))
        self.assertEqual(self.users.refresh(), {"alice"})

    def test_those_removed_in_several_changes_are_told_together(self):
        for text in (KEY + BOB, KEY):
            self.write(text)
            self.users.account("nobody")
        self.assertEqual(self.users.refresh(), {"alice", "bob"})

    def test_one_that_came_back_was_removed_all_the_same(self):
        for text in (KEY + BOB, KEY + ALICE + BOB):
            self.write(text)
            self.users.account("nobody")
        self.assertEqual(self.users.refresh(), {"alice"})

    def test_an_account_that_is_new_or_has_another_secret_is_not_removed(self):
        self.write(KEY + ALICE.replace("a1", "a2") + BOB + CAROL)
        self.assertEqual(self.users.refresh(), frozenset())
        self.assertEqual(names(self.users), ["alice", "bob", "carol"])

    def test_of_a_file_that_breaks_nothing_is_removed_and_it_is_said_once(self):
        self.write(KEY + "broken")
        with capturedLogs() as events:
            for _ in range(3):
                self.assertEqual(self.users.refresh(), frozenset())
            self.path.unlink()
            for _ in range(3):
                self.assertEqual(self.users.refresh(), frozenset())
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn, LogLevel.warn])
        self.assertEqual(names(self.users), ["alice", "bob"])

    def test_a_file_that_has_not_changed_is_not_opened(self):
        before = self.path.stat()
        self.path.write_text(KEY + BOB + ALICE.replace("a1", "a2"))
        os.utime(self.path, ns=(0, before.st_mtime_ns))  # by all that is looked at, it is the same file
        self.assertEqual(self.users.refresh(), frozenset())
        self.assertEqual(self.users.account("alice").verifier, bytes.fromhex(16 * "a1"))


class ImitationTests(UsersCase):
    def test_it_depends_on_name_and_key_alone(self):
        users = self.loaded(KEY + ALICE)
        for name in ("carol", "dave", "eve", "frank"):
            imitation = users.imitate(name)
            self.assertEqual(self.loaded(BOB + KEY).imitate(name), imitation)
            self.assertNotEqual(users.imitate(name + "'"), imitation)
            self.assertNotEqual(self.loaded(KEY.replace("5a", "5b")).imitate(name), imitation)

    def test_about_half_of_all_names_imitate_each_kind_and_look_like_it(self):
        users = self.loaded(KEY)
        imitations = [users.imitate(f"name{number}") for number in range(1000)]
        secrets = [each for each in imitations if each.kind == "secret"]
        passwords = [each for each in imitations if each.kind == "password"]
        self.assertTrue(350 < len(secrets) < 650)
        self.assertEqual(len(secrets) + len(passwords), 1000)
        self.assertEqual({(len(each.verifier), len(each.salt)) for each in secrets}, {(16, 0)})
        self.assertEqual({(each.verifier, len(each.salt)) for each in passwords}, {(b"", 16)})
        self.assertEqual({each.role for each in imitations}, {""})
        self.assertEqual(len({each.salt for each in passwords}), len(passwords))
        self.assertEqual(len({each.verifier for each in secrets}), len(secrets))


class ChangingTests(UsersCase):
    def names(self):
        return names(self.read())

    def read(self):
        users = UsersFile(self.path)
        users.load()
        return users

    def proves(self, name, secret):
        return self.read().account(name) == Account(name, "secret", digest(secret.encode()))

    def fits(self, name, password):
        """Tell whether a stock client with this password gives the response whose hash is in the file."""
        account = self.read().account(name)
        try:
            return CHEAP.verify(account.verifier, answer(password, account.salt))
        except VerifyMismatchError:
            return False

    def test_the_first_account_makes_the_file_for_its_owner_alone(self):
        secret = add_account(self.path, "alice")
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        self.assertRegex(self.path.read_text(), r"\Akey:[0-9a-f]{64}\nalice:secret:[0-9a-f]{32}\n\Z")
        self.assertTrue(self.proves("alice", secret))

    def test_a_change_makes_a_wide_file_narrow(self):
        self.write(KEY, 0o644)
        add_account(self.path, "alice")
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_a_secret_is_22_url_safe_characters_and_is_not_in_the_file(self):
        secrets = {add_account(self.path, f"user{number}") for number in range(5)}
        self.assertEqual(len(secrets), 5)
        for secret in secrets:
            self.assertRegex(secret, r"\A[A-Za-z0-9_-]{22}\Z")
            self.assertNotIn(secret, self.path.read_text())

    def test_two_files_have_two_keys(self):
        add_account(self.path, "alice")
        other = self.path.with_name("other")
        add_account(other, "alice")
        self.assertNotEqual(self.path.read_text().splitlines()[0], other.read_text().splitlines()[0])

    def test_adding_keeps_the_key_and_the_accounts_before(self):
        self.write(KEY + ALICE)
        add_account(self.path, "bob")
        self.assertEqual(self.path.read_text().splitlines()[:2], [KEY.rstrip(), ALICE.rstrip()])
        self.assertEqual(self.names(), ["alice", "bob"])

    def test_a_name_that_is_taken_is_refused_and_its_secret_stays(self):
        secret = add_account(self.path, "alice")
        self.assert_refused("an account alice already; .* clockd user passwd", add_account, self.path, "alice")
        self.assertTrue(self.proves("alice", secret))

    def test_names_of_1_and_of_64_characters_are_taken(self):
        names = ["a", "A" * 64, "_.@+-", "7"]
        for name in names:
            add_account(self.path, name)
        self.assertEqual(self.names(), sorted(names))

    def test_other_names_are_refused_and_nothing_is_written(self):
        for name in ("", "a" * 65, "-a", ".a", "a b", "a:b", "a\n", "ä", "anonymous"):
            self.assert_refused("cannot be an account's name: 1 to 64", add_account, self.path, name)
        self.assertEqual(list(self.path.parent.iterdir()), [])

    def test_the_name_key_is_refused(self):
        self.assert_refused("key", add_account, self.path, "key")
        self.write(KEY)
        for change in (add_account, renew_secret, remove_account):
            self.assert_refused("key", change, self.path, "key")
        self.assertEqual(self.path.read_text(), KEY)

    def test_a_new_secret_ends_the_old_one(self):
        old = add_account(self.path, "alice")
        new = renew_secret(self.path, "alice")
        self.assertEqual((self.proves("alice", old), self.proves("alice", new)), (False, True))

    def test_a_secret_that_cannot_be_shown_is_good_for_nothing(self):
        old = add_account(self.path, "alice")
        before = self.path.read_text()

        def show(_secret):
            raise OSError("nobody looks")

        for change, name in ((add_account, "bob"), (renew_secret, "alice")):
            with self.assertRaisesRegex(OSError, "^nobody looks$"):
                change(self.path, name, show=show)
        self.assertEqual((self.path.read_text(), self.proves("alice", old)), (before, True))
        self.assertEqual([path.name for path in self.path.parent.iterdir()], [self.path.name])

    def test_an_account_with_a_password_holds_the_hash_of_the_response_to_its_own_salt(self):
        add_password_account(self.path, "carol", b"hunter2", CHEAP.hash)
        self.assertRegex(self.path.read_text(), r"\Akey:[0-9a-f]{64}\ncarol:password:[0-9a-f]{32}:\$argon2id\$.*\n\Z")
        self.assertEqual((self.fits("carol", b"hunter2"), self.fits("carol", b"Hunter2")), (True, False))
        for form in (b"hunter2", digest(b"hunter2"), digest(b"hunter2").hex().encode()):
            self.assertNotIn(form, self.path.read_bytes())

    def test_a_password_may_be_any_bytes(self):
        password = bytes(range(256)) * 4
        add_password_account(self.path, "carol", password, CHEAP.hash)
        self.assertTrue(self.fits("carol", password))

    def test_two_accounts_with_one_password_have_two_salts(self):
        for name in ("carol", "dave"):
            add_password_account(self.path, name, b"hunter2", CHEAP.hash)
        carol, dave = self.read().accounts()
        self.assertNotEqual(carol.salt, dave.salt)

    def test_a_new_password_ends_the_old_one_and_has_a_new_salt(self):
        add_password_account(self.path, "carol", b"hunter2", CHEAP.hash)
        salt = self.read().account("carol").salt
        change_password(self.path, "carol", b"hunter3", CHEAP.hash)
        self.assertEqual((self.fits("carol", b"hunter2"), self.fits("carol", b"hunter3")), (False, True))
        self.assertNotEqual(self.read().account("carol").salt, salt)

    def test_an_account_can_change_its_kind(self):
        secret = add_account(self.path, "alice")
        change_password(self.path, "alice", b"hunter2", CHEAP.hash)
        self.assertEqual((self.proves("alice", secret), self.fits("alice", b"hunter2")), (False, True))
        self.assertTrue(self.proves("alice", renew_secret(self.path, "alice")))

    def test_an_account_is_made_with_a_role(self):
        add_account(self.path, "root", admin=True)
        add_password_account(self.path, "carol", b"hunter2", CHEAP.hash, admin=True)
        add_account(self.path, "alice")
        self.assertEqual([account.role for account in self.read().accounts()], ["", "admin", "admin"])
        self.assertTrue(self.fits("carol", b"hunter2"))

    @settings(max_examples=30, deadline=None)
    @given(
        lists(
            tuples(
                sampled_from(["a", "b", "c"]),
                sampled_from(["add", "add admin", "add password", "renew", "password", "remove"]),
            ),
            max_size=12,
        )
    )
    def test_a_role_stays_whatever_is_changed(self, changes):
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        add_account(self.path, "root", admin=True)
        roles = {"root": "admin"}
        for name, change in changes:
            with contextlib.suppress(UsersFileError):  # there is one already, or none
                match change:
                    case "add" | "add admin":
                        add_account(self.path, name, admin=change == "add admin")
                        roles[name] = "admin" if change == "add admin" else ""
                    case "add password":
                        add_password_account(self.path, name, b"hunter2", lambda _: HASH)
                        roles[name] = ""
                    case "renew":
                        renew_secret(self.path, name)
                    case "password":
                        change_password(self.path, name, b"hunter2", lambda _: HASH)
                    case "remove":
                        remove_account(self.path, name)
                        del roles[name]
            self.assertEqual({account.name: account.role for account in self.read().accounts()}, roles)

    def test_passwords_are_refused_where_secrets_are(self):
        hunter = (b"hunter2", CHEAP.hash)
        self.assert_refused("there is no users file", change_password, self.path, "alice", *hunter)
        add_account(self.path, "alice")
        before = self.path.read_text()
        self.assert_refused("an account alice already", add_password_account, self.path, "alice", *hunter)
        self.assert_refused("cannot be an account's name", add_password_account, self.path, "key", *hunter)
        self.assert_refused("no account 'bob'", change_password, self.path, "bob", *hunter)
        self.assertEqual(self.path.read_text(), before)

    def test_a_removed_account_is_gone_and_the_others_stay(self):
        self.write(KEY + ALICE + BOB)
        remove_account(self.path, "alice")
        self.assertEqual(self.path.read_text(), KEY + BOB)

    def test_an_account_that_is_not_there_can_be_neither_renewed_nor_removed(self):
        self.write(KEY + ALICE)
        for change in (renew_secret, remove_account):
            self.assert_refused("no account 'bob'; see: clockd user list", change, self.path, "bob")

    def test_only_adding_makes_a_file(self):
        for change in (renew_secret, remove_account):
            self.assert_refused("there is no users file", change, self.path, "alice")
        self.assertFalse(self.path.exists())

    def test_a_broken_file_is_not_replaced(self):
        self.write(KEY + "broken\n")
        for change in (add_account, renew_secret, remove_account):
            self.assert_refused(":2: a broken line", change, self.path, "alice")
        self.assertEqual(self.path.read_text(), KEY + "broken\n")

    def test_a_folder_that_is_absent_is_told(self):
        self.path = self.path / "deeper" / "users"
        self.assert_refused("No such file or directory", add_account, self.path, "alice")

    def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing_behind(self):
        self.path = self.path.with_name("u" * 250)  # its temporary neighbour's name is too long
        self.assert_refused("File name too long", add_account, self.path, "alice")
        self.assertEqual(list(self.path.parent.iterdir()), [])

    def test_a_disk_that_takes_no_more_is_told_and_the_old_file_stays(self):
        self.write(KEY + ALICE)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        try:
            self.assert_refused("File too large", add_account, self.path, "bob")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assertEqual(self.path.read_text(), KEY + ALICE)
        self.assertEqual(list(self.path.parent.iterdir()), [self.path])

    def test_a_change_leaves_nothing_but_the_file(self):
        add_account(self.path, "alice")
        renew_secret(self.path, "alice")
        self.assertEqual(list(self.path.parent.iterdir()), [self.path])

    def test_accounts_added_at_the_same_time_are_all_there(self):
        together = Barrier(4)

        def add(number):
            together.wait(10)
            for name in range(8):
                add_account(self.path, f"user{number}-{name}")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(add, range(4)))
        self.assertEqual(self.names(), sorted(f"user{number}-{name}" for number in range(4) for name in range(8)))


class ReservedNameTests(SynchronousTestCase):
    def setUp(self):
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder / "users"

    def test_an_account_of_a_reserved_name_is_told(self):
        for name in ("key", "anonymous"):
            self.path.write_text(f"{KEY}{name}:secret:{16 * 'a1'}\n")
            self.path.chmod(0o600)
            with self.assertRaisesRegex(UsersFileError, ":2: "):
                UsersFile(self.path).load()

    def test_the_name_key_is_told_to_be_no_name(self):
        with self.assertRaisesRegex(UsersFileError, "'key' cannot be an account's name"):
            add_account(self.path, "key")

    def test_a_path_with_a_null_is_told(self):
        with self.assertRaises(UsersFileError):
            UsersFile(Path("a\0b")).load()
