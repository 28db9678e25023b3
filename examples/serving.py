"""Serve a realm of one's own: what the programs beside this one share.

`make_realm_service` takes the place of `PBServerFactory(Portal(realm, [checker]))` in Twisted's how-to. It brings
accounts, metrics, and limits of what a peer may send and how long it may take. The configuration is that of
`clockd serve`: a program that had it from `clockd.config.load` could listen with TLS and log in by certificate, too.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.cred.portal import IRealm
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from zope.interface import Interface

from clockd.broker import printable_address
from clockd.config import Auth, Config, Metrics, Server
from clockd.errors import ClockdError
from clockd.interfaces import ISession
from clockd.logs import begin_logging
from clockd.monotonic import make_monotonic
from clockd.process import raise_descriptors
from clockd.schedule import Schedule
from clockd.service import make_realm_service
from clockd.users import add_account
from clockd.values import Limits, Tally

Granted = tuple[type[Interface], ISession, Callable[[], None]]
"""What a realm returns: `pb.IPerspective`, the session, and what is called once when it ends."""


class Example:
    """A server with the accounts alice and bob, made for the occasion.

    Attributes:
        schedule: Makes the calls that are due.
        limits: What clients may ask for.
        tally: Where it is counted what `/metrics` tells.
    """

    def __init__(self) -> None:
        make_monotonic(reactor)
        self.limits = Limits()
        self.tally = Tally()
        self.schedule = Schedule(reactor, self.tally.lateness)

    def serve(self, realm: IRealm, call: str) -> None:
        """Serve a realm until Ctrl-C, on the port that the command line names or a free one.

        Args:
            realm: Makes a session of each login.
            call: What there is to try, as arguments of `stock.py`.
        """
        begin_logging("text", sys.stderr, "warn")
        with TemporaryDirectory(prefix="clockd-example-") as folder:
            react(lambda _: Deferred.fromCoroutine(self._serve(realm, call, Path(folder, "users"))))

    async def _serve(self, realm: IRealm, call: str, users: Path) -> None:
        secrets = {name: add_account(users, name) for name in ("alice", "bob")}
        port = sys.argv[1] if len(sys.argv) > 1 else "0"
        config = Config(
            server=Server(listen=(f"tcp:{port}:interface=127.0.0.1",)),
            auth=Auth(users=str(users)),
            limits=self.limits,
            metrics=Metrics(listen="tcp:0:interface=127.0.0.1"),
        )
        try:
            service = make_realm_service(realm, config, self.schedule, self.tally, reactor, time.time)
            reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
            service.startService()
            broker, metrics = (printable_address(port.getHost()) for port in await service.ready)
        except ClockdError as error:
            raise SystemExit(str(error)) from error
        service.make_room(raise_descriptors())
        print(f"Listening on {broker}. Ctrl-C ends it. Meanwhile, in other terminals:\n")
        python, stock = map(os.path.relpath, (sys.executable, Path(__file__).with_name("stock.py")))
        for name, secret in secrets.items():
            print(f"  CLOCKD_SECRET={secret} \\\n  {python} {stock} {broker} {name} {call}")
        print(f"  curl -s http://{metrics}/metrics | grep ^clockd_logins_total\n", flush=True)
        await Deferred()
