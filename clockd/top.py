"""Who is connected, looked at again and again: on a terminal a table that is drawn anew, elsewhere text or JSON.

Rules of this module: it asks through what it is handed, and knows no server; what others chose, names and addresses,
is escaped and never read as markup.
"""

import json
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any, NamedTuple

from msgspec import to_builtins
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from twisted.internet.task import deferLater

from clockd.client import Event, Presence
from clockd.errors import NotConnected
from clockd.terminal import Drawing, line

SORTS = tuple(name for name in Presence.__struct_fields__ if name != "periods")
"""What they can be sorted by."""

PATIENCE_SECONDS = 2.0
"""A server that takes longer to answer is said not to."""

BROAD = 100_000
"""Columns of what is no terminal, where nothing is cut."""

HEAD = 4
"""Lines above the first connection."""


class Look(NamedTuple):
    """What the server has answered.

    Attributes:
        rows: The connections, sorted.
        stamp: When, Unix seconds.
    """

    rows: Sequence[Presence]
    stamp: float


class Page:
    """How a look is printed.

    Args:
        target: The server, as the user named it.
        limit: How many connections were asked for.
        sort: What they are sorted by.
    """

    def __init__(self, target: str, limit: int, sort: str) -> None:
        self._target = target
        self._limit = limit
        self._sort = sort

    def of(self, look: Look, columns: int, lines: float = inf, trouble: str = "") -> Group:
        """Return what is to be printed of a look.

        Args:
            look: The answer.
            columns: How broad a line may be.
            lines: How many there is room for.
            trouble: What is wrong, if anything is.
        """
        rows = look.rows
        room = max(0, lines - HEAD)
        shown = rows if len(rows) <= room else rows[: max(0, int(room) - 1)]
        left = len(rows) - len(shown)
        rest = [line(f"… {left} more; a larger window has room for them, --limit and --sort choose")] if left else []
        return Group(
            self._head(look), _totals(rows), line(trouble, "bold red"), _table(shown, look.stamp, columns), *rest
        )

    def _head(self, look: Look) -> Text:
        all_or_first = "all" if len(look.rows) < self._limit else f"the first {self._limit}"
        return line(f"{_time(look.stamp)}  {self._target}  {all_or_first}, by {self._sort}")


class Screen(Drawing):
    """A page that takes all of a terminal, until it is left.

    Args:
        console: The terminal.
        page: How a look is printed.
        reactor: Draws it anew when the terminal's size has changed.
    """

    def __init__(self, console: Console, page: Page, reactor: Any) -> None:
        super().__init__(console, reactor)
        self._page = page
        self._look: Look | None = None
        self._trouble = ""

    def show(self, look: Look) -> None:
        """Draw a look."""
        self._look, self._trouble = look, ""
        self.draw()

    def miss(self) -> None:
        """Say that there was no answer; the last look stays."""
        since = "" if self._look is None else f"; it was like this at {_time(self._look.stamp)}"
        self._trouble = f"no answer from the server{since}"
        self.draw()

    def drawn(self) -> Group | Text:
        """Return the last look as a page."""
        if self._look is None:
            return line(self._trouble or "waiting for the server")
        return self._page.of(self._look, *self.console.size, self._trouble)


class Lines:
    """Looks one after the other.

    Args:
        show: Prints one.
    """

    def __init__(self, show: Callable[[Look], None]) -> None:
        self.show = show

    def miss(self) -> None:
        """Print nothing; the client's log says that it connects again."""


def text_of(page: Page, look: Look, console: Console) -> str:
    """Return a look as text, in the console's breadth and of any length."""
    with console.capture() as captured:
        console.print(page.of(look, console.width))
    return captured.get()


def json_of(look: Look) -> str:
    """Return a JSON object a line, one for each connection."""
    return "".join(f"{json.dumps({'stamp': look.stamp, **to_builtins(row)})}\n" for row in look.rows)


async def look_again(
    ask: Callable[[], Awaitable[list[Presence]]],
    view: Screen | Lines,
    every: float | None,
    now: Callable[[], float],
    reactor: Any,
) -> None:
    """Look who is there, again and again, also while the server is away.

    Args:
        ask: Asks the server.
        view: Where it is shown.
        every: Seconds between an answer and the next question; None to look once.
        now: The wall clock.
        reactor: Where time passes.

    Raises:
        Refused: The server does not answer such a question.
        NotConnected: It was to be looked once, and there was no answer.
    """
    while True:
        impatient = reactor.callLater(PATIENCE_SECONDS, view.miss)
        try:
            view.show(Look(await ask(), now()))
        except NotConnected:
            if every is None:
                raise
            view.miss()
        finally:
            if impatient.active():
                impatient.cancel()
        if every is None:
            return
        await deferLater(reactor, every)


async def watch_connection(events: AsyncIterable[Event], view: Screen | Lines) -> None:
    """Say at once that the server is away, however long it is until the next look.

    Raises:
        ClockdError: No connection is made any more.
    """
    async for event in events:
        if event.kind in {"lost", "draining"}:
            view.miss()


def _totals(rows: Sequence[Presence]) -> Text:
    accounts = len({row.account for row in rows})
    pushes = sum(row.pushes_per_second for row in rows)
    skipped = sum(row.skipped for row in rows)
    there = f"{_count(len(rows), 'connection')}, {_count(accounts, 'account')}"
    return line(f"{there}, {pushes:.1f} pushes/s, {skipped} skipped")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _table(rows: Sequence[Presence], stamp: float, columns: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("ACCOUNT", no_wrap=True, max_width=columns // 6)
    table.add_column("ADDRESS", no_wrap=True, max_width=columns // 4 + 1)  # of 80 an IPv4 address with its port
    table.add_column("PERIODS")  # it is cut first
    for heading, width in (("PUSH/S", 6), ("SKIPPED", 7), ("ACK MS", 6), ("AGE", 6)):
        table.add_column(heading, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        answered = row.acknowledgement_seconds
        table.add_row(
            line(row.account),
            line(row.address),
            line(", ".join(f"{feed} {period:g} s" for feed, period in row.periods.items())),
            f"{row.pushes_per_second:.1f}",
            str(row.skipped),
            "-" if answered is None else f"{answered * 1000:.1f}",
            _age(stamp - row.connected_since),
        )
    return table


def _time(stamp: float) -> str:
    return datetime.fromtimestamp(stamp, UTC).astimezone().strftime("%H:%M:%S")


def _age(seconds: float) -> str:
    """Return a time in its two largest units; none is less than 0, whatever the clocks of two hosts say."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
