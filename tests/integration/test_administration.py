"""What an administrator does: `clockd top` and `clockd kick`, of a server that tells tales and of a real one."""

import json
import os
import shlex
import signal
import subprocess
import sys

import pytest
from processes import CLOCKD, HERE, SECONDS, Program, Server, clockd, eventually, free_port, run
from terminals import ENTER, LEAVE, Terminal

from clockd.users import add_account

SECRET = {"CLOCKD_SECRET": "any"}


class Crowd(Program):
    """A server double; see `crowd.py`."""

    def __init__(self, count, *refusal, port=0):
        super().__init__(sys.executable, str(HERE / "crowd.py"), str(port), str(count), *refusal)
        self.port = int(self.line("port ").split()[1])
        self.target = f"root@127.0.0.1:{self.port}"

    def top(self, *options):
        return clockd("top", self.target, *options, environment=SECRET)

    def kick(self, *words):
        return clockd("kick", self.target, *words, environment=SECRET)


@pytest.fixture(scope="module")
def crowd():
    crowd = Crowd(200)
    yield crowd
    crowd.end(signal.SIGKILL)


def says(done, code, text):
    """Check that a command ended with a code and one sentence on standard error, and without a traceback."""
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 or done.stderr.startswith("Usage:"), done.stderr


def test_help_has_examples():
    for command in ("top", "kick"):
        done = clockd(command, "-h")
        assert (done.returncode, "Examples:" in done.stdout) == (0, True)
        assert f"clockd {command} operator@localhost" in done.stdout


def test_once_prints_text_that_is_not_cut(crowd):
    done = crowd.top("--once", "--limit", "200")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 204
    assert f"{crowd.target}  the first 200, by skipped" in lines[0]
    assert lines[1] == "200 connections, 200 accounts, 218900.0 pushes/s, 201000 skipped"
    assert r"[bold]mallory\x1b[31m\x9b2J [2001:db8:0:1::0]:40000" in lines[4]
    assert "account-199" in lines[203]
    assert "greenhouse.north 86400 s, x 0.01 s" in lines[6]
    assert "\x1b" not in done.stdout
    assert "\x9b" not in done.stdout


def test_json_is_a_line_for_each_connection(crowd):
    done = crowd.top("--once", "--json", "--limit", "3", "--sort", "connected_since")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["account"] for row in rows] == ["[bold]mallory\x1b[31m\u009b2J", "account-001", "account-002"]
    assert list(rows[0]) == [
        *("stamp", "account", "address", "periods", "pushes_per_second", "skipped"),
        *("acknowledgement_seconds", "connected_since"),
    ]
    crowd.line("sessions 3 connected_since")


def test_looks_follow_each_other_until_a_signal(crowd):
    words = (*CLOCKD, "top", crowd.target, "--json", "--every", "0.1", "--limit", "2")
    program = Program(*words, environment={**os.environ, **SECRET})
    eventually(lambda: len(program.lines) >= 6)
    stamps = [json.loads(line)["stamp"] for line in program.lines[:6]]
    assert stamps == sorted(stamps)
    assert len(set(stamps)) == 3
    assert program.end(signal.SIGINT) == 0
    assert "Traceback" not in program.output


def test_it_ends_quietly_when_nobody_reads(crowd):
    words = [*CLOCKD, "top", crowd.target, "--every", "0.1"]
    environment = {**os.environ, **SECRET}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(SECONDS) == 0


def test_on_a_terminal_it_fits_is_drawn_anew_and_leaves_it_clean(crowd):
    terminal = Terminal("top", crowd.target, "--limit", "200", "--every", "0.2")
    terminal.wait_for("account-018")
    screen = terminal.screen
    assert [len(line) for line in screen] == 24 * [80]
    assert screen[23].startswith("… 181 more; ")
    assert r"[bold]mallor… [2001:db8" in screen[4]
    assert "greenhouse" not in "\n".join(screen)
    terminal.type("q\r")
    terminal.resize(150, 12)
    terminal.wait_for("… 193 more; ")
    terminal.wait_for("greenhouse.north 86400 s, x 0.01 s")
    assert [len(line) for line in terminal.screen] == 12 * [150]
    assert terminal.ended(signal.SIGINT) == 0
    assert terminal.text.startswith(ENTER)
    assert terminal.text.endswith(LEAVE)
    assert "\x1b[31m\x9b" not in terminal.text
    assert "q" not in terminal.text


def test_a_terminal_that_can_nothing_gets_text(crowd):
    terminal = Terminal("top", crowd.target, "--every", "0.1", environment={"TERM": "dumb"})
    eventually(lambda: terminal.text.count("ACCOUNT") >= 2)
    assert terminal.ended(signal.SIGINT) == 0
    assert "\x1b" not in terminal.text


def test_a_terminal_of_few_letters_is_drawn_as_well(crowd):
    terminal = Terminal("top", crowd.target, environment={"PYTHONIOENCODING": "ascii"})
    terminal.wait_for("? 81 more; ")
    assert [len(line) for line in terminal.screen] == 24 * [80]
    assert terminal.ended(signal.SIGINT) == 0


