"""The working tree's clockd beside that of another revision: what a push costs, and what memory a subscriber takes.

Rules of this module: both run with the same interpreter, the same packages and the same settings, those that both know;
they are measured in turn, and who was last in a round is first in the next.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench import measure
from bench.compare import Measurement, Shape, machine_lines, measured_once, notes
from bench.contenders import GROUP_SIZE, Clockd, ClockdAsking
from bench.figures import KIB, Figure
from bench.processes import ROOT, two_cores
from bench.subjects import bytes_per_subscriber

AS_COMPARED, BY_DEFAULT = "no acknowledgements", "default acknowledgements"
KINDS = {AS_COMPARED: Clockd, BY_DEFAULT: ClockdAsking}
"""The servers whose pushes are measured."""

MEMORY_SUBSCRIBERS = 2_000

WHICH = "import json, clockd.values as v; print(json.dumps([v.__file__, v.Limits.__struct_fields__]))"
"""Prints which clockd is imported, and the limits that it knows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("revision", help="what to compare with: a commit, a branch or a tag of this repository")
    parser.add_argument("--subscribers", type=int, default=1000, help="while CPU is measured")
    parser.add_argument("--rate", type=float, default=20, help="messages a second to each of them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup", type=float, default=2, help="seconds before each measurement of CPU")
    parser.add_argument("--seconds", type=float, default=3, help="length of each measurement of CPU")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    cores = two_cores()
    os.sched_setaffinity(0, cores.load or os.sched_getaffinity(0))
    shape = Shape(options.subscribers, options.rate, GROUP_SIZE, options.warmup, options.seconds, cores)
    try:
        with exported(options.revision) as tree:
            kinds = same_settings([ROOT, tree])
            changed = "; with changes" if git("status", "--porcelain", "clockd") else ""
            print(f"here: {ROOT}, {described('HEAD')}{changed}\nthere: {tree}, {described(options.revision)}")
            print(f"{shape.subscribers:,} subscribers, {shape.rate:g} messages a second to each; {cores}")
            print("\n".join(machine_lines(measure.machine())), flush=True)
            for figure in compared(kinds, shape, options.rounds):
                print(figure, flush=True)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"versus: {error}")


@contextmanager
def exported(revision: str) -> Iterator[Path]:
    """Have the package of a revision in a folder for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="clockd-bench-") as folder:
        archive = git("archive", "--format=tar", revision, "clockd")
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        yield Path(folder).resolve()


def described(revision: str) -> str:
    """Return the id of a revision, its day, and what it says of itself."""
    return git("log", "-1", "--format=%h %cs %s", revision).decode().strip()


def git(*arguments: str) -> bytes:
    """Return what git prints.

    Raises:
        RuntimeError: It cannot do that, for instance because there is no such revision.
    """
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


Kinds = dict[str, list[type[Clockd]]]
"""The servers of each tree, in the order of the trees, by what is said of their settings."""


def same_settings(trees: Sequence[Path]) -> Kinds:
    """Return the servers of both trees, with those of the settings that both know; say which are left out."""
    known = set.intersection(*map(known_limits, trees))
    unknown = sorted(Clockd.settings.keys() - known)
    if unknown:
        print(f"left at their defaults, since one of both does not know them: {', '.join(unknown)}")
    return {label: [taken(kind, tree, known) for tree in trees] for label, kind in KINDS.items()}


def known_limits(tree: Path) -> set[str]:
    """Return the names of the limits that a tree's clockd knows.

    Raises:
        RuntimeError: Python does not import that one there, or cannot.
    """
    done = subprocess.run([sys.executable, "-c", WHICH], cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the clockd in {tree} cannot be measured: {done.stderr.splitlines()[-1]}")
    module, names = json.loads(done.stdout)
    if Path(module).parent.parent != tree:
        raise RuntimeError(f"in {tree} Python imports {module}; is PYTHONSAFEPATH set?")
    return set(names)


def taken(kind: type[Clockd], tree: Path, known: Container[str]) -> type[Clockd]:
    """Return a kind of server whose program comes from a tree, with no settings but those."""
    settings = {name: value for name, value in kind.settings.items() if name in known}
    return type(kind.__name__, (kind,), {"tree": tree, "settings": settings})


def compared(kinds: Kinds, shape: Shape, rounds: int) -> Iterator[Figure]:
    """Measure both in turn, and sum up."""
    pushes: dict[str, list[list[Measurement]]] = {label: [[], []] for label in kinds}
    memory: list[list[float]] = [[], []]
    for number in range(rounds):
        order = (0, 1) if number % 2 == 0 else (1, 0)
        for label, both in kinds.items():
            for side in order:
                pushes[label][side].append(measured_once(both[side], shape))
            said(number, f"CPU per push, {label}", [found[-1].push_microseconds for found in pushes[label]], "µs")
        for side in order:
            memory[side].append(bytes_per_subscriber(kinds[BY_DEFAULT][side], shape.cores, MEMORY_SUBSCRIBERS) / KIB)
        said(number, "memory per subscriber", [found[-1] for found in memory], "KiB")
    for label, both in pushes.items():
        costs = [[each.push_microseconds for each in found] for found in both]
        yield from ratio(f"CPU per push, {label}", costs, "µs", notes([*both[0], *both[1]]))
    yield from ratio(f"memory per subscriber of {MEMORY_SUBSCRIBERS:,}", memory, "KiB", [])


def said(number: int, what: str, values: Sequence[float], unit: str) -> None:
    """Print what was measured in a round, here and there."""
    here, there = values
    print(f"  round {number + 1}: {what}: {here:.2f} {unit} here, {there:.2f} there: {here / there:.3f}", flush=True)


def ratio(what: str, values: Sequence[Sequence[float]], unit: str, remarks: Sequence[str]) -> Iterator[Figure]:
    """Return the medians of what was measured here and there, and how they stand to each other."""
    here, there = values
    yield Figure(f"{what}, here", median(here), unit, each=tuple(here))
    yield Figure(f"{what}, there", median(there), unit, each=tuple(there))
    ratios = tuple(one / other for one, other in zip(here, there, strict=True))
    rounds = f"rounds: {' '.join(f'{each:.3f}' for each in ratios)}"
    yield Figure(f"{what}, here to there", median(here) / median(there), "x", each=ratios, notes=(rounds, *remarks))
