"""Stock clients over TLS, over a Unix socket, and from behind a proxy, against a real server."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import stat
import sys
import warnings
from pathlib import Path

import pytest
from certificates import HOST, Certified, Chain
from cryptography.hazmat.primitives.asymmetric import rsa
from processes import CLOCKD, FREE, Program, Server, clockd, eventually, run, without_coverage
from test_commands import TWIST, says

from clockd.users import add_account

ROOT = Path(__file__).resolve().parents[2]

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
        root: The PEM file of whom a client has to trust, and of whom the server takes clients' certificates.
        certificate, key: The server's own files.
    """

    def __init__(self, folder, listen=FREE, client_ca=True):
        self.chain = Chain()
        self.root, self.certificate, self.key = self.chain.write(folder)
        self.unix = str(folder / "socket")
        environment = {
            "CLOCKD_TLS_LISTEN": json.dumps([listen]),
            "CLOCKD_TLS_CERTIFICATE": str(self.certificate),
            "CLOCKD_TLS_PRIVATE_KEY": str(self.key),
            "CLOCKD_TLS_CLIENT_CA": str(self.root) if client_ca else "",
        }
        super().__init__(folder, "--listen", f"unix:{self.unix}", environment={**os.environ, **environment})
        self.tcp, _, self.tls = json.loads(self.line("pushes the time"))["brokers"].split(", ")

    def show(self, certified):
        """Have the server's files hold a certificate and its key; it reads them when it is told to."""
        self.certificate.write_bytes(certified.pem)
        self.key.write_bytes(certified.key_pem())

    def reload(self, says):
        """Send SIGHUP, and wait for what the log says of it."""
        self.process.send_signal(signal.SIGHUP)
        return json.loads(self.line(says))

    def shown(self):
        """Return the certificate that a new connection is shown, PEM."""
        return ssl.get_server_certificate(("127.0.0.1", self.port), timeout=10).encode()

    def certify(self, *names, **kwargs):
        """Make a client's certificate; returns what `watch` is to be told of it, and of the server's authority."""
        certified = Certified(*names, **({"issuer": self.chain.root} | kwargs))
        files = [self.root.with_name(name) for name in ("client.pem", "client.key")]
        for file, data in zip(files, (certified.pem, certified.key_pem()), strict=True):
            file.write_bytes(data)
        return ["--tls-ca", str(self.root), "--tls-certificate", str(files[0]), "--tls-key", str(files[1])]

    def watch(self, *options, host=HOST, **kwargs):
        """Run `clockd watch` for three ticks."""
        words = (f"{host}:{self.port}", *options, "--period", "0.05", "--count", "3", "--json")
        return clockd("watch", *words, **kwargs)

    def client(self, way, address):
        """Run a stock client that takes some pushes and leaves; return what it got."""
        command = (sys.executable, "-c", CLIENT, way, address, self.secret, str(self.root))
        return Program(*command, environment=without_coverage()).result()

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
    assert json.loads(tls_server.line("no TLS with 127.0.0.1:"))["words"]
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


CERTIFIED = """
import sys
from twisted.internet import reactor, ssl
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react
from twisted.spread import pb

way, port, root, certificate, key = sys.argv[1:]


class Mind(pb.Referenceable):
    def __init__(self):
        self.got = []
        self.enough = Deferred()

    def remote_notifyTime(self, stamp):
        self.got.append(stamp)
        if len(self.got) == 5:
            self.enough.callback(None)


async def main(reactor):
    mind, gone, factory = Mind(), Deferred(), pb.PBClientFactory()
    if way == "connectSSL":
        read = lambda path: open(path).read()
        own = ssl.PrivateCertificate.fromCertificateAndKeyPair(
            ssl.Certificate.loadPEM(read(certificate)), ssl.KeyPair.load(read(key), 1)
        )
        trusted = ssl.Certificate.loadPEM(read(root))
        reactor.connectSSL("127.0.0.1", int(port), factory, ssl.optionsForClientTLS("HOST", trusted, own))
    else:
        where = f"tls:HOST:{port}:trustRoots={root}:certificate={certificate}:privateKey={key}"
        await clientFromString(reactor, where).connect(factory)
    root_object = await factory.getRootObject()
    avatar = await root_object.callRemote("loginCertificate", mind)
    avatar.notifyOnDisconnect(lambda _: gone.callback(None))
    print(await avatar.callRemote("setperiod", 0.05))
    await mind.enough
    avatar.broker.transport.loseConnection()
    await gone

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
""".replace("HOST", HOST)


