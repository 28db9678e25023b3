"""Feeds as a user of the command line has them: publishing, from a pipe as well, and watching."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import click
import pytest
from processes import CLOCKD, LONG_SECONDS, SECONDS, STARTED, Program, Server, clockd, eventually, run

from clockd.publish import value_of_word

CONFIG = """
[limits]
publishes_per_second = 1000000
[feeds.load]
kind = "push"
publish = ["alice"]
[feeds.mood]
kind = "push"
publish = ["*"]
[feeds.shut]
kind = "push"
[feeds.hidden]
kind = "push"
read = ["bob"]
publish = ["alice"]
"""


def started(folder, config=CONFIG, **ports):
    (folder / "clockd.toml").write_text(config)
    return Server(folder, "--config", str(folder / "clockd.toml"), **ports)


def started_again(folder, first):
    """Start a server in the place of one that has ended."""
    return started(folder, port=first.port, metrics=int(first.metrics.rpartition(":")[2]))


@pytest.fixture
def server(tmp_path):
    """A server with feeds; alice may publish to most of them."""
    server = started(tmp_path)
    yield server
    server.stop()


def words(server, command, *arguments):
    return command, f"alice@127.0.0.1:{server.port}", *arguments


def publish(server, *arguments, stdin=None, seconds=SECONDS):
    secret = {"CLOCKD_SECRET": server.secret}
    return clockd(*words(server, "publish", *arguments), environment=secret, stdin=stdin, seconds=seconds)


def watched(server, feed, *options):
    """Return what a feed's newest sample is, as `watch --json` has it."""
    options = ("--feed", feed, "--count", "1", "--json", "--secret-file", str(server.secret_file), *options)
    done = clockd(*words(server, "watch", *options))
    assert done.returncode == 0, done.stderr
    assert done.stderr in {"", f"clockd: no sample of {feed} yet\n"}
    return json.loads(done.stdout)


def says(done, code, text):
    """Check that a command ended with a code and one sentence on standard error, and without a traceback."""
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 or done.stderr.startswith("Usage:"), done.stderr


class Pipe:
    """A `clockd publish` that reads from the test."""

    def __init__(self, server, *arguments, **options):
        self.process = subprocess.Popen(
            [*CLOCKD, *words(server, "publish", *arguments)],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            stdin=subprocess.PIPE,
            env={**os.environ, "CLOCKD_SECRET": server.secret},
        )
        STARTED.append(self)

    def write(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def ended(self):
        """Return the exit code and what was printed, after the end of the input."""
        out, err = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, (out or b"").decode(), (err or b"").decode()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("21.5", 21.5), ("-5", -5), ("-.5e1x", "-.5e1x"), ("hello world", "hello world"), ('"-"', "-")),
        *(("null", None), ("", ""), ("nan", "nan"), ("NaN or so", "NaN or so")),
        ('{"celsius": 21.5, "open": [false, "ä"]}', {"celsius": 21.5, "open": [False, "ä"]}),
    ],
)
def test_a_value_is_json_or_else_a_string(text, value):
    assert value_of_word(text) == value


@pytest.mark.parametrize("text", ["{", "[1,", '"a', " {celsius: 1}", '[1] or "so"'])
def test_what_begins_as_json_and_is_none_is_refused(text):
    with pytest.raises(click.BadParameter, match=r"^no JSON: "):
        value_of_word(text)


def test_a_value_is_published_and_its_number_printed(server):
    for number, (text, value) in enumerate(
        [("-5", -5), ('{"a": [false, "ä"]}', {"a": [False, "ä"]}), ("a b", "a b")], 1
    ):
        done = publish(server, "load", text)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{number}\n", "")
        found = watched(server, "load")
        assert (found["feed"], found["sequence"], found["value"]) == ("load", number, value)


