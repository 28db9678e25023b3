"""The command line as a user types it: what it prints, what it says to a mistake, and how it ends."""

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from processes import CLOCKD, FREE, SECONDS, Program, Server, clockd, eventually, run
from terminals import ENTER, LEAVE, Terminal

import clockd as package
from clockd.users import add_account

TWIST = [str(Path(sys.executable).with_name("twist")), "clockd"]


def says(done, code, text):
    """Check that a command ended with a code and one sentence on standard error, and without a traceback."""
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 or done.stderr.startswith("Usage:"), done.stderr


@pytest.fixture
def users(tmp_path):
    path = tmp_path / "users"
    add_account(path, "alice")
    return path


@pytest.mark.parametrize(
    "command", [[], ["serve"], ["demo"], ["watch"], ["publish"], ["user"], ["user", "add"], ["check"]]
)
def test_help_is_there(command):
    done = clockd(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: clockd")
    if command in ([], ["serve"], ["watch"], ["publish"], ["user", "add"]):
        assert "Example" in done.stdout


def test_version():
    assert clockd("--version").stdout == f"clockd {package.__version__}\n"


def test_an_unknown_command_is_a_mistake_in_the_command_line():
    says(clockd("sevre"), 2, "No such command 'sevre'")


def test_accounts_are_made_renewed_listed_and_removed(tmp_path):
    path = tmp_path / "users"
    first = clockd("user", "add", "alice", "--users", str(path))
    assert (first.returncode, first.stderr) == (0, "")
    assert len(first.stdout.strip()) == 22
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.stdout.strip() not in path.read_text()
    second = clockd("user", "passwd", "alice", environment={"CLOCKD_AUTH_USERS": str(path)})
    assert second.returncode == 0
    assert second.stdout != first.stdout
    clockd("user", "add", "bob", cwd=tmp_path)
    assert clockd("user", "list", cwd=tmp_path).stdout == "alice secret\nbob secret\n"
    assert clockd("user", "remove", "alice", cwd=tmp_path).returncode == 0
    assert clockd("user", "list", cwd=tmp_path).stdout == "bob secret\n"
    says(clockd("user", "remove", "alice", cwd=tmp_path), 2, "there is no account 'alice'")
    says(clockd("user", "add", "bob", cwd=tmp_path), 2, "there is an account bob already")
    says(clockd("user", "add", "b b", cwd=tmp_path), 2, "cannot be an account's name")
    nowhere = clockd("user", "add", "x", "--users", "nowhere/users", cwd=tmp_path)
    says(nowhere, 2, "nowhere/users: the folder nowhere: No such file or directory")
    says(clockd("user", "list", "--users", "other", cwd=tmp_path), 2, "clockd user add --users other NAME")


def test_a_role_is_given_listed_and_kept(tmp_path):
    assert len(clockd("user", "add", "root", "--role", "admin", cwd=tmp_path).stdout.strip()) == 22
    assert with_password("add", "carol", "hunter2\n", tmp_path, "--role", "admin").returncode == 0
    clockd("user", "add", "alice", cwd=tmp_path)
    assert clockd("user", "list", cwd=tmp_path).stdout == "alice secret\ncarol password admin\nroot secret admin\n"
    clockd("user", "passwd", "carol", cwd=tmp_path)
    with_password("passwd", "root", "hunter3\n", tmp_path)
    assert clockd("user", "list", cwd=tmp_path).stdout == "alice secret\ncarol secret admin\nroot password admin\n"
    says(clockd("user", "add", "bob", "--role", "root", cwd=tmp_path), 2, "'root' is not 'admin'")


def with_password(command, name, password, folder, *options):
    return clockd("user", command, name, "--password-stdin", *options, stdin=password, cwd=folder)


def test_an_account_has_a_password_where_one_is_given(tmp_path):
    path = tmp_path / "users"
    done = with_password("add", "carol", "hunter2\n", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "hunter2" not in path.read_text()
    assert "$argon2id$v=19$m=65536,t=3,p=4$" in path.read_text()
    clockd("user", "add", "alice", cwd=tmp_path)
    assert clockd("user", "list", cwd=tmp_path).stdout == "alice secret\ncarol password\n"
    before = path.read_text()
    done = with_password("passwd", "carol", "hunter3", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert path.read_text() != before
    assert with_password("passwd", "alice", "hunter4\n", tmp_path).returncode == 0
    assert len(clockd("user", "passwd", "carol", cwd=tmp_path).stdout.strip()) == 22
    assert clockd("user", "list", cwd=tmp_path).stdout == "alice password\ncarol secret\n"
    before = path.read_text()
    says(with_password("add", "carol", "hunter2\n", tmp_path), 2, "there is an account carol already")
    says(with_password("passwd", "dave", "hunter2\n", tmp_path), 2, "there is no account 'dave'")
    assert path.read_text() == before


@pytest.mark.parametrize("password", ["x", " ", "x" * 1024 + "\n", "x" * 1024 + "\r\n", "ä" * 512])
def test_a_password_of_1_to_1024_bytes_is_taken(tmp_path, password):
    done = with_password("add", "carol", password, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


NO_PASSWORD = (
    "a password is one line of 1 to 1024 bytes of UTF-8 on standard input: give it as in --password-stdin < FILE"
)


@pytest.mark.parametrize("password", ["", "\n", "\r\n", "\nhunter2\n", "x" * 1025, "ä" * 512 + "x\n", "x" * 100_000])
def test_another_password_is_refused_and_nothing_is_written(tmp_path, password):
    says(with_password("add", "carol", password, tmp_path), 2, NO_PASSWORD)
    assert not (tmp_path / "users").exists()


def test_a_password_that_is_missing_is_told(tmp_path, users):
    before = users.read_text()
    for command, where in (("add carol", "<&-"), ("passwd alice", "<&-"), ("passwd alice", "< /dev/null")):
        script = f"exec {shlex.join(CLOCKD)} user {command} --password-stdin {where}"
        says(run("bash", "-c", script, cwd=tmp_path), 2, NO_PASSWORD)
    assert users.read_text() == before


def test_a_password_that_no_client_could_send_is_refused(tmp_path, users):
    before = users.read_text()
    script = rf"printf '\xff\xfe' | {shlex.join(CLOCKD)} user add carol --password-stdin"
    says(run("bash", "-c", script, cwd=tmp_path), 2, NO_PASSWORD)
    assert users.read_text() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[limits]\nmin_perod = 1", "limits.min_perod: no such key; did you mean min_period?"),
        ("[limts]\nmin_period = 1", "limts: no such section; did you mean limits?"),
        ("[limits]\nmin_period = 'a'", "limits.min_period: is to be a number, not a text"),
        ("[limits]\nmin_period = -1", "limits.min_period: is to be a number of at least 0.001"),
        ("[limits]\nmin_period = nan", "limits.min_period: is to be a number of at least 0.001"),
        ("[limits]\nmin_period = 2", "limits.default_period: 1 lies outside min_period (2) to max_period (86400)"),
        ("[server]\nlisten = ['tpc:1']", "clockd.toml: server.listen: tpc:1: is no Twisted endpoint"),
        ("[metrics]\nlisten = 'tcp:x'", "clockd.toml: metrics.listen: tcp:x: is no Twisted endpoint"),
        (
            "[tls]\nlisten = ['tcp:1']\ncertificate = 'none'\nprivate_key = 'none'",
            "clockd.toml: tls.certificate: none: cannot be read: No such file or directory",
        ),
        ("[feeds.a]\nkind = 'python'\nplugin = 'none'", "clockd.toml: feeds.a.plugin: there is no entry point none"),
        ("limits", "is no TOML"),
    ],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_mistake_in_the_configuration_is_named(tmp_path, users, command, text, message):
    file = tmp_path / "clockd.toml"
    file.write_text(f"{text}\n[auth]\nusers = '{users}'\n")
    done = clockd(command, "--config", str(file))
    says(done, 2, message)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("users", "is no database of SQLite; name another file in server.state"),
        ("clockd.toml", "is no database of SQLite; name another file in server.state"),
        (
            "none/state",
            "No such file or directory; see that its directory is there and that the server may write to it",
        ),
        (".", "is no regular file; name another in server.state"),
    ],
)
def test_check_says_where_nothing_can_be_remembered_and_touches_nothing(tmp_path, users, state, message):
    state = users if state == "users" else tmp_path / state
    file = tmp_path / "clockd.toml"
    file.write_text(f"[auth]\nusers = '{users}'\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = clockd("check", "--config", str(file), environment={"CLOCKD_SERVER_STATE": str(state)})
    says(done, 2, f"CLOCKD_SERVER_STATE: server.state: {state}: {message}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_mistake_in_the_environment_is_named(users):
    done = clockd("check", environment={"CLOCKD_AUTH_USERS": str(users), "CLOCKD_LIMITS_MIN_PERIOD": "no"})
    says(done, 2, "CLOCKD_LIMITS_MIN_PERIOD: limits.min_period: is to be a number, not a text")


def test_check_finds_good_what_can_be_served(tmp_path, users):
    file = tmp_path / "clockd.toml"
    file.write_text(f"[auth]\nusers = '{users}'\n")
    done = clockd("check", "--config", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{file}: good\n", "")


def test_check_warns_of_what_may_be_wrong(tmp_path, users):
    file = tmp_path / "clockd.toml"
    feeds = "[feeds.a]\nkind = 'push'\nread = ['alice', 'anonymous', '*']\npublish = ['alcie']\nretain = true\n"
    file.write_text(f"[auth]\nusers = '{users}'\n{feeds}[feeds.b]\nkind = 'host'\nread = ['bob']\n")
    settings = {"CLOCKD_AUTH_USER": "x", "CLOCKD_SERVER_STATE": ""}
    done = clockd("check", "--config", str(file), environment=settings)
    assert (done.returncode, done.stdout) == (0, f"{file}: good\n")
    typo, *remarks = done.stderr.splitlines()
    assert typo.endswith("warn     CLOCKD_AUTH_USER: is no key, and not read; did you mean CLOCKD_AUTH_USERS?")
    assert remarks == [
        f"{file}: feeds.a.publish: there is no account alcie in {users}",
        f"{file}: feeds.a.retain: its newest sample is lost at a stop; name a file in server.state",
        f"{file}: feeds.b.read: there is no account bob in {users}",
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", ":3: a broken line"),
        ("alice:secret:" + "0" * 32, ":3: a second account alice"),
        ("key:" + "0" * 64, ":3: a second key"),
        ("bob:secret:xyz", ":3: a broken line"),
        ("bob:secret:" + "0" * 32 + ":amdin", ":3: a broken line"),
    ],
)
def test_a_broken_users_file_is_named_by_line(users, line, message):
    users.write_text(users.read_text() + line + "\n")
    says(clockd("serve", "--users", str(users)), 2, message)


def test_no_users_file_is_told_what_to_type(tmp_path):
    done = clockd("serve", cwd=tmp_path)
    says(done, 2, "users: there is no users file; make one with: clockd user add --users users NAME")


def test_wide_permissions_are_warned_of(tmp_path):
    clockd("user", "add", "alice", cwd=tmp_path)
    (tmp_path / "users").chmod(0o644)
    server = Program(*CLOCKD, "serve", "--users", str(tmp_path / "users"), "--listen", FREE, "--metrics-listen", FREE)
    assert "chmod 600" in server.line("others than its owner")
    server.line("pushes the time")
    assert server.end() == 0


@pytest.mark.parametrize("which", ["broker", "metrics"])
def test_a_port_in_use_is_one_sentence(server, users, which):
    ports = {"broker": FREE, "metrics": FREE} | {
        which: f"tcp:{server.port if which == 'broker' else server.metrics.rpartition(':')[2]}:interface=127.0.0.1"
    }
    done = clockd(*("serve", "--users", str(users), "--listen", ports["broker"], "--metrics-listen", ports["metrics"]))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "Address already in use; is another server there? choose another address"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("where", "why"), [("> /dev/full", "No space left on device"), (">&-", "is closed")])
@pytest.mark.parametrize("command", ["user add bob", "user passwd alice", "serve --init --users new"])
def test_a_secret_that_could_not_be_printed_is_good_for_nothing(tmp_path, users, command, where, why):
    before = users.read_text()
    done = run("bash", "-c", f"exec {shlex.join(CLOCKD)} {command} {where}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert why in done.stderr
    assert (users.read_text(), list(tmp_path.iterdir())) == (before, [users])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_good_order(tmp_path, number):
    server = Server(tmp_path)
    clients = server.subscribers(60, [0.1])
    eventually(lambda: server.scrape()["clockd_avatars"] == 1)
    server.stop(number)
    assert json.loads(server.lines[-1])["message"] == "clockd stops" or "has left" in server.lines[-1]
    clients.end(signal.SIGKILL)


def test_a_signal_ends_it_even_where_python_ignores_what_is_raised():
    code = """
        import signal, sys, types, weakref
        from clockd.__main__ import main

        def start(prog_name):
            thing = set()
            weak = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
            del thing
            print("went on")

        sys.modules["clockd.cli"] = types.SimpleNamespace(main=start)
        main()
    """
    said = "clockd: ended by a signal before it was done\n"
    for words, ended in (
        (["serve"], (0, "")),
        (["demo"], (0, "")),
        (["watch", "host", "--check"], (2, said)),
        (["health"], (1, said)),
    ):
        done = run(sys.executable, "-c", textwrap.dedent(code), *words)
        assert (done.stdout, (done.returncode, done.stderr)) == ("", ended)


def test_logs_are_readable_lines_or_json(tmp_path, server):
    line = json.loads(server.line("pushes the time"))
    assert {"time", "level", "logger", "message"} <= set(line)
    clockd("user", "add", "alice", cwd=tmp_path)
    readable = Program(*CLOCKD, "serve", "--users", str(server.users), "--listen", FREE, "--metrics-listen", FREE)
    assert " info     clockd" in readable.line("pushes the time")
    assert readable.end() == 0


def watch(server, *options, name="alice", secret=None, environment=None):
    secrets = {"CLOCKD_SECRET": server.secret if secret is None else secret}
    return clockd("watch", f"{name}@127.0.0.1:{server.port}", *options, environment=secrets | (environment or {}))


def test_watch_prints_lines(server):
    done = watch(server, "--period", "0.1", "--count", "5")
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last = lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert re.search(r"Z  arrived [+-]\d+\.\d\d ms later by this host's clock$", first)
    assert re.search(r"Z  arrived [+-]\d+\.\d\d ms later, give or take \d+\.\d\d ms$", last)


def test_watch_prints_json(server):
    done = watch(server, "--period", "0.1", "--count", "5", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 5
    for line in lines:
        assert list(line) == ["feed", "sequence", "stamp", "value", "age", "offset", "bound", "round_trip"]
        assert line["feed"] == "time"
        assert line["stamp"] == line["value"]
        assert line["sequence"] is None
    assert lines[0]["offset"] is lines[0]["bound"] is lines[0]["round_trip"] is None
    assert abs(lines[-1]["offset"]) <= lines[-1]["bound"]  # it is the same clock
    assert lines[-1]["round_trip"] > 0


def test_watch_names_what_is_wrong(server, tmp_path):
    says(watch(server, secret="wrong"), 1, "the name and the secret do not fit (as alice)")
    says(watch(server, name="nobody"), 1, "the name and the secret do not fit (as nobody)")
    says(watch(server, secret=""), 2, "CLOCKD_SECRET is empty")
    says(watch(server, secret="\udcff"), 2, "CLOCKD_SECRET is no UTF-8")
    says(watch(server, "--feed", "time", "--feed", "load"), 2, "a command watches one feed: give it once")
    says(watch(server, "--feed", "other"), 1, "there is no feed other; those that you may read: time")
    says(watch(server, "--feed", "Other"), 1, "there is no feed Other; those that you may read: time")
    says(watch(server, "--deadband", "1"), 1, "the time is always new: it has no deadband")
    says(watch(server, "--deadband", "-1"), 2, "a deadband is a finite number of 0 or more")
    says(watch(server, "--period", "nan"), 2, "a period is a finite number of seconds greater than 0")
    says(clockd("watch", "alice@clock..org", environment={"CLOCKD_SECRET": "x"}), 2, "is not [NAME@]HOST[:PORT]")
    (tmp_path / "empty").write_text("\nsecond line")
    says(watch(server, "--secret-file", str(tmp_path / "empty")), 2, "is empty")
    says(watch(server, "--secret-file", str(tmp_path / "none")), 2, "none: cannot be read: No such file or directory\n")
    says(clockd("watch", "alice@127.0.0.1:1", environment={"CLOCKD_SECRET": "x"}), 1, "does clockd listen there?")
    says(clockd("watch", "alice@no.such.host.invalid", environment={"CLOCKD_SECRET": "x"}), 1, "is it spelt right?")
    says(clockd("watch", "a@b:c:d", environment={"CLOCKD_SECRET": "x"}), 2, "is not [NAME@]HOST[:PORT]")
    metrics = clockd("watch", f"alice@{server.metrics}", environment={"CLOCKD_SECRET": "x"})
    says(metrics, 1, "is it clockd that listens there? or does it want --tls?")
    if "CLOCKD_SECRET" not in os.environ:
        says(clockd("watch", "alice@127.0.0.1"), 2, "give --secret-file or set CLOCKD_SECRET")


def test_watch_on_a_terminal_is_a_live_view(tmp_path):
    first = Server(tmp_path)
    target = f"alice@127.0.0.1:{first.port}"
    login = ("--secret-file", str(first.secret_file))
    terminal = Terminal("watch", target, "--period", "0.5", *login)
    terminal.wait_for(", last 5")
    screen = terminal.screen
    assert [len(line) for line in screen] == 24 * [80]
    assert screen[0].split() == [target, "time,", "every", "0.5", "s", "connected"]
    assert re.search(r"^this host's clock  \d+\.\d\d ms (behind|ahead), give or take \d+\.\d\d ms +$", screen[5])
    assert "missed 0, conflated 0" in screen[8]
    terminal.type("q\r")
    terminal.resize(60, 14)
    eventually(lambda: [len(line) for line in terminal.screen] == 14 * [60])
    first.end(signal.SIGKILL)
    terminal.wait_for("not connected")
    terminal.wait_for("cannot connect to tcp:127.0.0.1")
    terminal.wait_for(f"the connection to tcp:127.0.0.1:{first.port} was lost")
    terminal.wait_for("holdover: ")
    second = Server(tmp_path, port=first.port)
    terminal.wait_for(f"connected to tcp:127.0.0.1:{first.port}")
    eventually(lambda: "not connected" not in terminal.screen[0])
    assert terminal.ended(signal.SIGINT) == 0
    assert terminal.text.startswith(ENTER)
    assert re.search(r"pushes +.*\d+, missed ", terminal.text.rpartition(LEAVE)[2])
    assert "q" not in terminal.text
    assert "info" not in terminal.text
    second.stop()


def test_a_terminal_that_is_to_be_read_gets_lines(server):
    login = (f"alice@127.0.0.1:{server.port}", "--secret-file", str(server.secret_file), "--period", "0.05")
    counted = Terminal("watch", *login, "--count", "2")
    assert counted.process.wait(SECONDS) == 0
    eventually(lambda: re.fullmatch(r"(.*Z  arrived .*\r\n){2}", counted.text))
    for options, environment in ((("--json",), {}), ((), {"TERM": "dumb"})):
        terminal = Terminal("watch", *login, *options, environment=environment)
        eventually(lambda terminal=terminal: terminal.text.count("\n") >= 2)
        assert terminal.ended(signal.SIGINT) == 0
        assert "\x1b" not in terminal.text


def test_a_live_view_that_cannot_be_had_leaves_one_sentence(server):
    target = f"alice@127.0.0.1:{server.port}"
    wrong = Terminal("watch", target)
    assert wrong.process.wait(SECONDS) == 1
    eventually(lambda: wrong.text == "clockd: the name and the secret do not fit (as alice)\r\n")
    absent = Terminal("watch", target, "--feed", "other", "--secret-file", str(server.secret_file))
    assert absent.process.wait(SECONDS) == 1
    eventually(lambda: absent.text.endswith("clockd: there is no feed other; those that you may read: time\r\n"))
    assert LEAVE in absent.text


def test_check_says_whether_this_host_s_clock_can_be_right(server):
    done = watch(server, "--check")
    target = rf"alice@127\.0\.0\.1:{server.port}"
    assert (done.returncode, done.stderr) == (0, "")
    between = r"between \d+\.\d+ ms (ahead|behind) and \d+\.\d+ ms (behind|ahead of)"
    assert re.fullmatch(rf"this host's clock is {between} {target}: it may be right\n", done.stdout)
    done = watch(server, "--check", "--utc")
    if done.returncode == 2:
        assert done.stderr.endswith("does not say how far its clock is from UTC\n")
    else:
        assert f" UTC, by alice@127.0.0.1:{server.port}: it may be right\n" in done.stdout


def test_check_finds_a_clock_that_is_wrong(server):
    code = """
        import sys, time
        right = time.time
        time.time = lambda: right() - 5
        from clockd.__main__ import main
        main()
    """
    words = ("watch", f"alice@127.0.0.1:{server.port}", "--check", "--secret-file", str(server.secret_file))
    done = run(sys.executable, "-c", textwrap.dedent(code), *words)
    assert (done.returncode, done.stderr) == (1, "")
    assert re.match(r"this host's clock is between [45]\.\d+ and 5\.\d+ s behind alice@.*: it is wrong\n", done.stdout)
    done = run(sys.executable, "-c", textwrap.dedent(code), *words, "--within", "6")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(": that is within the 6 s allowed\n")


def test_check_that_finds_out_nothing_exits_2(server):
    says(watch(server, "--check", secret="wrong"), 2, "the name and the secret do not fit (as alice)")
    nobody = {"CLOCKD_SECRET": "x"}
    says(clockd("watch", "alice@127.0.0.1:1", "--check", environment=nobody), 2, "does clockd listen there?")
    metrics = clockd("watch", f"alice@{server.metrics}", "--check", environment=nobody)
    says(metrics, 2, "is it clockd that listens there?")
    says(watch(server, "--check", "--json"), 2, "--check looks at no feed")
    says(watch(server, "--check", "--feed", "time"), 2, "--check looks at no feed")
    says(watch(server, "--utc"), 2, "--utc and --within go with --check")
    says(watch(server, "--check", "--within", "nan"), 2, "a finite number of seconds, 0 or more")
    says(watch(server, "--check", "--within", "-1"), 2, "a finite number of seconds, 0 or more")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = ("watch", f"alice@127.0.0.1:{silent.getsockname()[1]}", "--check")
        program = Program(*CLOCKD, *words, environment={**os.environ, **nobody})
        silent.settimeout(SECONDS)
        connection, _ = silent.accept()
        with connection:
            assert program.end() == 2
        eventually(lambda: program.output == "clockd: ended by a signal before it was done")


def test_check_does_not_wait_long_for_a_server_that_is_silent(server):
    server.process.send_signal(signal.SIGSTOP)
    try:
        done = watch(server, "--check")
    finally:
        server.process.send_signal(signal.SIGCONT)
    says(done, 2, f"no session with alice@127.0.0.1:{server.port} within 5 s: is it clockd that listens there?")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    "words",
    [("watch", "--check"), ("watch", "--count", "1"), ("top", "--once"), ("publish", "load", "1"), ("publish",)],
)
def test_what_a_signal_ends_before_it_was_done_was_not_done(number, words):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"alice@127.0.0.1:{silent.getsockname()[1]}"
        program = Program(*CLOCKD, words[0], target, *words[1:], environment={**os.environ, "CLOCKD_SECRET": "x"})
        silent.settimeout(SECONDS)
        connection, _ = silent.accept()
        with connection:
            assert program.end(number) == (2 if "--check" in words else 1)
        eventually(lambda: program.lines[-1] == "clockd: ended by a signal before it was done")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_check_ended_when_it_is_about_to_begin_exits_2(number):
    code = """
        import signal, sys
        from twisted.internet import reactor
        from clockd.__main__ import main

        reactor.callWhenRunning(signal.raise_signal, int(sys.argv.pop()))
        main()
    """
    words = ("watch", "alice@127.0.0.1:1", "--check", str(int(number)))
    nobody = {**os.environ, "CLOCKD_SECRET": "x"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *words],
        env=nobody,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    says(done, 2, "ended by a signal before it was done")


def test_watch_ends_quietly_when_nobody_reads(server):
    words = [*CLOCKD, "watch", f"alice@127.0.0.1:{server.port}", "--period", "0.02"]
    secret = {**os.environ, "CLOCKD_SECRET": server.secret}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=secret) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_watch_is_ended_by_a_signal(server, number):
    program = Program(*(*CLOCKD, "watch", f"alice@127.0.0.1:{server.port}", "--secret-file", str(server.secret_file)))
    program.line("arrived")
    assert program.end(number) == 0
    eventually(lambda: server.scrape()["clockd_avatars"] == 0)


def test_demo_shows_ticks_and_lines_to_paste(tmp_path):
    demo = Program(*CLOCKD, "demo", environment={**os.environ, "TMPDIR": str(tmp_path)})
    pasted = demo.line("watch demo@").split()
    demo.line("arrived")
    secret = re.search(r"^  CLOCKD_SECRET=(\S+) \\$", demo.output, re.MULTILINE)[1]
    done = clockd("watch", pasted[-3], "--period", "0.05", "--count", "2", environment={"CLOCKD_SECRET": secret})
    assert len(done.stdout.splitlines()) == 2
    another = Program(*CLOCKD, "demo", environment={**os.environ, "TMPDIR": str(tmp_path)})
    another.line("arrived")
    assert another.end(signal.SIGINT) == 0
    assert demo.end(signal.SIGINT) == 0
    assert demo.lines[-1] == "stopped"
    assert list(tmp_path.iterdir()) == []


def test_demo_ends_quietly_when_nobody_reads(tmp_path):
    script = f"exec 3>&1; set -o pipefail; {shlex.join(CLOCKD)} demo 2>&3 | head -n 1"
    done = run("bash", "-c", script, environment={"TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")
    assert list(tmp_path.iterdir()) == []


NOT_READY = '{"ready": false, "text": "starting", "remark": %s}'


@pytest.mark.parametrize(
    ("status", "body", "text", "code"),
    [
        (200, "ok", "ok", 0),
        (503, "down\nfor good", "down", 1),
        (503, NOT_READY % "null", "starting", 1),
        (503, NOT_READY % '"store: full"', "starting; store: full", 1),
        (503, "[1]", "[1]", 1),
        (503, "[" * 4000, "[[[", 1),
        (503, "\x1b]0;x\x07 hi", r"\x1b]0;x\x07 hi", 1),
        (200, r'{"text": "a\ud800", "remark": null}', r"a\ud800", 0),
    ],
)
def test_health_says_what_readyz_says(status, body, text, code):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode() if self.path == "/readyz" else b"another path")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as stub:
        Thread(target=stub.handle_request).start()
        address = f"tcp:{stub.server_port}:interface=127.0.0.1"
        done = clockd("health", environment={"CLOCKD_METRICS_LISTEN": address})
    assert done.returncode == code
    assert (done.stderr if code else done.stdout).endswith(f"{text}\n")


def test_health_says_what_a_server_is(server):
    done = clockd("health", f"http://{server.metrics}/readyz")
    assert (done.returncode, done.stdout) == (0, "ready\n")


def test_health_that_could_not_be_told_is_one_sentence(server):
    script = f"exec {shlex.join(CLOCKD)} health http://{server.metrics}/readyz > /dev/full"
    says(run("bash", "-c", script), 1, "No space left on device")


@pytest.mark.parametrize(
    ("first", "again"),
    [(b"HTTP/1.1 200 OK\r\nX: ", b"y"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"HTTP/1.1 200 OK\r\n\r\n", b"z")],
)
def test_health_waits_no_longer_for_an_answer_that_never_ends(first, again):
    """A byte now and then is no answer: 1.5 s are for all of it."""
    with socket.create_server(("127.0.0.1", 0)) as stub:
        probe = Program(*CLOCKD, "health", f"http://127.0.0.1:{stub.getsockname()[1]}/readyz")
        peer, _ = stub.accept()
        with peer, suppress(BrokenPipeError, ConnectionResetError):
            peer.sendall(first)
            while probe.process.poll() is None:
                peer.sendall(again)
                time.sleep(0.1)
    assert probe.wait() == 1
    assert "no answer within 1.5 s; is it running there?" in probe.output


def test_twist_starts_the_same_service(tmp_path, users):
    file = tmp_path / "clockd.toml"
    file.write_text(f"server.listen = ['{FREE}']\nmetrics.listen = '{FREE}'\nauth.users = '{users}'\n")
    twist = Program(*TWIST, "--config", str(file))
    twist.line("Starting reactor")
    assert twist.end() in {0, -signal.SIGTERM}
    assert "Traceback" not in twist.output


def test_twist_names_what_is_wrong(tmp_path, users, server):
    file = tmp_path / "clockd.toml"
    file.write_text("[limits]\nmin_perod = 1\n")
    unknown = run(*TWIST, "--config", str(file))
    assert unknown.returncode == 1
    assert "limits.min_perod: no such key" in unknown.stdout + unknown.stderr
    file.write_text(f"server.listen = ['tcp:{server.port}:interface=127.0.0.1']\nauth.users = '{users}'\n")
    taken = run(*TWIST, "--config", str(file))
    assert taken.returncode == 1
    assert "Address already in use" in taken.stderr
    assert "Traceback" not in taken.stdout + taken.stderr
