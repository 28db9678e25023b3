"""The client library against a real server: under Twisted's default reactor, beside asyncio code, and both at once."""

import json
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from processes import CLOCKD, LONG_SECONDS, Program, Server, clockd, eventually, run

HERE = Path(__file__).parent
SECRET = "open sesame"

COMMON = """
import asyncio, json, sys, time
from clockd import errors
from clockd.client import connect
endpoint, secret = sys.argv[1:]

async def five(period=0.05):
    async with connect(endpoint, "alice", secret) as clock:
        stamps = []
        async for sample in clock.samples("time", period=period):
            assert 0 <= sample.age < 5 and sample.feed == "time" and sample.sequence is None
            stamps.append(sample.stamp)
            if len(stamps) == 5:
                return stamps == sorted(set(stamps))
"""


def program(server, text, secret=None):
    code = COMMON + textwrap.dedent(text)
    return run(sys.executable, "-W", "error", "-c", code, f"tcp:127.0.0.1:{server.port}", secret or server.secret)


def printed(done):
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def test_under_react(server):
    done = program(
        server,
        """
        from twisted.internet.task import react
        from twisted.internet.defer import ensureDeferred

        async def main(reactor):
            print(await five())

        react(lambda reactor: ensureDeferred(main(reactor)))
        """,
    )
    assert printed(done) == ["True"]


def test_in_a_task_of_asyncio_run(server):
    done = program(
        server,
        """
        async def main():
            print(await five())
            print(*await asyncio.gather(five(), asyncio.create_task(five())))

        asyncio.run(main())
        """,
    )
    assert printed(done) == ["True", "True True"]


def test_a_coroutine_that_twisted_drives_inside_a_task(server):
    done = program(
        server,
        """
        from twisted.internet.defer import ensureDeferred

        async def main():
            loop = asyncio.get_running_loop()
            async with connect(endpoint, "alice", secret) as clock:
                print(await ensureDeferred(five()).asFuture(loop), await clock.setperiod(0.5))

        asyncio.run(main())
        """,
    )
    assert printed(done) == ["True 0.5"]


def test_asyncio_timeouts_and_cancellation_reach_the_client(server):
    done = program(
        server,
        """
        async def main():
            async with connect(endpoint, "alice", secret) as clock:
                samples = clock.samples(period=60)
                await anext(samples)
                try:
                    async with asyncio.timeout(0.2):
                        await anext(samples)
                except TimeoutError:
                    print("timed out")
                task = asyncio.create_task(five(60))
                await asyncio.sleep(0.2)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    print("cancelled")
                print(await clock.setperiod(0.05), (await anext(samples)).feed)

        asyncio.run(main())
        """,
    )
    assert printed(done) == ["timed out", "cancelled", "0.05 time"]
    eventually(lambda: server.scrape()["clockd_avatars"] == 0)


def test_another_reactor_is_a_named_error(server):
    done = program(
        server,
        """
        from twisted.internet import reactor

        async def main():
            try:
                connect(endpoint, "alice", secret)
            except errors.ReactorConflict as error:
                print(error)

        asyncio.run(main())
        """,
    )
    (line,) = printed(done)
    assert line.startswith("a Twisted reactor is installed already")


def test_a_second_asyncio_run_is_a_named_error(server):
    done = program(
        server,
        """
        asyncio.run(five())
        try:
            asyncio.run(five())
        except errors.ReactorConflict as error:
            print("use one asyncio.run" in str(error))
        """,
    )
    assert printed(done) == ["True"]


def test_a_host_name_is_looked_up_and_the_program_ends(server):
    server_by_name = f"endpoint = 'tcp:localhost:{server.port}'\nasyncio.run(five())\nprint('ended')"
    assert printed(program(server, server_by_name)) == ["ended"]


