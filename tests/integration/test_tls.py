"""Stock clients over TLS, over a Unix socket, and from behind a proxy, against a real server."""

import contextlib
import json
import os
import signal
import socket
import ssl
import sys

import pytest
from certificates import HOST, Certified, Chain
from cryptography.hazmat.primitives.asymmetric import rsa
from processes import FREE, Server, clockd, eventually, run

CLIENT = """
import json, sys, time
from twisted.cred.credentials import UsernamePassword
from twisted.internet import endpoints, reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.spread import pb

way, address, secret, root = sys.argv[1:]
host, _, port = address.rpartition(":")


class Mind(pb.Referenceable):
    def __init__(self):
        self.got = []
        self.enough = Deferred()

    def remote_notifyTime(self, stamp):
        self.got.append((stamp, time.time() - stamp))
        if len(self.got) == 12:
            self.enough.callback(None)


class Proxied(ProtocolWrapper):
    def makeConnection(self, transport):
        transport.write(b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 8788\\r\\n")
        super().makeConnection(transport)


async def connect(factory):
    if way in ("tcp", "unix"):
        return await endpoints.clientFromString(reactor, f"{way}:{address}").connect(factory)
    with open(root) as file:
        options = ssl.optionsForClientTLS("HOST", trustRoot=ssl.Certificate.loadPEM(file.read()))
    if way == "SSL4ClientEndpoint":
        return await endpoints.SSL4ClientEndpoint(reactor, host, int(port), options).connect(factory)
    endpoint = endpoints.TCP4ClientEndpoint(reactor, host, int(port))
    if way == "wrapClientTLS":
        return await endpoints.wrapClientTLS(options, endpoint).connect(factory)
    proxied = WrappingFactory(TLSMemoryBIOFactory(options, True, factory))
    proxied.protocol = Proxied
    return await endpoint.connect(proxied)


async def main(reactor):
    mind, gone, factory = Mind(), Deferred(), pb.PBClientFactory()
    await connect(factory)
    avatar = await factory.login(UsernamePassword(b"alice", secret.encode()), mind)
    avatar.notifyOnDisconnect(lambda _: gone.callback(None))
    granted = await avatar.callRemote("setperiod", 0.05)
    await mind.enough
    print(json.dumps({"granted": granted, "arrivals": mind.got}))
    avatar.broker.transport.loseConnection()
    await gone

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
""".replace("HOST", HOST)


class TLSServer(Server):
    """A server that listens with TLS, and on a Unix socket.

    Attributes:
        tcp, unix, tls: Its addresses.
        root: The PEM file of whom a client has to trust.
    """

    def __init__(self, folder, listen=FREE, chain=None):
        self.root, certificate, key = (chain or Chain()).write(folder)
        self.unix = str(folder / "socket")
        environment = {
            "CLOCKD_TLS_LISTEN": json.dumps([listen]),
            "CLOCKD_TLS_CERTIFICATE": str(certificate),
            "CLOCKD_TLS_PRIVATE_KEY": str(key),
        }
        super().__init__(folder, "--listen", f"unix:{self.unix}", environment={**os.environ, **environment})
        self.tcp, _, self.tls = json.loads(self.line("pushes the time"))["brokers"].split(", ")

    def client(self, way, address):
        """Run a stock client that takes some pushes and leaves; return what it got."""
        done = run(sys.executable, "-c", CLIENT, way, address, self.secret, str(self.root))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def assert_left(self, clients):
        """Check that as many clients have come and gone, and that nothing is left of them."""
        eventually(lambda: self.scrape()["clockd_connections_closed_total client"] == clients)
        after = self.scrape()
        assert after["clockd_avatars"] == after["clockd_subscriptions time"] == 0
        assert after["clockd_connections authenticated"] == after["clockd_connections pending"] == 0
        assert after["clockd_connections_opened_total"] == clients


@pytest.fixture
def tls_server(tmp_path):
    server = TLSServer(tmp_path)
    yield server
    server.stop()


