"""A server and a subscriber in one process, for `clockd demo`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.interfaces import IListeningPort

from clockd import __version__
from clockd.broker import printable_address
from clockd.client import connect
from clockd.config import Auth, Config, Metrics, Server
from clockd.errors import CannotListen
from clockd.lines import line_of
from clockd.service import ClockService, make_service
from clockd.users import add_account


async def demonstrate(say: Callable[[str], object], now: Callable[[], float], reactor: Any) -> None:
    """Serve, subscribe, and print what is pushed, until it is cancelled; nothing stays behind.

    Args:
        say: Prints a line.
        now: Unix seconds UTC by the host's wall clock.
        reactor: Where to run.

    Raises:
        CannotListen: Not even a free port of 127.0.0.1 can be had.
    """
    with TemporaryDirectory(prefix="clockd-demo-") as folder:
        users = Path(folder) / "users"
        secret = add_account(users, "demo")
        usual = Config(auth=Auth(users=str(users)), server=Server(state=""))
        free = "tcp:0:interface=127.0.0.1"
        elsewhere = Config(auth=usual.auth, server=Server(listen=(free,), state=""), metrics=Metrics(listen=free))
        service, ports = await _started([usual, elsewhere], now, reactor)
        try:
            broker, metrics = (printable_address(port.getHost()) for port in ports)
            say(_invitation(broker, metrics, secret))
            async with connect(f"tcp:{broker}", "demo", secret, reactor=reactor) as clock:
                async for reading in clock.samples():
                    say(f"  {line_of(reading)}")
        finally:
            await service.stopService()


def _invitation(broker: str, metrics: str, secret: str) -> str:
    """Return what is said before the ticks."""
    here = os.path.relpath
    script = Path(sys.argv[0])
    clockd = here(script) if script.name == "clockd" else f"{here(sys.executable)} -m clockd"
    login = f"CLOCKD_SECRET={secret} \\\n  "
    tries = [
        f"{login}{clockd} watch demo@{broker} --period 0.2",
        f"curl -s http://{metrics}/metrics | grep ^clockd_pushes_total",
    ]
    example = Path(__file__).parent.parent / "examples" / "subscriber.py"
    if example.exists():
        tries.append(f"{login}{here(sys.executable)} {here(example)} tcp:{broker} demo")
    lines = "".join(f"  {line}\n" for line in tries)
    return f"""\
clockd {__version__} is serving, and http://{metrics}/ shows it to a browser. Ctrl-C ends it.
Meanwhile, in another terminal:

{lines}
A subscriber in this terminal, at the default of one push a second:
"""


async def _started(
    configs: list[Config], now: Callable[[], float], reactor: Any
) -> tuple[ClockService, list[IListeningPort]]:
    """Start the service of the first configuration whose addresses are free.

    Returns:
        The service and its ports, HTTP's last.

    Raises:
        CannotListen: None of them are.
        Misconfigured: One cannot be served.
    """
    *others, last = configs
    for config in others:
        service = make_service(config, reactor, now)
        service.startService()
        try:
            return service, await service.ready
        except CannotListen:
            await service.stopService()
    service = make_service(last, reactor, now)
    service.startService()
    return service, await service.ready