def test_what_cannot_be_published_is_one_sentence(server):
    says(publish(server, "nope", "1"), 1, "there is no feed nope; those that you may read: time, load, mood, shut")
    says(publish(server, "shut", "1"), 1, "this account may not publish to shut")
    says(publish(server, "time", "1"), 1, "this account may not publish to time")
    says(publish(server, "load", '{"a": }'), 2, "no JSON: Expecting value, at character 7")
    says(publish(server, "load", "[[[[[1]]]]]"), 1, "a value has 4 levels at most")
    says(publish(server, "load", "x" * 5000), 1, "a value has 4096 bytes at most, encoded")
    says(publish(server, "load", "NaN"), 2, "no JSON: NaN")
    says(publish(server, "load", '{"a": -Infinity}'), 2, "no JSON: -Infinity")
    says(publish(server, "load", "1e999"), 2, "a number too large for a float: 1e999")
    says(publish(server, "load"), 2, "VALUE is missing")
    says(publish(server, "load", "--tsl"), 2, "No such option '--tsl'")
    says(publish(server, "--tsl", "load"), 2, "No such option '--tsl'")
    says(publish(server, "load", "1", "2"), 2, "Got unexpected extra argument (2)")
    wrong = {"CLOCKD_SECRET": "wrong"}
    says(clockd(*words(server, "publish", "load", "1"), environment=wrong), 1, "do not fit (as alice)")
    says(clockd(*words(server, "publish"), environment=wrong, stdin=""), 1, "do not fit (as alice)")
    says(clockd(*words(server, "publish"), environment={"CLOCKD_SECRET": ""}), 2, "CLOCKD_SECRET is empty")
    if "CLOCKD_SECRET" not in os.environ:
        says(clockd(*words(server, "publish"), stdin='{"feed": "load", "value": 1}'), 2, "there is no secret")
    closed = ["bash", "-c", 'exec "$@" <&-', "bash", *CLOCKD, *words(server, "publish")]
    says(run(*closed, environment={"CLOCKD_SECRET": server.secret}), 2, "there is no standard input")


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_objects_are_published_line_by_line_and_refusals_named(server, arguments):
    lines = [
        '{"feed": "load", "value": {"celsius": 21.5}}',
        "",
        '{"feed": "load", "value": NaN}\r',
        "hello",
        '{"feed": "nope", "value": 1}',
        '{"feed": "shut", "value": 1}',
        '{"feed": "load", "value": [[[[[1]]]]]}',
        '{"feed": "load", "value": 1, "stamp": "now"}',
        '{"feed": "load", "value": 1, "stmp": 5}',
        f'{{"feed": "load", "value": "{"x" * 70000}"}}',
        '{"feed": "mood", "value": "fine", "stamp": 5.5}\r',
        '{"feed": "load", "value": [1, "ä", null]}',
    ]
    done = publish(server, *arguments, stdin="\n".join(lines))
    assert (done.returncode, done.stdout) == (1, "published 3, refused 8\n"), done.stderr
    assert sorted(done.stderr.splitlines(), key=lambda line: int(line.split()[2].rstrip(":"))) == [
        "clockd: line 3: no JSON: NaN",
        "clockd: line 4: no JSON: Expecting value, at character 1",
        "clockd: line 5: there is no such feed",
        "clockd: line 6: this account may not publish to shut",
        "clockd: line 7: a value has 4 levels at most",
        "clockd: line 8: a stamp is a finite number of Unix seconds",
        "clockd: line 9: no such key: stmp; there are: feed, value, stamp",
        "clockd: line 10: longer than 65536 bytes",
    ]
    assert watched(server, "load")["value"] == [1, "ä", None]
    mood = watched(server, "mood")
    assert (mood["sequence"], mood["stamp"], mood["value"]) == (1, 5.5, "fine")


def test_lines_of_one_feed_are_its_values(server):
    done = publish(server, "load", "-", stdin='1\n\n"two"\n{"three": 3}\nfour\n')
    assert (done.returncode, done.stdout) == (1, "published 3, refused 1\n")
    assert done.stderr == "clockd: line 5: no JSON: Expecting value, at character 1\n"
    assert watched(server, "load")["value"] == {"three": 3}


def test_nothing_is_published_from_nothing(server):
    for stdin in ("", "\n\n"):
        done = publish(server, stdin=stdin)
        assert (done.returncode, done.stdout, done.stderr) == (0, "published 0, refused 0\n", "")


@pytest.mark.parametrize("way", ["file", "pipe"])
def test_many_lines_are_all_published_in_their_order(server, tmp_path, way):
    (tmp_path / "lines").write_text("".join(f"{number}\n" for number in range(1, 5001)))
    command = {"file": '"$@" < lines', "pipe": 'cat lines | "$@"'}[way]
    script = ["bash", "-c", command, "bash", *CLOCKD, *words(server, "publish", "load", "-")]
    done = run(*script, environment={"CLOCKD_SECRET": server.secret}, cwd=tmp_path, seconds=LONG_SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "published 5000, refused 0\n", "")
    found = watched(server, "load")
    assert (found["sequence"], found["value"]) == (5000, 5000)


