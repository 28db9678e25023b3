"""Feeds that stock clients publish and read, against a real server."""

import itertools
import json
import os
import signal
import sys
import time

import pytest
from processes import Program, Server, clockd, eventually, run, without_coverage

FEEDS = """
[feeds.load]
kind = "push"
publish = ["alice"]

[feeds.heat]
kind = "push"
publish = ["alice"]

[feeds.secret]
kind = "push"
read = ["bob"]
publish = ["bob"]
"""

FRESH_SECONDS = 0.25
"""A sample that arrives so soon after its stamp was not waiting; on one host a round trip takes some milliseconds."""

CLIENT = """
import itertools, json, math, sys, time
from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.spread import pb

class Mind(pb.Referenceable):
    def __init__(self):
        self.samples = []

    def remote_notifyTime(self, stamp):
        pass

    def remote_notifySample(self, *sample):
        self.samples.append((time.time(), time.monotonic(), *sample))

async def enter(port, name, secret):
    mind, factory = Mind(), pb.PBClientFactory()
    reactor.connectTCP("127.0.0.1", port, factory)
    return mind, await factory.login(UsernamePassword(name.encode(), secret.encode()), mind)

async def main(port, name, secret, *words):
    mind, avatar = await enter(int(port), name, secret)
    print(json.dumps(await act(mind, avatar, *map(json.loads, words))), flush=True)
    avatar.broker.transport.loseConnection()

def done(result):
    if result is not None:
        result.printTraceback()
    reactor.callLater(0.1, reactor.stop)

def start():
    Deferred.fromCoroutine(main(*sys.argv[1:])).addBoth(done)
    reactor.run()
"""

READER = f"""{CLIENT}
async def act(mind, avatar, periods, seconds):
    for feed, period in periods.items():
        await avatar.callRemote("subscribe", feed, period)
    print("reading", flush=True)
    began = time.monotonic()
    await deferLater(reactor, seconds)
    ended = time.monotonic()
    return {{"seconds": ended - began, "samples": [s[:1] + s[2:] for s in mind.samples if began <= s[1] <= ended]}}

start()
"""

WRITER = f"""{CLIENT}
async def act(mind, avatar, feeds, every):
    print("writing", flush=True)
    for number in itertools.count(1):
        for feed in feeds:
            await avatar.callRemote("publish", feed, [number, {{"feed": feed}}], time.time())
        await deferLater(reactor, every)

start()
"""

BAD = f"""{CLIENT}
class Thing(pb.Copyable):
    pass

async def act(mind, avatar):
    shared, cycle = [1], []
    cycle.append(cycle)
    names = []
    for feed, value in (
        ("load", "x" * 5000), ("load", [0] * 2046), ("load", {{n: "x" * 100 for n in range(100)}}),
        ("load", [[[[[1]]]]]), ("load", {{"a": {{"a": {{"a": {{"a": {{}}}}}}}}}}), ("load", mind),
        ("load", Thing()), ("load", cycle), ("load", [shared, shared]), ("load", {{1, 2}}),
        ("nothing", 1), ("server", 1), ("x" * 1000, 1), (b"load", 1), (None, 1), ("time", 1), ("secret", 1),
        ("load", math.nan), ("load", "x" * 4082),
    ):
        try:
            names.append(await avatar.callRemote("publish", feed, value))
        except Exception as error:
            kind = getattr(error, "remoteType", b"").decode()
            names.append([kind, len(str(error)) < 200 and "Traceback" not in str(error)])
    for call in (("subscribe", "nothing"), ("subscribe", "secret"), ("subscribe", "load", 0), ("setperiod", 1, "heat")):
        try:
            names.append(await avatar.callRemote(*call))
        except Exception as error:
            names.append([error.remoteType.decode(), len(str(error)) < 200])
    return names

start()
"""


def serve(folder, feeds=FEEDS, **limits):
    """Start a server with feeds, whose pace is looked at, so its coverage is not."""
    config = folder / "clockd.toml"
    config.write_text(feeds)
    settings = {f"CLOCKD_LIMITS_{key.upper()}": str(value) for key, value in limits.items()}
    server = Server(folder, "--config", str(config), environment=without_coverage() | settings)
    server.secrets = {"alice": server.secret}
    server.secrets["bob"] = clockd("user", "add", "--users", str(server.users), "bob").stdout.strip()
    return server


