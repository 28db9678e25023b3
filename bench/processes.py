"""The processes of a benchmark: each on the core it is given, ended by its process id."""

import fcntl
import json
import os
import re
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120
"""How long a process may take to start, to answer or to end."""


class Cores(NamedTuple):
    """Where processes run; an empty set is anywhere.

    Attributes:
        server: The server under test, alone.
        load: The load generator, the publisher and the benchmark itself.
    """

    server: frozenset[int] = frozenset()
    load: frozenset[int] = frozenset()

    def __str__(self) -> str:
        if not self.server:
            return "processes are not pinned to cores"
        return f"the server on core {min(self.server)} alone, load generator and publisher on core {min(self.load)}"


def two_cores() -> Cores:
    """Return a core for the server and another one for everything else, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    return Cores(frozenset(cores[-1:]), frozenset(cores[:1])) if len(cores) > 1 else Cores()


@contextmanager
def alone() -> Iterator[None]:
    """Keep other benchmarks on this machine waiting, so that two do not measure each other."""
    with (Path(tempfile.gettempdir()) / f"clockd-bench-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """A program that runs beside the benchmark.

    Args:
        command: What to run.
        log: Where its standard error goes, and its standard output unless that is a pipe.
        cores: Where it runs; it inherits them, since some programs look once, at their start.
        pipes: Whether its standard input and output are ours.
        folder: Where it is started; Python looks for modules there first.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        cores: frozenset[int],
        pipes: bool = False,
        folder: Path = ROOT,
    ) -> None:
        self._log = log
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores or before)
        try:
            with log.open("ab") as stream:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipes else stream,
                    stderr=stream,
                    cwd=folder,
                )
        finally:
            os.sched_setaffinity(0, before)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def listens(self, port: int) -> "Program":
        """Wait until the port is listened on, without connecting to it, and return the program."""
        wanted = re.compile(rf":{port:04X} 0+:0000 0A ")
        end = time.monotonic() + SECONDS
        while not wanted.search(Path("/proc/net/tcp").read_text()):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.process.args} does not listen:\n{self.log()}")
            time.sleep(0.02)
        return self

    def log(self) -> str:
        """Return the end of what it wrote."""
        return self._log.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """End it; idempotent."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


class LoadGenerator(Program):
    """A load generator.

    Args:
        arguments: Its command line, see `python -m bench.load --help`.
        log: Where its standard error goes.
        cores: Where it runs.

    Attributes:
        login: What it said when all subscribers were logged in.
    """

    def __init__(self, arguments: list[str], log: Path, cores: frozenset[int]) -> None:
        super().__init__([sys.executable, "-m", "bench.load", *arguments], log, cores, pipes=True)
        self.login = self._line()

    def start(self) -> None:
        """Have it count from zero."""
        self._tell("start")

    def count(self) -> dict[str, Any]:
        """Return what it has counted since `start`."""
        return self._tell("stop")

    def change(self, word: str) -> None:
        """Have clients of clockd's feeds be subscribed to nothing, `none`, to the `time`, or to their `feeds`."""
        self._tell(word)

    def _tell(self, word: str) -> dict[str, Any]:
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> dict[str, Any]:
        silent = not select.select([self.process.stdout], [], [], SECONDS)[0]
        line = b"" if silent else self.process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"the load generator {'is silent' if silent else 'ended'}:\n{self.log()}")
        value: dict[str, Any] = json.loads(line)
        return value