def test_a_line_is_published_as_soon_as_it_is_whole(server):
    pipe = Pipe(server, "load", "-")
    pipe.write("1\n2")
    assert watched(server, "load")["value"] == 1
    pipe.write("3\n")
    eventually(lambda: watched(server, "load")["value"] == 23)
    pipe.write("4")
    assert pipe.ended() == (0, "published 3, refused 0\n", "")
    assert watched(server, "load")["value"] == 4


def test_a_source_that_is_faster_than_the_server_waits(server):
    pipe = Pipe(server, "load", "-")
    pipe.write("1\n")
    assert watched(server, "load")["value"] == 1
    server.process.send_signal(signal.SIGSTOP)
    try:
        descriptor = pipe.process.stdin.fileno()
        os.set_blocking(descriptor, False)
        lines = b"2\n" * 32768
        written, full = 0, 0

        def is_full():
            nonlocal written, full
            try:
                written += os.write(descriptor, lines)
                full = 0
            except BlockingIOError:
                full += 1
            assert written < 2**20
            return full > 20  # 50 ms lie in between

        eventually(is_full)
        os.set_blocking(descriptor, True)
    finally:
        server.process.send_signal(signal.SIGCONT)
    pipe.process.send_signal(signal.SIGTERM)
    assert pipe.process.wait(SECONDS) == 0
    pipe.process.stdin.close()
    pipe.process.stdout.close()
    pipe.process.stderr.close()


@pytest.mark.parametrize("most", [20, 200])
def test_more_than_an_account_may_publish_waits_and_the_newest_stays(tmp_path, most):
    server = started(tmp_path, CONFIG.replace("1000000", str(most)))
    lines = most * 2
    done = publish(
        server, "load", "-", stdin="".join(f"{number}\n" for number in range(1, lines + 1)), seconds=LONG_SECONDS
    )
    published = watched(server, "load")["sequence"]
    left_out = lines - published
    newer = f", left out {left_out}, because newer ones had been published" if left_out else ""
    assert (done.returncode, done.stdout, done.stderr) == (0, f"published {published}, refused 0{newer}\n", "")
    assert left_out < 256
    assert watched(server, "load")["value"] == lines
    server.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_good_order(server, number):
    pipe = Pipe(server)
    pipe.write('{"feed": "load", "value": 1}\n')
    assert watched(server, "load")["value"] == 1
    pipe.process.send_signal(number)
    assert pipe.ended() == (0, "published 1, refused 0\n", "")
    eventually(lambda: server.scrape()["clockd_avatars"] == 0)


def test_it_ends_quietly_when_nobody_reads(server):
    for arguments, text in ((["load", "1"], ""), (["load", "-"], "1\nx\n2\n")):
        out, into = os.pipe()
        os.close(out)
        pipe = Pipe(server, *arguments, stdout=into)
        os.close(into)
        pipe.write(text)
        code, _, err = pipe.ended()
        assert (code, err) == ((1, "clockd: line 2: no JSON: Expecting value, at character 1\n") if text else (0, ""))
    assert watched(server, "load")["value"] == 2


def test_refusals_that_nobody_reads_keep_nothing_from_being_published(server):
    out, into = os.pipe()
    os.close(out)
    pipe = Pipe(server, "load", "-", stderr=into)
    os.close(into)
    pipe.write("x\n" * 1000 + "7\n")
    assert pipe.ended()[:2] == (1, "published 1, refused 1000\n")
    assert watched(server, "load")["value"] == 7


def test_a_server_that_comes_back_is_published_to_again(tmp_path):
    first = started(tmp_path)
    pipe = Pipe(first, "load", "-")
    pipe.write("1\n")
    assert watched(first, "load")["value"] == 1
    first.stop()
    second = started_again(tmp_path, first)
    second.secret, second.secret_file = first.secret, first.secret_file
    pipe.write("2\n3\n")
    assert eventually(lambda: watched(second, "load")["value"] == 3)
    code, out, err = pipe.ended()
    assert (code, out) == (0, "published 3, refused 0\n")
    assert "the server stops; connecting again in 1.0 s" in err
    second.stop()