def test_without_a_standard_output_there_is_nothing_to_be_said(crowd):
    script = f"exec {shlex.join(CLOCKD)} top {crowd.target} --once >&-"
    done = run("bash", "-c", script, environment=SECRET)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_goes_on_when_the_server_is_back():
    first = Crowd(3, port=free_port())
    terminal = Terminal("top", first.target, "--every", "0.1")
    terminal.wait_for("3 connections")
    lines = Terminal("top", first.target, "--every", "0.1", "--json")
    lines.wait_for("account-002")
    first.end(signal.SIGKILL)
    terminal.wait_for("no answer from the server; it was like this at ")
    lines.wait_for("connecting again in")
    terminal.wait_for("account-002")
    second = Crowd(4, port=first.port)
    terminal.wait_for("4 connections")
    assert "no answer" not in "\n".join(terminal.screen)
    lines.wait_for("account-003")
    assert (terminal.ended(signal.SIGINT), lines.ended(signal.SIGINT)) == (0, 0)
    assert "connecting again" not in terminal.text
    second.end(signal.SIGKILL)


def test_between_two_looks_it_says_at_once_that_the_server_is_away():
    crowd = Crowd(3)
    terminal = Terminal("top", crowd.target, "--every", "86400")
    terminal.wait_for("3 connections")
    crowd.end(signal.SIGKILL)
    terminal.wait_for("no answer from the server; it was like this at ")
    assert terminal.ended(signal.SIGINT) == 0


def test_without_the_role_it_is_told_how_to_give_it():
    crowd = Crowd(0, "NotPermitted")
    sentence = (
        "clockd: not for this account; the role admin is given with: clockd user add --role admin NAME, "
        "or to an account that there is by :admin at the end of its line in the users file\n"
    )
    for done in (crowd.top(), crowd.top("--once"), crowd.kick("bob")):
        assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)
    terminal = Terminal("top", crowd.target)
    assert terminal.process.wait(SECONDS) == 1
    eventually(lambda: terminal.text.endswith(sentence.replace("\n", "\r\n")))
    assert LEAVE in terminal.text
    crowd.end(signal.SIGKILL)


def test_mistakes_are_named(crowd):
    says(crowd.top("--sort", "periods"), 2, "'periods' is not one of account, address, pushes_per_second, skipped")
    for every in ("nan", "0.09", "-1", "86401", "inf"):
        says(crowd.top("--every", every), 2, "0.1 to 86400 seconds")
    for limit in ("0", "201"):
        says(crowd.top("--limit", limit), 2, "is not in the range 1<=x<=200")
    nobody = "root@127.0.0.1:1"
    says(clockd("top", nobody, environment=SECRET), 1, "does clockd listen there?")
    says(clockd("kick", nobody, "bob", environment=SECRET), 1, "does clockd listen there?")
    says(clockd("kick", nobody, environment=SECRET), 2, "Missing argument 'ACCOUNT'")
    for name in ("", "a" * 65):
        says(clockd("kick", nobody, name, environment=SECRET), 2, "Invalid value for ACCOUNT: a name has 1 to 64 bytes")
    says(clockd("kick", nobody, "b", "--reason", 201 * "x", environment=SECRET), 2, "--reason: 200 letters at most")
    stray = "b\udcff"  # the byte FF
    for words in ((stray,), ("bob", "--reason", stray)):
        says(clockd("kick", nobody, *words, environment=SECRET), 2, r"'b\udcff' is no UTF-8")
    for command in (("top",), ("kick", "bob")):
        done = clockd(command[0], f"{stray}@127.0.0.1", *command[1:], environment=SECRET)
        says(done, 2, r"'b\udcff@127.0.0.1' is not [NAME@]HOST[:PORT]")


def test_kick_prints_how_many_were_closed(crowd):
    done = crowd.kick("bob", "--reason", "asks for too much")
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed 200 connections of bob\n", "")
    crowd.line("kick bob asks for too much")
    nobody = Crowd(0)
    says(nobody.kick("bob"), 1, "clockd: nobody else is connected as bob\n")
    nobody.line("kick bob by an administrator")
    nobody.end(signal.SIGKILL)
    one = Crowd(1)
    assert one.kick("bob").stdout == "closed 1 connection of bob\n"
    one.end(signal.SIGKILL)


def test_an_administrator_sees_and_kicks_those_of_a_real_server(tmp_path):
    server = Server(tmp_path)
    root = {"CLOCKD_SECRET": add_account(server.users, "root", admin=True)}
    target = f"root@127.0.0.1:{server.port}"
    clients = server.subscribers(60, [0.1, 0.5])
    eventually(lambda: server.scrape()["clockd_avatars"] == 2)
    done = clockd("top", target, "--once", "--json", "--sort", "account", environment=root)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["account"] for row in rows] == ["alice", "alice", "root"]
    assert sorted(row["periods"]["time"] for row in rows) == [0.1, 0.5, 1.0]
    assert all(row["address"].startswith("127.0.0.1:") for row in rows)
    assert all(0 <= row["stamp"] - row["connected_since"] < SECONDS for row in rows)
    done = clockd("kick", target, "alice", environment=root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed 2 connections of alice\n", "")
    eventually(lambda: server.scrape()["clockd_connections_closed_total kicked"] == 2)
    for nobody in ("alice", "root"):  # who asks is not counted
        says(clockd("kick", target, nobody, environment=root), 1, f"clockd: nobody else is connected as {nobody}\n")
    alice = {"CLOCKD_SECRET": server.secret}
    says(clockd("top", f"alice@127.0.0.1:{server.port}", environment=alice), 1, "clockd user add --role admin")
    for command in (("top", target), ("top", target, "--once"), ("kick", target, "bob")):
        says(clockd(*command, environment=alice), 1, "the name and the secret do not fit (as root)")
    clients.end(signal.SIGKILL)
    server.stop()
