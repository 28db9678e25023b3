"""One run of the comparison: contenders in turn, several rounds, a table, JSON and a chart."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import measure, stock
from bench.chart import Bar, bar_chart
from bench.contenders import CONTENDERS, GROUP_SIZE, Bare, Clockd, Contender
from bench.processes import Cores, LoadGenerator, alone, two_cores

QUIET = 0.05
"""CPU time in a second that everything else on the machine may use while something is measured."""

ARRIVED = 0.98
"""A contender that brings a smaller share of its messages to the subscribers falls behind."""

FULL = 0.85
"""CPU time in a second from which a process on a core of its own counts as being at its limit."""


@dataclass(frozen=True)
class Shape:
    """What is asked of every contender, and how long it is looked at.

    Attributes:
        subscribers: How many connections there are.
        rate: Messages a second to each of them.
        group_size: How many are served together.
        warmup: Seconds before the measurement.
        seconds: Seconds of the measurement.
        cores: Where processes run.
    """

    subscribers: int
    rate: float
    group_size: int
    warmup: float
    seconds: float
    cores: Cores


@dataclass(frozen=True)
class Measurement:
    """One contender in one round.

    Attributes:
        push_microseconds: CPU time of the server for a message that arrived.
        server_share: CPU time of the server in a second.
        arrived: Messages that arrived, of those that should have.
        message_bytes: Bytes that arrived, for a message.
        fewest: Messages to the subscriber that got the fewest, of those that should have arrived there.
        load_share: CPU time of the load generator in a second.
        helper_share: CPU time in a second of the publisher and the benchmark itself.
        other_share: CPU time in a second of everything else on the machine.
        stolen_share: CPU time in a second that the hypervisor kept.
        logins_per_second: Subscribers that were logged in a second.
        age_seconds: Percentiles of the time from stamp to arrival.
        cipher: What TLS agreed on.
        server_bytes: What the server held, shared memory by its share.
    """

    push_microseconds: float
    server_share: float
    arrived: float
    message_bytes: float
    fewest: float
    load_share: float
    helper_share: float
    other_share: float
    stolen_share: float
    logins_per_second: float
    age_seconds: dict[str, float]
    cipher: str
    server_bytes: int


def measured(kind: type[Contender], shape: Shape, tries: int) -> Measurement:
    """Measure a contender, and again if something else was busy on the machine; return the quietest measurement."""
    found = [measured_once(kind, shape)]
    while len(found) < tries and found[-1].other_share > QUIET:
        found.append(measured_once(kind, shape))
    return min(found, key=lambda measurement: measurement.other_share)


def measured_once(kind: type[Contender], shape: Shape) -> Measurement:
    """Start a contender, load it, look at it and stop it."""
    with alone(), tempfile.TemporaryDirectory(prefix="clockd-bench-") as folder:
        contender = kind(
            Path(folder), shape.cores, shape.subscribers, 1 / (shape.rate * kind.rate_share), shape.group_size
        )
        load = None
        try:
            contender.start()
            load = LoadGenerator(contender.load_arguments(), Path(folder) / "load.log", shape.cores.load)
            contender.begin()
            time.sleep(shape.warmup)
            return window(contender, load, shape)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\nthe server's log:\n{contender.log()}") from error
        finally:
            if load is not None:
                load.stop()
            contender.stop()


def window(contender: Contender, load: LoadGenerator, shape: Shape) -> Measurement:
    """Look at a contender that runs."""
    # the window of the load generator begins a moment before this one, so each divides by its own seconds
    load.start()
    before, stolen, start = measure.all_cpu_seconds(), measure.stolen_seconds(), time.monotonic()
    time.sleep(shape.seconds)
    after, stolen, seconds = measure.all_cpu_seconds(), measure.stolen_seconds() - stolen, time.monotonic() - start
    counted = load.count()
    if counted["lost"] or not counted["messages"]:
        raise RuntimeError(
            f"{contender.title}: {counted['lost']} connections lost, {counted['messages']} messages came"
        )
    shares = {pid: (cpu - before.get(pid, 0.0)) / seconds for pid, cpu in after.items()}
    server_share = sum(shares.pop(pid) for pid in contender.server_pids)
    load_share = shares.pop(load.pid)
    helper_share = sum(shares.pop(pid) for pid in (os.getpid(), *contender.helper_pids))
    expected = shape.rate * contender.rate_share * counted["seconds"]
    return Measurement(
        push_microseconds=1e6 * server_share / (counted["messages"] / counted["seconds"]),
        server_share=server_share,
        arrived=counted["messages"] / expected / shape.subscribers,
        message_bytes=counted["bytes"] / counted["messages"],
        fewest=counted["min_per_connection"] / expected,
        load_share=load_share,
        helper_share=helper_share,
        other_share=sum(shares.values()),
        stolen_share=stolen / seconds,
        logins_per_second=load.login["ready"] / load.login["login_seconds"],
        age_seconds=counted["age_seconds"],
        cipher=load.login["cipher"],
        server_bytes=sum(measure.memory_bytes(pid)["pss"] for pid in contender.server_pids),
    )


def rounds(kinds: list[type[Contender]], shape: Shape, count: int, tries: int) -> dict[str, list[Measurement]]:
    """Measure all contenders in turn, as often as there are rounds, each round beginning with another one.

    A contender that fails is left out of that round, with its words; one that always failed has no measurements.
    """
    results: dict[str, list[Measurement]] = {kind.name: [] for kind in kinds}
    for number in range(count):
        first = number * len(kinds) // count
        for kind in kinds[first:] + kinds[:first]:
            try:
                measurement = measured(kind, shape, tries)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                print(f"  round {number + 1}: {kind.title} failed: {error}", flush=True)
                continue
            results[kind.name].append(measurement)
            print(f"  round {number + 1}: {kind.title}: {measurement.push_microseconds:.1f} µs", flush=True)
    return results


@dataclass(frozen=True)
class Row:
    """What is said about one contender.

    Attributes:
        title: What it is called.
        cost: CPU time of the server for a push, in microseconds: the median of the rounds.
        lowest: The lowest of the rounds.
        highest: The highest.
        ratio: Its cost in costs of the bare server, or None if that was not measured.
        arrived: Messages that arrived, of those that should have: the median of the rounds.
        median_age: Seconds from stamp to arrival, the median of the medians.
        p99_age: The median of the 99th percentiles.
        load_share: CPU time of the load generator in a second, the highest.
        notes: What a reader has to know.
    """

    title: str
    cost: float
    lowest: float
    highest: float
    ratio: float | None
    arrived: float
    median_age: float
    p99_age: float
    load_share: float
    notes: list[str]

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        return (
            f"{self.title:<38}{self.cost:7.1f}{self.lowest:10.1f} to{self.highest:6.1f}{ratio:>9}"
            f"{100 * self.arrived:8.1f} %{1000 * self.median_age:8.2f}{1000 * self.p99_age:8.2f}"
            f"{100 * self.load_share:7.0f} %  {'; '.join(self.notes)}"
        )


HEADER = f"{'':<38}CPU µs a push, lowest to highest  of bare   arrived  age, ms: p50, p99  load"


def row(kind: type[Contender], results: dict[str, list[Measurement]]) -> Row:
    """Sum up the rounds of a contender."""
    mine = results[kind.name]
    costs = [each.push_microseconds for each in mine]
    bare = results.get(Bare.name)
    return Row(
        title=kind.title,
        cost=median(costs),
        lowest=min(costs),
        highest=max(costs),
        ratio=median(costs) / median(each.push_microseconds for each in bare) if bare else None,
        arrived=median(each.arrived for each in mine),
        median_age=median(each.age_seconds["p50"] for each in mine),
        p99_age=median(each.age_seconds["p99"] for each in mine),
        load_share=max(each.load_share for each in mine),
        notes=notes(mine),
    )


def notes(measurements: list[Measurement]) -> list[str]:
    """Return what takes from the worth of the measurements."""
    found = []
    if min(each.arrived for each in measurements) < ARRIVED:
        full = max(each.server_share for each in measurements) > FULL
        found.append("falls behind: its core is full" if full else "falls behind")
    if max(each.load_share for each in measurements) > FULL:
        found.append("load generator at its limit")
    if max(each.other_share for each in measurements) > QUIET:
        found.append(f"the machine was busy otherwise, {100 * max(e.other_share for e in measurements):.0f} %")
    if max(each.stolen_share for each in measurements) > QUIET:
        found.append("the hypervisor kept time back")
    return found


def conditions(shape: Shape) -> str:
    """Say what was asked of all."""
    return (
        f"{shape.subscribers:,} subscribers, {shape.rate:g} messages a second to each, of {stock.PUSH_BYTES} bytes, "
        f"in groups of {min(shape.group_size, shape.subscribers)}"
    )


def machine_lines(machine: dict[str, str]) -> list[str]:
    """Say where and when."""
    versions = ", ".join(f"{name} {machine[name]}" for name in list(machine)[4:])
    return [f"{machine['date']}; {machine['cpu']}, {machine['cores']} cores; Linux {machine['kernel']}", versions]


def chart(rows: list[Row], ours: list[bool], shape: Shape, count: int, machine: dict[str, str]) -> str:
    """Draw the rows."""
    bars = [
        Bar(each.title, each.cost, each.lowest, each.highest, "" if each.arrived > ARRIVED else "falls behind", mine)
        for each, mine in zip(rows, ours, strict=True)
    ]
    subtitle = f"{conditions(shape)}; median of {count} rounds, the line from the lowest to the highest"
    footer = [*machine_lines(machine), str(shape.cores)]
    return bar_chart("Server CPU for a message that arrived, in µs", subtitle, bars, footer)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    names = [kind.name for kind in CONTENDERS]
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=20, help="messages a second to each subscriber")
    parser.add_argument("--group-size", type=int, default=GROUP_SIZE, help="subscribers served one after the other")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tries", type=int, default=3, help="to find the machine quiet, for each measurement")
    parser.add_argument("--warmup", type=float, default=2, help="seconds before each measurement")
    parser.add_argument("--seconds", type=float, default=3, help="length of each measurement")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--no-pin", action="store_true", help="let the system choose the cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every measurement")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="where to write the chart")


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write what is asked for."""
    cores = Cores() if options.no_pin else two_cores()
    shape = Shape(options.subscribers, options.rate, options.group_size, options.warmup, options.seconds, cores)
    machine = measure.machine()
    kinds = [kind for kind in CONTENDERS if kind.name in options.only and not kind.missing()]
    missing = [kind.missing() for kind in CONTENDERS if kind.name in options.only and kind.missing()]
    print("\n".join([conditions(shape), str(cores), *machine_lines(machine), *sorted(set(missing))]), flush=True)
    results = rounds(kinds, shape, options.rounds, options.tries)
    failed = [kind.title for kind in kinds if len(results[kind.name]) < options.rounds]
    results = {name: found for name, found in results.items() if found}
    kinds = [kind for kind in kinds if kind.name in results]
    rows = [row(kind, results) for kind in kinds]
    print("\n".join(["", HEADER, *map(str, rows)]))
    if options.json:
        options.json.write_text(json.dumps(document(shape, machine, missing, rows, results), indent=1) + "\n")
    if options.svg:
        ours = [issubclass(kind, Clockd) for kind in kinds]
        options.svg.write_text(chart(rows, ours, shape, options.rounds, machine))
    if failed:
        sys.exit(f"failed in some or all rounds: {', '.join(failed)}")


def document(
    shape: Shape, machine: dict[str, str], missing: list[str], rows: list[Row], results: dict[str, list[Measurement]]
) -> dict[str, object]:
    """Return everything that was found, for JSON."""
    asked = dataclasses.asdict(shape) | {"cores": str(shape.cores), "message_bytes": stock.PUSH_BYTES}
    return {
        "machine": machine,
        "shape": asked,
        "missing": missing,
        "contenders": {
            name: dataclasses.asdict(each) | {"rounds": [dataclasses.asdict(one) for one in measurements]}
            for each, (name, measurements) in zip(rows, results.items(), strict=True)
        },
    }
