"""How well clients know a server's clock: clockd's, chronyd's, and one of RFC 5905, through the same networks.

All processes run on one machine and read one clock, so that the true offset is 0. Between a client and its server is a
relay that delays what it passes on, see `bench.relay`: over TCP for clockd, over UDP for the others, whose server is
chronyd's, with delays of the same model and the same seeds. How well a server knows the time of the world is set aside:
what is judged is what a client knows of its server's clock.

Rules of this module: offsets and bounds are seconds until they are printed; clockd's clients and the others are looked
at one after the other.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import measure
from bench.clock_contenders import CHRONYD, NETWORKS, Knowledge, Network, Place, clockd_clients, ntp_clients
from bench.compare import machine_lines
from bench.contenders import ClockdAsking
from bench.figures import MICRO, MILLI, Figure
from bench.processes import alone, two_cores

OFFSET_LIMIT, BOUND_LIMIT = 200.0, 1000.0
"""What clockd's client has to reach over loopback at the 99th percentile, in microseconds."""


@dataclass(frozen=True)
class Row:
    """What is said about one kind of clients on one network.

    Attributes:
        title: What they are called.
        runs: How many connections, or runs of a program, there were.
        seconds: How long after its start a client knew so much, in the median.
        looks: How often one was looked at.
        offset_p50: Of the offset that a client found, without its sign.
        offset_p99: The 99th percentile.
        bound_p50: Of the bound that it gave.
        bound_p99: The 99th percentile.
        wrong: Looks at which the truth was not within what it gave; None if it gave no bound of the offset.
    """

    title: str
    runs: int
    seconds: float
    looks: int
    offset_p50: float
    offset_p99: float
    bound_p50: float
    bound_p99: float
    wrong: int | None

    def __str__(self) -> str:
        figures = (self.offset_p50, self.offset_p99, self.bound_p50, self.bound_p99)
        true = "" if self.wrong is None else f"{100 * (1 - self.wrong / self.looks):9.2f} %"
        return (
            f"  {self.title:<34}{self.runs:5}{self.looks:8,}{self.seconds:9.2f}"
            f"{''.join(f'{MILLI * each:12.3f}' for each in figures)}{true}"
        )


HEADER = (
    f"  {'':<34}{'runs':>5}{'looks':>8}{'after, s':>9}"
    f"{'|offset|, ms: p50, p99':>24}{'bound, ms: p50, p99':>24}{'true':>9}"
)


def row(knowledge: Knowledge) -> Row:
    """Sum up what was found."""
    offsets, bounds = sorted(abs(offset) for offset, _ in knowledge.found), sorted(b for _, b in knowledge.found)
    return Row(
        title=knowledge.title,
        runs=knowledge.runs,
        seconds=knowledge.seconds,
        looks=len(knowledge.found),
        offset_p50=median(offsets),
        offset_p99=p99(offsets),
        bound_p50=median(bounds),
        bound_p99=p99(bounds),
        wrong=knowledge.wrong,
    )


def p99(ordered: list[float]) -> float:
    """Return the least of them that 99 % are not beyond."""
    return ordered[math.ceil(0.99 * len(ordered)) - 1]


def relay_row(way: str, late: list[float]) -> dict[str, float | str]:
    """Sum up how late a relay was on one way."""
    ordered = sorted(late)
    return {"way": way, "messages": len(late), "p50": median(late), "p99": p99(ordered), "most": ordered[-1]}


def looked_at(
    place: Place, network: Network, clockd: ClockdAsking, ntp: int | None, seconds: float
) -> tuple[list[Row], list[dict[str, float | str]]]:
    """Have all clients look at their servers through a network; return what they found, and how the relay was."""
    with place.relay(network, clockd.port, ntp) as near:
        found = clockd_clients(place, clockd, near.tcp, seconds)
        if near.udp is not None:
            found += ntp_clients(place, near.udp)
        return list(map(row, found)), [relay_row(way, late) for way, late in near.late().items()]


def figures(rows: dict[str, list[Row]]) -> Iterator[Figure]:
    """Yield what is asked for of clockd's clients, those with one exchange set aside over loopback."""
    ours = {name: [each for each in some if each.title.startswith("clockd")] for name, some in rows.items()}
    if "loopback" in ours:
        settled = ours["loopback"][1:]
        offset, bound = max(each.offset_p99 for each in settled), max(each.bound_p99 for each in settled)
        yield Figure("loopback: |offset|, p99", MICRO * offset, "µs", OFFSET_LIMIT)
        yield Figure("loopback: bound, p99", MICRO * bound, "µs", BOUND_LIMIT)
    yield Figure(
        "intervals without the true time", sum(each.wrong or 0 for some in ours.values() for each in some), "", 0
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    names = [network.name for network in NETWORKS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=15, help="how long clockd's clients are looked at on each")
    parser.add_argument("--seed", type=int, default=1, help="of what chance adds to the delays")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every row")


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write what is asked for."""
    cores = two_cores()
    os.sched_setaffinity(0, cores.load or os.sched_getaffinity(0))
    machine = measure.machine() | chrony_version()
    print("\n".join([str(cores), *machine_lines(machine)]), flush=True)
    rows: dict[str, list[Row]] = {}
    relays: dict[str, list[dict[str, float | str]]] = {}
    with (
        alone(),
        tempfile.TemporaryDirectory(prefix="clockd-bench-") as folder,
        (place := Place(Path(folder), cores)).clockd() as clockd,
        place.chronyd() as ntp,
    ):
        if ntp is None:
            print(f"{CHRONYD} is not installed: there is nothing beside clockd")
        print(f"\n{HEADER}")
        for network in (each for each in NETWORKS if each.name in options.only):
            print(f"{network.title}", flush=True)
            try:
                found = looked_at(place, dataclasses.replace(network, seed=options.seed), clockd, ntp, options.seconds)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                sys.exit(f"{network.title}: failed: {error}")
            rows[network.name], relays[network.name] = found
            print("\n".join([*map(str, found[0]), *map(relay_line, found[1])]), flush=True)
    asked = list(figures(rows))
    print("\n".join(["", *map(str, asked)]))
    if options.json:
        document = {
            "machine": machine,
            "cores": str(cores),
            "seed": options.seed,
            "networks": {
                name: {"rows": list(map(dataclasses.asdict, some)), "relay": relays[name]}
                for name, some in rows.items()
            },
            "figures": [dataclasses.asdict(figure) | {"verdict": figure.verdict} for figure in asked],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def relay_line(each: dict[str, float | str]) -> str:
    """Say how late a relay was."""
    late = ", ".join(f"{name} {MICRO * each[name]:.0f}" for name in ("p50", "p99", "most"))
    return f"  the relay's own error {each['way']}, in µs over {each['messages']:,} messages: {late}"


def chrony_version() -> dict[str, str]:
    """Return the version of chrony, if it is installed."""
    path = measure.find(CHRONYD)
    said = path and subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\S+)", said or "")
    return {"chrony": version[1]} if version else {}