@pytest.mark.parametrize("way", ["tcp", "unix", "wrapClientTLS", "SSL4ClientEndpoint"])
def test_a_stock_client_logs_in_sets_its_period_is_pushed_the_time_and_leaves(tls_server, way):
    result = tls_server.client(way, {"tcp": tls_server.tcp, "unix": tls_server.unix}.get(way, tls_server.tls))
    assert result["granted"] == 0.05
    stamps = [stamp for stamp, _ in result["arrivals"]]
    assert len(stamps) >= 12
    assert stamps == sorted(set(stamps))
    assert 0.3 < stamps[-1] - stamps[0] < 5
    assert all(0 <= age < 1 for _, age in result["arrivals"])
    tls_server.assert_left(1)


def test_a_client_in_clear_gets_nowhere_with_tls_and_holds_up_nobody(tls_server):
    assert tls_server.tls.endswith(f":{tls_server.port}")
    plain = tls_server.subscribers(60, [0.05])
    eventually(lambda: tls_server.scrape()["clockd_connections pending"] == 1)
    assert len(tls_server.client("wrapClientTLS", tls_server.tls)["arrivals"]) >= 12
    assert tls_server.scrape()["clockd_connections pending"] == 1
    plain.end()
    eventually(lambda: tls_server.scrape()["clockd_connections pending"] == 0)
    assert tls_server.scrape()["clockd_logins_total secret ok"] == 1


def test_a_client_that_trusts_another_root_refuses_and_leaves_nothing_behind(tls_server):
    other = ssl.create_default_context(cadata=Chain().root.pem.decode())
    peer = socket.create_connection(("127.0.0.1", tls_server.port), timeout=10)
    with peer, pytest.raises(ssl.SSLCertVerificationError):
        other.wrap_socket(peer, server_hostname=HOST)
    eventually(lambda: tls_server.scrape()["clockd_connections pending"] == 0)
    assert tls_server.scrape()["clockd_connections_opened_total"] == 1


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x02\x82pb" * 4, b"\x16\x03\x01\x02\x00\x01" + bytes(600)]
)
def test_what_is_no_tls_ends_the_connection_and_leaves_no_trace(tls_server, data):
    with socket.create_connection(("127.0.0.1", tls_server.port), timeout=10) as peer:
        peer.sendall(data)
        while peer.recv(100):  # an alert at most, and then the end
            pass
    eventually(lambda: tls_server.scrape()["clockd_connections pending"] == 0)
    assert "Error" not in tls_server.output