def test_feeds_are_published_to_and_iterated_over_in_tasks_of_asyncio(tmp_path):
    config = tmp_path / "clockd.toml"
    config.write_text('[feeds.load]\nkind = "push"\npublish = ["alice"]\n[feeds.shut]\nkind = "push"\nread = ["bob"]\n')
    server = Server(tmp_path, "--config", str(config))
    done = program(
        server,
        """
        from contextlib import aclosing

        both = [1, {"a": None}]

        async def main():
            async with connect(endpoint, "alice", secret) as clock:
                print(await clock.feeds())
                numbers = await asyncio.gather(*(clock.publish("load", value) for value in range(100)))
                print(numbers == list(range(1, 101)))
                async with aclosing(clock.samples("load", period=0.01, deadband=2)) as samples:
                    found = []
                    async for sample in samples:
                        found.append(sample.value)
                        if sample.value == [both, both]:
                            break
                        await clock.publish("load", 100 if len(found) == 1 else [both, both])
                        if len(found) == 1:
                            await clock.publish("load", 102)
                    print(found, samples.granted)
                try:
                    async for sample in clock.samples("shut"):
                        pass
                except errors.NotPermitted:
                    print("not permitted")
                await clock.unsubscribe("time")
                print([(await anext(clock.samples("load"))).sequence for _ in range(2)])

        asyncio.run(main())
        """,
    )
    server.stop()
    lines = ["['time', 'load']", "True", f"[99, 102, {[[1, {'a': None}]] * 2}] 0.01", "not permitted", "[103, 103]"]
    assert printed(done) == lines


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("connect(endpoint, 'alice', 'wrong').__aenter__()", "WrongCredentials"),
        ("connect(endpoint, 'nobody', secret).__aenter__()", "WrongCredentials"),
        ("connect('tcp:127.0.0.1:1', 'alice', secret).__aenter__()", "ConnectionFailed"),
        ("connect('nonsense', 'alice', secret).__aenter__()", "ConnectionFailed"),
        ("with_clock(lambda clock: clock.setperiod(float('nan')))", "InvalidPeriod"),
        ("with_clock(lambda clock: clock.setperiod(True))", "InvalidPeriod"),
        ("with_clock(lambda clock: clock.setperiod(1, 'other'))", "UnknownFeed"),
        ("with_clock(lambda clock: anext(clock.samples('other')))", "UnknownFeed"),
        ("with_clock(lambda clock: anext(clock.samples(deadband=1)))", "InvalidValue"),
        ("with_clock(lambda clock: clock.publish('other', 1))", "UnknownFeed"),
        ("with_clock(lambda clock: clock.publish('time', 1))", "NotPermitted"),
        ("with_clock(lambda clock: clock.publish('time', {1}))", "InvalidValue"),
    ],
)
def test_errors_are_typed(server, statement, error):
    done = program(
        server,
        f"""
        async def with_clock(use):
            async with connect(endpoint, "alice", secret) as clock:
                return await use(clock)

        async def main():
            try:
                await {statement}
            except errors.ClockdError as error:
                print(type(error).__name__)

        asyncio.run(main())
        """,
    )
    assert printed(done) == [error]


def test_a_lost_connection_is_made_again_with_the_same_period(tmp_path):
    first = Server(tmp_path)
    watch = Program(
        *(sys.executable, "-m", "clockd", "watch", f"alice@127.0.0.1:{first.port}"),
        *("--period", "0.05", "--json", "--secret-file", str(first.secret_file)),
    )
    try:
        watch.line('"feed"')
        first.stop()
        watch.line("connecting again")
        seen = len(watch.lines)
        second = Server(tmp_path, port=first.port, metrics=int(first.metrics.rpartition(":")[2]))
        eventually(lambda: len(watch.lines) > seen + 20)
        assert second.scrape()["clockd_push_requested_hertz time"] == pytest.approx(20)
        second.stop()
    finally:
        assert watch.end(signal.SIGINT) == 0


def test_an_account_that_is_removed_ends_the_client_at_its_next_login(tmp_path):
    first = Server(tmp_path)
    endpoint, metrics = first.port, int(first.metrics.rpartition(":")[2])
    watch = Program(
        *(sys.executable, "-m", "clockd", "watch", f"alice@127.0.0.1:{endpoint}", "--json"),
        *("--secret-file", str(first.secret_file)),
    )
    json.loads(watch.line('"feed"'))
    first.stop()
    clockd("user", "remove", "alice", "--users", str(first.users))
    second = Server(tmp_path, port=endpoint, metrics=metrics)
    assert watch.wait() == 1
    assert watch.lines[-1] == "clockd: the name and the secret do not fit (as alice)"
    second.stop()


class Notices(Program):
    """A stock server that sends these notices, one a login; see `notices.py`."""

    def __init__(self, *notices):
        words = [json.dumps(notice) for notice in notices]
        super().__init__(sys.executable, str(HERE / "notices.py"), SECRET, *words)
        self.port = int(self.line("port").split()[1])

    def command(self, word, *arguments):
        """Return the words of `clockd watch` or `publish` as a client of it."""
        return *CLOCKD, word, f"alice@127.0.0.1:{self.port}", *arguments

    def stop(self):
        assert self.end() == 0, self.output


DRAINING = {"kind": "draining", "retry_seconds": 1.0}
AWAY = [
    (
        {"kind": "kicked", "reason": "go home\n\x1b[2J" + "x" * 1000},
        "clockd: the server has closed the connections of this account: go home\\n\\x1b[2J" + "x" * 184,
    ),
    ({"kind": "replaced"}, "clockd: a newer login of this account has taken the place of this one"),
]
ENVIRONMENT = {"CLOCKD_SECRET": SECRET}


