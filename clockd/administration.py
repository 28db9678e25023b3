"""`clockd top` and `clockd kick`: what an administrator sees of the connections of a server, and closes.

Rules of this module: what only some commands need is imported inside them, as in `cli`.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import click

from clockd.dial import dialler, is_utf8, login_explained, login_options
from clockd.outcome import drive, one_sentence, quiet_without_readers

if TYPE_CHECKING:
    from clockd.client import ClockClient
    from clockd.top import Lines, Screen


@click.command()
@click.argument("target", metavar="[NAME@]HOST[:PORT]")
@click.option("--every", type=float, default=2.0, show_default=True, help="Seconds between two looks.")
@click.option(
    "--sort",
    metavar="KEY",
    default="skipped",
    show_default=True,
    help="A key of --json but periods; the largest first, names and addresses in their order.",
)
@click.option("--limit", type=click.IntRange(1, 200), default=100, show_default=True, help="Connections at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for each connection and look.")
@click.option("--once", is_flag=True, help="Look once, and end.")
@login_options
def top(target: str, every: float, sort: str, limit: int, as_json: bool, once: bool, **login: Any) -> None:
    """Show who is connected, what they are pushed and how they keep up, until Ctrl-C.

    The account that logs in needs the role admin: clockd user add --role admin. The login is that of `clockd watch`.

    A line has the account, its address, the period of each feed, pushes per second, pushes that were due and skipped,
    the time that the latest answer took in milliseconds, and the age of the connection. Above it are the time of the
    look and the sums over the connections that were asked for; of those that do not fit into the terminal the last
    line tells how many they are. Without a terminal each look is printed as text, and nothing is cut.

    While the server is away the table says so; it goes on when the server is back.

    \b
    Examples:
      clockd top operator@localhost
      clockd top operator@localhost --sort acknowledgement_seconds --limit 20 --every 10
      clockd top operator@localhost --once --secret-file operator.secret | grep alice
      clockd top operator@localhost --json --sort pushes_per_second --secret-file operator.secret
    """
    with one_sentence():
        from rich.console import Console

        from clockd.logs import begin_logging
        from clockd.top import BROAD, SORTS, Lines, Look, Page, Screen, json_of, text_of

        if not 0.1 <= every <= 86400:
            raise click.BadParameter("0.1 to 86400 seconds", param_hint="--every")
        if sort not in SORTS:
            raise click.BadParameter(f"{sort!r} is not one of {', '.join(SORTS)}", param_hint="--sort")
        dial = dialler(target, **login)
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # of a terminal that is not one of UTF-8; no line grows
        terminal = sys.stdout is not None and sys.stdout.isatty()
        console = Console(force_terminal=terminal, width=None if terminal else BROAD)
        page = Page(target, limit, sort)

        def show(look: Look) -> None:
            click.echo(json_of(look) if as_json else text_of(page, look, console), nl=False)

        live = terminal and not (as_json or once or console.is_dumb_terminal)
        begin_logging("text", sys.stderr, "warn" if live else "info")  # lines would spoil the table
        view: Callable[[Any], AbstractContextManager[Screen | Lines]] = (
            partial(Screen, console, page) if live else lambda _: nullcontext(Lines(show))
        )
        with quiet_without_readers(), login_explained(dial):
            drive(partial(_top, dial, (limit, sort), view, None if once else every), endless=not once)


async def _top(
    dial: "Callable[..., ClockClient]",
    wanted: tuple[int, str],
    view: "Callable[[Any], AbstractContextManager[Screen | Lines]]",
    every: float | None,
    reactor: Any,
) -> None:
    from twisted.internet.defer import CancelledError, Deferred

    from clockd.errors import ClockdError
    from clockd.top import look_again, watch_connection

    async with dial(reactor=reactor) as clock, _for_administrators():
        with view(reactor) as shown:
            watching = Deferred.fromCoroutine(watch_connection(clock.events(), shown))
            watching.addErrback(lambda failure: failure.trap(ClockdError, CancelledError))  # the next look is told, too
            try:
                await look_again(partial(clock.sessions, *wanted), shown, every, time.time, reactor)
            finally:
                watching.cancel()


class Text(click.ParamType[str]):
    """A word that a server can be told."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word.

        Raises:
            click.BadParameter: It has bytes that are no UTF-8.
        """
        if not is_utf8(value):
            self.fail(f"{value!r} is no UTF-8", param, ctx)
        return value


@click.command()
@click.argument("target", metavar="[NAME@]HOST[:PORT]")
@click.argument("account", type=Text())
@click.option(
    "--reason",
    type=Text(),
    default="by an administrator",
    show_default=True,
    help="What its clients are told, in 200 letters at most.",
)
@login_options
def kick(target: str, account: str, reason: str, **login: Any) -> None:
    """Close all connections of an account but this one, and print how many there were; exits 1 if there were none.

    The account that logs in needs the role admin: clockd user add --role admin. The login is that of `clockd watch`.

    Nothing keeps the account from logging in again: `clockd user remove` does, and closes its connections, too.

    \b
    Examples:
      clockd kick operator@localhost alice
      clockd kick operator@localhost alice --reason "asks for too much" --secret-file operator.secret
    """
    with one_sentence():
        from clockd.client import REASON_LETTERS
        from clockd.logs import begin_logging
        from clockd.values import NAME_BYTES

        begin_logging("text", sys.stderr)
        if not 0 < len(account.encode()) <= NAME_BYTES:
            raise click.BadParameter(f"a name has 1 to {NAME_BYTES} bytes", param_hint="ACCOUNT")
        if len(reason) > REASON_LETTERS:
            raise click.BadParameter(f"{REASON_LETTERS} letters at most", param_hint="--reason")
        dial = dialler(target, **login)
        with login_explained(dial):
            drive(partial(_kick, dial, account, reason))


async def _kick(dial: "Callable[..., ClockClient]", account: str, reason: str, reactor: Any) -> None:
    async with dial(reactor=reactor) as clock, _for_administrators():
        closed = await clock.kick(account, reason)
    if not closed:
        click.echo(f"clockd: nobody else is connected as {account}", err=True)
        sys.exit(1)
    click.echo(f"closed {closed} connection{'' if closed == 1 else 's'} of {account}")


@asynccontextmanager
async def _for_administrators() -> AsyncIterator[None]:
    """Say how an account comes by the role that a call needs."""
    from clockd.errors import NotPermitted

    try:
        yield
    except NotPermitted as error:
        raise NotPermitted(
            f"{error}; the role admin is given with: clockd user add --role admin NAME, "
            "or to an account that there is by :admin at the end of its line in the users file"
        ) from error
