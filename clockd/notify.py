"""What the process's supervisor is told: that the service is ready, how it is, and that it lives; see sd_notify(3).

Rules of this module: a word that cannot be said is lost and holds nothing up; without NOTIFY_SOCKET nothing is done.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from socket import AF_UNIX, SOCK_DGRAM, socket

from twisted.application.service import Service

STATUS_SECONDS = 15.0
"""How often a supervisor that asks for no sign of life is told how the service is."""


class Supervisor(Service):
    """systemd, or whatever plays its part; it can be told something while this runs.

    Args:
        name: Its datagram socket: a path, or an abstract name behind `@`.
        watchdog: It wants a sign of life within so many seconds, each time; None if it wants none.

    Attributes:
        seconds: How often to call `live`.
    """

    def __init__(self, name: str, watchdog: float | None) -> None:
        self._address = re.sub("^@", "\0", name)
        self._alive = () if watchdog is None else ("WATCHDOG=1",)
        self._socket: socket | None = None
        self.seconds = STATUS_SECONDS if watchdog is None else watchdog / 2

    def startService(self) -> None:
        """Keep a socket from now on: when the process has no descriptor left it lives all the same."""
        super().startService()
        with suppress(OSError):
            self._socket = socket(AF_UNIX, SOCK_DGRAM)
            self._socket.setblocking(False)

    def stopService(self) -> None:
        """Say nothing more."""
        super().stopService()
        if self._socket is not None:
            self._socket.close()

    def tell(self, *words: str) -> None:
        """Say something, such as READY=1, all in one datagram."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendto("\n".join(words).encode(), self._address)

    def live(self, status: str) -> None:
        """Give a sign of life, if one is wanted.

        Args:
            status: How the service is, in a line.
        """
        self.tell(*self._alive, f"STATUS={status}")


def supervisor_of(environment: Mapping[str, str], process: int) -> Supervisor | None:
    """Return who wants to be told how this process is, or None.

    Args:
        environment: The process's.
        process: Its id.
    """
    name = environment.get("NOTIFY_SOCKET")
    if not name:
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    asked = environment.get("WATCHDOG_PID", str(process)) == str(process)
    wanted = asked and re.fullmatch("0*[1-9][0-9]{0,17}", microseconds)  # the largest number there is means never
    return Supervisor(name, int(microseconds) / 1e6 if wanted else None)