def start(server, program, *words, name="alice"):
    """Run one of the programs above beside the test."""
    words = [str(server.port), name, server.secrets[name], *map(json.dumps, words)]
    return Program(sys.executable, "-c", program, *words, environment=without_coverage())


def skipped(server, feed):
    scrape = server.scrape()
    return sum(n for name, n in scrape.items() if name.startswith(f"clockd_pushes_skipped_total {feed} "))


def by_feed(samples):
    """Return the samples of each feed, without its name."""
    names = {feed for _, feed, *_ in samples}
    return {name: [(at, *rest) for at, feed, *rest in samples if feed == name] for name in names}


def test_each_reader_gets_the_newest_value_at_its_rate(tmp_path):
    server = serve(tmp_path)
    writer = start(server, WRITER, ["load", "heat"], 0.005)
    eventually(lambda: server.scrape()["clockd_feed_updates_total heat"] > 50)
    periods = ({"load": 0.05, "heat": 0.05}, {"load": 0.05, "heat": 0.5}, {"load": 1.0})
    readers = [start(server, READER, each, 5) for each in periods]
    results = [reader.result() for reader in readers]
    slack = 1 + skipped(server, "load") + skipped(server, "heat")
    for each, result in zip(periods, results, strict=True):
        found = by_feed(result["samples"])
        assert set(found) == set(each)
        for feed, samples in found.items():
            ideal = result["seconds"] / each[feed]
            assert ideal - 1 - slack <= len(samples) <= ideal + 2, (feed, each)
            for (_, before, *_), (_, sequence, _, value) in itertools.pairwise(samples):
                assert sequence > before
                assert value == [sequence, {"feed": feed}]
            late = [arrived - stamp for arrived, _, stamp, _ in samples if arrived - stamp > FRESH_SECONDS]
            assert len(late) <= slack
    writer.end(signal.SIGKILL)
    eventually(lambda: server.scrape()["clockd_avatars"] == 0)
    after = server.scrape()
    assert after["clockd_subscriptions load"] == after["clockd_push_requested_hertz heat"] == 0
    assert after["clockd_feed_errors_total load"] == after["clockd_feed_errors_total heat"] == 0
    assert time.time() - after["clockd_feed_last_update_timestamp_seconds load"] < 30
    server.stop()


def test_a_reader_of_what_stays_the_same_hears_of_it_once_a_silence(tmp_path):
    server = serve(tmp_path, max_silence=1)
    assert clockd_publish(server, "heat", 7) == [1]
    samples = start(server, READER, {"heat": 0.1}, 4.5).result()["samples"]
    assert {(feed, sequence, value) for _, feed, sequence, _, value in samples} == {("heat", 1, 7)}
    assert 3 <= len(samples) <= 6  # with or without the first one, and at 1.0 to 1.1 s each
    assert server.scrape()["clockd_pushes_skipped_total heat unchanged"] > 20
    server.stop()


def clockd_publish(server, feed, *values):
    program = f"""{CLIENT}
async def act(mind, avatar, feed, values):
    return [await avatar.callRemote("publish", feed, value) for value in values]

start()
"""
    return start(server, program, feed, values).result()


def test_what_is_no_value_and_who_may_not_publish_are_told_so_and_disturb_nothing_else(tmp_path):
    server = serve(tmp_path)
    writer = start(server, WRITER, ["heat"], 0.01)
    eventually(lambda: server.scrape()["clockd_feed_updates_total heat"] > 10)
    reader = start(server, READER, {"heat": 0.05}, 4)
    reader.line("reading")
    before = server.scrape()["clockd_feed_errors_total heat"]
    names = start(server, BAD).result()
    errors = [(name[0].removeprefix("clockd.errors."), name[1]) for name in names if isinstance(name, list)]
    expected = [*["InvalidValue"] * 10, *["UnknownFeed"] * 5, *["NotPermitted"] * 2]
    expected += ["UnknownFeed", "NotPermitted", "InvalidPeriod", "UnknownFeed"]
    assert errors == [(name, True) for name in expected]
    assert [name for name in names if not isinstance(name, list)] == [1, 2]
    after = server.scrape()
    assert after["clockd_feed_errors_total heat"] == before
    assert after["clockd_feed_errors_total load"] >= 6
    assert after["clockd_feed_updates_total load"] == 2
    result = reader.result()
    slack = 2 + skipped(server, "heat")
    assert result["seconds"] / 0.05 - slack <= len(result["samples"])
    writer.end(signal.SIGKILL)
    server.stop()


