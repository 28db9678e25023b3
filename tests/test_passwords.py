"""The threads that check passwords; what they found is told when the test says so."""

import os
import time
from queue import Queue
from threading import Event, active_count

from argon2 import PasswordHasher
from argon2.exceptions import HashingError, InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import TooManyAttempts
from clockd.passwords import CHECKS, MOST_THREADS, NICENESS, PasswordPool, new_hasher

SECONDS = 20
"""As long as anything may take."""

CHEAP = PasswordHasher(1, 1024, 1)
RIGHT = bytes(range(16))
HASH = CHEAP.hash(RIGHT).encode()


def holds(condition, seconds):
    """Wait until a condition holds, and tell whether it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


class Reactor:
    """Collects what threads want to be done."""

    def __init__(self):
        self.calls = Queue()

    def callFromThread(self, call, *args):
        self.calls.put((call, args))

    def turn(self, seconds=SECONDS):
        """Do one thing that a thread asks for."""
        call, args = self.calls.get(timeout=seconds)
        call(*args)


class Hasher:
    """Says of every response that it fits, as soon as it may; records what it was asked, and how nice its thread is.

    Attributes:
        until: Waits until it may, so many seconds at most.
    """

    def __init__(self):
        self.checked = []
        self.begun = Event()
        self.may_end = Event()
        self.until = self.may_end.wait

    def verify(self, verifier, response):
        self.checked.append((verifier, response, os.getpriority(os.PRIO_PROCESS, 0)))
        self.begun.set()
        if not self.until(SECONDS):
            raise TimeoutError
        return True


class PoolCase(SynchronousTestCase):
    def pool(self, hasher=CHEAP, processors=2):
        self.reactor = Reactor()
        pool = PasswordPool(self.reactor, hasher, processors)
        pool.startService()
        self.addCleanup(pool.stopService)
        return pool

    def result(self, check):
        """Return what a check comes to."""
        self.assertNoResult(check)
        self.reactor.turn()
        return self.successResultOf(check)


class CheckingTests(PoolCase):
    def test_the_right_response_fits_and_no_other(self):
        pool = self.pool()
        for response, fits in ((RIGHT, True), (RIGHT[::-1], False), (b"", False), (RIGHT + b"\0", False)):
            self.assertIs(self.result(pool.fits(HASH, response)), fits)

    def test_nothing_fits_an_account_that_is_not_there(self):
        pool = self.pool()
        for response in (RIGHT, b"", bytes(16)):
            self.assertIs(self.result(pool.fits(b"", response)), False)

    def test_for_an_account_that_is_not_there_a_hash_is_made_as_dear_as_any(self):
        made = []

        class Counting(PasswordHasher):
            def hash(self, password, **kwargs):
                made.append((password, self.memory_cost))
                return super().hash(password, **kwargs)

        self.result(self.pool(Counting(1, 1024, 1)).fits(b"", RIGHT))
        self.assertEqual(made, [(RIGHT, 1024)])

    def test_what_goes_wrong_is_told(self):
        check = self.pool().fits(b"no hash", RIGHT)
        self.reactor.turn()
        self.failureResultOf(check, InvalidHashError)

    def test_hashes_are_those_of_rfc_9106_with_64_mib(self):
        self.assertEqual(PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY).memory_cost, 65536)
        hashed = new_hasher().hash(RIGHT)
        self.assertRegex(hashed, r"\A\$argon2id\$v=19\$m=65536,t=3,p=4\$")
        self.assertIs(self.result(self.pool(new_hasher()).fits(hashed.encode(), RIGHT)), True)


class BoundTests(PoolCase):
    def test_there_is_a_thread_for_every_two_processors_but_one_at_least_and_four_at_most(self):
        for processors, threads in ((1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, MOST_THREADS)):
            before, hasher = active_count(), Hasher()
            pool = self.pool(hasher, processors)
            checks = [pool.fits(HASH, RIGHT) for _ in range(10)]
            self.assertEqual(active_count() - before, threads)
            hasher.may_end.set()
            for _ in checks:
                self.reactor.turn()
            self.assertEqual([self.successResultOf(check) for check in checks], [True] * 10)
            pool.stopService()

    def test_beyond_as_many_as_may_be_in_hand_a_check_is_refused_at_once(self):
        hasher = Hasher()
        pool = self.pool(hasher)
        checks = [pool.fits(HASH, bytes([number])) for number in range(CHECKS)]
        refused = self.failureResultOf(pool.fits(HASH, RIGHT), TooManyAttempts)
        self.assertIn("try again in a moment", str(refused.value))
        for check in checks:
            self.assertNoResult(check)
        hasher.may_end.set()
        self.reactor.turn()
        more = pool.fits(HASH, RIGHT)  # there is room for one
        self.failureResultOf(pool.fits(HASH, RIGHT), TooManyAttempts)
        for _ in range(CHECKS):
            self.reactor.turn()
        self.assertEqual([self.successResultOf(check) for check in (*checks, more)], [True] * (CHECKS + 1))
        self.assertEqual([response for _, response, _ in hasher.checked], [*map(bytes, zip(range(CHECKS))), RIGHT])

    def test_a_check_that_goes_wrong_leaves_room_for_the_next(self):
        pool = self.pool()
        for _ in range(2 * CHECKS):
            check = pool.fits(b"no hash", RIGHT)
            self.reactor.turn()
            self.failureResultOf(check, InvalidHashError)
        self.assertTrue(self.result(pool.fits(HASH, RIGHT)))

    def test_the_threads_are_nicer_than_the_reactor_s(self):
        hasher = Hasher()
        hasher.may_end.set()
        before = os.getpriority(os.PRIO_PROCESS, 0)
        self.result(self.pool(hasher).fits(HASH, RIGHT))
        self.assertEqual(hasher.checked, [(HASH, RIGHT, max(NICENESS, before))])
        self.assertEqual(os.getpriority(os.PRIO_PROCESS, 0), before)


class Exhausted:
    """Says that there is no memory, or no thread, to check anything."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def hash(self, response):
        raise self.errors.pop(0)

    def verify(self, verifier, response):
        raise self.errors.pop(0)


