"""Argon2 away from the reactor's thread: to check a password takes 64 MiB of memory and a tenth of a second.

Rules of this module: it alone knows argon2.
"""

import os
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import HashingError, VerificationError, VerifyMismatchError
from argon2.profiles import RFC_9106_LOW_MEMORY
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from clockd.errors import TooManyAttempts

T = TypeVar("T")

MOST_THREADS = 4
"""Threads there are at most, one for every two processors; each takes 64 MiB while it checks."""

CHECKS = 32
"""Checks in hand at a time, with those that wait for a thread: with one thread the last of them takes four seconds."""

NICENESS = 10
"""Of the threads, at least: pushes go first, and on a busy host a check gets a tenth of a processor."""


def new_hasher() -> PasswordHasher:
    """Return what makes hashes, by the second recommendation of RFC 9106, section 4: argon2id with 64 MiB."""
    return PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


class PasswordPool(Service):
    """Checks passwords while it runs, in threads of its own.

    Args:
        reactor: Where what was found out is told.
        hasher: Checks hashes.
        processors: How many there are.
    """

    def __init__(self, reactor: IReactorFromThreads, hasher: PasswordHasher, processors: int) -> None:
        self._reactor = reactor
        self._hasher = hasher
        self._threads = min(max(processors // 2, 1), MOST_THREADS)
        self._pool: ThreadPool | None = None
        self._checks = 0

    def startService(self) -> None:
        """Start all threads: one that could not be made when it is needed would fail those who log in then.

        Raises:
            RuntimeError: The system has no thread to spare.
        """
        pool = ThreadPool(self._threads, self._threads, "passwords")
        pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]  # keeps up no process that ends
        pool.start()
        self._pool = pool
        super().startService()

    def stopService(self) -> None:
        """Give up the checks that wait; returns when those that a thread has in hand are done."""
        super().stopService()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()

    def fits(self, verifier: bytes, response: bytes) -> Deferred[bool]:
        """Tell whether a response is the one whose hash this is.

        Args:
            verifier: The hash; an empty one fits nothing, and takes as long to find out.
            response: What the client sent.

        Raises:
            TooManyAttempts: Through the Deferred: `CHECKS` are in hand, or the service does not run, or there is no
                memory or thread for it, which is the cause then.
        """
        if self._pool is None or self._checks == CHECKS:
            return fail(_too_many())
        self._checks += 1
        return deferToThreadPool(self._reactor, self._pool, self._check, verifier, response).addBoth(self._checked)

    def _check(self, verifier: bytes, response: bytes) -> bool:
        if not self.running:
            raise _too_many()
        with suppress(OSError):  # where that is forbidden, pushes may be late while passwords are checked
            # of this thread, and of those that argon2 makes
            os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
        try:
            if not verifier:
                self._hasher.hash(response)
                return False
            return self._hasher.verify(verifier, response)
        except VerifyMismatchError:
            return False
        except (HashingError, VerificationError, MemoryError) as error:
            raise _too_many() from error

    def _checked(self, result: T) -> T:
        self._checks -= 1
        return result


def _too_many() -> TooManyAttempts:
    return TooManyAttempts("the server checks as many passwords as it can; try again in a moment")
