"""The programs in examples/ do what they say, with stock clients."""

import json
import os
import re
import signal
import sys
import textwrap

import pytest
from processes import FREE, HERE, Program, Server, eventually, run

EXAMPLES = HERE.parents[1] / "examples"

STOCK = """
import gc, json, sys, time
from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react
from twisted.spread import pb

port, secrets = int(sys.argv[1]), json.loads(sys.argv[2])

class Mind(pb.Referenceable):
    def __init__(self):
        self.stamps = []

    def remote_notifyTime(self, stamp):
        self.stamps.append(stamp)

    async def ticks(self, number):
        wanted = len(self.stamps) + number
        while len(self.stamps) < wanted:
            await deferLater(reactor, 0.01)

def login(name, mind=None):
    factory = pb.PBClientFactory()
    reactor.connectTCP("127.0.0.1", port, factory)
    return factory.login(UsernamePassword(name.encode(), secrets[name].encode()), mind or Mind())

def fails(deferred, error):
    "Fires with whether a stock client's check finds that error."
    return deferred.addCallbacks(lambda _: False, lambda failure: failure.check(error) == error)

async def leave(avatar, how="loseConnection"):
    gone = Deferred()
    avatar.notifyOnDisconnect(gone.callback)
    getattr(avatar.broker.transport, how)()
    await gone

def say(*words):
    print(*words, flush=True)
"""


class Example(Server):
    """A program of examples/, with the accounts that it has made."""

    def __init__(self, name, folder):
        Program.__init__(
            self, sys.executable, str(EXAMPLES / f"{name}.py"), environment={**os.environ, "TMPDIR": str(folder)}
        )
        self.folder = folder
        self.metrics = re.search(r"http://(\S+)/metrics", self.line("curl"))[1]
        self.port = int(re.search(r"Listening on 127\.0\.0\.1:(\d+)\.", self.output)[1])
        tries = re.findall(r"^ *CLOCKD_SECRET=(\S+) \\\n.*stock\.py \S+ (\w+) .*", self.output, re.MULTILINE)
        self.secrets = {name: secret for secret, name in tries}
        self.commands = re.findall(r"^ *(CLOCKD_SECRET=.*\n.*)", self.output, re.MULTILINE)

    def run(self, text):
        """Run a program of stock clients to its end; return the lines that it says."""
        code = f"{STOCK}\nasync def main():\n{textwrap.indent(textwrap.dedent(text), '    ')}\n"
        code += "react(lambda _: Deferred.fromCoroutine(main()))"
        done = run(sys.executable, "-c", code, str(self.port), json.dumps(self.secrets))
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout.splitlines()

    def stop(self, number=signal.SIGINT):
        """End it as a user does; nothing may be left of it."""
        self.assert_empty()
        super().stop(number)
        assert list(self.folder.iterdir()) == []


@pytest.fixture
def example(request, tmp_path):
    started = Example(request.param, tmp_path)
    yield started
    started.stop()


def of(name):
    return pytest.mark.parametrize("example", [name], indirect=True)


@of("greeting_avatar")
def test_an_avatar_is_kept_for_each_name_and_counts_the_greetings_of_all_its_clients(example):
    said = example.run(
        """
        first, second, other = await login("alice"), await login("alice"), await login("bob")
        for avatar in (first, second, other):
            say(await avatar.callRemote("greet"))
        say(await fails(first.callRemote("greet", 1), "clockd.errors.InvalidValue"))
        await leave(first)
        await leave(second, "abortConnection")
        third = await login("alice")
        say(await third.callRemote("greet"))
        """
    )
    assert said == ["<1> hello alice", "<2> hello alice", "<1> hello bob", "True", "<3> hello alice"]


@of("cached_greeter")
def test_a_greeter_is_kept_for_each_name_and_an_avatar_for_each_connection(example):
    said = example.run(
        """
        first, second, other = await login("alice"), await login("alice"), await login("bob")
        for avatar in (first, second, first, other):
            say(await avatar.callRemote("greet"))
        say(await fails(first.callRemote("greet"), "clockd.errors.NotPermitted"))
        await leave(first)
        third = await login("alice")
        for _ in range(2):
            say(await third.callRemote("greet"))
        say(await fails(third.callRemote("greet"), "clockd.errors.NotPermitted"))
        say(await second.callRemote("greet"))
        """
    )
    greetings = [f"<{number}> hello alice" for number in range(1, 7)]
    assert said == [*greetings[:3], "<1> hello bob", "True", *greetings[3:5], "True", greetings[5]]


