"""A client on Twisted alone, for the servers beside it: `stock.py HOST:PORT NAME METHOD [NUMBER]`.

It takes the secret from CLOCKD_SECRET, logs in, calls the method once, and stays until Ctrl-C, or until the server
closes the connection; meanwhile it prints what it is told.
"""

import os
import sys

from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.task import react
from twisted.spread import pb


class Mind(pb.Referenceable):
    """What the server calls."""

    def remote_notifyTime(self, stamp: float) -> None:
        """Print the time."""
        print(stamp, flush=True)


async def main(host: str, port: str, name: str, method: str, *numbers: str) -> None:
    """Log in, call, stay."""
    factory = pb.PBClientFactory()
    reactor.connectTCP(host, int(port), factory)
    credentials = UsernamePassword(name.encode(), os.environ["CLOCKD_SECRET"].encode())
    gone = Deferred()
    try:
        avatar = await factory.login(credentials, Mind())  # the session lasts as long as this reference is held
        avatar.notifyOnDisconnect(gone.callback)
        print(await avatar.callRemote(method, *map(float, numbers)), flush=True)
    except pb.RemoteError as error:
        raise SystemExit(f"{error.remoteType.decode()}: {error}") from error
    except (ConnectError, pb.PBConnectionLost) as error:
        raise SystemExit(str(error)) from error
    await gone


if __name__ == "__main__":
    if len(sys.argv) < 4 or "CLOCKD_SECRET" not in os.environ:
        sys.exit(__doc__)
    address, *rest = sys.argv[1:]
    react(lambda _: Deferred.fromCoroutine(main(*address.rsplit(":", 1), *rest)))
