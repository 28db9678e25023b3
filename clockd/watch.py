"""`clockd watch`: shows what is pushed, in lines or live, or says whether this host's clock can be right.

Rules of this module: what only some commands need is imported inside them, as in `cli`.
"""

import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from clockd.dial import dialler, feed_explained, login_explained, login_options
from clockd.outcome import drive, one_sentence, quiet_without_readers

if TYPE_CHECKING:
    from clockd.client import ClockClient, Samples, TimeInterval

    Follow = Callable[[ClockClient, Samples, Any], Coroutine[Any, Any, None]]

PATIENCE_SECONDS = 1.0
"""When no sample has come for so long, `watch` says so, once."""


@click.command()
@click.argument("target", metavar="[NAME@]HOST[:PORT]")
@click.option(
    "--feed",
    "feeds",
    multiple=True,
    help="What to watch; a wrong name is answered with those there are.  [default: time]",
)
@click.option("--period", type=float, help="Seconds between samples.  [default: the server's]")
@click.option("--deadband", type=float, help="Leave out numbers that differ by no more from the one before.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many samples; they are printed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--check", "probing", is_flag=True, help="Say whether this host's clock can be right, and end.")
@click.option("--utc", is_flag=True, help="With --check: compare with UTC, not with the server's clock.")
@click.option(
    "--within", type=float, help="With --check: find a clock good that may be off by no more seconds.  [default: 0]"
)
@login_options
def watch(
    target: str,
    feeds: tuple[str, ...],
    period: float | None,
    deadband: float | None,
    count: int | None,
    as_json: bool,
    probing: bool,
    utc: bool,
    within: float | None,
    **login: Any,
) -> None:
    """Log in and show what is pushed: on a terminal a live view, until Ctrl-C; else a line a sample.

    The name is the user's own where none is given, the port 8787. The secret comes from --secret-file, else from the
    environment's CLOCKD_SECRET, else it is asked for. With --tls-certificate, and neither a name nor --secret-file,
    the certificate is the login.

    The live view has the time, how far this host's clock is from the server's and from UTC at most, the round trip, and
    how the samples come: how many, those missed (left out of the numbers, or of the turns of the time), those conflated
    (due, but not pushed to so slow a reader), and how far they arrive from their turn. While the server is away it says
    so.

    With --check one line tells between which two figures lies how far this host's clock is from the server's. Exits 0
    if 0 lies between them, or what --within allows, and so the clock may be right; 1 if it is wrong, and 2 if that is
    not known, whatever the reason: for monitoring.

    A line of the time has its stamp, and how much later it arrived; give or take how much, as soon as it is known how
    far this host's clock is from the server's. Of any other feed a line has the stamp, the sample's number in its feed,
    and the value in JSON; a gap in the numbers is what was published in between and not pushed, a number that comes
    again says that the value is still in force. Floats are rounded to six digits, or to none behind the point, and a
    terminal's lines are wrapped; with --json nothing is.

    JSON has no bytes, no tuples and no NaN: bytes are {"base64": "..."}, a tuple is an array, and a float that is no
    finite number is the string "NaN", "Infinity" or "-Infinity". Keys of an object are strings, whatever they were.
    "offset" is how far the server's clock was ahead of this host's, "bound" by how much that may be wrong, "round_trip"
    how long the last exchange took, all in seconds, or null while that is not known: of the first sample, as a rule, so
    take two.

    \b
    Examples:
      clockd watch alice@localhost --period 0.5
      clockd watch alice@localhost --feed load --period 5 --deadband 0.1
      clockd watch alice@example.org --count 10 --json --secret-file alice.secret
      clockd watch example.org:8788 --tls-ca ca.pem --tls-certificate alice.pem
      clockd watch alice@example.org --check --within 0.05 --secret-file alice.secret
    """
    with one_sentence(2 if probing else 1):
        from clockd.logs import begin_logging
        from clockd.values import is_deadband, is_period

        if period is not None and not is_period(period):
            raise click.BadParameter("a period is a finite number of seconds greater than 0", param_hint="--period")
        if deadband is not None and not is_deadband(deadband):
            raise click.BadParameter("a deadband is a finite number of 0 or more", param_hint="--deadband")
        if len(feeds) > 1:
            raise click.BadParameter("a command watches one feed: give it once", param_hint="--feed")
        if within is not None and not (isfinite(within) and within >= 0):
            raise click.BadParameter("a finite number of seconds, 0 or more", param_hint="--within")
        if probing and (feeds or period is not None or deadband is not None or count is not None or as_json):
            raise click.UsageError(
                "--check looks at no feed: it goes with --utc, --within and the login's options only"
            )
        if not probing and (utc or within is not None):
            raise click.UsageError("--utc and --within go with --check")
        dial = dialler(target, **login)
        if probing:
            begin_logging("text", sys.stderr, "warn")
            with login_explained(dial):
                sys.exit(_probed(dial, target, within or 0.0, utc))
        feed = feeds[0] if feeds else "time"
        terminal = sys.stdout is not None and sys.stdout.isatty()
        live = None if not terminal or as_json or count else _live_view(target, feed)
        follow = live or partial(_print, as_json, feed, period, count)
        begin_logging("text", sys.stderr, "warn" if live else "info")  # lines would spoil the view
        if isinstance(sys.stdout, TextIOWrapper):
            # of a terminal that is not one of UTF-8; no line of the view grows
            sys.stdout.reconfigure(errors="replace" if live else "backslashreplace")
        with quiet_without_readers(), login_explained(dial):
            drive(partial(_watch, dial, feed, period, deadband, follow), endless=not count)


