"""The command line of the benchmarks: `python -m bench compare`, `cases`, `clocks` and `versus REVISION`."""

import argparse
import signal
import sys

from bench import cases, clocks, compare, versus
from clockd.process import raise_descriptors


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    compare.add_arguments(commands.add_parser("compare", help="clockd beside other servers"))
    cases.add_arguments(commands.add_parser("cases", help="clockd by itself"))
    clocks.add_arguments(commands.add_parser("clocks", help="how well clients know a server's clock"))
    versus.add_arguments(commands.add_parser("versus", help="the working tree's clockd beside another revision's"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that what was started is stopped
    raise_descriptors()
    {"compare": compare, "cases": cases, "clocks": clocks, "versus": versus}[options.command].run(options)


main()
