"""The stores; what the thread of a real file has done is told when the test says so."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from queue import Queue
from threading import active_count

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clockd.interfaces import IAccountStore
from clockd.store import (
    APPLICATION,
    BATCH_SECONDS,
    OPEN_SECONDS,
    RETRY_SECONDS,
    SAVE_SECONDS,
    MemoryStore,
    SQLiteStore,
    Unusable,
    examine,
    migrate,
    migrations,
    unused,
)
from clockd.values import Remembered, Retained

SECONDS = 20
"""As long as anything may take."""

EPOCH = 1_700_000_000.0
STAMP = "20231114T221320Z"
ALICE = Remembered({"time": (0.5, 0.0), "load": (2.0, 0.25)}, 3, 1000, EPOCH - 60, EPOCH)
BOB = Remembered(logins=1)
LOAD = Retained(7, EPOCH, b"\x05\x81")
GARBAGE = b"this is no database\n" * 1000
HEADED = b"SQLite format 3\0" + GARBAGE
"""What begins as a database, and is none."""


class Reactor(Clock):
    """A clock, and what threads want to be done."""

    def __init__(self):
        super().__init__()
        self.said = Queue()
        self.triggers = set()

    def callFromThread(self, call, *args):
        self.said.put((call, args))

    def callWhenRunning(self, call):
        call()

    def addSystemEventTrigger(self, *trigger):
        self.triggers.add(trigger)
        return trigger

    def removeSystemEventTrigger(self, trigger):
        self.triggers.remove(trigger)

    def turn(self):
        """Do one thing that a thread asks for."""
        call, args = self.said.get(timeout=SECONDS)
        call(*args)


class StoreCase(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "state.sqlite"
        self.reactor = Reactor()
        self.failures = []

    def made(self):
        """Return a store that has not been opened."""
        store = SQLiteStore(self.path, self.reactor, lambda: EPOCH, lambda: self.failures.append(1))
        self.addCleanup(self.closed, store)
        return store

    def opened(self):
        store = self.made()
        self.done(store.open())
        return store

    def closed(self, store):
        self.done(store.close())

    def done(self, deferred):
        """Wait until something is done."""
        found = []
        deferred.addCallback(found.append)
        while not found:
            self.reactor.turn()
        self.assertEqual(found, [None])

    def passes(self, store, seconds):
        """Let time pass, and what falls due be done."""
        self.reactor.advance(seconds)
        while store._lock.locked:
            self.reactor.turn()

    def kept(self):
        """Return what another store finds in the file: its accounts and samples."""
        store = self.made()
        self.done(store.open())
        self.assertIsNone(store.trouble)
        self.closed(store)
        return store._accounts, store._samples

    def rows(self, query="SELECT name FROM account ORDER BY name"):
        """Return what another program reads in the file."""
        with closing(sqlite3.connect(self.path)) as connection:
            return [row for (row,) in connection.execute(query)]

    def edit(self, *statements):
        """Do what another program may."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    def filled(self, count=200):
        """Make a file of more than one page, and let go of it."""
        store = self.opened()
        for number in range(count):
            store.remember(f"account{number:04}", ALICE)
        self.closed(store)
        return store

    def names(self):
        """Return the names of all files there are."""
        return sorted(path.name for path in self.folder.iterdir())

    def aside(self, number=0):
        """Return a file that was moved aside."""
        names = [name for name in self.names() if ".broken-" in name and not name.endswith(("-wal", "-shm"))]
        return self.folder / names[number]


class Suite:
    """What holds for every store."""

    def test_it_is_a_store(self):
        self.assertTrue(verifyObject(IAccountStore, self.opened()))

    def test_of_an_account_that_it_has_never_heard_of_the_defaults_are_remembered(self):
        store = self.opened()
        self.assertEqual(store.account("alice"), Remembered())
        self.assertEqual(store.account("alice").subscriptions, {})
        self.assertIsNone(store.sample("load"))

    def test_what_is_remembered_is_there_at_once(self):
        store = self.opened()
        store.remember("alice", ALICE)
        store.retain("load", LOAD)
        self.assertEqual((store.account("alice"), store.account("bob")), (ALICE, Remembered()))
        self.assertEqual((store.sample("load"), store.sample("alice")), (LOAD, None))

    def test_what_is_remembered_last_is_in_force(self):
        store = self.opened()
        for what in (ALICE, BOB):
            store.remember("alice", what)
        for sequence in (1, 2):
            store.retain("load", Retained(sequence, EPOCH, b""))
        self.assertEqual(store.account("alice"), BOB)
        self.assertEqual(store.sample("load").sequence, 2)

    def test_what_is_forgotten_is_as_if_it_had_never_been(self):
        store = self.opened()
        store.remember("alice", ALICE)
        store.remember("bob", BOB)
        store.forget("alice")
        store.forget("nobody")
        self.assertEqual((store.account("alice"), store.account("bob")), (Remembered(), BOB))
        store.remember("alice", BOB)
        self.assertEqual(store.account("alice"), BOB)
        store.forget("alice")
        self.done(store.save())
        self.done(store.close())
        self.done(store.open())
        self.assertEqual((store.account("alice"), store.account("bob"), store.trouble), (Remembered(), BOB, None))

    def test_what_is_remembered_before_it_is_opened_stays(self):
        store = self.made()
        store.remember("alice", ALICE)
        self.done(store.open())
        self.assertEqual(store.account("alice"), ALICE)

    def test_closing_twice_is_harmless_and_memory_stays(self):
        store = self.opened()
        store.remember("alice", ALICE)
        first, second = store.close(), store.close()
        self.done(first)
        self.done(second)
        self.done(store.close())
        store.remember("bob", BOB)
        self.done(store.save())
        self.assertEqual((store.account("alice"), store.account("bob")), (ALICE, BOB))
        self.assertEqual((store.trouble, self.reactor.getDelayedCalls()), (None, []))

    def test_one_that_was_never_opened_may_be_saved_and_closed(self):
        store = self.made()
        self.done(store.save())
        self.done(store.close())
        self.assertEqual((store.trouble, self.reactor.getDelayedCalls()), (None, []))

    def test_one_that_was_closed_may_be_opened_again(self):
        store = self.opened()
        store.remember("alice", ALICE)
        self.done(store.close())
        store.remember("bob", BOB)
        self.done(store.open())
        self.done(store.save())
        self.assertEqual((store.account("alice"), store.account("bob"), store.trouble), (ALICE, BOB, None))