async def _watch(
    dial: "Callable[..., ClockClient]",
    feed: str,
    period: float | None,
    deadband: float | None,
    follow: "Follow",
    reactor: Any,
) -> None:
    async with dial(reactor=reactor) as clock, feed_explained(feed, clock):
        await follow(clock, clock.samples(feed, period=period, deadband=deadband), reactor)


async def _print(
    as_json: bool,
    feed: str,
    period: float | None,
    count: int | None,
    clock: "ClockClient",
    samples: "Samples",
    reactor: Any,
) -> None:
    """Print a line a sample."""
    from clockd.lines import json_of, line_of

    def be_patient() -> None:
        with suppress(OSError):  # nobody reads it
            click.echo(f"clockd: no sample of {feed} yet", err=True)

    shown = 0
    waiting = reactor.callLater(PATIENCE_SECONDS, be_patient)
    try:
        async for reading in samples:
            if waiting.active():
                waiting.cancel()
            if not shown and samples.granted not in {None, period} and period is not None:
                click.echo(f"clockd: the server grants a period of {samples.granted:g} s", err=True)
            click.echo(json_of(reading, clock.round_trip) if as_json else line_of(reading, _columns()))
            shown += 1
            if shown == count:
                return
    finally:
        if waiting.active():
            waiting.cancel()


def _columns() -> int:
    """Return how broad the terminal is that is written to; 0 if it is none."""
    return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout and sys.stdout.isatty() else 0


def _live_view(target: str, feed: str) -> "Follow | None":
    """Return what shows a feed on the terminal, unless that can nothing."""
    from rich.console import Console

    from clockd.live import Face, follow

    console = Console(force_terminal=True)
    if console.is_dumb_terminal:
        return None

    async def show(clock: "ClockClient", samples: "Samples", reactor: Any) -> None:
        face = Face(console, reactor, clock, target, feed)
        try:
            await follow(clock, samples, face, reactor)
        finally:
            with suppress(OSError):  # the terminal is gone
                console.print(face.left(), end="")

    return show


def _probed(dial: "Callable[..., ClockClient]", target: str, tolerance: float, utc: bool) -> int:
    """Say whether this host's clock can be right; returns the exit code."""
    from twisted.internet import defer

    from clockd.errors import ConnectionFailed
    from clockd.probe import PATIENCE_SECONDS, look, verdict_of

    found: list[TimeInterval | None] = []

    async def ask(reactor: Any) -> None:
        async with dial(reactor=reactor) as clock:
            found.append(await look(clock, utc, reactor))

    async def probe(reactor: Any) -> None:
        try:
            await defer.Deferred.fromCoroutine(ask(reactor)).addTimeout(PATIENCE_SECONDS, reactor)
        except defer.TimeoutError as error:
            if not found:
                raise ConnectionFailed(
                    f"no session with {target} within {PATIENCE_SECONDS:g} s: is it clockd that listens there?"
                ) from error

    drive(probe)
    verdict = verdict_of(found[0], target, tolerance, utc)
    click.echo(f"clockd: {verdict.text}" if verdict.code == 2 else verdict.text, err=verdict.code == 2)
    return verdict.code