@of("counted_clients")
def test_who_comes_and_goes_is_counted_however_it_goes(example):
    said = example.run(
        """
        watcher = await login("alice")
        clients = [await login("alice") for _ in range(4)]
        other = await login("bob")
        say(await watcher.callRemote("clients"), await other.callRemote("clients"))

        async def until(number):
            while await watcher.callRemote("clients") != number:
                await deferLater(reactor, 0.01)

        await leave(clients.pop())
        await until(4)
        await leave(clients.pop(), "abortConnection")
        await until(3)
        clients.pop()
        gc.collect()
        await until(2)
        factory = pb.PBClientFactory()
        reactor.connectTCP("127.0.0.1", port, factory)
        root = await factory.getRootObject()
        challenge, challenger = await root.callRemote("login", b"alice")
        answer = challenger.callRemote("respond", pb.respond(challenge, secrets["alice"].encode()), Mind())
        answer.addErrback(lambda _: None)
        await leave(challenger, "loseConnection")
        await until(2)
        say(await watcher.callRemote("clients"), await other.callRemote("clients"))
        await leave(watcher, "abortConnection")
        await leave(clients.pop())
        await leave(other)
        """
    )
    assert said == ["5 1", "2 1"]
    eventually(lambda: "bob has gone: 0" in example.lines and "alice has gone: 0" in example.lines)
    changes = [re.fullmatch(r"(\w+) has (come|gone): (\d+)", line) for line in example.lines]
    for name, most in (("alice", 5), ("bob", 1)):
        counts = [int(change[3]) for change in changes if change and change[1] == name]
        steps = [1 if change[2] == "come" else -1 for change in changes if change and change[1] == name]
        assert counts == [sum(steps[: i + 1]) for i in range(len(steps))]
        assert (max(counts), counts[-1]) == (most, 0)
    scrape = example.scrape()
    assert scrape["clockd_connections_closed_total lost"] == 2  # by a reset


@of("limited_clients")
def test_no_more_clients_than_the_limit_are_in_at_a_time(example):
    said = example.run(
        """
        full = "clockd.errors.TooManyConnections"
        first, second, other = await login("alice"), await login("alice"), await login("bob")
        say(await fails(login("alice"), full), await fails(login("alice"), full))
        await leave(first, "abortConnection")
        third = await login("alice")
        say(await third.callRemote("greet"), await other.callRemote("greet"), await fails(login("alice"), full))
        await leave(second)
        await leave(third)

        avatars = []
        racing = [fails(login("alice").addCallback(avatars.append), full) for _ in range(50)]
        say(sum(await gatherResults(racing)), len(avatars))
        """
    )
    assert said == ["True True", "hello alice hello bob True", "48 2"]
    scrape = example.scrape()
    assert (scrape["clockd_logins_total secret ok"], scrape["clockd_logins_total secret limit"]) == (6, 51)


@of("remote_clock")
def test_all_current_clients_of_a_clock_are_pushed_the_time_at_the_period_that_one_of_them_sets(example):
    said = example.run(
        """
        minds = [Mind() for _ in range(4)]
        avatars = []
        for name, mind in zip(("alice", "alice", "alice", "bob"), minds):
            avatars.append(await login(name, mind))
            assert not mind.stamps, "a stamp has overtaken the answer to the login"
        await gatherResults(Deferred.fromCoroutine(mind.ticks(1)) for mind in minds)
        say(await avatars[1].callRemote("setperiod", 0.05))
        for mind in minds:
            mind.stamps.clear()
        await minds[0].ticks(30)
        say(*(len(mind.stamps) > 20 for mind in minds[:3]), len(minds[3].stamps) < 15)
        for bad in (0, -1, float("nan"), "1", None):
            assert await fails(avatars[0].callRemote("setperiod", bad), "clockd.errors.InvalidPeriod")
        say(await avatars[0].callRemote("setperiod", 1e-9), await avatars[2].callRemote("setperiod", 0.05))
        """
    )
    assert said == ["0.05", "True True True True", "0.01 0.05"]
    example.assert_empty()
    scrape = example.scrape()
    assert (scrape["clockd_subscriptions time"], scrape["clockd_push_requested_hertz time"]) == (0, 0)
    assert example.scrape()["clockd_pushes_total time"] == scrape["clockd_pushes_total time"]


@of("remote_clock")
def test_clients_that_read_nothing_hold_back_nobody_and_get_the_newest_time_when_they_read_on(example):
    said = example.run(
        """
        slow, others = [[Mind() for _ in range(4)] for _ in range(2)]
        stopped = [await login("alice", mind) for mind in slow]
        avatars = [await login("alice", mind) for mind in others]
        await avatars[0].callRemote("setperiod", 0.02)
        for avatar in stopped:
            avatar.broker.transport.pauseProducing()
        await gatherResults(Deferred.fromCoroutine(mind.ticks(250)) for mind in others)
        await avatars[0].callRemote("setperiod", 60)
        late = Mind()
        avatars.append(await login("alice", late))
        await late.ticks(1)
        await deferLater(reactor, 0.1)
        held = time.time()
        for avatar in stopped:
            avatar.broker.transport.resumeProducing()
        while not all(mind.stamps and mind.stamps[-1] > held for mind in slow):
            await deferLater(reactor, 0.01)
        say(max(len(mind.stamps) for mind in slow) < 200)
        """
    )
    assert said == ["True"]
    assert example.scrape()["clockd_pushes_skipped_total time unacknowledged"] > 30


