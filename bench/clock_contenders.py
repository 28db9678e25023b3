"""Who tells how wrong this machine's clock is, and through what network: servers, relays and clients as processes.

Rules of this module: what a client found is a list of offsets and their bounds, in seconds; the true offset is 0, since
all of them read the same clock.
"""

import getpass
import json
import re
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import measure
from bench.contenders import ACCOUNT, ClockdAsking
from bench.ntp_client import SPACING, STAGES, answers
from bench.processes import SECONDS, Cores, Program, free_port

Found = list[tuple[float, float]]
"""Offsets, each with its bound."""

Look = tuple[float, float, float, bool]
"""What `bench.clock_client` prints: an age, an offset, its bound, and whether the interval was right."""

ANEW, ANEW_SECONDS = 4, 1.0
"""Clients of clockd that connect again and again, and how long each connection lasts."""

SETTLED_SECONDS = 0.5
"""Since a connection was asked for; by then a client has made its first exchanges."""

STAYING, STAYED_SECONDS = 4, 2.0
"""Clients of clockd that stay connected; since when, after a connection was asked for, they are looked at."""

RUNS = 64
"""Clients of RFC 5905, and their offsets."""

CHRONYD = "chronyd"

STEP = 0.25
"""Seconds between the starts of two runs of chronyd."""

DELAY, DISPERSION = 12, 13
"""Where in a line of chronyd's `measurements.log` these are."""

WRONG_BY = re.compile(r"System clock wrong by (-?[\d.]+) seconds")


@dataclass(frozen=True)
class Network:
    """What is between a client and its server.

    Attributes:
        name: What it is called on the command line.
        title: What it is called in the table.
        there: Seconds to the server; None for no relay.
        back: Seconds back.
        jitter: The mean of what chance adds to each, in seconds.
        seed: Of chance.
    """

    name: str
    title: str
    there: float | None = None
    back: float | None = None
    jitter: float = 0.0
    seed: int = 1


NETWORKS = (
    Network("loopback", "loopback, no relay"),
    Network("symmetric", "10 ms each way", 0.010, 0.010),
    Network("asymmetric", "5 ms there, 25 ms back", 0.005, 0.025),
    Network("jittery", "5 ms and an exponential 10 ms each way", 0.005, 0.005, 0.010),
)


@dataclass(frozen=True)
class Knowledge:
    """What clients of one kind found on one network.

    Attributes:
        title: What they are called.
        runs: How many connections, or runs of a program, there were.
        seconds: How long after its start a client knew that, in the median.
        found: What they found.
        wrong: How often the truth was not within what they gave; None if they gave no bound of the offset.
    """

    title: str
    runs: int
    seconds: float
    found: Found
    wrong: int | None


class Place:
    """Where processes are started, and ended.

    Args:
        folder: Where their files go.
        cores: Where they run.
    """

    def __init__(self, folder: Path, cores: Cores) -> None:
        self.folder = folder
        self.cores = cores

    @contextmanager
    def programs(self, commands: list[list[object]]) -> Iterator[list[Program]]:
        """Start modules of ours with their arguments, whose standard input and output are pipes; end them."""
        programs = []
        try:
            for module, *arguments in commands:
                command = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
                programs.append(Program(command, self.folder / f"{module}.log", self.cores.load, pipes=True))
            yield programs
        finally:
            for program in programs:
                program.stop()

    @contextmanager
    def clockd(self) -> Iterator[ClockdAsking]:
        """Start clockd; end it."""
        server = ClockdAsking(self.folder, self.cores, 1, 1.0, 1)
        try:
            server.start()
            yield server
        finally:
            server.stop()

    @contextmanager
    def chronyd(self) -> Iterator[int | None]:
        """Start a server of chronyd's that takes this machine's clock for right; return its port, and end it."""
        if not measure.find(CHRONYD):
            yield None
            return
        port = free_port()
        flags = ("-x", "-U", "-d", "allow 127.0.0.1", "bindaddress 127.0.0.1", "local stratum 1", f"port {port}")
        program = Program(self.chronyd_command("server", *flags), self.folder / "chronyd.log", self.cores.server)
        try:
            if not answers(port, SECONDS):
                raise RuntimeError(f"chronyd does not answer:\n{program.log()}")
            yield port
        finally:
            program.stop()

    def chronyd_command(self, name: str, *flags: str) -> list[str]:
        """Return a command that starts chronyd and leaves what is the system's alone; its name is its own."""
        own = ("cmdport 0", "bindcmdaddress /", f"pidfile {self.folder / name}.pid")
        return [measure.find(CHRONYD) or CHRONYD, "-u", getpass.getuser(), *flags, *own]

    @contextmanager
    def relay(self, network: Network, tcp: int, udp: int | None) -> Iterator["Relayed"]:
        """Have connections and datagrams for two ports delayed; without delays they go straight there."""
        if network.there is None:
            yield Relayed(tcp, udp, None)
            return
        near = Relayed(free_port(), None if udp is None else free_port(), None)
        ports = ["--tcp", near.tcp, tcp, *([] if udp is None else ["--udp", near.udp, udp])]
        delays = [f"--{name}={getattr(network, name)}" for name in ("there", "back", "jitter", "seed")]
        with self.programs([["relay", *delays, *ports]]) as (program,):
            near.program = program.listens(near.tcp)
            yield near


