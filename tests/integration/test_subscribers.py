"""Stock clients, as Twisted's how-to has them, against a real server."""

import itertools
import math
import os
import socket
import statistics
import struct
import sys

import pytest
from processes import HERE, Program, Server, eventually, run, without_coverage


@pytest.fixture
def quick_server(tmp_path):
    """A server whose pace is looked at, so its coverage is not; 200 clients may come at once to one account."""
    environment = {
        **without_coverage(),
        "CLOCKD_LIMITS_CONNECTIONS_PER_ACCOUNT": "200",
        "CLOCKD_LIMITS_PENDING": "200",
        "CLOCKD_LIMITS_PENDING_PER_ADDRESS": "200",
    }
    server = Server(tmp_path, environment=environment)
    yield server
    server.stop()


def skipped(scrape):
    return sum(value for name, value in scrape.items() if name.startswith("clockd_pushes_skipped_total"))


def test_a_stock_client_gets_one_push_a_second_and_ten_when_it_says_so(server):
    results = server.subscribers(4, [None, 0.1]).result()
    counts = [len(result["arrivals"]) for result in results]
    slack = 1 + skipped(server.scrape())
    assert 4 - slack <= counts[0] <= 4 + 1
    assert 40 - slack <= counts[1] <= 40 + 1


def test_pushes_do_not_drift(quick_server):
    (result,) = quick_server.subscribers(10, [0.1]).result()
    first, *_, last = (monotonic for _, monotonic, _ in result["arrivals"])
    periods = (last - first) / 0.1
    assert abs(periods - round(periods)) < 0.5
    assert round(periods) == len(result["arrivals"]) - 1 + skipped(quick_server.scrape())


def test_a_client_that_leaves_takes_its_avatar_and_its_timer_with_it(server):
    before = server.scrape()["clockd_connections_closed_total client"]
    clients = server.subscribers(3, [0.05] * 3)
    eventually(lambda: server.scrape()["clockd_avatars"] == 3)
    clients.result()
    eventually(lambda: server.scrape()["clockd_avatars"] == 0)
    after = server.scrape()
    assert after["clockd_subscriptions time"] == after["clockd_push_requested_hertz time"] == 0
    assert after["clockd_connections authenticated"] == after["clockd_connections pending"] == 0
    assert after["clockd_connections_closed_total client"] == before + 3
    eventually(lambda: server.scrape()["clockd_push_achieved_hertz time"] == 0)
    assert server.scrape()["clockd_pushes_total time"] == after["clockd_pushes_total time"]


def test_each_of_a_hundred_clients_gets_what_its_period_says(quick_server):
    seconds, number = 30, 100
    periods = [0.01 * 1000 ** (i / (number - 1)) for i in range(number)]  # 10 ms to 10 s
    results = quick_server.subscribers(seconds, periods).result(seconds + 30)
    slack = 1 + skipped(quick_server.scrape())
    for result in results:
        ideal = result["seconds"] / result["period"]
        assert math.floor(ideal) - slack <= result["stamped"] <= math.ceil(ideal) + 1, result["period"]


def test_stamps_are_newer_than_the_period_before_them(quick_server):
    (result,) = quick_server.subscribers(3, [0.05]).result()
    stamps = [stamp for _, _, stamp in result["arrivals"]]
    gaps = [after - before for before, after in itertools.pairwise(stamps)]
    assert min(gaps) > 0
    assert statistics.median(gaps) == pytest.approx(0.05, rel=0.2)
    assert all(arrived >= stamp for arrived, _, stamp in result["arrivals"])


def test_peers_that_leave_during_a_slow_login_leave_nothing_behind():
    result = Program(sys.executable, str(HERE / "slow_login.py")).result(60)
    assert result == {"logins": 20, "avatars": 0, "places": 0, "delayed": 0, "errors": 0, "closed": 20}


@pytest.mark.parametrize("cut", [1, 20, 60, 100, 140])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_peer_that_vanishes_mid_message_leaves_nothing_behind(server, cut, reset):
    """A recorded session is sent up to one byte or another; the challenge it answers is not the server's."""
    session = (
        b"\x02\x82pb" + b"\x02\x80\x13\x87\x06\x81"
        b"\x07\x80\x1a\x87\x01\x81\x04\x82root\x05\x82login\x01\x81\x02\x80\x0b\x87\x05\x82alice\x01\x80\x05\x87"
        b"\x07\x80\x1a\x87\x02\x81\x01\x81\x07\x82respond\x01\x81\x03\x80\x0b\x87\x10\x82"
        + b"x" * 16
        + b"\x02\x80\x10\x87\x01\x81\x01\x80\x05\x87"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as peer:
        peer.recv(64)
        peer.sendall(session[:cut])
        if reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: server.scrape()["clockd_connections pending"] == 0)
    assert server.scrape()["clockd_avatars"] == 0


IMPATIENT = {"CLOCKD_LIMITS_ACK_SECONDS": "0.2", "CLOCKD_LIMITS_STALE_SECONDS": "3"}


@pytest.fixture
def impatient_server(tmp_path):
    server = Server(tmp_path, environment={**os.environ, **IMPATIENT})
    yield server
    server.stop()


@pytest.mark.parametrize("method", ["remote_notifyTime", "remote_other"], ids=["raises", "missing"])
def test_a_mind_that_cannot_take_pushes_loses_its_connection_and_leaves_no_trace(impatient_server, method):
    text = "the client's own \x1b[31m text"
    program = f"""
from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.spread import pb

class Mind(pb.Referenceable):
    def {method}(self, stamp):
        raise ValueError({text!r})

async def main():
    factory = pb.PBClientFactory()
    reactor.connectTCP("127.0.0.1", {impatient_server.port}, factory)
    avatar = await factory.login(UsernamePassword(b"alice", {impatient_server.secret.encode()}), Mind())
    avatar.notifyOnDisconnect(lambda _: reactor.stop())
    await avatar.callRemote("setperiod", 0.02)

from twisted.internet.defer import ensureDeferred
ensureDeferred(main())
reactor.run()
"""
    assert run(sys.executable, "-c", program).returncode == 0
    eventually(lambda: impatient_server.scrape()["clockd_connections_closed_total protocol"] == 1)
    assert impatient_server.scrape()["clockd_avatars"] == 0
    assert "the client's own" not in impatient_server.output