class MemoryStoreTests(Suite, StoreCase):
    def made(self):
        return MemoryStore()


class SQLiteStoreTests(Suite, StoreCase):
    def test_what_is_remembered_is_there_after_a_restart(self):
        store = self.opened()
        for name, what in (("alice", ALICE), ("bob", BOB), ("carol", Remembered())):
            store.remember(name, what)
        store.retain("load", LOAD)
        self.closed(store)
        store = self.opened()
        found = {name: store.account(name) for name in ("alice", "bob", "carol")}
        self.assertEqual(found, {"alice": ALICE, "bob": BOB, "carol": Remembered()})
        self.assertEqual((store.sample("load"), self.failures), (LOAD, []))

    @settings(max_examples=25, deadline=None)
    @given(
        st.builds(
            Remembered,
            st.dictionaries(st.text(), st.tuples(st.floats(0.001, 86400.0), st.floats(0, 1e300))),
            st.integers(0, 2**62),
            st.integers(0, 2**62),
            st.none() | st.floats(allow_nan=False),
            st.none() | st.floats(allow_nan=False),
        ),
        st.builds(Retained, st.integers(0, 2**62), st.floats(allow_nan=False), st.binary()),
    )
    def test_whatever_is_remembered_comes_back_as_it_was(self, what, sample):
        store = self.opened()
        store.remember("alice", what)
        store.retain("load", sample)
        self.closed(store)
        accounts, samples = self.kept()
        self.assertEqual((accounts["alice"], samples["load"]), (what, sample))

    def test_others_than_the_server_s_user_do_not_read_it(self):
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        self.opened().remember("alice", ALICE)
        self.assertEqual({oct(path.stat().st_mode & 0o777) for path in self.folder.iterdir()}, {"0o600"})

    def test_one_that_others_can_read_is_read_by_others_no_more(self):
        store = self.filled(1)
        modes = {}
        for before in (0o644, 0o660, 0o600):
            self.path.chmod(before)
            self.done(store.open())
            store.remember("alice", ALICE)
            self.done(store.save())
            modes[before] = {oct(path.stat().st_mode & 0o777) for path in self.folder.iterdir()}
            self.closed(store)
        self.assertEqual(modes, {mode: {"0o600"} for mode in (0o644, 0o660, 0o600)})
        self.path.unlink()
        self.path.touch(0o644)
        self.done(store.open())
        self.assertEqual(oct(self.path.stat().st_mode & 0o777), "0o600")

    def test_the_mode_of_what_is_left_alone_stays(self):
        self.path.write_bytes(GARBAGE)
        self.path.chmod(0o644)
        self.assertIsNotNone(self.opened().trouble)
        self.assertEqual(oct(self.path.stat().st_mode & 0o777), "0o644")

    def test_a_file_that_is_closed_has_no_log_beside_it(self):
        self.filled()
        self.assertEqual(self.names(), ["state.sqlite"])

    def test_closing_takes_nothing_from_another_program_that_has_it_open(self):
        store = self.opened()
        with closing(sqlite3.connect(self.path)) as other:
            other.execute("SELECT * FROM account").fetchall()
            store.remember("alice", ALICE)
            self.closed(store)
            self.assertEqual(self.rows(), ["alice"])
            self.assertEqual(other.execute("SELECT name FROM account").fetchall(), [("alice",)])
        self.assertEqual(self.kept()[0], {"alice": ALICE})

    def test_closing_leaves_no_thread_and_no_trigger(self):
        threads = active_count()
        store = self.opened()
        self.assertEqual((active_count(), self.reactor.triggers), (threads + 1, set()))
        self.closed(store)
        self.assertEqual((active_count(), self.reactor.triggers), (threads, set()))

    def test_it_is_found_behind_a_symbolic_link_and_its_log_is_beside_it(self):
        (self.folder / "elsewhere").mkdir()
        self.path.symlink_to("elsewhere/state.sqlite")
        store = self.opened()
        store.remember("alice", ALICE)
        self.done(store.save())
        self.assertEqual(len(list((self.folder / "elsewhere").iterdir())), 3)
        self.closed(store)
        self.assertEqual(self.kept()[0], {"alice": ALICE})