class ExhaustionTests(PoolCase):
    def test_what_cannot_be_checked_may_be_tried_again_and_is_no_check_in_hand(self):
        errors = [VerificationError("Threading failure"), HashingError("Memory allocation error"), MemoryError("none")]
        for error in errors:
            for verifier in (HASH, b""):
                pool = self.pool(Exhausted(error))
                found = pool.fits(verifier, RIGHT)
                self.reactor.turn()
                failure = self.failureResultOf(found, TooManyAttempts)
                self.assertIs(failure.value.__cause__, error)
                self.assertEqual(pool._checks, 0)


class StoppingTests(PoolCase):
    def test_all_threads_run_from_the_start_to_the_end(self):
        threads = active_count()
        pool = self.pool()
        self.assertEqual(active_count(), threads + 1)
        self.result(pool.fits(HASH, RIGHT))
        self.assertEqual(active_count(), threads + 1)
        pool.stopService()
        self.assertEqual(active_count(), threads)

    def test_one_that_does_not_run_checks_nothing(self):
        pool = PasswordPool(Reactor(), CHEAP, 2)
        self.failureResultOf(pool.fits(HASH, RIGHT), TooManyAttempts)
        pool.stopService()
        pool.startService()
        pool.stopService()
        pool.stopService()
        self.failureResultOf(pool.fits(HASH, RIGHT), TooManyAttempts)

    def test_what_waits_at_the_end_is_given_up_and_what_is_in_hand_is_finished(self):
        hasher = Hasher()
        pool = self.pool(hasher)
        hasher.until = lambda seconds: holds(lambda: not pool.running, seconds)
        first, *others = [pool.fits(HASH, RIGHT) for _ in range(CHECKS)]
        self.assertTrue(hasher.begun.wait(SECONDS))
        pool.stopService()
        for _ in range(CHECKS):
            self.reactor.turn()
        self.assertIs(self.successResultOf(first), True)
        for check in others:
            self.failureResultOf(check, TooManyAttempts)
        self.assertEqual(len(hasher.checked), 1)

    def test_one_that_is_started_again_checks_again(self):
        pool = self.pool()
        self.assertTrue(self.result(pool.fits(HASH, RIGHT)))
        pool.stopService()
        pool.startService()
        self.assertTrue(self.result(pool.fits(HASH, RIGHT)))
