"""A client on Twisted alone, for the servers beside it: `stock.py HOST:PORT NAME METHOD [NUMBER] [METHOD ...]`.

It takes the secret from CLOCKD_SECRET, logs in, calls each method, and stays until Ctrl-C, or until the server closes
the connection; meanwhile it prints what it is told.
"""

import os
import sys

from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.spread import pb


class Mind(pb.Referenceable):
    """What the server calls."""

    def remote_notifyTime(self, stamp: float) -> None:
        """Print the time."""
        print(stamp, flush=True)


async def main(secret: str, host: str, port: int, name: str, calls: list[list]) -> None:
    """Log in, call, stay."""
    factory = pb.PBClientFactory()
    gone = Deferred()
    try:
        reactor.connectTCP(host, port, factory)
        # the session lasts as long as this reference is held
        avatar = await factory.login(UsernamePassword(name.encode(), secret.encode()), Mind())
        avatar.notifyOnDisconnect(gone.callback)
        for call in calls:
            print(await avatar.callRemote(*call), flush=True)
    except pb.RemoteError as error:
        raise SystemExit(f"{error.remoteType.decode()}: {error}") from error
    except Exception as error:  # no connection, or it was lost: who sees it wants a sentence
        raise SystemExit(str(error)) from error
    await gone
    if reactor.running:  # it is not, when Ctrl-C has closed the connection
        raise SystemExit("the connection was lost")


def calls_of(words: list[str]) -> list[list]:
    """Return the methods, each with the numbers after it."""
    calls = []
    for word in words:
        try:
            calls[-1].append(float(word))
        except (IndexError, ValueError):
            calls.append([word])
    return calls


if __name__ == "__main__":
    try:
        _, where, name, method, *words = sys.argv
        host, port = where.rsplit(":", 1)
        settings = os.environ["CLOCKD_SECRET"], host, int(port), name, calls_of([method, *words])
    except (ValueError, KeyError):
        sys.exit(__doc__)
    react(lambda _: Deferred.fromCoroutine(main(*settings)))
