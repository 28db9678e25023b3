"""`twist clockd`: the service that `clockd serve` starts, under Twisted's own runner."""

import os
import sys
import time
from functools import partial
from pathlib import Path

from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.python.usage import Options as TwistOptions

from clockd.config import load
from clockd.errors import Misconfigured
from clockd.monotonic import make_monotonic
from clockd.notify import supervisor_of
from clockd.process import on_stop_signals, raise_descriptors, reload_on_hangup, stop, tame_collector
from clockd.service import ClockService, make_service, read_again


class Options(TwistOptions):
    """The command line after `twist clockd`."""

    optParameters = (("config", "c", None, "Configuration file in TOML; without it the defaults hold."),)


def makeService(options: Options) -> MultiService:
    """Build the service.

    Raises:
        SystemExit: The configuration cannot be served, or, when it is started, it cannot listen; with one sentence,
            for twist would print a traceback.
    """
    make_monotonic(reactor)
    try:
        file = Path(options["config"]) if options["config"] else None
        again = partial(read_again, file, None, reactor, time.time)
        supervisor = supervisor_of(os.environ, os.getpid())
        service = make_service(load(file), reactor, time.time, again, supervisor=supervisor)
    except Misconfigured as error:
        raise SystemExit(f"clockd: {error}") from error
    return _OrExit(service)


class _OrExit(MultiService):
    """Starts a service, and ends the process with one sentence if it cannot listen: twist itself would go on."""

    def __init__(self, service: ClockService) -> None:
        super().__init__()
        self._service = service
        service.setServiceParent(self)

    def startService(self) -> None:
        reload_on_hangup(self._service.reload, reactor)
        reactor.callWhenRunning(on_stop_signals, partial(stop, reactor), reactor)
        super().startService()
        self._service.ready.addCallbacks(self._serves, self._cannot)

    def stopService(self) -> Deferred[None]:
        on_stop_signals(self._service.hasten, reactor)
        stopped: Deferred[None] = super().stopService()
        return stopped

    def _serves(self, _: object) -> None:
        self._service.make_room(raise_descriptors())
        tame_collector()

    def _cannot(self, failure: Failure) -> None:
        sys.stderr.write(f"clockd: {failure.getErrorMessage()}\n")
        sys.stderr.flush()
        reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)  # twist itself would exit with 0
        reactor.callWhenRunning(reactor.stop)
