"""Stock clients that log in with a password, to a real server, over whatever they may and may not be asked for one."""

import json
import os
import signal
import sys
from collections import Counter

import pytest
from certificates import HOST, Chain
from processes import FREE, Program, Server, clockd, eventually, without_coverage

from clockd.passwords import new_hasher
from clockd.users import add_account, add_password_account

COMMON = """
import json, sys, time
from twisted.cred.credentials import UsernamePassword
from twisted.internet import endpoints, reactor, ssl
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.spread import pb

way, address, root, *words = sys.argv[1:]


class Mind(pb.Referenceable):
    def __init__(self):
        self.stamps = []
        self.enough = Deferred()

    def remote_notifyTime(self, stamp):
        self.stamps.append(stamp)
        if len(self.stamps) == 3:
            self.enough.callback(None)


class Proxied(ProtocolWrapper):
    def makeConnection(self, transport):
        transport.write(b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 8787\\r\\n")
        super().makeConnection(transport)


async def connect(factory):
    if way == "unix":
        return await endpoints.clientFromString(reactor, f"unix:{address}").connect(factory)
    endpoint = endpoints.clientFromString(reactor, "tcp:" + address)
    if way == "tls":
        with open(root) as file:
            options = ssl.optionsForClientTLS("HOST", trustRoot=ssl.Certificate.loadPEM(file.read()))
        endpoint = endpoints.wrapClientTLS(options, endpoint)
    if way == "proxied":
        wrapping = WrappingFactory(factory)
        wrapping.protocol = Proxied
        factory = wrapping
    return await endpoint.connect(factory)


async def log_in(name, password, mind):
    factory = pb.PBClientFactory()
    await connect(factory)
    return await factory.login(UsernamePassword(name.encode(), password.encode()), mind)


async def challenge(name):
    factory = pb.PBClientFactory()
    await connect(factory)
    root = await factory.getRootObject()
    found, challenger = await root.callRemote("login", name.encode())
    return found.hex(), challenger
""".replace("HOST", HOST)

SESSION = """
async def main(reactor):
    mind = Mind()
    try:
        avatar = await log_in(*words, mind)
    except pb.RemoteError as error:
        print(json.dumps({"refused": error.remoteType.decode()}))
        return
    granted = await avatar.callRemote("setperiod", 0.05)
    await mind.enough
    print(json.dumps({"granted": granted, "stamps": mind.stamps}))
"""


class PasswordServer(Server):
    """A server with an account more, carol, who has a password; it listens over all there is.

    Attributes:
        addresses: Where, by the way to get there.
    """

    def __init__(self, folder, **limits):
        self.root, certificate, key = Chain().write(folder)
        if not (folder / "users").exists():
            self.secret = add_account(folder / "users", "alice")
            add_password_account(folder / "users", "carol", b"hunter2", new_hasher().hash)
        unix = str(folder / "socket")
        environment = {
            "CLOCKD_TLS_LISTEN": json.dumps([FREE]),
            "CLOCKD_TLS_CERTIFICATE": str(certificate),
            "CLOCKD_TLS_PRIVATE_KEY": str(key),
            **{f"CLOCKD_LIMITS_{name.upper()}": str(value) for name, value in limits.items()},
        }
        listen = ("--listen", f"unix:{unix}", "--listen", f"haproxy:{FREE}")
        super().__init__(folder, *listen, environment={**os.environ, **environment})
        tcp, _, proxied, tls = json.loads(self.line("pushes the time"))["brokers"].split(", ")
        self.addresses = {"tcp": tcp, "unix": unix, "proxied": proxied, "tls": tls}
        self.port = int(tcp.rpartition(":")[2])

    def program(self, text, way, *words):
        """Start a stock client, whose last line is JSON."""
        code = COMMON + text + "\nreact(lambda reactor: Deferred.fromCoroutine(main(reactor)))\n"
        command = (sys.executable, "-c", code, way, self.addresses[way], str(self.root), *words)
        return Program(*command, environment=without_coverage())

    def session(self, way, name, password):
        return self.program(SESSION, way, name, password).result()


WRONG = {"refused": "clockd.errors.WrongCredentials"}


@pytest.fixture
def password_server(tmp_path):
    server = PasswordServer(tmp_path, connections_per_account=1)
    yield server
    server.stop()


