"""What the server asks of the process that it runs in: descriptors, and a collector that does not stop pushes.

Rules of this module: called by commands and `twist`, whose process it is; never by the library.
"""

import gc
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

_log = Logger()

NEVER = 1_000_000
"""Collections of the middle generation between two of the oldest."""


def raise_descriptors() -> int:
    """Raise the limit of open descriptors as far as the process may, log and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _log.info("up to {descriptors} descriptors may be open; each connection takes one", descriptors=hard)
    return hard


def reload_on_hangup(reload: Callable[[], object], reactor: Any) -> None:
    """Have SIGHUP call `reload`, in the reactor's thread and in a turn of its own."""
    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(reload))


def on_stop_signals(call: Callable[[], object], reactor: Any) -> None:
    """Have SIGINT and SIGTERM call `call`, in the reactor's thread; to the reactor itself a second one is an error."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: reactor.callFromThread(call))


def stop(reactor: Any) -> None:
    """Stop a reactor; nothing, if it stops already."""
    with suppress(ReactorNotRunning):
        reactor.stop()


def tame_collector() -> None:
    """Have the collector leave alone what lives long.

    A full collection stops the loop for some 40 ms with ten thousand connections. What exists now is never looked at
    again, and what outlives the young generations is not looked at either: a connection that has ended leaves no
    cycles behind (`tests/integration/test_churn.py`). `ClockService.look` has it all looked at if some linger.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)
