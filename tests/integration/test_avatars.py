"""Avatars that outlive connections, limits of an account's connections, and servers that take over."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error

import pytest
from processes import HERE, Program, Server, eventually, free_port, run, without_coverage

KILLS = int(os.environ.get("CLOCKD_TEST_KILLS", "5"))
"""How often the server is killed while periods are set; the full test has fifty."""

WINDOW_SECONDS = 1.0
"""What was acknowledged so long before a kill is never lost."""

TOO_MANY = "clockd.errors.TooManyConnections"


def program(script, server, *words, account="alice"):
    """Start a program of this folder that logs in to a server and can be asked something."""
    words = [str(server.port), account, server.secret, *map(str, words)]
    return Program(sys.executable, str(HERE / script), *words, environment=without_coverage(), stdin=subprocess.PIPE)


def limited(folder, when_full, **limits):
    """Start a server with a limit of five connections an account."""
    settings = {"connections_per_account": 5, "pending": 1000, "pending_per_address": 1000} | limits
    environment = {f"CLOCKD_LIMITS_{key.upper()}": str(value) for key, value in settings.items()}
    return Server(folder, environment={**os.environ, **environment, "CLOCKD_AVATARS_WHEN_FULL": f'"{when_full}"'})


def shared(folder, *arguments, secret=None, **options):
    """Start a server whose avatars belong to accounts, and which remembers them."""
    file = folder / "shared.toml"
    file.write_text('[avatars]\nsharing = "account"\n')
    server = Server(folder, "--config", str(file), "--state", str(folder / "state.sqlite"), *arguments, **options)
    server.secret = secret or server.secret
    return server


def gap(result):
    """Return the median distance of a client's last stamps."""
    stamps = [stamp for _, _, stamp in result["arrivals"]][-9:]
    gaps = sorted(after - before for before, after in itertools.pairwise(stamps))
    return gaps[len(gaps) // 2]


def test_stock_clients_of_one_account_share_a_period_that_outlives_them_and_the_server(tmp_path):
    server = shared(tmp_path)
    clients = server.subscribers(4, [None, None, 0.25])
    for result in clients.result():
        assert abs(gap(result) - 0.25) < 0.05, result["period"]
    eventually(lambda: server.scrape()["clockd_avatars"] == 0)
    assert server.scrape()["clockd_subscriptions time"] == 0
    server.stop()
    again = shared(tmp_path, secret=server.secret)
    (result,) = again.subscribers(3, [None]).result()
    assert abs(gap(result) - 0.25) < 0.05
    again.stop()


def test_five_connections_get_in_and_the_sixth_when_one_has_left_by_a_reset(tmp_path):
    server = limited(tmp_path, "reject")
    holder = program("holder.py", server)
    assert holder.ask("login 5") == {"in": 5}
    assert holder.ask("login 1") == {TOO_MANY: 1}
    holder.ask("abort")
    eventually(lambda: holder.ask("login 1") == {"in": 1})
    assert server.scrape()["clockd_connections_closed_total lost"] == 1
    assert holder.ask("in") == 5
    holder.end()
    server.assert_empty()
    server.stop()


@pytest.mark.parametrize("when_full", ["reject", "ping"])
def test_of_500_logins_at_a_time_five_get_in(tmp_path, when_full):
    server = limited(tmp_path, when_full)
    holder = program("holder.py", server)
    found = holder.ask("login 500", 60)
    assert found == {"in": 5, TOO_MANY: 495}
    assert server.scrape()["clockd_avatars"] == 5
    holder.end()
    server.assert_empty()
    server.stop()


def test_of_500_logins_at_a_time_the_last_five_stay_where_the_oldest_go(tmp_path):
    server = limited(tmp_path, "replace")
    holder = program("holder.py", server)
    assert holder.ask("login 500", 60) == {"in": 500}
    eventually(lambda: holder.ask("in") == 5)
    scrape = server.scrape()
    assert (scrape["clockd_avatars"], scrape["clockd_connections_closed_total replaced"]) == (5, 495)
    holder.end()
    server.assert_empty()
    server.stop()


def test_a_client_that_comes_back_takes_the_place_of_its_own_half_open_connection(tmp_path):
    server = limited(tmp_path, "ping", connections_per_account=1, ack_seconds=0.5)
    gone = program("holder.py", server)
    assert gone.ask("login 1") == {"in": 1}
    back = program("holder.py", server)
    assert back.ask("login 1") == {TOO_MANY: 1}
    gone.process.send_signal(signal.SIGSTOP)
    assert back.ask("login 1") == {"in": 1}
    assert server.scrape()["clockd_connections_closed_total replaced"] <= 1
    gone.process.send_signal(signal.SIGCONT)
    eventually(lambda: gone.ask("in") == 0)
    assert back.ask("in") == 1
    assert server.scrape()["clockd_connections_closed_total replaced"] == 1
    for holder in (gone, back):
        holder.end()
    server.assert_empty()
    server.stop()


def test_what_was_acknowledged_a_second_before_a_kill_is_there_again(tmp_path):
    secret = None
    for _ in range(KILLS):
        server = shared(tmp_path, secret=secret, environment=without_coverage())
        secret = server.secret
        setter = program("setter.py", server, 1000)
        eventually(lambda: len(setter.lines) > 50)  # noqa: B023  # it is waited for here
        time.sleep(random.uniform(WINDOW_SECONDS + 0.2, WINDOW_SECONDS + 1.5))
        killed = time.monotonic()
        server.process.kill()
        server.wait()
        setter.wait()
        granted = [tuple(map(float, line.split())) for line in setter.lines if re.fullmatch(r"[\d.]+ [\d.]+", line)]
        assert len(granted) > 300, len(granted)
        floor = max(period for moment, period in granted if moment <= killed - WINDOW_SECONDS)
        again = shared(tmp_path, secret=secret, environment=without_coverage())
        status = json.loads(ask_status(again))
        assert status["periods"]["time"] >= floor, (status, floor, granted[-1])
        assert "broken" not in again.output
        again.stop()


def ask_status(server):
    """Return what the status of a new connection is, as JSON, by a stock client."""
    code = """
        import json, sys
        from twisted.cred.credentials import UsernamePassword
        from twisted.internet.task import react
        from twisted.internet.defer import Deferred
        from twisted.spread import pb

        class Mind(pb.Referenceable):
            def remote_notifyTime(self, stamp):
                pass

        async def main(reactor):
            factory = pb.PBClientFactory()
            reactor.connectTCP("127.0.0.1", int(sys.argv[1]), factory)
            avatar = await factory.login(UsernamePassword(b"alice", sys.argv[2].encode()), Mind())
            print(json.dumps(await avatar.callRemote("status")))

        react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
    """
    done = run(sys.executable, "-c", textwrap.dedent(code), str(server.port), server.secret)
    assert done.returncode == 0, done.stderr
    return done.stdout


STAYS = """
import sys
from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.spread import pb

class Mind(pb.Referenceable):
    def remote_notifyTime(self, stamp):
        pass

    def remote_notifySample(self, feed, sequence, stamp, value):
        print(value, flush=True)

def entered(avatar):
    held.append(avatar)
    avatar.callRemote("subscribe", "server").addCallback(lambda _: print("subscribed", flush=True))

held = [Mind()]
factory = pb.PBClientFactory()
reactor.connectTCP("127.0.0.1", int(sys.argv[1]), factory)
factory.login(UsernamePassword(b"alice", sys.argv[2].encode()), held[0]).addCallback(entered)
reactor.run()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_drains_waits_for_nobody_when_it_is_told_again(tmp_path, number):
    server = Server(tmp_path, environment={**os.environ, "CLOCKD_SERVER_DRAIN": "60"})
    client = Program(sys.executable, "-c", STAYS, str(server.port), server.secret, environment=without_coverage())
    client.line("subscribed")
    server.process.send_signal(number)
    client.line("draining")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        server.get("/readyz")
    assert server.scrape()["clockd_connections authenticated"] == 1
    assert server.end(number, 10) == 0
    assert "Traceback" not in server.output
    client.end()


CLIENTS = int(os.environ.get("CLOCKD_TEST_CLIENTS", "300"))
"""Clients that are handed over; the full test has 2000."""


def test_clients_of_the_library_are_handed_over_to_a_new_server(tmp_path):
    port = free_port()
    environment = without_coverage() | {
        "CLOCKD_LIMITS_CONNECTIONS_PER_ACCOUNT": "10000",
        "CLOCKD_LIMITS_PENDING": "1000",
        "CLOCKD_LIMITS_PENDING_PER_ADDRESS": "1000",
    }
    state = ("--state", str(tmp_path / "state.sqlite"))
    old = Server(tmp_path, *state, environment=environment, port=port)
    clients = program("many.py", old, CLIENTS)
    clients.line("all are in", 120)
    eventually(lambda: min(clients.ask("seen", 60)) > 2, 60)
    began = time.monotonic()
    old.process.send_signal(signal.SIGTERM)
    new = Server(tmp_path, *state, environment=environment, port=port)
    assert old.wait(10) == 0
    ended = time.monotonic() - began
    eventually(lambda: new.scrape()["clockd_connections authenticated"] == CLIENTS, 30)
    back = time.monotonic() - began
    print(f"{CLIENTS} clients: the old server ended after {ended:.1f} s, all were back after {back:.1f} s")
    assert back < 30
    seen = clients.ask("seen", 60)
    eventually(lambda: all(now > before + 1 for now, before in zip(clients.ask("seen", 60), seen, strict=True)), 60)
    assert all(abs(apart - period) < 0.5 for period, apart in clients.ask("periods", 60))
    scrape = new.scrape()
    refused = {key: value for key, value in scrape.items() if key.startswith("clockd_logins_total") and value}
    assert refused == {"clockd_logins_total secret ok": CLIENTS}
    assert scrape["clockd_avatars"] == scrape["clockd_connections authenticated"] == CLIENTS
    clients.end()
    new.secret = old.secret
    new.assert_empty()
    new.stop()


def test_a_store_in_trouble_stops_nothing_and_the_operator_is_told(tmp_path):
    folder = tmp_path / "state"
    server = Server(tmp_path, "--state", str(folder / "clockd.sqlite"))
    readiness = json.loads(server.get("/readyz"))
    assert (readiness["ready"], readiness["remark"].partition(":")[0]) == (True, "store")
    assert "clockd.sqlite" in readiness["remark"]
    assert "directory" in readiness["remark"]
    clients = server.subscribers(6, [0.1])
    eventually(lambda: server.scrape()["clockd_store_up"] == 0)
    assert server.scrape()["clockd_store_errors_total"] >= 1
    folder.mkdir()
    eventually(lambda: server.scrape()["clockd_store_up"] == 1)
    assert json.loads(server.get("/readyz"))["remark"] is None
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"SQLite format 3\0" + b"garbage" * 1000)
    garbage.rename(folder / "clockd.sqlite")
    (result,) = clients.result()
    assert len(result["arrivals"]) >= 50
    eventually(lambda: [b"garbage" in path.read_bytes() for path in folder.glob("clockd.sqlite.broken-*")] == [True])
    eventually(lambda: server.scrape()["clockd_store_up"] == 1)
    assert "is kept as" in server.output
    server.stop()
    assert (folder / "clockd.sqlite").read_bytes().startswith(b"SQLite format 3")