@pytest.mark.parametrize("way", ["connectSSL", "tls"])
def test_a_stock_client_logs_in_by_its_certificate(tls_server, tmp_path, way):
    *_, certificate, _, key = tls_server.certify("alice")
    root = tls_server.root
    if way == "tls":
        root = tmp_path / "authorities"
        root.mkdir()
        shutil.copy(tls_server.root, root)
    done = run(sys.executable, "-c", CERTIFIED, way, str(tls_server.port), str(root), certificate, key)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.05\n", "")
    tls_server.assert_left(1)
    assert tls_server.scrape()["clockd_logins_total certificate ok"] == 1
    assert json.loads(tls_server.line("logged in"))["name"] == "alice"


def test_our_own_client_does_so_without_a_name_or_a_secret(tls_server):
    done = tls_server.watch(*tls_server.certify("alice"), environment={"CLOCKD_SECRET": "not looked at"})
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 3)
    tls_server.assert_left(1)
    assert tls_server.scrape()["clockd_logins_total certificate ok"] == 1


def test_with_a_name_or_a_secret_it_logs_in_by_these(tls_server):
    certificate = tls_server.certify("bob")
    secret = {"CLOCKD_SECRET": tls_server.secret}
    for options, host in ((certificate, f"alice@{HOST}"), (["--tls-ca", str(tls_server.root)], f"alice@{HOST}")):
        assert tls_server.watch(*options, host=host, environment=secret).returncode == 0
    options = [*certificate, "--secret-file", str(tls_server.secret_file)]
    names = {"LOGNAME": "alice"}
    assert tls_server.watch(*options, environment=names).returncode == 0
    tls_server.assert_left(3)
    assert tls_server.scrape()["clockd_logins_total secret ok"] == 3


def test_the_authorities_of_the_system_are_trusted_with_no_other_word_than_tls(tls_server):
    secret = {"CLOCKD_SECRET": tls_server.secret}
    trusting = secret | {"SSL_CERT_FILE": str(tls_server.root)}
    assert tls_server.watch("--tls", host=f"alice@{HOST}", environment=trusting).returncode == 0
    tls_server.assert_left(1)
    says(tls_server.watch("--tls", host=f"alice@{HOST}", environment=secret), 1, "of no authority that is trusted here")


@pytest.mark.parametrize("names", [["bob"], [], ["alice", "bob"], ["anonymous"], ["ALICE"]], ids=str)
def test_a_certificate_that_proves_no_account_is_refused(tls_server, names):
    says(tls_server.watch(*tls_server.certify(*names)), 1, "clockd: the certificate proves no account")
    after = tls_server.scrape()
    assert (after["clockd_logins_total certificate denied"], after["clockd_avatars"]) == (1, 0)


def test_an_account_that_is_removed_can_log_in_by_its_certificate_no_more(tls_server):
    options = tls_server.certify("alice")
    assert tls_server.watch(*options).returncode == 0
    assert clockd("user", "remove", "alice", "--users", str(tls_server.users)).returncode == 0
    says(tls_server.watch(*options), 1, "the certificate proves no account")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"issuer": None}, "unknown ca"),
        ({"valid": (-2, -1)}, "certificate expired"),
        ({"valid": (1, 2)}, "bad certificate"),
    ],
    ids=str,
)
def test_a_certificate_that_does_not_verify_ends_the_handshake(tls_server, what, told):
    done = tls_server.watch(*tls_server.certify("alice", **what))
    says(done, 1, told)
    assert done.stderr.startswith(f"clockd: no TLS with tcp:{HOST}:{tls_server.port}: ")
    eventually(lambda: tls_server.scrape()["clockd_connections_closed_total lost"] == 1)
    assert tls_server.scrape()["clockd_connections pending"] == 0
    refused = json.loads(tls_server.line("no TLS with 127.0.0.1:"))
    assert (refused["words"], refused["level"]) == ("certificate verify failed", "info")