def test_watch_goes_on_over_a_server_that_stops_and_says_so_in_one_line():
    server = Notices(DRAINING, DRAINING)
    done = run(*server.command("watch", "--period", "0.25", "--count", "20"), environment=ENVIRONMENT)
    server.stop()
    assert done.returncode == 0, done.stderr
    stops = f"tcp:127.0.0.1:{server.port}: the server stops; connecting again in 1.0 s"
    lines = [line for line in done.stderr.splitlines() if "no sample of time yet" not in line]
    assert [line.partition(" info     ")[2] for line in lines] == [stops, stops]
    assert server.lines.count("login") == server.lines.count("left") == 3
    assert [line for line in server.lines if line != "left"] == [
        *(f"port {server.port}", "login", "subscribe server None", "setperiod time 0.25"),
        *(2 * ["login", "subscribe server None", "setperiod time 0.25"]),
    ]


@pytest.mark.parametrize(("notice", "said"), AWAY, ids=["kicked", "replaced"])
def test_watch_that_is_sent_away_says_why_in_one_line_and_does_not_come_back(notice, said):
    server = Notices(notice)
    done = run(*server.command("watch"), environment=ENVIRONMENT)
    server.stop()
    assert (done.returncode, done.stderr) == (1, said + "\n")
    assert server.lines.count("login") == 1


@pytest.mark.parametrize(("notice", "said"), AWAY, ids=["kicked", "replaced"])
@pytest.mark.parametrize("words", [("load", "1"), ("load", "-")], ids=["value", "pipe"])
def test_publish_that_is_sent_away_says_why_in_one_line(notice, said, words):
    server = Notices(notice)
    done = run(*server.command("publish", *words), environment=ENVIRONMENT, stdin="1\n2\n3\n")
    server.stop()
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said + "\n")


@pytest.mark.parametrize("words", [("load", "1"), ("load", "-")], ids=["value", "pipe"])
def test_publish_to_a_server_that_stops_is_answered_or_goes_to_the_next(words):
    server = Notices(DRAINING)
    done = run(*server.command("publish", *words), environment=ENVIRONMENT, stdin="1\n2\n3\n")
    server.stop()
    assert done.returncode == 0, done.stderr
    assert done.stdout == {"1": "1\n", "-": "published 3, refused 0\n"}[words[1]]
    assert [line for line in server.lines if line.startswith("publish")] == [
        f"publish load {value}" for value in ((1,) if words[1] == "1" else (1, 2, 3))
    ]


LEFT_BEHIND = """
import gc, os, sys
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater, react
from clockd.client import connect
from notices import Realm, listen

CLIENTS, ROUNDS = 20, 10

async def until(reactor, condition):
    for _ in range(200):
        if condition():
            return True
        await deferLater(reactor, 0.05)
    return False

def left(reactor):
    gc.collect()
    deferreds = sum(isinstance(thing, Deferred) for thing in gc.get_objects())
    return len(os.listdir("/proc/self/fd")), deferreds, len(reactor.getDelayedCalls())

async def main(reactor):
    realm, counts = Realm(), [0] * CLIENTS
    endpoint = f"tcp:127.0.0.1:{listen(realm, sys.argv[1])}"

    async def subscriber(number):
        async with connect(endpoint, "alice", sys.argv[1], reactor=reactor) as clock:
            async for _ in clock.samples(period=0.25):
                counts[number] += 1

    working = [ensureDeferred(subscriber(number)) for number in range(CLIENTS)]
    for round in range(ROUNDS + 1):
        assert await until(reactor, lambda: len(realm.avatars) == CLIENTS)
        before = list(counts)
        assert await until(reactor, lambda: all(now > then for now, then in zip(counts, before)))
        if round == 0:
            first = left(reactor)
        if round < ROUNDS:
            there = list(realm.avatars)
            for avatar in there:
                avatar.send({"kind": "draining", "retry_seconds": 0.5})
            assert await until(reactor, lambda: not realm.avatars & set(there))
            there = avatar = None
    assert await until(reactor, lambda: left(reactor) == first), (first, left(reactor))
    print("nothing", len(working), file=sys.stderr)
    for work in working:
        work.addErrback(lambda _: None)
        work.cancel()
    assert await until(reactor, lambda: not realm.avatars)

react(lambda reactor: ensureDeferred(main(reactor)))
"""


def test_two_hundred_reconnections_leave_no_descriptor_no_deferred_and_no_delayed_call():
    done = run(
        *(sys.executable, "-W", "error", "-c", LEFT_BEHIND, SECRET),
        environment={"PYTHONPATH": str(HERE)},
        seconds=LONG_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "nothing 20\n"), done.stderr
    assert done.stdout.count("login") == 20 * 11
    assert done.stdout.count("left") == 20 * 11