@dataclass
class Relayed:
    """Where the servers are reached through a network.

    Attributes:
        tcp: The port of clockd.
        udp: The port of chronyd.
        program: The relay, or None.
    """

    tcp: int
    udp: int | None
    program: Program | None

    def late(self) -> dict[str, list[float]]:
        """End the relay; return how many seconds late it was with each message, by its way."""
        if self.program is None:
            return {}
        self.program.process.stdin.close()
        return answer(self.program)


def answer(program: Program, patience: float = SECONDS) -> Any:
    """Return what a program prints, which is a line of JSON."""
    silent = not select.select([program.process.stdout], [], [], patience)[0]
    line = b"" if silent else program.process.stdout.readline()
    if not line:
        raise RuntimeError(f"{program.process.args} {'is silent' if silent else 'ended'}:\n{program.log()}")
    return json.loads(line)


def begin(programs: list[Program]) -> None:
    """Have programs begin that wait for a line."""
    for program in programs:
        program.process.stdin.write(b"\n")
        program.process.stdin.flush()


def clockd_clients(place: Place, server: ClockdAsking, port: int, seconds: float) -> list[Knowledge]:
    """Have clients of clockd connect again and again, and others stay connected."""
    login = (port, ACCOUNT, server.secret)
    commands = [["clock_client", *login, ANEW_SECONDS, seconds]] * ANEW
    commands += [["clock_client", *login, seconds, seconds]] * STAYING
    with place.programs(commands) as programs:
        begin(programs)
        told = [answer(program, seconds + SECONDS) for program in programs]
    anew, stayed = ([looks for sessions in some for looks in sessions] for some in (told[:ANEW], told[ANEW:]))
    if not all(anew) or not all(stayed):
        raise RuntimeError("a client of clockd knew nothing of the server's clock to its end")
    first = [looks[:1] for looks in anew]
    return [
        clockd_knows("first interval", first, median(look[0] for (look,) in first), 0.0),
        clockd_knows("the first exchanges", anew, SETTLED_SECONDS, SETTLED_SECONDS),
        clockd_knows(f"connected for {seconds:.0f} s", stayed, STAYED_SECONDS, STAYED_SECONDS),
    ]


def clockd_knows(what: str, sessions: list[list[Look]], seconds: float, age: float) -> Knowledge:
    """Return what clients of clockd knew from an age on."""
    looks = [look for session in sessions for look in session if look[0] >= age]
    found = [(offset, bound) for _, offset, bound, _ in looks]
    return Knowledge(f"clockd, {what}", len(sessions), seconds, found, sum(not right for *_, right in looks))


def ntp_clients(place: Place, port: int) -> list[Knowledge]:
    """Have clients of RFC 5905 fill their clock filters, and start chronyd again and again meanwhile."""
    with place.programs([["ntp_client", port, RUNS]]) as (program,):
        begin([program])
        seconds = SPACING * (STAGES - 1)
        chronyd = chronyd_runs(place, port, seconds)
        rfc: Found = [(offset, bound) for offset, bound in answer(program)]
    wrong = sum(abs(offset) > bound for offset, bound in rfc)
    return [chronyd, Knowledge("RFC 5905, our own: eight exchanges", len(rfc), seconds, rfc, wrong)]


def chronyd_runs(place: Place, port: int, seconds: float) -> Knowledge:
    """Start `chronyd -Q` again and again for so many seconds, and wait for all of them."""
    end = time.monotonic() + seconds
    runs: list[ChronydRun] = []
    try:
        while time.monotonic() < end or not all(run.ended() for run in runs):
            if time.monotonic() < end:
                runs.append(ChronydRun(place, port, f"run-{port}-{len(runs)}"))
            time.sleep(STEP)
            for run in runs:
                run.ended()
        took = median(run.took for run in runs)
        return Knowledge("chronyd -Q: three exchanges", len(runs), took, [run.found() for run in runs], None)
    finally:
        for run in runs:
            run.program.stop()


class ChronydRun:
    """One run of `chronyd -Q`.

    Args:
        place: Where it runs.
        port: Where it reaches the server.
        name: Its own.

    Attributes:
        program: It.
        took: Seconds until it had ended.
    """

    def __init__(self, place: Place, port: int, name: str) -> None:
        self._logs = place.folder / name
        asked = ("-Q", "-U", "-t", f"{SECONDS}", f"server 127.0.0.1 port {port} iburst")
        command = place.chronyd_command(name, *asked, f"logdir {self._logs}", "log measurements")
        self.program = Program(command, place.folder / f"{name}.log", place.cores.load)
        self.took = 0.0
        self._begun = time.monotonic()

    def ended(self) -> bool:
        """Whether it has ended."""
        if self.program.process.poll() is not None and not self.took:
            self.took = time.monotonic() - self._begun
        return self.took > 0

    def found(self) -> tuple[float, float]:
        """Return how wrong it holds the clock to be, and the bound of its best exchange: of its result it prints none.

        That bound is half the delay and the dispersion, as it writes them down for each exchange.
        """
        said = WRONG_BY.search(self.program.log())
        try:
            lines = (self._logs / "measurements.log").read_text().splitlines()
        except OSError:
            lines = []
        exchanges = [fields for fields in map(str.split, lines) if len(fields) > DISPERSION and fields[0][:1].isdigit()]
        if said is None or not exchanges:
            raise RuntimeError(f"chronyd -Q found nothing:\n{self.program.log()}")
        return float(said[1]), min(float(each[DELAY]) / 2 + float(each[DISPERSION]) for each in exchanges)
