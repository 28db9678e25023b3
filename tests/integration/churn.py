"""What connections leave in memory when they end, with the collector off; prints it as JSON, a way of ending an item.

`churn.py FOLDER` serves, in clear and over TLS with the certificate in FOLDER, and has clients come and go;
`churn.py client ENDPOINT SECRET WAY` is ten stock clients that come, stay for some pushes, and go in one WAY.
"""

import collections
import gc
import json
import os
import sys
import time
from pathlib import Path

from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import clientFromString, wrapClientTLS
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessValue
from twisted.logger import globalLogPublisher
from twisted.spread import pb

from clockd.config import load
from clockd.logs import count_errors
from clockd.monotonic import make_monotonic
from clockd.service import make_service
from clockd.users import add_account

WAYS = ("closes", "aborts", "dies", "lets go", "is refused", "never logs in")
CLIENTS = 10


class Mind(pb.Referenceable):
    def __init__(self):
        self.third = Deferred()
        self.pushes = 0

    def remote_notifyTime(self, stamp):
        self.pushes += 1
        if self.pushes == 3:
            self.third.callback(None)


async def client(description, secret, way):
    kind, _, address = description.partition(" ")
    endpoint = clientFromString(reactor, address)
    if kind == "tls":
        endpoint = wrapClientTLS(CertificateOptions(), endpoint)
    factory, mind = pb.PBClientFactory(), Mind()
    broker = await endpoint.connect(factory)
    if way == "never logs in":
        await factory.getRootObject()
    elif way == "is refused":
        wrong = factory.login(UsernamePassword(b"alice", b"wrong"), mind)
        await wrong.addErrback(lambda failure: failure.trap("clockd.errors.WrongCredentials"))
    else:
        avatar = await factory.login(UsernamePassword(b"alice", secret.encode()), mind)
        await avatar.callRemote("setperiod", 0.05)
        await mind.third
    if way == "dies":
        return
    if way == "aborts":
        broker.transport.abortConnection()
    elif way != "lets go":
        broker.transport.loseConnection()
    del factory
    await deferLater(reactor, 0.3)


async def serve(folder):
    errors = []
    globalLogPublisher.addObserver(count_errors(lambda: errors.append(1)))
    secret = add_account(folder / "users", "alice")
    loopback = ":interface=127.0.0.1"
    flags = {
        ("server", "state"): "",
        ("server", "listen"): [f"tcp:0{loopback}"],
        ("tls", "listen"): [f"tcp:0{loopback}"],
        ("tls", "certificate"): str(folder / "server.pem"),
        ("tls", "private_key"): str(folder / "server.key"),
        ("metrics", "listen"): f"tcp:0{loopback}",
        ("auth", "users"): str(folder / "users"),
    }
    service = make_service(load(None, {}, flags), reactor, time.time)
    service.startService()
    plain, tls, _ = (f"tcp:127.0.0.1:{port.getHost().port}" for port in await service.ready)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    results = []
    for kind, address in (("plain", plain), ("tls", tls)):
        for way in WAYS:
            program = [__file__, "client", f"{kind} {address}", secret, way]
            assert await getProcessValue(sys.executable, program, os.environ) == 0
            while service.tally.pending + service.tally.authenticated:
                await deferLater(reactor, 0.05)
            await deferLater(reactor, 0.3)
            gc.collect()
            left = collections.Counter(type(thing).__name__ for thing in gc.garbage)
            gc.garbage.clear()
            opened = service.tally.opened
            results.append({"way": f"{kind}, {way}", "opened": opened, "left": left, "errors": len(errors)})
    await service.stopService()
    print(json.dumps(results))


async def main(first, *others):
    try:
        if first == "client":
            clients = [Deferred.fromCoroutine(client(*others)) for _ in range(CLIENTS)]
            await gatherResults(clients)
            if others[-1] == "dies":
                os._exit(0)
        else:
            make_monotonic(reactor)
            await serve(Path(first))
    finally:
        reactor.stop()


def failed(failure):
    failure.printTraceback(sys.stdout)
    os._exit(1)


reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main(*sys.argv[1:])).addErrback(failed))
reactor.run()
