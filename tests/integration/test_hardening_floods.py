"""Peers that are many, that stay, or that guess; `docs/security.md` has the list.

The figures passed to `attacked` are those of the how-to's design.
"""

import json
import ssl
import sys
import time
from collections import Counter
from contextlib import suppress

import pytest
from certificates import Chain
from processes import FREE, Program, eventually
from strangers import CHECKING, HONEST, MIND, Refusal, Watched, encode, message, watched

from clockd.service import RESERVED_DESCRIPTORS

LOGIN_SECONDS = 2
DESCRIPTORS = 256


class Limited(Program):
    """A program that may have few descriptors open."""

    def __init__(self, *command, **options):
        super().__init__("sh", "-c", f'ulimit -n {DESCRIPTORS} && exec "$@"', "sh", *command, **options)


class LimitedServer(Watched, Limited):
    """A server that may have few descriptors open; its honest clients may have more."""


@pytest.fixture(scope="module")
def deadline_server(tmp_path_factory):
    """A server with a short time for logins, on all kinds of listeners."""
    folder = tmp_path_factory.mktemp("deadlines")
    _, certificate, key = Chain().write(folder)
    environment = {
        "CLOCKD_TLS_LISTEN": json.dumps([FREE]),
        "CLOCKD_TLS_CERTIFICATE": str(certificate),
        "CLOCKD_TLS_PRIVATE_KEY": str(key),
    }
    listen = ("--listen", f"haproxy:{FREE}")
    with watched(folder, *listen, environment=environment, login_seconds=LOGIN_SECONDS) as server:
        yield server


def test_strangers_who_do_not_log_in_are_gone_at_the_deadline(deadline_server):
    """Whether they say nothing, agree on a dialect, hold a challenge, or go on sending bytes or messages."""
    server = deadline_server
    with server.attacked(memory=30e6) as seen:
        silent = [server.stranger() for _ in range(40)]
        negotiated = [server.greeted() for _ in range(20)]
        challenged = [server.greeted() for _ in range(20)]
        for stranger in challenged:
            stranger.challenge(b"mallory")
        others = [server.stranger(port) for port in server.other_ports for _ in range(3)]
        busy = server.greeted()
        began = time.monotonic()
        while busy.send(b"\x01" if time.monotonic() - began > 0.5 else encode([b"version", 6])):
            assert time.monotonic() - began < 10 * LOGIN_SECONDS
            time.sleep(0.1)
        everybody = [*silent, *negotiated, *challenged, *others]
        for stranger in everybody:
            assert stranger.end() == "reset"
        server.alone()
    assert seen.closed == {"login_timeout": len(everybody) + 1}