WRONG = {
    "no host": ({"hosts": ()}, "names no host under subjectAltName, and so does not prove 'localhost'"),
    "another host": ({"hosts": ("clock.example", "::1")}, "is for 'clock.example', '::1', not for 'localhost'"),
    "expired": ({"valid": (-2, -1)}, "has expired, on 20"),
    "not yet valid": ({"valid": (1, 2)}, "is not valid before 20"),
    "another authority": ({"issuer": None}, "is of no authority that is trusted here"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_server_that_does_not_prove_itself_is_one_sentence_and_exit_code_1(tls_server, what):
    options = tls_server.certify("alice")
    kwargs, told = WRONG[what]
    tls_server.show(Certified(HOST, **({"issuer": tls_server.chain.root} | kwargs)))
    tls_server.reload("read again")
    done = tls_server.watch(*options)
    says(done, 1, f"clockd: no TLS with tcp:{HOST}:{tls_server.port}: the server's certificate {told}")
    assert done.stdout == ""
    assert tls_server.scrape()["clockd_logins_total certificate ok"] == 0


def test_a_server_without_tls_and_a_client_without_it_are_told(tls_server):
    port = tls_server.port
    tls_server.port = int(tls_server.tcp.rpartition(":")[2])
    says(tls_server.watch(*tls_server.certify("alice")), 1, "does it listen there with TLS")
    tls_server.port = port
    says(
        tls_server.watch("--tls-key", "alice.key"),
        2,
        "--tls-key is the key of a certificate: give --tls-certificate, too",
    )
    says(tls_server.watch("--tls-ca", "none"), 2, "clockd: ca: none: cannot be read: No such file or directory")


def test_tls_1_1_is_refused(tls_server):
    old = ssl.create_default_context(cafile=tls_server.root)
    with warnings.catch_warnings(action="ignore"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    peer = socket.create_connection(("127.0.0.1", tls_server.port), timeout=10)
    with peer, pytest.raises(ssl.SSLError, match="alert protocol version"):
        old.wrap_socket(peer, server_hostname=HOST)
    eventually(lambda: tls_server.scrape()["clockd_connections pending"] == 0)


def test_a_new_certificate_is_put_in_force_while_clients_are_served(tls_server):
    options = tls_server.certify("alice")
    watch = Program(*CLOCKD, "watch", f"{HOST}:{tls_server.port}", *options, "--period", "0.05", "--json")
    watch.line('"feed"')
    old, new = tls_server.chain.server, Certified(HOST, issuer=tls_server.chain.root, valid=(-1, 20))
    assert tls_server.shown() == old.pem
    tls_server.show(new)
    assert tls_server.shown() == old.pem
    tls_server.reload("read again")
    assert tls_server.shown() == new.pem
    seen = len(watch.lines)
    eventually(lambda: len(watch.lines) > seen + 10)
    assert tls_server.watch(*options).returncode == 0
    after = tls_server.scrape()
    assert after["clockd_tls_certificate_expiry_timestamp_seconds"] == new.certificate.not_valid_after_utc.timestamp()
    assert watch.end(signal.SIGINT) == 0
    assert "connecting again" not in watch.output


def test_authorities_of_clients_are_read_again_too(tls_server):
    options = tls_server.certify("alice")
    ours = tls_server.root.read_bytes()
    assert tls_server.watch(*options).returncode == 0
    trusted = tls_server.root.with_name("trusted.pem")
    trusted.write_bytes(ours)
    options[1] = str(trusted)
    tls_server.root.write_bytes(Chain().root.pem)
    tls_server.reload("read again")
    says(tls_server.watch(*options), 1, "unknown ca")


@pytest.mark.parametrize("what", ["certificate", "key", "root"])
def test_a_broken_file_leaves_the_old_ones_in_force(tls_server, what):
    options = tls_server.certify("alice")
    watch = Program(*CLOCKD, "watch", f"{HOST}:{tls_server.port}", *options, "--period", "0.05", "--json")
    watch.line('"feed"')
    getattr(tls_server, what).write_bytes(b"nonsense")
    key, is_none = {
        "certificate": ("certificate", "is no PEM certificate"),
        "key": ("private_key", "is no PEM private key without a passphrase"),
        "root": ("client_ca", "is no PEM certificate"),
    }[what]
    event = tls_server.reload("the certificates read before stay in force: ")
    assert event["level"] == "warn"
    assert event["message"].endswith(f"tls.{key}: {getattr(tls_server, what)}: {is_none}")
    assert tls_server.shown() == tls_server.chain.server.pem
    seen = len(watch.lines)
    eventually(lambda: len(watch.lines) > seen + 10)
    assert watch.end(signal.SIGINT) == 0


def test_a_certificate_that_expires_soon_is_warned_of_when_it_is_read(tls_server):
    late = Certified(HOST, issuer=tls_server.chain.root, valid=(-3, -1))
    tls_server.show(late)
    tls_server.process.send_signal(signal.SIGHUP)
    moment = f"{late.certificate.not_valid_after_utc:%Y-%m-%d %H:%M}"
    assert json.loads(tls_server.line(f"is good until {moment} UTC only"))["level"] == "warn"


def test_a_hangup_before_it_listens_ends_no_server(tmp_path):
    words = ["--users", str(tmp_path / "users"), "--listen", FREE, "--metrics-listen", FREE]
    server = Program(*CLOCKD, "serve", "--init", *words)
    server.line("made, with the account")
    server.process.send_signal(signal.SIGHUP)
    server.line("pushes the time")
    server.process.send_signal(signal.SIGHUP)
    assert server.end() == 0
    assert "Traceback" not in server.output


def test_twist_reads_certificates_again(tmp_path, users):
    chain = Chain()
    _, certificate, key = chain.write(tmp_path)
    twist = Program(*TWIST, "--config", str(configuration(tmp_path, users, FREE, certificate, key)))
    port = int(json.loads(twist.line("pushes the time").lstrip("\x1e"))["brokers"].rpartition(":")[2])
    new = Certified(HOST, issuer=chain.root)
    certificate.write_bytes(new.pem)
    key.write_bytes(new.key_pem())
    twist.process.send_signal(signal.SIGHUP)
    twist.line("read again")
    assert ssl.get_server_certificate(("127.0.0.1", port), timeout=10).encode() == new.pem
    assert twist.end() in {0, -signal.SIGTERM}
    assert "Traceback" not in twist.output


def make_certificates(folder, *words):
    """Do what `make certs` does, in a folder."""
    return run(sys.executable, str(ROOT / "deploy" / "certificates.py"), "certs", *words, cwd=folder)


@pytest.fixture
def documented_server(tmp_path):
    """A server with certificates made as docs/operations.md tells, in its folder."""
    assert make_certificates(tmp_path, "--name", "clock.example.org", "--client", "alice").returncode == 0
    names = {"CERTIFICATE": "server.pem", "PRIVATE_KEY": "server.key", "CLIENT_CA": "ca.pem"}
    files = {f"CLOCKD_TLS_{key}": str(tmp_path / "certs" / name) for key, name in names.items()}
    server = Server(tmp_path, environment={**os.environ, "CLOCKD_TLS_LISTEN": f'["{FREE}"]', **files})
    server.secret_file.rename(tmp_path / "alice.secret")
    yield server
    server.stop()


def test_the_programs_of_the_page_on_the_protocol_get_ticks_over_tls(documented_server, tmp_path):
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    programs = [text for text in re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL) if "certs" in text]
    for program in programs:
        text = program.replace("8788", str(documented_server.port))
        environment = {"CLOCKD_SECRET": documented_server.secret}
        done = run(sys.executable, "-c", text, environment=environment, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert "granted: 0.5" in lines
        assert len(lines) > 3
    logins = documented_server.scrape()
    assert (logins["clockd_logins_total secret ok"], logins["clockd_logins_total certificate ok"]) == (1, 1)


def test_the_commands_of_the_page_on_operations_get_ticks_over_tls(documented_server, tmp_path):
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").replace("\\\n", "")
    commands = re.findall(r"^\$ \.venv/bin/clockd (watch .*--tls-ca .*)$", page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command.replace("8788", str(documented_server.port)))
        done = clockd(*words, "--count", "2", cwd=tmp_path)
        assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 2)
    logins = documented_server.scrape()
    assert (logins["clockd_logins_total secret ok"], logins["clockd_logins_total certificate ok"]) == (1, 1)


def test_certificates_for_trying_are_good_for_what_they_are_for(documented_server, tmp_path):
    strict = ssl.create_default_context(cafile=tmp_path / "certs" / "ca.pem")
    strict.verify_flags |= ssl.VERIFY_X509_STRICT  # as newer Pythons do
    for host in ("localhost", "127.0.0.1", "::1", "clock.example.org"):
        with socket.create_connection(("127.0.0.1", documented_server.port), timeout=10) as peer:
            strict.wrap_socket(peer, server_hostname=host).close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "certs").iterdir()}
    names = ("ca", "server", "alice")
    assert modes == {f"{name}.key": 0o600 for name in names} | {f"{name}.pem": 0o644 for name in names}


