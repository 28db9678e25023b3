"""Clients that read no more: stopped for a while, stopped for good, or calling without reading the answers."""

import os
import signal
import sys
import time

import pytest
from processes import Program, Server, eventually, without_coverage

FRESH_SECONDS = 0.25
"""A push that arrives so soon after its stamp was not waiting; on one host a round trip takes some milliseconds."""


def skipped(server, reason):
    return server.scrape()[f"clockd_pushes_skipped_total time {reason}"]


def serve(folder, **limits):
    """Start a server whose pace is looked at, so its coverage is not, with some limits of its own."""
    settings = {f"CLOCKD_LIMITS_{key.upper()}": str(value) for key, value in limits.items()}
    return Server(folder, environment=without_coverage() | settings)


@pytest.mark.parametrize(("ack_seconds", "stop_seconds"), [(0.1, 4), (1.0, 20)])
def test_a_client_stopped_for_a_while_finds_few_pushes_waiting_and_then_fresh_ones(tmp_path, ack_seconds, stop_seconds):
    period = 0.02
    server = serve(tmp_path, ack_seconds=ack_seconds)
    clients = server.subscribers(stop_seconds + 8, [period])
    eventually(lambda: server.scrape()["clockd_pushes_total time"] > 150)
    clients.process.send_signal(signal.SIGSTOP)
    eventually(lambda: skipped(server, "unacknowledged") > 20)
    held = server.scrape()["clockd_pushes_total time"]
    time.sleep(stop_seconds)
    assert server.scrape()["clockd_pushes_total time"] == held
    clients.process.send_signal(signal.SIGCONT)
    (result,) = clients.result(stop_seconds + 30)
    arrivals = result["arrivals"]
    stop = max(range(1, len(arrivals)), key=lambda i: arrivals[i][1] - arrivals[i - 1][1])
    assert arrivals[stop][1] - arrivals[stop - 1][1] > stop_seconds
    waiting = [arrived for arrived, _, stamp in arrivals[stop:] if arrived - stamp > FRESH_SECONDS]
    between_asks = max(8, ack_seconds / period) + 1
    assert 1 <= len(waiting) <= between_asks + ack_seconds / period + 1
    fresh = arrivals[stop + len(waiting) :]
    assert all(arrived - stamp <= FRESH_SECONDS for arrived, _, stamp in fresh)  # none of them came among these
    assert fresh[0][1] - arrivals[stop][1] < FRESH_SECONDS
    assert len(fresh) > 1 / period
    left_out = skipped(server, "unacknowledged") + skipped(server, "stall")  # the server may have been held up, too
    assert left_out >= (stop_seconds - 2 * ack_seconds) / period
    assert skipped(server, "buffer") == 0
    server.stop()


@pytest.mark.parametrize("period", [0.05, None, 3600])
def test_a_client_stopped_for_good_is_gone_after_stale_seconds(tmp_path, period):
    stale_seconds = 3
    server = serve(tmp_path, stale_seconds=stale_seconds)
    clients = server.subscribers(120, [period])
    if period is None:
        eventually(lambda: server.scrape()["clockd_pushes_total time"] >= 2)
    else:
        eventually(lambda: server.scrape()["clockd_period_changes_total granted"] == 1)
    clients.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    gone = "clockd_connections_closed_total stale"
    eventually(lambda: server.scrape()[gone] == 1)
    took = time.monotonic() - began
    # an ask may go out half of it after the last one; two sweeps, a second apart, have to find it stale
    assert stale_seconds / 2 <= took <= stale_seconds * 1.5 + 3
    after = server.scrape()
    assert after["clockd_avatars"] == after["clockd_subscriptions time"] == 0
    assert after["clockd_connections authenticated"] == after["clockd_push_requested_hertz time"] == 0
    assert sum(value for name, value in after.items() if name.startswith("clockd_connections_closed_total")) == 1
    server.stop()
    clients.end(signal.SIGKILL)


def test_clients_that_go_on_are_not_gone_after_stale_seconds(tmp_path):
    server = serve(tmp_path, stale_seconds=1)
    results = server.subscribers(8, [0.05, 3600, None]).result(30)
    assert [len(result["arrivals"]) > 0 for result in results] == [True, False, True]
    closed = {name: value for name, value in server.scrape().items() if "closed_total" in name and value}
    assert closed == {"clockd_connections_closed_total client": 3}
    server.stop()


CALLER = """
import sys
from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, react
from twisted.spread import pb

port, secret, method = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class Mind(pb.Referenceable):
    def remote_notifyTime(self, stamp):
        pass


async def main(reactor):
    factory = pb.PBClientFactory()
    reactor.connectTCP("127.0.0.1", port, factory)
    if secret:
        target = await factory.login(UsernamePassword(b"alice", secret.encode()), Mind())
    else:
        target = await factory.getRootObject()
    gone = Deferred()
    target.notifyOnDisconnect(lambda _: gone.callback(None))
    transport = target.broker.transport
    transport.pauseProducing()

    def call():
        for _ in range(50):
            if not transport.dataBuffer:  # the server still reads
                target.callRemote(method).addErrback(lambda _: None)

    calls = LoopingCall(call)
    calls.start(0.002).addErrback(lambda _: None)  # until it is cut off
    print("calling", flush=True)
    await gone

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


@pytest.mark.parametrize(("logged_in", "reason"), [(True, "limit"), (False, "protocol")])
def test_one_that_calls_and_does_not_read_the_answers_is_ended(tmp_path, logged_in, reason):
    server = serve(tmp_path, stale_seconds=600, ack_seconds=600)
    caller = Program(
        *(sys.executable, "-c", CALLER, str(server.port), server.secret if logged_in else "", "x" * 50),
        environment=dict(os.environ),
    )
    eventually(lambda: server.scrape()[f"clockd_connections_closed_total {reason}"] == 1, 60)
    after = server.scrape()
    assert after["clockd_avatars"] == after["clockd_connections pending"] == 0
    server.stop()
    caller.end(signal.SIGKILL)