def test_a_peer_that_vanishes_mid_handshake_leaves_nothing_behind(tls_server):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cafile=tls_server.root).wrap_bio(incoming, outgoing, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    for cut in (0, 5, len(hello) // 2, len(hello)):
        with socket.create_connection(("127.0.0.1", tls_server.port), timeout=10) as peer:
            peer.sendall(hello[:cut])
            eventually(lambda: tls_server.scrape()["clockd_connections pending"] == 1)
        eventually(lambda: tls_server.scrape()["clockd_connections pending"] == 0)


def test_on_every_listener_more_than_fifty_may_wait_while_the_server_is_busy(tls_server):
    addresses = [(socket.AF_UNIX, tls_server.unix)]
    addresses += [(socket.AF_INET, ("127.0.0.1", int(a.rpartition(":")[2]))) for a in (tls_server.tcp, tls_server.tls)]
    with contextlib.ExitStack() as stack:
        tls_server.process.send_signal(signal.SIGSTOP)
        stack.callback(tls_server.process.send_signal, signal.SIGCONT)
        for family, address in addresses:
            for _ in range(100):
                peer = stack.enter_context(socket.socket(family))
                peer.settimeout(0.5)  # the kernel makes it wait where there is no room
                peer.connect(address)
    eventually(lambda: tls_server.scrape()["clockd_connections_opened_total"] == 300)
    eventually(lambda: tls_server.scrape()["clockd_connections pending"] == 0)


@pytest.fixture
def proxied_server(tmp_path):
    server = TLSServer(tmp_path, listen=f"haproxy:{FREE}")
    yield server
    server.stop()


def test_a_client_behind_a_proxy_is_served_as_any_other(proxied_server):
    result = proxied_server.client("proxied", proxied_server.tls)
    assert (result["granted"], len(result["arrivals"]) >= 12) == (0.05, True)
    proxied_server.assert_left(1)


def test_a_client_behind_a_proxy_is_known_by_the_address_that_the_proxy_says(proxied_server):
    proxied_server.client("proxied", proxied_server.tls)
    for text in ("logged in", "has left"):
        assert json.loads(proxied_server.line(text))["address"] == "203.0.113.9:40000"


def test_a_client_that_comes_without_its_proxy_is_not_served(proxied_server):
    with socket.create_connection(("127.0.0.1", proxied_server.port), timeout=10) as peer:
        peer.sendall(b"\x16\x03\x01\x02\x00\x01" + bytes(600))
        assert peer.recv(100) == b""
    eventually(lambda: proxied_server.scrape()["clockd_connections pending"] == 0)


BROKEN = {
    "no certificate": (
        {"certificate": None},
        "tls.certificate: {certificate}: cannot be read: No such file or directory",
    ),
    "no key": ({"key": None}, "tls.private_key: {key}: cannot be read: No such file or directory"),
    "an empty certificate": ({"certificate": b""}, "tls.certificate: {certificate}: is no PEM certificate"),
    "an empty key": ({"key": b""}, "tls.private_key: {key}: is no PEM private key without a passphrase"),
    "a key with a passphrase": (
        {"key": Certified(HOST).key_pem(b"open sesame")},
        "tls.private_key: {key}: is no PEM private key without a passphrase",
    ),
    "another key": ({"key": Certified(HOST).key_pem()}, "tls.private_key: {key}: does not belong to {certificate}"),
    "another kind of key": (
        {"key": Certified(HOST, key=rsa.generate_private_key(65537, 2048)).key_pem()},
        "tls.private_key: {key}: does not belong to {certificate}",
    ),
}


@pytest.fixture
def users(tmp_path):
    path = tmp_path / "users"
    assert clockd("user", "add", "alice", "--users", str(path)).returncode == 0
    return path


def configuration(folder, users, listen, certificate, key):
    file = folder / "clockd.toml"
    file.write_text(
        f"server.listen = ['{FREE}']\nmetrics.listen = '{FREE}'\nauth.users = '{users}'\n"
        f"[tls]\nlisten = ['{listen}']\ncertificate = '{certificate}'\nprivate_key = '{key}'\n"
    )
    return file


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_certificate_or_key_is_one_sentence_and_exit_code_2(tmp_path, users, command, what):
    _, certificate, key = Chain().write(tmp_path)
    contents, message = BROKEN[what]
    for name, data in contents.items():
        path = {"certificate": certificate, "key": key}[name]
        path.unlink() if data is None else path.write_bytes(data)
    done = clockd(command, "--config", str(configuration(tmp_path, users, FREE, certificate, key)))
    expected = f"clockd: {message.format(certificate=certificate, key=key)}\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, expected, "")


@pytest.mark.parametrize("command", ["check", "serve"])
def test_an_endpoint_that_is_none_is_told_with_its_key(tmp_path, users, command):
    _, certificate, key = Chain().write(tmp_path)
    done = clockd(command, "--config", str(configuration(tmp_path, users, "tcp:x", certificate, key)))
    assert done.returncode == 2
    assert done.stderr.startswith("clockd: tls.listen: tcp:x: is no Twisted endpoint"), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_that_is_not_named_is_told_with_the_configuration_s(tmp_path, users):
    file = configuration(tmp_path, users, FREE, "", "key")
    for command in ("check", "serve"):
        done = clockd(command, "--config", str(file))
        told = f"clockd: {file}: tls.certificate: is needed to listen with TLS: name a PEM file\n"
        assert (done.returncode, done.stderr) == (2, told)


def test_check_finds_good_what_can_be_served(tmp_path, users):
    _, certificate, key = Chain().write(tmp_path)
    file = configuration(tmp_path, users, FREE, certificate, key)
    done = clockd("check", "--config", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: good\n", "")


def test_an_address_that_is_taken_is_told_with_its_key(tmp_path, users):
    _, certificate, key = Chain().write(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        done = clockd("serve", "--config", str(configuration(tmp_path, users, listen, certificate, key)))
    assert done.returncode == 1
    assert f"clockd: tls.listen: {listen}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
