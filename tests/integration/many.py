"""Clients of the library that stay through a change of servers: `many.py PORT NAME SECRET CLIENTS`.

Each asks for a period of its own and waits for samples. Prints a line of JSON for what is read from standard input:
`periods` asks how far apart the last two samples of each client are stamped, `seen` how many samples each has got;
anything else ends it.
"""

import json
import sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineReceiver

from clockd.client import connect


class Client:
    def __init__(self, period):
        self.period = period
        self.seen = 0
        self.apart = None
        self.running = None  # what nobody holds is collected

    async def watch(self, port, name, secret, entered):
        last = None
        async with connect(f"tcp:127.0.0.1:{port}", name, secret, reactor=reactor, timeout=60) as clock:
            entered.callback(None)
            async for reading in clock.samples(period=self.period):
                self.seen += 1
                self.apart, last = (None if last is None else reading.stamp - last), reading.stamp


class Commands(LineReceiver):
    delimiter = b"\n"

    def __init__(self, clients):
        self.clients = clients

    def lineReceived(self, line):
        if line == b"periods":
            print(json.dumps([[client.period, client.apart] for client in self.clients]), flush=True)
        elif line == b"seen":
            print(json.dumps([client.seen for client in self.clients]), flush=True)
        else:
            reactor.stop()

    def connectionLost(self, reason):
        if reactor.running:
            reactor.stop()


async def main(port, name, secret, count):
    clients = [Client(1 + number % 3) for number in range(int(count))]
    for start in range(0, len(clients), 100):
        entered = []
        for client in clients[start : start + 100]:
            entered.append(Deferred())
            client.running = Deferred.fromCoroutine(client.watch(port, name, secret, entered[-1])).addErrback(failed)
        await gatherResults(entered)
    StandardIO(Commands(clients))
    print("all are in", flush=True)


def failed(failure):
    failure.printTraceback()
    if reactor.running:
        reactor.stop()


Deferred.fromCoroutine(main(*sys.argv[1:])).addErrback(failed)
reactor.run()