def test_an_account_that_is_removed_ends_the_pipe(tmp_path):
    first = started(tmp_path)
    pipe = Pipe(first, "load", "-")
    pipe.write("1\n")
    assert watched(first, "load")["value"] == 1
    first.stop()
    clockd("user", "remove", "alice", "--users", str(first.users))
    second = started_again(tmp_path, first)
    pipe.write("2\n")
    assert pipe.process.wait(SECONDS) == 1
    code, out, err = pipe.ended()
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "clockd: the name and the secret do not fit (as alice)"
    second.stop()


def in_python(server, statement):
    """Publish what JSON cannot say."""
    code = f"""
        import asyncio, math, sys
        from clockd.client import connect

        async def main(port, secret):
            async with connect(f"tcp:127.0.0.1:{{port}}", "alice", secret) as clock:
                {statement}

        asyncio.run(main(*sys.argv[1:]))
    """
    done = run(sys.executable, "-c", textwrap.dedent(code), str(server.port), server.secret)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_what_json_cannot_say_is_said_otherwise(server):
    value = "{'a': b'\\xff\\x00', 'b': (1, math.nan), 'c': [math.inf, -math.inf], 1: None, 2.5: 1, b'k': 2, None: 3}"
    in_python(server, f"await clock.publish('load', {value}, 5)")
    found = watched(server, "load")
    same = {"1": None, "2.5": 1, "aw==": 2, "null": 3}
    assert found["value"] == {"a": {"base64": "/wA="}, "b": [1, "NaN"], "c": ["Infinity", "-Infinity"]} | same
    assert list(found) == ["feed", "sequence", "stamp", "value", "age", "offset", "bound", "round_trip"]
    assert (found["stamp"], found["offset"], found["bound"], found["round_trip"]) == (5, None, None, None)
    assert math.isfinite(found["age"])


REFUSED = """
import sys
from twisted.cred.credentials import UsernamePassword
from twisted.internet.task import react
from twisted.internet.defer import Deferred
from twisted.spread import pb

class Thing(pb.Copyable):
    pass

class Mind(pb.Referenceable):
    def remote_notifyTime(self, stamp):
        pass

async def main(reactor, port, secret):
    factory, shared, cycle = pb.PBClientFactory(), [1], []
    cycle.append(cycle)
    reactor.connectTCP("127.0.0.1", int(port), factory)
    mind = Mind()
    avatar = await factory.login(UsernamePassword(b"alice", secret.encode()), mind)
    for method, feed, *values in (
        ("publish", "load", Thing()), ("publish", "load", cycle), ("publish", "load", [shared, shared]),
        ("publish", "load", "x" * 5000), ("publish", "load", [[[[[1]]]]]), ("publish", "load", 1, float("nan")),
        ("publish", "load"), ("publish", "shut", 1), ("publish", "shut", Thing()), ("subscribe", "hidden"),
        ("publish", "nope", 1), ("publish", "Nope", Thing()), ("publish", Thing(), 1), ("subscribe", "nope"),
    ):
        try:
            await avatar.callRemote(method, feed, *values)
        except pb.RemoteError as error:
            print(error.remoteType.decode().removeprefix("clockd.errors."))
    print(await avatar.callRemote("publish", "load", 1))

react(lambda reactor, *words: Deferred.fromCoroutine(main(reactor, *words)), sys.argv[1:])
"""


def test_each_that_is_refused_counts_for_its_feed_and_those_of_no_feed_together(server):
    before = server.scrape()
    done = run(sys.executable, "-c", REFUSED, str(server.port), server.secret)
    assert (done.returncode, done.stderr) == (0, "")
    names = [*["InvalidValue"] * 7, "NotPermitted", "InvalidValue", "NotPermitted"]
    names += ["UnknownFeed", "InvalidValue", "InvalidValue", "UnknownFeed"]
    assert done.stdout.split() == [*names, "1"]
    after = server.scrape()
    counts = {"load": 7, "mood": 0, "time": 0, "shut": 2, "hidden": 1, "(unknown)": 4}
    for feed, errors in counts.items():
        name = f"clockd_feed_errors_total {feed}"
        assert (before[name], after[name]) == (0, errors), feed
    assert after.keys() - before.keys() == {"clockd_feed_last_update_timestamp_seconds load"}


def line(server, *options, environment=None):
    """Return the line in which `watch` shows the newest value of `load`."""
    options = ("--feed", "load", "--count", "1", "--secret-file", str(server.secret_file), *options)
    done = clockd(*words(server, "watch", *options), environment=environment)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    (found,) = done.stdout.splitlines()
    return found