def test_certificates_for_trying_never_take_the_place_of_others(tmp_path):
    folder = tmp_path / "certs"
    first = make_certificates(tmp_path, "--client", "alice")
    assert (first.returncode, first.stderr) == (0, "")
    assert [line.split(": ") for line in first.stdout.splitlines()] == [
        [f"certs/{name}.{kind}", "made"] for name in ("ca", "server", "alice") for kind in ("key", "pem")
    ]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "alice.pem").unlink()
    again = make_certificates(tmp_path, "--client", "alice", "--client", "bob")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {line.split(": ")[0] for line in again.stdout.splitlines() if line.endswith("made")} == {
        "certs/alice.pem",
        "certs/bob.key",
        "certs/bob.pem",
    }
    assert {name for name, data in before.items() if after[name] != data} == {"alice.pem"}
    (folder / "bob.key").unlink()
    for words, told in (
        (["--client", "bob"], "certs/bob.pem: is there without its key: remove it to have both made"),
        (["--client", "server"], "server: there is another file of that name"),
        (["--client", "a/b"], "No such file or directory"),
        (["--name", "a..b"], "label empty or too long"),
    ):
        done = make_certificates(tmp_path, *words)
        assert done.returncode == 1
        assert told in done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture
def proxied_server(tmp_path):
    server = TLSServer(tmp_path, listen=f"haproxy:{FREE}", client_ca=False)
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


def test_who_is_not_asked_for_a_certificate_cannot_log_in_by_one(tmp_path):
    server = TLSServer(tmp_path, client_ca=False)
    says(server.watch(*server.certify("alice")), 1, "nobody is asked for a certificate here")
    server.stop()


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
    add_account(path, "alice")
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
    file = configuration(tmp_path, users, FREE, certificate, key)
    done = clockd(command, "--config", str(file))
    expected = f"clockd: {file}: {message.format(certificate=certificate, key=key)}\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, expected, "")


@pytest.mark.parametrize("command", ["check", "serve"])
def test_an_endpoint_that_is_none_is_told_with_its_key(tmp_path, users, command):
    _, certificate, key = Chain().write(tmp_path)
    file = configuration(tmp_path, users, "tcp:x", certificate, key)
    done = clockd(command, "--config", str(file))
    assert done.returncode == 2
    assert done.stderr.startswith(f"clockd: {file}: tls.listen: tcp:x: is no Twisted endpoint"), done.stderr
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
    assert f"clockd.toml: tls.listen: {listen}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr
