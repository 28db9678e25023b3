"""What is beside Perspective Broker: headers of a proxy, HTTP, sockets; `docs/security.md` has the list.

The figures passed to `attacked` are those of the how-to's design.
"""

import json
import socket
import struct
import sys
import time
from collections import Counter
from contextlib import suppress

import pytest
from certificates import Chain
from processes import FREE, Program
from strangers import MIND, Gone, encode, watched

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """A server that has a listener for connections with a PROXY header."""
    with watched(tmp_path_factory.mktemp("proxied"), "--listen", f"haproxy:{FREE}", login_seconds=3) as server:
        yield server


def v2(command, family, addresses, size=None):
    return V2 + bytes([command, family]) + struct.pack("!H", len(addresses) if size is None else size) + addresses


BAD_HEADERS = {
    "none": b"GET / HTTP/1.1\r\n\r\n",
    "Perspective Broker": encode(b"pb"),
    "one without end": b"PROXY " + b"x" * 200,
    "one of much": b"PROXY " + b"x" * 100_000,
    "an empty one": b"PROXY   \r\n",
    "no protocol": b"PROXY TCP9 1.2.3.4 5.6.7.8 1 2\r\n",
    "no addresses": b"PROXY TCP4\r\n",
    "letters as port": b"PROXY TCP4 1.2.3.4 5.6.7.8 x y\r\n",
    "no ports": b"PROXY TCP4 1.2.3.4 5.6.7.8 \r\n",
    "a port of 5000 digits": b"PROXY TCP4 1.2.3.4 5.6.7.8 " + b"1" * 5000 + b" 2\r\n",
    "no UTF-8": b"PROXY TCP4 \xff\xfe 5.6.7.8 1 2\r\n",
    "no UTF-8 in six": b"PROXY TCP6 \xff\xfe ::1 1 2\r\n",
    "the first bytes of the second version": V2,
    "another version": v2(0x31, 0x11, bytes(12)),
    "another command": v2(0x2F, 0x11, bytes(12)),
    "another family": v2(0x21, 0x51, bytes(12)),
    "another transport": v2(0x21, 0x13, bytes(12)),
    "too few addresses": v2(0x21, 0x11, bytes(4)),
    "too few for six": v2(0x21, 0x21, bytes(12)),
    "too few for a path": v2(0x21, 0x31, bytes(12)),
}


def test_a_header_that_makes_no_sense_ends_the_connection_and_leaves_no_trace(proxied):
    (port,) = proxied.other_ports
    with proxied.attacked(log=1000 * len(BAD_HEADERS)) as seen:
        ends = {}
        for what, data in BAD_HEADERS.items():
            stranger = proxied.stranger(port)
            stranger.send(data)
            ends[what] = stranger.end()
    assert set(ends.values()) <= {"closed", "reset"}
    assert sum(seen.closed.values()) == len(BAD_HEADERS)
    assert "Traceback" not in proxied.output


def test_a_header_that_does_not_end_is_gone_at_the_deadline(proxied):
    (port,) = proxied.other_ports
    with proxied.attacked(memory=5 * 8e6) as seen:
        strangers = [proxied.stranger(port) for _ in range(60)]
        for number, stranger in enumerate(strangers):
            stranger.send([b"PROXY TCP4 1.2.3.4", v2(0x21, 0x11, bytes(60_000), 65_535), b""][number % 3])
        for stranger in strangers:
            stranger.end()
    assert seen.closed == {"login_timeout": 60}


CLAIMS = {
    "an address": b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 8788\r\n",
    "an address of six": b"PROXY TCP6 2001:db8::9 2001:db8::1 40000 8788\r\n",
    "nothing": b"PROXY UNKNOWN some \xff thing\r\n",
    "local": v2(0x20, 0x00, b""),
    "no family": v2(0x21, 0x00, b""),
    "binary": v2(0x21, 0x11, bytes(12)),
    "binary of six": v2(0x21, 0x21, bytes(36)),
}
BAD_CLAIMS = {
    "a path of control characters": v2(0x21, 0x31, b"\x1b[31m\r\nforged\xff".ljust(108, b"\0") + bytes(108)),
    "control characters": b"PROXY TCP4 \x1b[31mforged\x07 192.0.2.1 40000 8788\r\n",
    "another line": "PROXY TCP4 forged\u2028line 192.0.2.1 40000 8788\r\n".encode(),
    "sixty kilobytes": b"PROXY TCP4 " + b"x" * 60_000 + b" 192.0.2.1 40000 8788\r\n",
    "a port below 0": b"PROXY TCP4 203.0.113.9 192.0.2.1 -99999999 8788\r\n",
}