@of("remote_clock")
def test_a_client_that_lets_go_of_its_avatar_before_it_has_it_starts_no_clock(example):
    said = example.run(
        """
        factory = pb.PBClientFactory()
        reactor.connectTCP("127.0.0.1", port, factory)
        root = await factory.getRootObject()
        challenge, challenger = await root.callRemote("login", b"alice")
        answer = challenger.callRemote("respond", pb.respond(challenge, secrets["alice"].encode()), Mind())
        gone = Deferred()
        root.broker.notifyOnDisconnect(lambda: gone.callback(None))
        root.broker.sendCall(b"decref", challenger.luid + 1)
        avatar = await answer
        say(avatar.luid - challenger.luid)
        await gone
        """
    )
    assert said == ["1"]
    scrape = example.scrape()
    assert (scrape["clockd_subscriptions time"], scrape["clockd_logins_total secret ok"]) == (0, 1)


@of("remote_clock")
def test_a_clock_keeps_its_period_when_nobody_looks_at_it(example):
    said = example.run(
        """
        first = await login("alice")
        await first.callRemote("setperiod", 0.05)
        await leave(first, "abortConnection")
        mind = Mind()
        second = await login("alice", mind)
        await mind.ticks(3)
        say(mind.stamps[2] - mind.stamps[0] < 1)
        """
    )
    assert said == ["True"]


@pytest.mark.parametrize(
    ("example", "answer"),
    [
        ("greeting_avatar", "<1> hello alice"),
        ("counted_clients", "1"),
        ("limited_clients", "hello alice"),
        ("remote_clock", "0.5"),
    ],
    indirect=["example"],
)
def test_the_commands_that_a_program_prints_work(example, answer):
    client = Program("bash", "-c", example.commands[0])
    eventually(lambda: answer in client.lines)
    assert client.end(signal.SIGINT) == 0, client.output
    assert client.lines[-1] in {answer, *re.findall(r"^\d+\.\d+$", client.output, re.MULTILINE)}


@of("cached_greeter")
def test_the_command_of_the_greeter_ends_with_the_name_of_the_error(example):
    done = run("bash", "-c", example.commands[0])
    assert (done.returncode, done.stdout) == (1, "<1> hello alice\n<2> hello alice\n")
    assert done.stderr == "clockd.errors.NotPermitted: a connection is greeted 2 times\n"


@of("counted_clients")
def test_what_is_printed_for_other_terminals_fits_into_80_columns(example):
    python, stock = map(os.path.relpath, (sys.executable, EXAMPLES / "stock.py"))
    output = example.output.replace(python, ".venv/bin/python").replace(stock, "examples/stock.py")
    assert max(map(len, output.splitlines())) <= 80


def test_the_client_says_that_the_connection_was_lost(tmp_path):
    server = Example("greeting_avatar", tmp_path)
    client = Program("bash", "-c", server.commands[0])
    eventually(lambda: "<1> hello alice" in client.lines)
    server.end(signal.SIGINT)
    assert (client.wait(), client.lines[-1]) == (1, "the connection was lost")


@of("greeting_avatar")
def test_what_the_client_does_wrong_is_one_sentence(example):
    where, secret = f"127.0.0.1:{example.port}", example.secrets["alice"]
    cases = [
        (secret, (where, "alice", "greet", "1"), "clockd.errors.InvalidValue: greet takes ()"),
        (secret, (where, "alice", "dance"), "clockd.errors.UnknownMethod: there is no such method"),
        ("wrong", (where, "alice", "greet"), "clockd.errors.WrongCredentials: the name and the secret do not fit"),
        (secret, ("127.0.0.1:1", "alice", "greet"), "Connection was refused by other side"),
        (secret, ("127.0.0.1:99999", "alice", "greet"), "connect_ex(): port must be 0-65535"),
        (secret, ("no.such.host.invalid:1", "alice", "greet"), "DNS lookup failed"),
        (secret, ("127.0.0.1", "alice", "greet"), "A client on Twisted alone"),
        (secret, (where, "alice"), "A client on Twisted alone"),
    ]
    for known, words, sentence in cases:
        done = run(sys.executable, str(EXAMPLES / "stock.py"), *words, environment={"CLOCKD_SECRET": known})
        assert (done.returncode, done.stdout) == (1, ""), words
        assert done.stderr.startswith(sentence), done.stderr
        assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_one_sentence(tmp_path):
    first = Example("greeting_avatar", tmp_path)
    done = run(sys.executable, str(EXAMPLES / "greeting_avatar.py"), str(first.port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"server.listen: {FREE.replace('0', str(first.port), 1)}: Address already in use")
    first.stop()


def test_the_readme_names_every_program():
    named = re.findall(
        r"^(?:\| |- )\[(\S+)\]\(\1\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    there = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
    assert (set(named), len(named)) == (there, len(there))