class BatchTests(StoreCase):
    def test_what_changes_is_written_half_a_second_later_at_most(self):
        store = self.opened()
        store.remember("alice", ALICE)
        self.reactor.advance(BATCH_SECONDS * 0.9)
        store.remember("bob", BOB)
        self.assertEqual(self.rows(), [])
        self.passes(store, BATCH_SECONDS * 0.1)
        self.assertEqual(self.rows(), ["alice", "bob"])

    def test_a_sample_is_written_as_soon_as_an_account(self):
        store = self.opened()
        store.retain("load", LOAD)
        self.passes(store, BATCH_SECONDS)
        self.assertEqual(self.rows("SELECT sequence FROM sample"), [7])

    def test_ten_thousand_changes_are_one_thing_to_do_for_the_thread(self):
        store = self.opened()
        for number in range(10_000):
            store.remember(f"account{number}", ALICE)
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.reactor.advance(BATCH_SECONDS)
        self.reactor.turn()
        self.assertEqual(self.rows("SELECT count(*) FROM account"), [10_000])
        self.assertFalse(store._lock.locked)

    def test_what_changes_while_a_batch_is_written_is_written_next(self):
        store = self.opened()
        store.remember("alice", ALICE)
        store.retain("load", LOAD)
        self.reactor.advance(BATCH_SECONDS)
        store.remember("alice", BOB)
        store.remember("bob", BOB)
        store.retain("load", Retained(8, EPOCH, b""))
        self.reactor.turn()
        self.assertEqual(self.rows(), ["alice"])
        self.passes(store, BATCH_SECONDS)
        self.closed(store)
        self.assertEqual(self.kept(), ({"alice": BOB, "bob": BOB}, {"load": Retained(8, EPOCH, b"")}))

    def test_what_changes_while_a_batch_takes_long_is_written_right_after_it(self):
        store = self.opened()
        store.remember("alice", ALICE)
        self.reactor.advance(BATCH_SECONDS)
        store.remember("bob", BOB)
        self.reactor.advance(BATCH_SECONDS)
        store.remember("carol", BOB)
        self.passes(store, 0)
        self.assertEqual(self.rows(), ["alice", "bob", "carol"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_what_is_forgotten_is_taken_out_of_the_file_as_soon(self):
        self.filled(2)
        store = self.opened()
        store.remember("alice", ALICE)
        store.forget("account0000")
        store.forget("alice")
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.passes(store, BATCH_SECONDS)
        self.assertEqual(self.rows(), ["account0001"])
        store.forget("account0001")
        self.reactor.advance(BATCH_SECONDS)
        store.remember("account0001", BOB)  # while that is written
        self.passes(store, 0)
        self.passes(store, BATCH_SECONDS)
        self.closed(store)
        self.assertEqual(self.kept()[0], {"account0001": BOB})

    def test_without_a_change_nothing_is_to_be_done(self):
        store = self.opened()
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        store.remember("alice", ALICE)
        self.passes(store, BATCH_SECONDS)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_to_save_is_to_write_at_once(self):
        store = self.opened()
        store.remember("alice", ALICE)
        self.done(store.save())
        self.assertEqual(self.rows(), ["alice"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class TroubleCase(StoreCase):
    """What a disk may do; in each case memory serves, and everything is written when that can be done again."""

    def opened_in_trouble(self, pattern):
        with capturedLogs() as logs:
            store = self.opened()
        self.assert_trouble(store, pattern, logs)
        return store

    def assert_trouble(self, store, pattern, logs):
        """Check that there is trouble, that it was told once, and that memory serves."""
        self.assertRegex(store.trouble, pattern)
        self.assertIn(str(self.path), store.trouble)
        (event,) = logs
        self.assertEqual((event["log_level"], event["trouble"]), (LogLevel.warn, store.trouble))
        self.assertEqual(len(self.failures), 1)
        store.remember("carol", BOB)
        self.assertEqual(store.account("carol"), BOB)

    def goes_on(self, store, tries=3):
        """Let it try again and again; nothing more may be logged."""
        before = len(self.failures)
        with capturedLogs() as logs:
            for _ in range(tries):
                self.passes(store, RETRY_SECONDS)
                self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.assertEqual((logs, len(self.failures) - before), ([], tries))
        self.assertIsNotNone(store.trouble)

    def assert_ends(self, store, **names):
        """Check that the next try ends the trouble, and that all that is in memory is in the file then."""
        with capturedLogs() as logs:
            self.passes(store, RETRY_SECONDS)
        self.assertIsNone(store.trouble)
        (event,) = (event for event in logs if "written again" in event["log_format"])
        self.assertEqual(event["log_level"], LogLevel.info)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        accounts = store._accounts
        self.closed(store)
        self.assertEqual(self.kept()[0], accounts)
        for name, what in {"carol": BOB, **names}.items():
            self.assertEqual(accounts[name], what)


class TroubleTests(TroubleCase):
    def test_a_directory_that_is_missing(self):
        self.folder.rmdir()
        store = self.opened_in_trouble("No such file or directory; see that its directory is there")
        self.goes_on(store)
        self.folder.mkdir()
        self.assert_ends(store)

    def test_a_directory_in_its_place(self):
        self.path.mkdir()
        store = self.opened_in_trouble("is no regular file; name another in server.state")
        self.goes_on(store)
        self.path.rmdir()
        self.assert_ends(store)

    def test_a_fifo_in_its_place_is_not_waited_for(self):
        os.mkfifo(self.path)
        store = self.opened_in_trouble("is no regular file")
        self.path.unlink()
        self.assert_ends(store)

    def lock(self):
        """Lock the file as another program may; return what unlocks it."""
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        return other.close

    def lock_writes(self):
        """As `lock`, but it can be read."""
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN EXCLUSIVE")
        return other.close

    def test_a_file_that_is_locked_at_the_start_is_read_when_that_ends(self):
        self.filled()
        self.edit("DELETE FROM account WHERE name > 'account0001'")
        unlock = self.lock()
        store = self.opened_in_trouble("another program has locked it; end that program")
        self.assertEqual(store.account("account0000"), Remembered())
        store.remember("account0000", Remembered({"time": (4.0, 0.0)}, 1, 10, EPOCH + 5, EPOCH + 6))
        self.goes_on(store)
        unlock()
        self.assert_ends(
            store,
            account0000=Remembered({"time": (4.0, 0.0)}, 4, 1010, EPOCH - 60, EPOCH + 6),
            account0001=ALICE,
        )

    def test_what_is_forgotten_before_the_file_could_be_read_is_not_there_after_it(self):
        self.filled(2)
        unlock = self.lock()
        store = self.opened_in_trouble("another program has locked it")
        store.forget("account0000")
        self.goes_on(store)
        unlock()
        self.assert_ends(store, account0001=ALICE)
        self.assertEqual(self.kept()[0].keys(), {"account0001", "carol"})

    def test_what_is_forgotten_while_a_batch_fails_is_taken_out_with_the_next(self):
        self.filled(2)
        store = self.opened()
        unlock = self.lock_writes()
        store.forget("account0000")
        self.reactor.advance(BATCH_SECONDS)
        store.forget("account0001")
        store.remember("carol", BOB)
        self.passes(store, 0)
        self.assertIsNotNone(store.trouble)
        unlock()
        self.assert_ends(store)
        self.assertEqual(self.kept()[0], {"carol": BOB})

    def test_a_file_that_is_locked_while_it_is_open(self):
        store = self.opened()
        store.remember("alice", ALICE)
        self.done(store.save())
        unlock = self.lock_writes()
        store.remember("bob", BOB)
        with capturedLogs() as logs:
            self.passes(store, BATCH_SECONDS)
        self.assert_trouble(store, "another program has locked it", logs)
        self.goes_on(store)
        unlock()
        self.assert_ends(store, alice=ALICE, bob=BOB)

    def test_what_changes_while_a_batch_fails_is_written_with_it(self):
        store = self.opened()
        unlock = self.lock_writes()
        store.remember("alice", ALICE)
        store.remember("bob", ALICE)
        store.retain("load", LOAD)
        self.reactor.advance(BATCH_SECONDS)
        store.remember("bob", BOB)
        store.remember("carol", BOB)
        store.retain("load", Retained(8, EPOCH, b""))
        store.retain("host", LOAD)
        self.passes(store, 0)
        self.assertIsNotNone(store.trouble)
        unlock()
        self.assert_ends(store, alice=ALICE, bob=BOB)
        self.assertEqual(self.kept()[1], {"load": Retained(8, EPOCH, b""), "host": LOAD})

    def test_what_could_not_be_read_is_read_when_it_can_be(self):
        self.filled(1)
        self.edit("ALTER TABLE sample RENAME TO other")
        store = self.opened_in_trouble("SQLite says: no such table: sample; if it stays so, move the file away")
        self.goes_on(store)
        self.edit("ALTER TABLE other RENAME TO sample")
        self.assert_ends(store, account0000=ALICE)

    def test_a_disk_that_does_not_answer(self):
        store = self.opened()
        store.remember("alice", ALICE)
        self.reactor.advance(BATCH_SECONDS)  # and what the thread says is not heard
        self.reactor.advance(SAVE_SECONDS - 0.25)
        self.assertIsNone(store.trouble)
        with capturedLogs() as logs:
            self.reactor.advance(0.25)
            saving, closing_ = store.save(), store.close()
            self.assertNoResult(saving)
            self.reactor.advance(SAVE_SECONDS)
        self.assertIsNone(self.successResultOf(saving))
        self.assertIsNone(self.successResultOf(closing_))
        self.assertEqual(store.trouble, f"{self.path}: the disk does not answer; see whether it is busy or broken")
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.warn] * 2)
        self.assertIn("is lost", logs[1]["log_format"])
        self.assertEqual(logs[1]["trouble"], store.trouble)
        store.remember("bob", BOB)
        self.passes(store, 0)
        self.assertIsNone(store.trouble)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.kept()[0], {"alice": ALICE, "bob": BOB})

    def test_a_disk_that_does_not_answer_at_the_start(self):
        self.filled(1)
        store = self.made()
        opening = store.open()
        self.reactor.advance(OPEN_SECONDS - 0.25)
        self.assertNoResult(opening)
        self.reactor.advance(0.25)
        self.assertIsNone(self.successResultOf(opening))
        self.assertEqual(store.account("account0000"), Remembered())
        store.remember("bob", BOB)
        self.passes(store, 0)
        self.assertEqual((store.account("account0000"), store.account("bob")), (ALICE, BOB))
        self.assertIsNone(store.trouble)

    def test_a_cause_that_changes_is_told_too(self):
        store = self.opened()
        unlock = self.lock_writes()
        store.remember("alice", ALICE)
        self.passes(store, BATCH_SECONDS)
        self.assertIn("has locked it", store.trouble)
        unlock()
        self.path.unlink()
        self.path.mkdir()
        self.failures.clear()
        with capturedLogs() as logs:
            self.passes(store, RETRY_SECONDS)
        self.assert_trouble(store, "is no regular file", logs)
        self.goes_on(store)
        store.remember("alice", Remembered(logins=2**64))
        self.path.rmdir()
        self.passes(store, RETRY_SECONDS)
        self.assertEqual(len(self.flushLoggedErrors(OverflowError)), 1)
        self.assertIn("its log says why", store.trouble)
        store.remember("alice", ALICE)
        self.assert_ends(store, alice=ALICE)

    def lost(self, store):
        """Close a store; return what is told then of what is lost."""
        with capturedLogs() as logs:
            self.closed(store)
        return [event["trouble"] for event in logs if "is lost" in event["log_format"]]

    def test_what_was_in_memory_only_when_it_is_closed_is_told_to_be_lost(self):
        for change in (lambda store: store.remember("alice", ALICE), lambda store: store.retain("load", LOAD)):
            self.setUp()
            store = self.opened()
            unlock = self.lock_writes()
            change(store)
            self.assertEqual(self.lost(store), [f"{self.path}: another program has locked it; end that program"])
            unlock()

    def test_nothing_is_told_to_be_lost_where_nothing_is(self):
        self.path.mkdir()
        self.assertEqual(self.lost(self.opened()), [])
        self.path.rmdir()
        store = self.opened()
        store.remember("alice", ALICE)
        self.assertEqual(self.lost(store), [])
        store.remember("alice", BOB)  # it is not to be written: there is no file
        self.assertEqual(self.lost(store), [])

    def test_who_does_not_wait_until_it_is_closed_is_told_what_is_lost(self):
        store = self.opened()
        store.remember("alice", ALICE)
        closing_ = store.close()  # and what the thread says is not heard
        with capturedLogs() as logs:
            closing_.cancel()
        self.failureResultOf(closing_)
        (event,) = logs
        self.assertEqual(event["trouble"], f"{self.path}: the disk does not answer; see whether it is busy or broken")
        self.passes(store, 0)

    def test_an_error_of_our_own_is_logged_once(self):
        store = self.opened()
        store.remember("alice", Remembered(logins=2**64))
        self.passes(store, BATCH_SECONDS)
        self.assertEqual(len(self.flushLoggedErrors(OverflowError)), 1)
        self.assertIn("its log says why", store.trouble)
        self.passes(store, RETRY_SECONDS)
        self.assertEqual(self.flushLoggedErrors(), [])
        store.remember("alice", ALICE)
        store.remember("carol", BOB)
        self.assert_ends(store, alice=ALICE)


class LeftAloneTests(TroubleCase):
    def assert_left_alone(self, pattern):
        before = self.path.read_bytes()
        store = self.opened_in_trouble(pattern)
        self.goes_on(store)
        self.closed(store)
        self.assertEqual((self.path.read_bytes(), self.names()), (before, ["state.sqlite"]))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_database_of_a_newer_clockd(self):
        self.filled()
        self.edit(f"PRAGMA user_version = {len(migrations()) + 1}")
        self.assert_left_alone("was made by a newer clockd; install that, or name another file in server.state")

    def test_a_database_of_another_program(self):
        self.edit("CREATE TABLE account (name)", "INSERT INTO account VALUES ('alice')")
        self.assert_left_alone("is a database of another program; name another file in server.state")

    def test_what_never_was_a_database(self):
        for content in (GARBAGE, *(GARBAGE[:size] for size in (1, 15, 16, 512, 4096)), HEADED[:15], bytes(8192)):
            self.setUp()
            self.path.write_bytes(content)
            self.assert_left_alone("is no database of SQLite; name another file in server.state")

    def test_one_that_takes_the_place_of_ours_while_it_is_open(self):
        store = self.opened()
        store.remember("alice", ALICE)
        self.done(store.save())
        other = self.folder / "other"
        other.write_bytes(GARBAGE)
        other.rename(self.path)
        store.remember("bob", BOB)
        with capturedLogs() as logs:
            self.passes(store, BATCH_SECONDS)
        self.assertIn("was removed or replaced", logs.pop(0)["what"])
        self.failures.pop()
        self.assert_trouble(store, "is no database of SQLite; name another file in server.state", logs)
        self.goes_on(store)
        self.assertEqual((self.path.read_bytes(), self.names()), (GARBAGE, ["state.sqlite"]))
        self.path.unlink()
        self.assert_ends(store, alice=ALICE, bob=BOB)


class ExamineTests(StoreCase):
    """What `clockd check` finds wrong with a file before a server has it; it changes nothing."""

    def found(self):
        """Return what is found wrong, or None."""
        before = self.contents()
        try:
            examine(self.path)
        except Unusable as error:
            return str(error)
        finally:
            self.assertEqual(self.contents(), before)
        return None

    def contents(self):
        return {path: path.is_file() and path.read_bytes() for path in self.folder.rglob("*")}

    def test_one_that_can_be_made_or_is_empty_or_is_ours_is_good(self):
        self.assertIsNone(self.found())
        self.path.touch()
        self.assertIsNone(self.found())
        self.filled()
        self.assertIsNone(self.found())
        (self.folder / "link").symlink_to("state.sqlite")
        self.path = self.folder / "link"
        self.assertIsNone(self.found())

    def test_one_that_a_server_has_open_is_good_from_the_first_moment_on(self):
        store = self.opened()
        self.assertIsNone(self.found())
        store.remember("alice", ALICE)
        self.done(store.save())
        self.assertIsNone(self.found())
        self.passes(store, 0)
        self.assertEqual((store.trouble, self.failures), (None, []))

    def test_what_is_damaged_is_good_since_the_server_deals_with_it(self):
        self.path.write_bytes(HEADED)
        self.assertIsNone(self.found())

    def test_what_a_store_would_leave_alone_is_found(self):
        self.path.write_bytes(b"[server]\n")
        self.assertEqual(self.found(), "is no database of SQLite; name another file in server.state")
        self.path.unlink()
        self.edit("CREATE TABLE account (name)")
        self.assertEqual(self.found(), "is a database of another program; name another file in server.state")
        self.path.unlink()
        self.filled()
        self.edit(f"PRAGMA user_version = {len(migrations()) + 1}")
        self.assertRegex(self.found(), "was made by a newer clockd; install that")
        self.path.unlink()
        self.path.mkdir()
        self.assertEqual(self.found(), "is no regular file; name another in server.state")

    def test_what_has_no_place_is_found(self):
        file = self.folder / "file"
        file.touch()
        for path, what in (
            (self.folder / "none" / "state", "No such file or directory"),
            (file / "state", "Not a directory"),
            (self.folder / "null\0", "is no name of a file"),
        ):
            self.path = path
            advice = "see that its directory is there and that the server may write to it"
            self.assertEqual(self.found(), f"{what}; {advice}")


class DamageTests(TroubleCase):
    """A file that is no database, or no whole one: it is kept, byte by byte, and a new one takes its place."""

    def assert_moved_aside(self, store, logs, pattern, content, **names):
        self.assertIsNone(store.trouble)
        (event,) = (event for event in logs if event["log_level"] is LogLevel.warn)
        self.assertRegex(event["what"], pattern)
        self.assertIn(str(self.aside()), event["what"])
        self.assertEqual(self.aside().name, f"state.sqlite.broken-{STAMP}")
        self.assertEqual(self.aside().read_bytes(), content)
        self.assertEqual(len(self.failures), 1)
        store.remember("carol", BOB)
        self.closed(store)
        self.assertEqual(self.kept()[0], {"carol": BOB, **names})

    def assert_moved_aside_at_the_start(self, pattern):
        content = self.path.read_bytes()
        with capturedLogs() as logs:
            store = self.opened()
        self.assert_moved_aside(store, logs, pattern, content)

    def test_garbage_of_any_size_behind_a_header_at_the_start(self):
        for size in (16, 17, 511, 512, 4096, len(HEADED)):
            self.setUp()
            self.path.write_bytes(HEADED[:size])
            self.assert_moved_aside_at_the_start("is damaged .*; it is kept as .*, and a new one")

    def test_an_empty_file_at_the_start_is_a_new_one(self):
        self.path.touch()
        store = self.opened()
        self.assertEqual((store.trouble, self.failures, self.names()[0]), (None, [], "state.sqlite"))
        self.assertEqual(len(self.names()), 3)

    def test_one_that_was_cut_short_at_the_start(self):
        self.filled()
        whole = self.path.read_bytes()
        for size in (100, 4096, len(whole) - 4096):
            self.setUp()
            self.path.write_bytes(whole[:size])
            self.assert_moved_aside_at_the_start("is damaged")

    def test_one_that_is_damaged_in_the_middle_at_the_start(self):
        self.filled()
        with self.path.open("r+b") as file:
            file.seek(2 * 4096)
            file.write(GARBAGE[:4096])
        self.assert_moved_aside_at_the_start("is damaged")

    def test_damage_that_reading_does_not_show_is_found_at_the_start(self):
        self.filled()
        with self.path.open("r+b") as file:
            file.seek(36)  # how many of its pages are free
            file.write(b"\0\0\0\7")
        self.assert_moved_aside_at_the_start("is damaged")

    def test_garbage_with_a_log_is_moved_with_it(self):
        for name in ("state.sqlite", "state.sqlite-wal", "state.sqlite-shm"):
            (self.folder / name).write_bytes(HEADED + name.encode())
        self.closed(self.opened())
        self.assertEqual(
            self.names(), ["state.sqlite", *(f"state.sqlite.broken-{STAMP}{end}" for end in ("", "-shm", "-wal"))]
        )
        for end in ("", "-wal"):  # the other is an index of this, and SQLite makes it anew
            kept = self.folder / f"state.sqlite.broken-{STAMP}{end}"
            self.assertEqual(kept.read_bytes(), HEADED + f"state.sqlite{end}".encode())

    def test_what_was_moved_aside_before_is_not_overwritten(self):
        for number in range(3):
            self.path.write_bytes(HEADED + bytes([number]))
            self.closed(self.opened())
        for number, end in enumerate(("", "-2", "-3")):
            kept = self.folder / f"state.sqlite.broken-{STAMP}{end}"
            self.assertEqual(kept.read_bytes(), HEADED + bytes([number]))

    def begun(self):
        """Return a store that has written two accounts, one of which is in the log only."""
        store = self.opened()
        store.remember("alice", ALICE)
        self.closed(store)
        self.done(store.open())
        store.remember("bob", BOB)
        self.done(store.save())
        return store

    def test_one_that_is_replaced_by_a_damaged_one_while_it_is_open(self):
        store = self.begun()
        other = self.folder / "other"
        other.write_bytes(HEADED)
        other.rename(self.path)
        store.remember("dave", BOB)
        with capturedLogs() as logs:
            self.passes(store, BATCH_SECONDS)
        self.assertEqual(["was removed or replaced" in event["what"] for event in logs], [True, False])
        del logs[0], self.failures[0]
        self.assertEqual([name for name in self.names() if "broken" in name], [f"state.sqlite.broken-{STAMP}"])
        self.assert_moved_aside(store, logs, "is damaged", HEADED, alice=ALICE, bob=BOB, dave=BOB)

    def test_one_that_is_overwritten_while_it_is_open(self):
        store = self.begun()
        with self.path.open("r+b") as file:
            file.write(GARBAGE)
        content, log = (path.read_bytes() for path in (self.path, self.folder / "state.sqlite-wal"))
        store.remember("dave", BOB)
        with capturedLogs() as logs:
            self.passes(store, BATCH_SECONDS)
        self.assertEqual((self.folder / f"state.sqlite.broken-{STAMP}-wal").read_bytes(), log)
        self.assert_moved_aside(store, logs, "was overwritten", content, alice=ALICE, bob=BOB, dave=BOB)

    def test_one_that_is_cut_short_while_it_is_open(self):
        for size in (0, 4096):
            self.setUp()
            store = self.begun()
            os.truncate(self.path, size)
            store.remember("dave", BOB)
            with capturedLogs() as logs:
                self.passes(store, BATCH_SECONDS)
            content = self.aside().read_bytes()
            self.assertEqual(len(content), size)
            pattern = "was cut short" if size else "was overwritten"
            self.assert_moved_aside(store, logs, pattern, content, alice=ALICE, bob=BOB, dave=BOB)

    def test_what_cannot_be_moved_aside_is_not_written_to(self):
        self.path = self.folder / ("x" * 240)  # with more behind it, it would be too long
        self.path.write_bytes(HEADED)
        store = self.opened_in_trouble("is damaged .*, and cannot be moved away .File name too long.; move it")
        self.goes_on(store)
        self.assertEqual(self.path.read_bytes(), HEADED)
        self.path.unlink()
        self.assert_ends(store)


class ReplacedTests(TroubleCase):
    def test_one_that_is_removed_while_it_is_open_is_made_anew(self):
        for names in (["state.sqlite"], ["state.sqlite", "state.sqlite-wal", "state.sqlite-shm"]):
            self.setUp()
            store = self.opened()
            store.remember("alice", ALICE)
            store.retain("load", LOAD)
            self.done(store.save())
            for name in names:
                (self.folder / name).unlink()
            store.remember("bob", BOB)
            with capturedLogs() as logs:
                self.passes(store, BATCH_SECONDS)
            (event,) = logs
            self.assertIn("was removed or replaced", event["what"])
            self.assertEqual((store.trouble, len(self.failures)), (None, 1))
            self.closed(store)
            self.assertEqual(self.kept(), ({"alice": ALICE, "bob": BOB}, {"load": LOAD}))

    def test_in_one_that_is_put_in_its_place_is_what_was_there_and_what_is_in_memory(self):
        store = self.opened()
        store.remember("alice", ALICE)
        store.remember("bob", Remembered(logins=5))
        store.remember("dave", BOB)
        self.closed(store)
        backup = self.folder / "backup"
        backup.write_bytes(self.path.read_bytes())
        self.path.unlink()
        store = self.opened()
        for _ in range(50):  # a log that would change the other file, if it were taken for its own
            store.remember("bob", BOB)
            store.remember("carol", BOB)
            self.done(store.save())
        backup.rename(self.path)
        self.passes(store, BATCH_SECONDS)
        store.remember("erin", BOB)
        self.passes(store, BATCH_SECONDS)
        self.assertIsNone(store.trouble)
        expected = {"alice": ALICE, **dict.fromkeys(("bob", "carol", "dave", "erin"), BOB)}
        self.assertEqual(store._accounts, expected)
        self.closed(store)
        self.assertEqual(self.kept()[0], expected)

    def test_the_directory_is_moved_away_and_back(self):
        store = self.opened()
        store.remember("alice", ALICE)
        self.done(store.save())
        away = self.folder.with_name("away")
        self.folder.rename(away)
        store.remember("bob", BOB)
        with capturedLogs() as logs:
            self.passes(store, BATCH_SECONDS)
        self.assert_trouble(store, "No such file or directory", logs)
        self.goes_on(store)
        away.rename(self.folder)
        self.assert_ends(store, alice=ALICE, bob=BOB)


class RowsTests(StoreCase):
    def test_a_row_that_makes_no_sense_costs_itself_only(self):
        self.filled(10)
        for number, column in enumerate(
            (
                "subscriptions = 'rubbish'",
                """subscriptions = '{"time": [0.0, 0.0]}'""",
                """subscriptions = '{"time": [1.0, -1.0]}'""",
                """subscriptions = '{"time": [1.0]}'""",
                "subscriptions = '[]'",
                "subscriptions = CAST(x'ff' AS TEXT)",
                "logins = 'many'",
                "last_seen = 'yesterday'",
                "name = CAST(x'ff' AS TEXT)",
            )
        ):
            self.edit(f"UPDATE account SET {column} WHERE name = 'account{number:04}'")
        self.edit("INSERT INTO sample VALUES ('load', 'first', 1.0, x'00'), ('host', 1, 1.0, x'01')")
        with capturedLogs() as logs:
            store = self.opened()
        self.assertEqual(store._accounts, {"account0009": ALICE})
        self.assertEqual(store._samples, {"host": Retained(1, 1.0, b"\x01")})
        self.assertEqual((store.trouble, len(self.failures)), (None, 2))
        whats = [event["what"] for event in logs]
        self.assertEqual(whats, [f"{count} of its rows make no sense and are left out" for count in (9, 1)])


class MigrationTests(StoreCase):
    def connection(self):
        connection = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(connection.close)
        return connection

    def migrated(self, scripts):
        connection = self.connection()
        migrate(connection, scripts, f"{self.path}.backup")
        return connection

    def test_the_scripts_are_numbered_from_1(self):
        scripts = sorted((Path(__file__).parent.parent / "clockd" / "migrations").iterdir())
        self.assertEqual([script.name for script in scripts], [f"{n:04}.sql" for n in range(1, len(scripts) + 1)])
        self.assertEqual(migrations(), [script.read_text() for script in scripts])

    def test_a_new_database_has_the_newest_version_and_is_known_as_ours(self):
        self.closed(self.opened())
        self.assertEqual(self.rows("PRAGMA user_version"), [len(migrations())])
        self.assertEqual(self.rows("PRAGMA application_id"), [APPLICATION])
        self.assertEqual(self.names(), ["state.sqlite"])

    def test_what_is_newer_than_a_database_is_done_in_its_order(self):
        self.migrated(["CREATE TABLE one (x)"]).close()
        connection = self.migrated(["nonsense", "ALTER TABLE one ADD COLUMN y", "INSERT INTO one VALUES (1, 2)"])
        self.assertEqual(connection.execute("SELECT * FROM one").fetchall(), [(1, 2)])
        self.assertEqual(connection.execute("PRAGMA user_version").fetchone(), (3,))
        self.assertEqual(self.names(), ["state.sqlite"])  # there was nothing in it

    def test_a_database_with_something_in_it_is_copied_before(self):
        self.migrated(["CREATE TABLE one (x); INSERT INTO one VALUES (1)"]).close()
        self.migrated(["", "DELETE FROM one"])
        copy = self.folder / "state.sqlite.backup"
        self.assertEqual(copy.stat().st_mode & 0o777, 0o600)
        with closing(sqlite3.connect(copy)) as connection:
            self.assertEqual(connection.execute("SELECT * FROM one").fetchall(), [(1,)])
            self.assertEqual(connection.execute("PRAGMA user_version").fetchone(), (1,))
        self.migrated(["", "", "INSERT INTO one VALUES (3)"]).close()
        self.migrated(["", "", "", "SELECT 1"]).close()
        self.assertEqual(self.names(), ["state.sqlite", "state.sqlite.backup", "state.sqlite.backup-2"])

    def test_without_anything_newer_nothing_is_copied(self):
        for _ in range(2):
            self.migrated(["CREATE TABLE one (x); INSERT INTO one VALUES (1)"]).close()
        self.assertEqual(self.names(), ["state.sqlite"])

    def test_one_that_fails_changes_nothing(self):
        self.migrated(["CREATE TABLE one (x)"]).close()
        connection = self.connection()
        scripts = ["", "CREATE TABLE two (x); INSERT INTO one VALUES (1); nonsense"]
        with self.assertRaises(sqlite3.OperationalError):
            migrate(connection, scripts, f"{self.path}.backup")
        connection.close()
        self.assertEqual(self.rows("SELECT name FROM sqlite_master"), ["one"])
        self.assertEqual(self.rows("PRAGMA user_version"), [1])
        self.assertEqual(self.rows("SELECT * FROM one"), [])

    def test_without_a_place_for_the_copy_nothing_is_changed(self):
        self.migrated(["CREATE TABLE one (x); INSERT INTO one VALUES (1)"]).close()
        connection = self.connection()
        with self.assertRaises(FileNotFoundError):
            migrate(connection, ["", "DELETE FROM one"], str(self.folder / "missing" / "backup"))
        self.assertEqual(self.rows("SELECT * FROM one"), [1])

    def test_of_a_copy_that_could_not_be_made_nothing_stays(self):
        self.migrated(["CREATE TABLE one (x); INSERT INTO one VALUES (1)"]).close()
        connection = self.connection()
        with self.assertRaises(sqlite3.OperationalError):
            migrate(connection, ["", "DELETE FROM one"], str(self.folder / ("x" * 250)))  # with more it is too long
        connection.close()
        self.assertEqual((self.rows("SELECT * FROM one"), self.names()), ([1], ["state.sqlite"]))

    def test_a_name_is_unused_if_neither_a_file_has_it_nor_a_log(self):
        name = str(self.folder / "name")
        self.assertEqual(unused(name), name)
        for end, expected in (("", "-2"), ("-2-wal", "-3"), ("-3-shm", "-4")):
            Path(name + end).touch()
            self.assertEqual(unused(name), name + expected)
        (self.folder / "name-4").symlink_to("nowhere")
        self.assertEqual(unused(name), f"{name}-5")