def test_a_value_is_a_readable_line(server):
    in_python(server, r"await clock.publish('load', {'é': [1.5, None], 'esc': '\x1b[31m\x9b\n\u202e\U000e0001'}, 5)")
    value = r'{"é": [1.5, null], "esc": "\u001b[31m\u009b\n\u202e\udb40\udc01"}'
    assert line(server) == f"1970-01-01T00:00:05.000000Z     1  {value}"
    assert json.loads(value)["esc"] == "\x1b[31m\x9b\n\u202e\U000e0001"
    in_python(server, "await clock.publish('load', chr(0x2603))")
    assert line(server, environment={"PYTHONIOENCODING": "latin-1"}).endswith(r'"\u2603"')
    in_python(server, "await clock.publish('load', 'x' * 4000, 1e300)")
    assert line(server) == f'1e+300     3  "{"x" * 4000}"'
    in_python(server, "await clock.publish('load', 4, 7e16)")  # of a year that the C library cannot tell
    assert line(server) == "7e+16     4  4"
    numbers = "[1/3, -20/3, 12345.678, 123456.789, 1763869141.5, 1e300, 5e-324, -0.0, 12345678901234567, True]"
    in_python(server, f"await clock.publish('load', {numbers}, 5)")
    rounded = "[0.333333, -6.66667, 12345.7, 123457.0, 1763869142.0, 1e+300, 5e-324, -0.0, 12345678901234567, true]"
    assert line(server) == f"1970-01-01T00:00:05.000000Z     5  {rounded}"
    assert watched(server, "load")["value"][0] == 1 / 3


def test_on_a_terminal_a_line_is_wrapped_and_nothing_is_left_out(server):
    in_python(server, "await clock.publish('load', {f'key-{i}': 'value' for i in range(6)}, 5)")
    code = """
        import fcntl, os, pty, struct, subprocess, sys, termios
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 60, 0, 0))
        done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.PIPE, timeout=60)
        os.close(theirs)
        print(done.returncode, done.stderr, repr(os.read(ours, 65536).decode()))
    """
    options = ("--feed", "load", "--count", "1", "--secret-file", str(server.secret_file))
    done = run(sys.executable, "-c", textwrap.dedent(code), *CLOCKD, *words(server, "watch", *options))
    lines = [
        '1970-01-01T00:00:05.000000Z     1  {"key-0": "value",',
        '    "key-1": "value", "key-2": "value", "key-3": "value",',
        '    "key-4": "value", "key-5": "value"}',
        "",
    ]
    shown = "\r\n".join(lines)
    assert done.stdout == f"0 b'' {shown!r}\n"


def test_what_has_no_sample_yet_is_told_once(server):
    watch = Program(*CLOCKD, *words(server, "watch", "--feed", "load", "--secret-file", str(server.secret_file)))
    watch.line("clockd: no sample of load yet")
    assert publish(server, "load", "7").returncode == 0
    watch.line("  7")
    assert watch.end(signal.SIGINT) == 0
    assert len(watch.lines) == 2


def test_a_feed_is_watched_at_its_period_and_deadband(server):
    watch = Program(
        *CLOCKD,
        *words(server, "watch", "--feed", "load", "--period", "0.001", "--deadband", "2", "--json"),
        *("--secret-file", str(server.secret_file)),
    )
    eventually(lambda: server.scrape().get("clockd_subscriptions load"))
    assert publish(server, "load", "1").returncode == 0
    watch.line('"sequence": 1,')
    assert "clockd: the server grants a period of 0.01 s" in watch.output
    assert publish(server, "load", "3").returncode == 0
    assert publish(server, "load", "3.5").returncode == 0
    watch.line('"sequence": 3,')
    assert '"sequence": 2,' not in watch.output
    assert watch.end(signal.SIGINT) == 0


def test_what_is_watched_can_be_published_elsewhere(tmp_path, server):
    (tmp_path / "other").mkdir()
    other = started(tmp_path / "other")
    assert publish(server, "load", '{"a": [1.5, "ä"]}').returncode == 0
    here = watched(server, "load")
    done = publish(other, stdin=json.dumps(here))
    assert (done.returncode, done.stdout) == (0, "published 1, refused 0\n")
    there = watched(other, "load")
    assert (there["value"], there["stamp"]) == (here["value"], here["stamp"])
    other.stop()
