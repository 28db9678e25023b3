"""Two nodes with one users file behind a real haproxy, which runs as deploy/haproxy.cfg says, on free ports."""

import json
import re
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from certificates import HOST, Chain
from processes import Program, Server, clockd, eventually, free_port, run, without_coverage

from clockd.users import add_account

CONFIGURATION = Path(__file__).resolve().parents[2] / "deploy" / "haproxy.cfg"

LIBRARY = """
import json, sys
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from clockd.client import ClientTLS, connect

port, secret, root, host, sources = sys.argv[1:]


async def follow(source, reactor):
    endpoint, tls = f"tcp:127.0.0.1:{port}:bindAddress={source}", ClientTLS(host, ca=root)
    async with connect(endpoint, "alice", secret, tls=tls, reactor=reactor) as clock:
        async for sample in clock.samples(period=0.1):
            print(source, sample.stamp, flush=True)

react(lambda reactor: gatherResults([Deferred.fromCoroutine(follow(each, reactor)) for each in json.loads(sources)]))
"""

STOCK = """
import json, sys
from twisted.application.internet import ClientService
from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, wrapClientTLS
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.spread import pb

port, secret, root, host, sources = sys.argv[1:]
with open(root) as file:
    options = optionsForClientTLS(host, trustRoot=Certificate.loadPEM(file.read()))


class Mind(pb.Referenceable):
    def __init__(self, source):
        self.source = source

    def remote_notifyTime(self, stamp):
        print(self.source, stamp, flush=True)


class Factory(pb.PBClientFactory):
    def __init__(self, source):
        super().__init__()
        self.source = source

    def clientConnectionMade(self, broker):
        super().clientConnectionMade(broker)
        self.login(UsernamePassword(b"alice", secret.encode()), Mind(self.source)).addCallback(self.keep)

    def keep(self, avatar):
        self.avatar = avatar
        return avatar.callRemote("setperiod", 0.1)


for source in json.loads(sources):
    endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{port}:bindAddress={source}")
    ClientService(wrapClientTLS(options, endpoint), Factory(source)).startService()
reactor.run()
"""


class Node(Server):
    """One of the nodes; its files are those of all.

    Args:
        folder: Where the files are.
        certificate, key: Of the server, as all nodes show it.
        proxied, metrics: Ports to listen on; 0 takes free ones.
    """

    def __init__(self, folder, certificate, key, proxied=0, metrics=0):
        environment = without_coverage() | {
            "CLOCKD_TLS_LISTEN": json.dumps([f"haproxy:tcp:{proxied}:interface=127.0.0.1"]),
            "CLOCKD_TLS_CERTIFICATE": str(certificate),
            "CLOCKD_TLS_PRIVATE_KEY": str(key),
        }
        super().__init__(folder, environment=environment, metrics=metrics)
        brokers = json.loads(self.line("pushes the time"))["brokers"].split(", ")
        self.plain, self.proxied = (int(address.rpartition(":")[2]) for address in brokers)

    @property
    def clients(self):
        return self.scrape()["clockd_connections authenticated"]


class Clients(Program):
    """Clients in one process, each of which connects from an address of its own.

    Args:
        program: What it runs.
        cluster: What they are clients of.
        numbers: Of their addresses, 127.0.1.NUMBER.
    """

    def __init__(self, program, cluster, *numbers):
        self.sources = [f"127.0.1.{number}" for number in numbers]
        words = (str(cluster.port), cluster.secret, str(cluster.root), HOST, json.dumps(self.sources))
        super().__init__(sys.executable, "-c", program, *words, environment=without_coverage())
        self.tick()

    def tick(self):
        """Wait until each of them has been pushed the time twice more."""
        seen = len(self.lines)

        def all_have():
            assert self.process.poll() is None, self.output
            new = [line.split()[0] for line in self.lines[seen:] if line.startswith("127.")]
            return all(new.count(source) > 1 for source in self.sources)

        eventually(all_have)


class Cluster:
    """Nodes behind a balancer, and where its clients connect to."""

    def __init__(self, folder, haproxy):
        self.folder = folder
        self.secret = add_account(folder / "users", "alice")
        self.operator = {"CLOCKD_SECRET": add_account(folder / "users", "operator", admin=True)}
        self.root, *self.files = Chain().write(folder)
        self.nodes = [Node(folder, *self.files) for _ in range(2)]
        self.port = free_port()
        text = CONFIGURATION.read_text(encoding="utf-8").replace("bind :8788", f"bind 127.0.0.1:{self.port}")
        for number, node in enumerate(self.nodes, 1):
            here = f"server node{number} 127.0.0.1:{node.proxied} port {node.metrics.rpartition(':')[2]}"
            text = re.sub(rf"server node{number} .*", here, text)
        configuration = folder / "haproxy.cfg"
        configuration.write_text(text, encoding="utf-8")
        self.balancer = Program(haproxy, "-db", "-f", str(configuration))
        eventually(self.is_open)

    def is_open(self):
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", self.port), timeout=10).close() is None

    def addresses(self, node):
        """Return from where the clients of a node come, as `clockd top` shows it."""
        target = f"operator@127.0.0.1:{node.plain}"
        done = clockd("top", target, "--once", "--json", "--sort", "account", environment=self.operator)
        sessions = [json.loads(line) for line in done.stdout.splitlines()]
        return sorted(each["address"].rpartition(":")[0] for each in sessions if each["account"] == "alice")

    def restart(self, node):
        """Start a node again, on the ports that it had, and put it into its place."""
        ports = node.proxied, int(node.metrics.rpartition(":")[2])
        self.nodes[self.nodes.index(node)] = again = Node(self.folder, *self.files, *ports)
        return again

    def end(self):
        for node in self.nodes:
            node.stop()
        self.balancer.end()


@pytest.fixture
def cluster(tmp_path, need):
    cluster = Cluster(tmp_path, need("haproxy", "haproxy"))
    yield cluster
    cluster.end()


def test_haproxy_finds_no_fault_in_the_configuration(need):
    done = run(need("haproxy", "haproxy"), "-c", "-f", str(CONFIGURATION))
    assert (done.returncode, done.stderr) == (0, "")


def test_clients_are_spread_known_by_their_own_addresses_and_served_when_a_node_dies(cluster):
    first, second = cluster.nodes
    library, stock = Clients(LIBRARY, cluster, 1, 2, 3, 4), Clients(STOCK, cluster, 5, 6)
    sources = library.sources + stock.sources
    assert (first.clients, second.clients) == (3, 3)
    assert sorted(cluster.addresses(first) + cluster.addresses(second)) == sources

    first.end(signal.SIGKILL)
    eventually(lambda: second.clients == 6)
    library.tick()
    stock.tick()
    assert cluster.addresses(second) == sources

    first = cluster.restart(first)
    eventually(lambda: "node1 is UP" in cluster.balancer.output)
    late = Clients(LIBRARY, cluster, 7, 8, 9)
    assert (first.clients, second.clients) == (3, 6)
    assert cluster.addresses(first) == late.sources
    for clients in (library, stock, late):
        clients.end(signal.SIGKILL)
