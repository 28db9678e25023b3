"""What becomes of a command: its work is driven in the reactor, its end is an exit code, a mistake is one sentence.

Exit codes: 0 done, or stopped by a signal where nothing else ends it; 1 it could not be done (no server, wrong secret,
port in use, a signal before it was done); 2 a mistake in the command line, the configuration or the users file. A
user's mistake is one sentence that says what to do, never a traceback.

Rules of this module: Twisted is imported inside what needs it, as in `cli`.
"""

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from twisted.python.failure import Failure


class Interrupted(Exception):
    """A signal came before what was to be done was done."""


@contextmanager
def one_sentence(failed: int = 1) -> Iterator[None]:
    """Turn what a user did wrong into one sentence on standard error, and an exit code.

    Args:
        failed: The code where it is no mistake of the user's.
    """
    try:
        yield
    except OSError as error:
        click.echo(f"clockd: {error}", err=True)
        sys.exit(failed)
    except Interrupted:
        click.echo("clockd: ended by a signal before it was done", err=True)
        sys.exit(failed)
    except click.Abort:
        click.echo("Aborted!", err=True)
        sys.exit(failed)
    except Exception as error:
        from clockd.errors import CannotListen, ClockdError, Misconfigured

        if not isinstance(error, ClockdError):
            raise
        click.echo(f"clockd: {error}", err=True)
        mistake = isinstance(error, Misconfigured) and not isinstance(error, CannotListen)
        sys.exit(2 if mistake else failed)


@contextmanager
def quiet_without_readers() -> Iterator[None]:
    """Let a command end in silence when nobody reads what it prints."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads what is still buffered


def drive(work: Callable[[Any], Coroutine[Any, Any, None]], *, endless: bool = False) -> None:
    """Run a coroutine in the reactor, on the monotonic clock, until it ends; a signal that is not ignored cancels it.

    Args:
        work: Returns the coroutine.
        endless: Whether a signal is how it is meant to end.

    Raises:
        Exception: What the coroutine raised.
        Interrupted: A signal has ended it, and it is not endless.
    """
    from twisted.internet import reactor
    from twisted.internet.defer import CancelledError, Deferred

    from clockd.monotonic import make_monotonic
    from clockd.process import on_stop_signals, stop

    make_monotonic(reactor)
    failures: list[Failure] = []
    done_by_itself: list[object] = []

    def keep(failure: "Failure") -> None:
        if not failure.check(CancelledError):
            failures.append(failure)

    def start() -> None:
        done = Deferred.fromCoroutine(work(reactor))

        def end() -> Deferred[None]:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)  # whoever asks twice does not want to wait
            done.cancel()
            return done

        reactor.addSystemEventTrigger("before", "shutdown", end)
        on_stop_signals(partial(stop, reactor), reactor)
        done.addCallbacks(done_by_itself.append, keep).addBoth(lambda _: stop(reactor))

    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(stop, reactor))  # type: ignore[attr-defined]  # it is the reactor
    reactor.callWhenRunning(start)
    reactor.run()
    for failure in failures:
        failure.raiseException()
    if not (done_by_itself or endless):
        raise Interrupted
