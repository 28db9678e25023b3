"""`clockd publish`: publishes a value of the command line, or the lines of standard input.

Rules of this module: what only some commands need is imported inside them, as in `cli`.
"""

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from clockd.dial import dialler, feed_explained, login_explained, login_options
from clockd.outcome import Interrupted, drive, one_sentence, quiet_without_readers

if TYPE_CHECKING:
    from clockd.client import ClockClient
    from clockd.pipe import Outgoing


@click.command(context_settings={"ignore_unknown_options": True})  # a number may be negative
@click.argument("target", metavar="[NAME@]HOST[:PORT]")
@click.argument("feed", metavar="[FEED VALUE]", required=False)
@click.argument("value", metavar="", required=False)
@login_options
def publish(target: str, feed: str | None, value: str | None, **login: Any) -> None:
    """Log in and put a value of a feed in force; print its number.

    VALUE is JSON. What is no JSON is taken as a string, unless it begins with {, [ or ", or is NaN or Infinity. The
    login is that of `clockd watch`. The number is the sample's in its feed.

    Without FEED and VALUE, standard input is published: a JSON object a line, {"feed": ..., "value": ...}, with a
    "stamp" in Unix seconds where it is not that of the moment. The lines of `clockd watch --json` will do. With FEED
    and - as VALUE, each line is a JSON value of that feed. Blank lines are passed over.

    A line is published as soon as it is read, several are under way at a time, and no more is read than can be
    published: a source that is faster than the server, or than its limit of samples a second, waits. When that limit is
    met, lines that were under way may be left out, because newer ones of their feed have been published: the newest
    never is. Each line that is refused is named on standard error; the rest is published. At the end, or on Ctrl-C, the
    counts are printed, and the exit code is 1 if any was refused.

    \b
    Examples:
      clockd publish alice@localhost load 0.7
      clockd publish alice@localhost greenhouse '{"celsius": 21.5, "open": false}'
      vmstat -n 1 | awk 'NR > 2 { print $15; fflush() }' |
        clockd publish alice@localhost idle -
      clockd watch bob@here --feed load --json |
        clockd publish alice@there --secret-file there.secret
    """
    with one_sentence():
        from clockd.logs import begin_logging
        from clockd.pipe import Outgoing, outgoing_of, value_of

        begin_logging("text", sys.stderr)
        _require_no_option(target, feed, value)
        if value is None and feed not in {None, "-"}:
            raise click.UsageError("VALUE is missing: give one, or - for a value a line on standard input")
        if (value or "-") == "-" and sys.stdin is None:
            raise click.UsageError("there is no standard input")
        dial = dialler(target, **login)
        counts: dict[str, int] = {}
        with quiet_without_readers(), login_explained(dial):
            if feed is None or value is None:
                drive(lambda reactor: _publish_lines(dial, outgoing_of, counts, reactor), endless=True)
            elif value == "-":
                drive(
                    lambda reactor: _publish_lines(
                        dial, lambda text: Outgoing(feed, value_of(text), None), counts, reactor
                    ),
                    endless=True,
                )
            else:
                drive(partial(_publish, dial, feed, value_of_word(value)))
                return
            if not counts:
                raise Interrupted
            click.echo(_summary(**counts))
        sys.exit(1 if counts.get("refused") else 0)


def _require_no_option(*words: str | None) -> None:
    """See that no word is a mistyped option, where a negative number may be a word."""
    for word in words:
        if word is not None and re.match(r"-(?!\.?\d|$)", word):
            raise click.NoSuchOption(word)


def value_of_word(text: str) -> object:
    """Return the value that a word of the command line says: what it is in JSON, or the word itself.

    Raises:
        click.BadParameter: It begins as JSON does, and is none; or it is no value that a feed may have.
    """
    import json

    from clockd.errors import InvalidValue
    from clockd.pipe import value_of

    try:
        return value_of(text)
    except InvalidValue as error:
        if isinstance(error.__cause__, json.JSONDecodeError) and not text.lstrip().startswith(("{", "[", '"')):
            return text
        raise click.BadParameter(str(error), param_hint="VALUE") from error


async def _publish(dial: "Callable[..., ClockClient]", feed: str, value: object, reactor: Any) -> None:
    async with dial(reactor=reactor) as clock, feed_explained(feed, clock):
        click.echo(await clock.publish(feed, value))


async def _publish_lines(
    dial: "Callable[..., ClockClient]", parse: "Callable[[str], Outgoing]", counts: dict[str, int], reactor: Any
) -> None:
    from clockd.pipe import Lines, Pump

    def refused(number: int, why: str) -> None:
        with suppress(OSError):  # what nobody reads keeps nothing from being published
            click.echo(f"clockd: line {number}: {why}", err=True)

    async with dial(reactor=reactor) as clock:
        pump = Pump(clock.publish, parse, refused, reactor)
        try:
            await pump.run(Lines(sys.stdin.fileno(), reactor))
        finally:
            counts.update(pump.counts)


def _summary(published: int, refused: int, left_out: int) -> str:
    newer = f", left out {left_out}, because newer ones had been published" if left_out else ""
    return f"published {published}, refused {refused}{newer}"
