"""clockd by itself: what the comparison with others does not show, each case beside the figures that are asked for.

Rules of the cases: what is compared is measured in the same run, in turn; CPU per push is judged without asks for
answers, and printed with the default asks beside it; what a watch adds to the server is in no figure but its own.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path

from bench import cases_feeds, cases_peers, cases_pushes, measure
from bench.compare import machine_lines
from bench.figures import Figure
from bench.processes import Cores, two_cores

CASES: dict[str, Callable[..., Iterator[Figure]]] = {
    "scale": cases_pushes.scale,
    "ten-thousand": cases_pushes.ten_thousand,
    "fast": cases_pushes.fast,
    "distinct": cases_pushes.distinct,
    "logins": cases_peers.logins,
    "passwords": cases_peers.passwords,
    "memory": cases_peers.memory,
    "scrape": cases_peers.scrapes,
    "pages": cases_peers.pages,
    "stopped": cases_peers.stopped,
    "service": cases_pushes.service,
    "telemetry": cases_feeds.telemetry,
    "many-feeds": cases_feeds.many_feeds,
}
"""All of them, by name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    names = list(CASES)
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every figure")
    parser.add_argument(
        "--seconds", type=float, default=cases_feeds.TELEMETRY_SECONDS, help="how long telemetry is looked at"
    )


def run(options: argparse.Namespace) -> None:
    """Run the cases, print their figures, and write them if that is asked for."""
    cores = two_cores()
    os.sched_setaffinity(0, cores.load or os.sched_getaffinity(0))
    machine = measure.machine()
    print("\n".join([str(cores), *machine_lines(machine)]), flush=True)
    document: dict[str, object] = {"machine": machine, "cores": str(cores)}
    failed = []
    for name in options.only:
        start = time.monotonic()
        lasting = {"seconds": options.seconds} if name == "telemetry" else {}
        figures, error = run_case(name, cores, **lasting)
        seconds = time.monotonic() - start
        print(f"  ({seconds:.0f} s)", flush=True)
        document[name] = {"seconds": seconds, "figures": list(map(plain, figures)), "error": error}
        if error:
            failed.append(name)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run_case(name: str, cores: Cores, **lasting: float) -> tuple[list[Figure], str]:
    """Run a case, for as long as it is told if it can be told; return its figures, and what kept it from more."""
    case = CASES[name]
    print(f"\n{name}: {case.__doc__.splitlines()[0]}", flush=True)
    figures = []
    try:
        for figure in case(cores, **lasting):
            print(figure, flush=True)
            figures.append(figure)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"  failed: {error}", flush=True)
        return figures, str(error)
    return figures, ""


def plain(figure: Figure) -> dict[str, object]:
    """Return a figure for JSON, which knows no infinity."""
    value = figure.value if isfinite(figure.value) else None
    return dataclasses.asdict(figure) | {"value": value, "verdict": figure.verdict}