def test_a_flood_of_calls_by_way_of_a_proxy_or_tls_holds_up_nobody(deadline_server):
    server = deadline_server
    proxied, tls = server.other_ports
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with server.attacked(cpu=5 * 5, memory=30e6) as seen:
        clients = [server.stranger(proxied), server.stranger(tls)]
        clients[0].send(b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 8788\r\n")
        clients[1].socket = context.wrap_socket(clients[1].socket)
        for client in clients:
            client.negotiate()
            client.login("mallory", server.secrets["mallory"])
        for _ in range(3):
            for client in clients:
                client.send(b"".join(message(i, client.perspective, b"setperiod", 60) for i in range(1, 501)))
            for client in clients:
                assert all(client.answer(i) == 60.0 for i in range(1, 501))
        for client in clients:
            client.send(b"\x00\x80")
            client.end()
    assert seen.closed == {"protocol": 2}


def test_a_login_late_in_its_time_is_a_session_for_good(deadline_server):
    server = deadline_server
    with server.attacked() as seen:
        client = server.greeted()
        eventually(lambda: server.scrape()["clockd_connections pending"] == 1)
        client.login("mallory", server.secrets["mallory"])
        client.listen(1.5 * LOGIN_SECONDS)
        client.pushed()
    assert seen.closed == {}


@pytest.fixture(scope="module")
def crowded_server(tmp_path_factory):
    """A server that has room for few who are not logged in."""
    with watched(tmp_path_factory.mktemp("crowds"), pending=24, pending_per_address=12) as server:
        yield server


def test_strangers_from_one_address_drive_out_their_own(crowded_server):
    server = crowded_server
    with server.attacked() as seen:
        other = server.greeted()
        crowd = [server.stranger(source="127.0.0.2") for _ in range(12)]
        for stranger in crowd[:4]:
            stranger.negotiate()  # who speaks is as old as before
        crowd += [server.stranger(source="127.0.0.2") for _ in range(8)]
        for stranger in crowd[:8]:
            assert stranger.end() == "reset"
        for stranger in (other, crowd[8].negotiate(), crowd[19].negotiate()):
            assert stranger.challenge(b"alice")
    assert seen.closed == {"limit": 8}


def test_strangers_from_many_addresses_drive_out_the_oldest_and_nobody_who_logs_in(crowded_server):
    server = crowded_server
    with server.attacked(memory=30e6) as seen:
        clients = [server.client() for _ in range(6)]
        crowd = [server.stranger() for _ in range(100)]
        for stranger in crowd[:76]:
            assert stranger.end() == "reset"
        assert server.scrape()["clockd_connections pending"] == 24
        server.newcomer()
        for client in clients:
            client.pushed()
    assert seen.closed["limit"] == 100 - 24 + 1


@pytest.fixture(scope="module")
def default_server(tmp_path_factory):
    """A server with the default limits."""
    with watched(tmp_path_factory.mktemp("default")) as server:
        yield server


FLOOD = """
import collections, itertools, socket, sys
held = collections.deque()
print("begins", flush=True)
for number in itertools.count():
    peer = socket.socket()
    peer.bind((f"127.0.{200 + number % 50}.{1 + number // 50 % 200}", 0))
    peer.connect(("127.0.0.1", int(sys.argv[1])))
    held.append(peer)
    if len(held) > 100:
        held.popleft().close()
"""


def test_newcomers_get_in_while_others_open_connections_as_fast_as_they_can(default_server):
    server = default_server
    with server.attacked(cpu=5 * 10, memory=40e6) as seen:
        flood = Program(sys.executable, "-c", FLOOD, str(server.port))
        flood.line("begins")
        before = server.scrape()["clockd_connections_opened_total"]
        eventually(lambda: server.scrape()["clockd_connections_opened_total"] - before > 500)
        for _ in range(10):
            server.newcomer()
        flood.end()
    assert seen.grown["clockd_logins_total secret ok"] == 10


def test_a_flood_of_calls_is_answered_and_holds_up_nobody(default_server):
    """What the calls cost is theirs; what counts is that the honest are pushed to meanwhile.

    What the sixteen send takes more than a second to serve.
    """
    server, number = default_server, 700
    with server.attacked(cpu=5 * 15, memory=30e6) as seen:
        clients = [server.client() for _ in range(16)]
        calls = b"".join(message(i, clients[0].perspective, b"setperiod", b"x") for i in range(1, number + 1))
        for client in clients:
            client.send(calls)
        for client in clients:
            with pytest.raises(Refusal) as refusal:
                client.answer(number)
            assert refusal.value.name == "InvalidPeriod"
    assert seen.closed == {}
    assert seen.grown["clockd_period_changes_total refused"] == 16 * number


def test_those_who_vanish_amid_their_flood_leave_nothing(default_server):
    server = default_server
    with server.attacked(cpu=5 * 15, memory=30e6) as seen:
        clients = [server.client() for _ in range(16)]
        calls = message(1, clients[0].perspective, b"setperiod", b"x") * 1000
        for number, client in enumerate(clients):
            client.send(calls)
            client.close(reset=bool(number % 2))
        server.alone()
    assert sum(seen.closed.values()) == 16
    assert seen.closed.keys() <= {"client", "lost"}


def test_a_client_that_calls_and_does_not_read_is_ended(default_server):
    server = default_server
    with server.attacked(cpu=5 * 5, memory=30e6) as seen:
        client = server.client(receive_bytes=2048)
        calls = memoryview(message(1, 99, b"x") * 200_000)
        client.socket.settimeout(0.5)
        with suppress(ConnectionError):
            while calls:
                try:
                    calls = calls[client.socket.send(calls) :]
                except TimeoutError:  # where neither has room for the other's acknowledgements, TCP can come to a halt
                    client.socket.recv(2048)
    assert calls
    assert seen.closed == {"limit": 1}


@pytest.fixture(scope="module")
def full_server(tmp_path_factory):
    """A server that may have few connections in all."""
    with watched(tmp_path_factory.mktemp("full"), connections=HONEST + 6, connections_per_address=HONEST + 2) as server:
        yield server


def test_those_who_find_no_place_are_told_so(full_server):
    server = full_server
    with server.attacked() as seen:
        clients = [server.client(source="127.0.0.2") for _ in range(5)]
        crowd = [server.stranger() for _ in range(50)]
        assert [stranger.end() for stranger in crowd[:-1]] == ["reset"] * 49
        clients.append(server.client())
        for _ in range(3):
            late = server.greeted()
            challenger, right = server.proof(late)
            assert late.refused(challenger, b"respond", right, MIND) == "TooManyConnections"
        for client in clients:
            client.pushed()
        clients.pop().close()
        eventually(lambda: server.scrape()["clockd_connections authenticated"] == HONEST + 5)
    assert seen.closed == {"limit": 52, "client": 1}


def test_an_address_has_its_connections_and_no_more(full_server):
    server = full_server
    with server.attacked() as seen:
        clients = [server.client(source="127.0.0.1") for _ in range(2)]
        for _ in range(3):
            stranger = server.greeted(source="127.0.0.1")
            challenger, right = server.proof(stranger)
            assert stranger.refused(challenger, b"respond", right, MIND) == "TooManyConnections"
            stranger.close()
        server.client().pushed()
        clients.pop().close()
        eventually(lambda: server.scrape()["clockd_connections authenticated"] == HONEST + 2)
    assert seen.grown["clockd_logins_total secret ok"] == 3
    assert seen.closed.keys() <= {"client", "lost", "limit"}  # the next may arrive before one has left


@pytest.fixture(scope="module")
def limited_server(tmp_path_factory):
    """A server that may have 256 descriptors open."""
    with watched(tmp_path_factory.mktemp("descriptors"), kind=LimitedServer) as server:
        assert f"only {DESCRIPTORS} descriptors" in server.output
        yield server


def test_an_honest_login_takes_less_than_a_second_while_two_hundred_strangers_hold_on(limited_server):
    server = limited_server
    with server.attacked(log=7300 * 5) as seen:
        strangers = [server.stranger() for _ in range(200)]
        began = time.monotonic()
        server.newcomer(timeout=1.0)
        assert time.monotonic() - began < 1
        for stranger in strangers[-50:]:
            assert stranger.hear()
    room = DESCRIPTORS - RESERVED_DESCRIPTORS - HONEST
    assert seen.closed == {"limit": 200 + 1 - room, "client": 1}


def test_those_who_open_the_metrics_port_keep_nobody_out(limited_server):
    server = limited_server
    with server.attacked(log=7300 * 5):
        browsers = [server.stranger(server.metrics_port) for _ in range(300)]
        strangers = [server.stranger() for _ in range(200)]
        server.newcomer(timeout=1.0)
        assert len(server.descriptors()) < DESCRIPTORS
        assert browsers
        assert strangers


# guessing


def guesses(server, name, number, **options):
    """Make so many guesses, three a connection; return how often each answer came."""
    answers = Counter()
    for _ in range(number // 3):
        stranger = server.greeted(**options)
        for _ in range(3):
            _, challenger = stranger.challenge(name)
            answers[stranger.refused(challenger, b"respond", bytes(16), MIND)] += 1
        stranger.close()
    return answers


def test_an_address_has_ten_guesses_a_second_at_the_most(default_server):
    server = default_server
    began = time.monotonic()
    with server.attacked(cpu=5 * 2, log=237 * 450) as seen:
        answers = guesses(server, b"mallory", 450, source="127.0.0.5")
    took = time.monotonic() - began
    assert answers.keys() == {"WrongCredentials", "TooManyAttempts"}
    assert answers["WrongCredentials"] <= 40 + 10 * took
    assert seen.grown["clockd_logins_total secret denied"] == answers["WrongCredentials"]
    assert seen.grown["clockd_logins_total unknown throttled"] == answers["TooManyAttempts"]


def test_an_account_has_twenty_guesses_a_second_at_the_most_and_its_owner_gets_in(default_server):
    server = default_server
    began = time.monotonic()
    with server.attacked(cpu=5 * 2, log=237 * 450) as seen:
        answers = sum((guesses(server, b"alice", 3) for _ in range(150)), Counter())
        server.newcomer()
    took = time.monotonic() - began
    assert answers.keys() == {"WrongCredentials", "TooManyAttempts"}
    assert answers["WrongCredentials"] <= 80 + 20 * took
    assert seen.grown["clockd_logins_total secret ok"] == 1


def test_guesses_at_names_that_nobody_has_are_counted_as_any_others(default_server):
    """Some are checked as passwords would be, so that nobody can tell; that takes a tenth of a second each."""
    server = default_server
    with server.attacked(cpu=5 * 5, memory=CHECKING) as seen:
        answers = sum((guesses(server, f"nobody{n}".encode(), 3, source="127.0.0.6") for n in range(4)), Counter())
    assert answers.keys() <= {"WrongCredentials", "TooManyAttempts"}
    assert seen.grown["clockd_logins_total secret denied"] == 0
    assert seen.grown["clockd_logins_total unknown denied"] == answers["WrongCredentials"]


def test_challenges_are_all_different(default_server):
    server = default_server
    found = set()
    with server.attacked() as seen:
        for _ in range(100):
            stranger = server.greeted()
            found |= {stranger.challenge(b"alice")[0] for _ in range(3)}
            stranger.close()
    assert len(found) == 300
    assert {len(challenge) for challenge in found} == {16}
    assert seen.closed.keys() == {"client"}
