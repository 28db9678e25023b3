"""Real processes for tests: a clockd, and programs beside it, started on free ports and ended by their process id."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clockd.users import add_account

HERE = Path(__file__).parent
CLOCKD = [sys.executable, "-m", "clockd"]
FREE = "tcp:0:interface=127.0.0.1"
SECONDS = 60
"""How long anything may take that takes a moment: what takes longer hangs, whatever else the machine has to do."""

LONG_SECONDS = 120
"""How long anything may take that builds, compiles, tests or does many things."""


def without_coverage():
    """Return an environment for processes that are not ours, or whose timing is looked at: coverage slows them down."""
    return {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}


def run(*command, environment=None, stdin=None, cwd=None, seconds=SECONDS):
    """Run a program to its end and return what it did."""
    environment = {**os.environ, **(environment or {})}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, env=environment, input=stdin, cwd=cwd, check=False
    )


def clockd(*arguments, **options):
    """Run a clockd command to its end."""
    return run(*CLOCKD, *arguments, **options)


def steppable(folder):
    """Return an environment for a process whose wall clock can be stepped, and what sets how many seconds it is ahead.

    Clocks that nobody steps go on as they are.
    """
    places = ("usr/lib/*/faketime/libfaketime.so.1", "usr/lib/faketime/libfaketime.so.1")
    found = [str(path) for place in places for path in Path("/").glob(place)]
    if not found:
        pytest.skip("there is no libfaketime here; it comes with Debian's package faketime")
    file = folder / "ahead"

    def step(ahead):
        new = folder / "ahead.new"
        new.write_text(f"{ahead:+.3f}\n")
        new.replace(file)

    step(0.0)
    environment = {
        "LD_PRELOAD": found[0],
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    return without_coverage() | environment, step


def eventually(condition, seconds=SECONDS):
    """Wait until a condition holds and return what it returned."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"did not happen within {seconds} s: {condition}"
        time.sleep(0.05)


def free_port():
    """Return a port that was free a moment ago, and that the kernel gives to nobody who asks for just any."""
    with socket.socket() as probe:
        while True:
            port = random.randrange(10_000, 32_768)
            with suppress(OSError):
                probe.bind(("", port))
                return port


STARTED = []
"""Every program that a test has started; what a failed test leaves running is ended after it."""


class Program:
    """A program that runs beside the test; its output is collected line by line.

    Args:
        command: What to run.
        environment: All of its environment, or None for the test's own.
        stdin: Its standard input; with `subprocess.PIPE` it can be asked something.
    """

    def __init__(self, *command, environment=None, stdin=subprocess.DEVNULL):
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=stdin,
            text=True,
            env=environment,
        )
        STARTED.append(self)
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def ask(self, question, seconds=SECONDS):
        """Write it a line, and return the next line of JSON that it prints."""
        before = len(self.lines)
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()
        eventually(lambda: len(self.lines) > before, seconds)
        return json.loads(self.lines[before])

    def line(self, text, seconds=SECONDS):
        """Wait for a line that has a text in it, and return it."""

        def found():
            assert self.process.poll() is None or text in self.output, f"ended without {text!r}: {self.output}"
            return next((line for line in self.lines if text in line), None)

        return eventually(found, seconds)

    @property
    def output(self):
        return "\n".join(self.lines)

    def end(self, number=signal.SIGTERM, seconds=SECONDS):
        """Send a signal, unless it has ended; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds=SECONDS):
        """Wait for its end and return its exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(SECONDS)
            raise
        finally:
            self._reader.join(SECONDS)
            self.process.stdout.close()
            if self.process.stdin is not None:
                self.process.stdin.close()
        return code

    def result(self, seconds=SECONDS):
        """Wait for its end and return its last line, which is JSON."""
        code = self.wait(seconds)
        assert code == 0, self.output
        return json.loads(self.lines[-1])


class Server(Program):
    """A `clockd serve` on free ports, with one account, `alice`.

    Args:
        folder: Where its files are.
        arguments: More of its command line.
        environment: All of its environment, or None for the test's own.
        port, metrics: Ports to listen on; 0 takes free ones.
    """

    def __init__(self, folder, *arguments, environment=None, port=0, metrics=0):
        self.users = folder / "users"
        if not self.users.exists():
            self.secret = add_account(self.users, "alice")
            self.secret_file = folder / "secret"
            self.secret_file.write_text(self.secret)
        super().__init__(
            *CLOCKD,
            *("serve", "--log-format", "json", "--users", str(self.users)),
            *("--listen", f"tcp:{port}:interface=127.0.0.1", "--metrics-listen", f"tcp:{metrics}:interface=127.0.0.1"),
            *arguments,
            environment=environment,
        )
        start = json.loads(self.line("pushes the time"))
        self.port = int(start["brokers"].rpartition(":")[2])
        self.metrics = start["metrics"]

    def get(self, path):
        """Return the body of an HTTP answer."""
        with urllib.request.urlopen(f"http://{self.metrics}{path}", timeout=SECONDS) as answer:
            return answer.read().decode()

    def scrape(self):
        """Return the value of each sample by its name with its labels' values, as in `clockd_pushes_total time`."""
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(self.get("/metrics"))
            for sample in family.samples
        }

    def assert_empty(self):
        """Check that nobody is there any more."""
        states = ("pending", "authenticated")
        eventually(lambda: sum(self.scrape()[f"clockd_connections {state}"] for state in states) == 0)
        assert self.scrape()["clockd_avatars"] == 0

    def stop(self, number=signal.SIGTERM):
        """End it in good order; nothing that happened to it may have been an error of its own."""
        try:
            assert self.scrape()["clockd_unhandled_errors_total"] == 0, self.output
        finally:
            code = self.end(number)
        assert code == 0, self.output
        assert "Traceback" not in self.output

    def subscribers(self, seconds, periods):
        """Start stock clients, one a period, that count what they get for so long; see `subscribers.py`."""
        script = str(HERE / "subscribers.py")
        words = [str(self.port), "alice", self.secret, str(seconds), json.dumps(periods)]
        return Program(sys.executable, script, *words, environment=without_coverage())
