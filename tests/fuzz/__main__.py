"""Throw bytes at clockd, until one of them finds something: `python -m tests.fuzz decoder --seconds 60`."""

import argparse
import gc
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where pytest, too, looks for doubles
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "integration"))  # and for strangers

from fuzz.inputs import random_input
from fuzz.siege import besiege
from fuzz.targets import TARGETS


def main() -> None:
    """Run what the command line names; end with 1 at the first finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=(*TARGETS, "server"))
    parser.add_argument("--seed", type=int, default=1, help="of the first input; each has the next number")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=60.0, help="how long to go on")
    length.add_argument("--inputs", type=int, help="how many inputs to try")
    options = parser.parse_args()
    if options.target == "server":
        besiege(seeds(options))
    else:
        gc.freeze()
        for seed in seeds(options):
            attempt(options.target, seed)
    print("nothing found")


def seeds(options: argparse.Namespace) -> Iterator[int]:
    """Yield the seed of each input; say at the end how many there were."""
    begun = time.monotonic()
    for done in count():
        took = time.monotonic() - begun
        if (took >= options.seconds) if options.inputs is None else (done == options.inputs):
            print(f"{options.target}: {done} inputs, {done / took:.0f} a second", flush=True)
            return
        yield options.seed + done


def attempt(target: str, seed: int) -> None:
    """Try one input."""
    random = Random(seed)
    data = random_input(random)
    try:
        TARGETS[target](data, random)
    except BaseException:
        print(f"with --inputs 1 --seed {seed}: {data.hex(' ')}", file=sys.stderr)
        raise


main()
