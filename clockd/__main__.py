"""The process of the command `clockd`, also as `python -m clockd`.

Signals are taken care of before anything is imported: as the first process of a container, Python would not even
notice a SIGTERM that comes before there is a handler for it.
"""

import os
import signal


def main() -> None:
    """Run the command line; until the reactor handles signals, they end the process with 0.

    At once, too: a SystemExit is lost where Python ignores what is raised, as in callbacks of its import system. No
    output is, for `click.echo` leaves none in a buffer.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os._exit(0))
    from clockd.cli import main as command  # noqa: PLC0415  # see above

    command(prog_name="clockd")


if __name__ == "__main__":
    main()