def test_a_reader_stopped_for_a_while_gets_the_newest_of_each_feed_and_sees_the_gap(tmp_path):
    stop_seconds, period, every = 4, 0.05, 0.01
    server = serve(tmp_path, ack_seconds=0.2)
    writer = start(server, WRITER, ["load", "heat"], every)
    reader = start(server, READER, {"load": period, "heat": period}, stop_seconds + 5)
    reader.line("reading")
    eventually(lambda: server.scrape()["clockd_pushes_total heat"] > 20)
    reader.process.send_signal(signal.SIGSTOP)
    eventually(lambda: server.scrape()["clockd_pushes_skipped_total heat unacknowledged"] > 5)
    held = server.scrape()
    time.sleep(stop_seconds)
    still = server.scrape()
    for feed in ("load", "heat"):
        assert still[f"clockd_pushes_total {feed}"] == held[f"clockd_pushes_total {feed}"]
    updates = still["clockd_feed_updates_total heat"] - held["clockd_feed_updates_total heat"]
    assert updates > 50
    reader.process.send_signal(signal.SIGCONT)
    samples = reader.result(stop_seconds + 30)["samples"]
    for feed, its in by_feed(samples).items():
        gap = max(range(1, len(its)), key=lambda i, its=its: its[i][1] - its[i - 1][1])
        assert its[gap][1] - its[gap - 1][1] >= updates, feed  # so many were conflated into one
        arrived, _, stamp, _ = its[gap]
        assert arrived - stamp < FRESH_SECONDS  # the newest, when it went on
        assert its[gap + 1][1] > its[gap][1]
        waited = [at for at, _, stamp, _ in its[:gap] if at - stamp > 1]
        assert len(waited) <= 2 * (8 + 0.2 / period) + 2  # what its window had let out
        assert [sequence for _, sequence, *_ in its] == sorted({sequence for _, sequence, *_ in its})
        assert len(its) - gap > 20
    writer.end(signal.SIGKILL)
    server.stop()


def test_an_account_publishes_no_more_than_it_may_a_second(tmp_path):
    server = serve(tmp_path, publishes_per_second=50)
    program = f"""{CLIENT}
from twisted.internet.defer import DeferredList

async def act(mind, avatar):
    results = await DeferredList([avatar.callRemote("publish", "load", n) for n in range(200)], consumeErrors=True)
    refused = [result.type for ok, result in results if not ok]
    return sum(ok for ok, _ in results), [kind.decode() for kind in set(refused)]

start()
"""
    published, refused = start(server, program).result()
    assert 50 <= published < 150
    assert refused == ["clockd.errors.TooManyPublishes"]
    assert server.scrape()["clockd_feed_updates_total load"] == published
    server.stop()


def test_a_feed_s_numbers_begin_anew_with_the_server_and_its_rights_are_as_written(tmp_path):
    server = serve(tmp_path)
    program = f"""{CLIENT}
async def act(mind, avatar):
    return await avatar.callRemote("feeds")

start()
"""
    assert start(server, program).result() == ["time", "load", "heat"]
    assert start(server, program, name="bob").result() == ["time", "load", "heat", "secret"]
    assert clockd_publish(server, "load", 1, "a", None, [1.5]) == [1, 2, 3, 4]
    server.stop()


@pytest.mark.parametrize("feeds", [0, 40])
def test_prometheus_finds_nothing_wrong_with_the_metrics(tmp_path, need, feeds):
    promtool = need("promtool", "prometheus")
    sections = (f'[feeds.n{number}]\nkind = "push"\npublish = ["*"]\n' for number in range(feeds))
    server = serve(tmp_path, "\n".join(sections))
    if feeds:
        clockd_publish(server, "n39", 1)
    checked = run(promtool, "check", "metrics", stdin=server.get("/metrics"), environment=dict(os.environ))
    assert (checked.returncode, checked.stderr) == (0, "")
    scrape = server.scrape()
    labels = {name.split(" ")[1] for name in scrape if name.startswith("clockd_pushes_total ")}
    assert len(labels) == (33 if feeds else 1)
    if feeds:
        assert scrape["clockd_feed_updates_total other"] == 1
    server.stop()