@pytest.mark.parametrize("way", ["tcp", "unix", "tls"])
def test_a_stock_client_logs_in_with_a_password_where_nobody_listens_in(password_server, way):
    found = password_server.session(way, "carol", "hunter2")
    assert found["granted"] == 0.05
    assert found["stamps"] == sorted(set(found["stamps"]))
    assert password_server.session(way, "carol", "hunter3") == WRONG
    assert password_server.session(way, "nobody", "hunter2") == WRONG
    logins = {name: value for name, value in password_server.scrape().items() if "clockd_logins_total" in name}
    assert {name: value for name, value in logins.items() if value} == {
        "clockd_logins_total password ok": 1,
        "clockd_logins_total password denied": 1,
        "clockd_logins_total unknown denied": 1,
    }
    assert "hunter" not in password_server.output


def test_behind_a_proxy_in_clear_a_password_is_refused_and_a_secret_is_not(password_server):
    assert password_server.session("proxied", "carol", "hunter2") == WRONG
    assert password_server.scrape()["clockd_logins_total password denied"] == 1
    assert "TLS, a Unix socket or loopback only" in password_server.line("refused")
    assert password_server.session("proxied", "alice", password_server.secret)["granted"] == 0.05


CHALLENGES = """
async def main(reactor):
    found = []
    for name in words:
        found.append(sorted([(await challenge(name))[0] for _ in range(2)]))
    print(json.dumps(found))
"""


def test_a_name_without_an_account_looks_like_one_of_either_kind_also_after_a_restart(tmp_path):
    strangers = [f"stranger{number}" for number in range(12)]
    runs = []
    for _ in range(2):
        server = PasswordServer(tmp_path)
        found = dict(zip(strangers, server.program(CHALLENGES, "tcp", *strangers).result(), strict=True))
        runs.append({name: same for name, (same, other) in found.items() if same == other})
        alice, carol = server.program(CHALLENGES, "tcp", "alice", "carol").result()
        assert (len(set(alice)), len(set(carol))) == (2, 1)
        overheard = server.program(CHALLENGES, "proxied", "carol", *strangers).result()
        assert all(first != second for first, second in overheard)
        server.stop()
    assert runs[0] == runs[1]
    assert len(set(runs[0].values())) == len(runs[0])


def test_a_password_is_changed_while_the_server_runs(password_server):
    users = str(password_server.users)
    assert clockd("user", "passwd", "carol", "--users", users, "--password-stdin", stdin="hunter3").returncode == 0
    assert password_server.session("tcp", "carol", "hunter2") == WRONG
    assert password_server.session("tcp", "carol", "hunter3")["granted"] == 0.05


LEAVING = """
async def main(reactor):
    async def leave():
        found, challenger = await challenge("carol")
        response = pb.respond(bytes.fromhex(found), b"hunter2")
        challenger.callRemote("respond", response, Mind()).addErrback(lambda _: None)
        await deferLater(reactor, 0.02)
        challenger.broker.transport.abortConnection()

    await gatherResults([Deferred.fromCoroutine(leave()) for _ in range(int(words[0]))])
    print(json.dumps("left"))
"""


def test_who_leaves_while_its_password_is_checked_leaves_nothing_behind(password_server):
    assert password_server.program(LEAVING, "tcp", "5").result() == "left"
    password_server.line("left while logging in")
    password_server.assert_empty()
    found = eventually(lambda: (found := password_server.session("tcp", "carol", "hunter2")).get("granted") and found)
    assert found["granted"] == 0.05


STORM = """
async def main(reactor):
    async def attempt():
        try:
            await log_in("carol", "wrong", Mind())
        except pb.RemoteError as error:
            return str(error)
        except (pb.PBConnectionLost, pb.DeadReferenceError):
            return "lost"

    print(json.dumps(await gatherResults([Deferred.fromCoroutine(attempt()) for _ in range(48)])))
"""


def test_of_more_attempts_than_can_be_checked_some_are_refused_and_who_is_served_stays(tmp_path):
    server = PasswordServer(tmp_path, login_seconds=60)
    subscriber = server.subscribers(60, [0.05])
    eventually(lambda: server.scrape()["clockd_avatars"] == 1)
    answers = Counter(server.program(STORM, "tcp").result(60))
    assert sum(answers.values()) == 48
    assert answers["the server checks as many passwords as it can; try again in a moment"] >= 1
    assert answers["the name and the secret do not fit"] >= 20
    logins = server.scrape()
    assert logins["clockd_logins_total password denied"] == answers["the name and the secret do not fit"]
    assert server.scrape()["clockd_avatars"] == 1
    subscriber.end(signal.SIGKILL)
    server.stop()


def test_a_server_ends_while_passwords_wait_to_be_checked(tmp_path):
    server = PasswordServer(tmp_path, login_seconds=60)
    storm = server.program(STORM, "tcp")
    eventually(lambda: server.scrape()["clockd_logins_total password throttled"])
    server.stop()
    assert "lost" in storm.result()
