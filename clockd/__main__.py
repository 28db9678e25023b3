"""The process of the command `clockd`, also as `python -m clockd`.

Signals are taken care of before anything is imported: as the first process of a container, Python would not even
notice a SIGTERM that comes before there is a handler for it.
"""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line; until the reactor handles signals, they end the process, with 0 if that is how it is ended.

    Any other command was not done: 1, and 2 of a probe, which says so, too.

    At once: a SystemExit is lost where Python ignores what is raised, as in callbacks of its import system. No
    output is, for `click.echo` leaves none in a buffer.
    """
    stopped = sys.argv[1:2] in (["serve"], ["demo"])
    code = 0 if stopped else 2 if "--check" in sys.argv else 1

    def end(*_: object) -> None:
        if not stopped:
            with suppress(OSError):
                os.write(2, b"clockd: ended by a signal before it was done\n")
        os._exit(code)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    from clockd.cli import main as command  # noqa: PLC0415  # see above

    command(prog_name="clockd")


if __name__ == "__main__":
    main()