def behind(proxied, header):
    """Return a connection that comes with a header."""
    stranger = proxied.stranger(*proxied.other_ports)
    stranger.send(header)
    return stranger.negotiate()


@pytest.mark.parametrize("what", CLAIMS)
def test_who_comes_with_a_header_is_served(proxied, what):
    with proxied.attacked() as seen:
        behind(proxied, CLAIMS[what]).login("mallory", proxied.secrets["mallory"])
    assert seen.closed == {}


@pytest.mark.parametrize("what", BAD_CLAIMS)
def test_an_address_that_a_header_claims_is_one_short_word_in_the_log(proxied, what):
    """Or its connection is ended."""
    written = len(proxied.lines)
    with proxied.attacked(log=20_000), suppress(Gone):
        client = behind(proxied, BAD_CLAIMS[what])
        client.login("mallory", proxied.secrets["mallory"])
        client.pushed()
    lines = [json.loads(line) for line in proxied.lines[written:]]
    assert not [line for line in lines if len(line["message"]) > 500 or not line["message"].isprintable()]


def test_guesses_behind_a_proxy_count_for_the_address_that_it_tells(proxied):
    """For one of IPv6, its first 64 bits."""

    def guess(header, name):
        stranger = behind(proxied, b"PROXY %s 40000 8788\r\n" % header)
        _, challenger = stranger.challenge(name)
        return stranger.refused(challenger, b"respond", bytes(16), MIND)

    with proxied.attacked(cpu=5 * 5, log=237 * 100) as seen:
        began = time.monotonic()
        answers = Counter(guess(b"TCP4 203.0.113.7 192.0.2.1", b"alice") for _ in range(50))
        answers += Counter(guess(b"TCP6 2001:db8::%x 2001:db8::1" % n, b"mallory") for n in range(50))
        took = time.monotonic() - began
        assert guess(b"TCP4 203.0.113.8 192.0.2.1", b"mallory") == "WrongCredentials"
    assert answers.keys() == {"WrongCredentials", "TooManyAttempts"}
    assert answers["WrongCredentials"] <= 2 * (20 + 4 * took) + 2
    assert seen.grown["clockd_logins_total secret ok"] == 0


# HTTP


REQUESTS = {
    "garbage": bytes(range(256)) * 400,
    "a line without end": b"GET /" + b"x" * 1_000_000,
    "headers without end": b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200_000,
    "a huge header": b"GET / HTTP/1.1\r\nx: " + b"y" * 1_000_000,
    "another method": b"FROBNICATE /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    "no such page": b"GET /\x1b[31m../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length that is none": b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a strange Accept": b"GET /metrics HTTP/1.0\r\nAccept: " + b"a/b;q=" * 2000 + b"\r\n\r\n",
}


def test_what_is_no_request_leaves_no_trace(proxied):
    with proxied.attacked(memory=30e6, cpu=5.0, log=25_000):
        for data in REQUESTS.values():
            stranger = proxied.stranger(proxied.metrics_port)
            if stranger.send(data):
                with suppress(OSError):  # the server has closed it
                    stranger.socket.shutdown(socket.SHUT_WR)
            stranger.end()


PIPELINES = {
    "requests": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 2000,
    "scrapes": b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 200,
    "chunks of a byte": b"POST /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 10_000,
    "short lines": b"GET /healthz HTTP/1.1\r\nX: y\r\n" + b" \r\n" * 20_000,
}


def test_many_requests_at_once_hold_up_nobody(proxied):
    with proxied.attacked(memory=30e6, cpu=5.0):
        for data in PIPELINES.values():
            strangers = [proxied.stranger(proxied.metrics_port) for _ in range(30)]
            for stranger in strangers:
                stranger.send(data)
            for stranger in strangers:
                stranger.end()


def test_requests_for_the_head_alone_leave_no_trace_in_the_log(proxied):
    with proxied.attacked(log=5 * 1000):
        for path in (b"metrics", b"healthz", b"\x1b[31m") * 20:
            stranger = proxied.stranger(proxied.metrics_port)
            stranger.send(b"HEAD /" + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert stranger.end() == "closed"


def test_a_request_s_body_is_not_kept(proxied):
    with proxied.attacked(memory=30e6, cpu=5.0):
        for head in (b"Content-Length: 50000000", b"Transfer-Encoding: chunked", b"Content-Length: 90000"):
            stranger = proxied.stranger(proxied.metrics_port)
            stranger.send(b"POST /metrics HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
            for _ in range(200):
                data = bytes(65_536)
                if not stranger.send(b"10000\r\n" + data + b"\r\n" if b"chunked" in head else data):
                    break
            files = [path for path in proxied.descriptors() if "deleted" in path or path.startswith("/tmp")]
            assert not files


def test_requests_that_come_a_byte_at_a_time_hold_up_nobody(proxied):
    with proxied.attacked(memory=30e6, cpu=5.0):
        strangers = [proxied.stranger(proxied.metrics_port) for _ in range(100)]
        for byte in b"GET /metrics HTTP/1.1\r\nHost: x":
            for stranger in strangers:
                stranger.send(bytes([byte]))


def test_scrapes_whose_answers_nobody_reads_hold_little(proxied):
    with proxied.attacked(memory=50e6, cpu=5 * 10):
        strangers = [proxied.stranger(proxied.metrics_port, receive_bytes=2048) for _ in range(20)]
        for stranger in strangers:
            stranger.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        assert "clockd" in proxied.get("/metrics")


OPTIONS = """
import json, socket, sys, time
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from clockd.config import load
from clockd.monotonic import make_monotonic
from clockd.service import make_service
from clockd.users import add_account

OPTIONS = {
    "nodelay": (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "idle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "interval": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "count": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "user timeout": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
}


async def main(folder):
    make_monotonic(reactor)
    add_account(folder / "users", "alice")
    free = "tcp:0:interface=127.0.0.1"
    flags = {
        ("server", "state"): "",
        ("server", "listen"): [free, f"haproxy:{free}"],
        ("tls", "listen"): [free, f"haproxy:{free}"],
        ("tls", "certificate"): str(folder / "server.pem"),
        ("tls", "private_key"): str(folder / "server.key"),
        ("metrics", "listen"): free,
        ("auth", "users"): str(folder / "users"),
    }
    service = make_service(load(None, {}, flags), reactor, time.time)
    service.startService()
    found = []
    for port in await service.ready:
        before = set(reactor.getReaders())
        with socket.create_connection(("127.0.0.1", port.getHost().port)):
            while not (accepted := set(reactor.getReaders()) - before):
                await deferLater(reactor, 0.01)
            (connection,) = accepted
            found.append({name: connection.socket.getsockopt(*option) for name, option in OPTIONS.items()})
            await deferLater(reactor, 0.01)
    await service.stopService()
    print(json.dumps(found))


def ended(failure):
    if failure is not None:
        failure.printTraceback(sys.stdout)
    reactor.stop()

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main(Path(sys.argv[1]))).addBoth(ended))
reactor.run()
"""


def test_the_kernel_looks_after_every_accepted_connection(tmp_path):
    """In the process that serves, with the sockets that it has accepted: no other process can ask for their options."""
    Chain().write(tmp_path)
    found = Program(sys.executable, "-c", OPTIONS, str(tmp_path)).result()
    assert len(found) == 5
    for options in found:
        assert options["nodelay"] == options["keepalive"] == 1
        assert options["idle"] + options["interval"] * options["count"] <= 2 * 30
        assert 0 < options["user timeout"] <= 2 * 30_000
