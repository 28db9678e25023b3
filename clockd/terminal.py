"""What takes all of a terminal, and is drawn anew until it is left.

Rules of this module: what others chose is escaped and never read as markup.
"""

import signal
import termios
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from clockd.printable import printable

LETTERS = 10_000
"""Longest line."""


class Drawing(ABC):
    """What is drawn on all of a terminal, until it is left.

    Args:
        console: The terminal.
        reactor: Draws it anew when the terminal's size has changed.
    """

    _live: Live

    def __init__(self, console: Console, reactor: Any) -> None:
        self.console = console
        self._reactor = reactor
        self._leave = ExitStack()

    def __enter__(self) -> Self:
        self._live = Live(
            console=self.console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self.drawn,
        )
        with ExitStack() as leave:
            if self.console.file.isatty():
                leave.enter_context(silent(self.console.file.fileno()))
            leave.callback(signal.signal, signal.SIGWINCH, signal.signal(signal.SIGWINCH, self._resized))
            leave.callback(self._live.stop)
            self._live.start(refresh=True)
            self._leave = leave.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave.close()

    @abstractmethod
    def drawn(self) -> RenderableType:
        """Return what is to be seen now."""

    def draw(self) -> None:
        """Draw it anew."""
        self._live.refresh()

    def _resized(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self.draw)


@contextmanager
def silent(descriptor: int) -> Iterator[None]:
    """Have a terminal neither show what is typed, over what is drawn, nor suspend or kill us, which Ctrl-C still may.

    What was typed is forgotten.
    """
    before, meanwhile = termios.tcgetattr(descriptor), termios.tcgetattr(descriptor)
    meanwhile[3] &= ~termios.ECHO
    meanwhile[6][termios.VSUSP] = meanwhile[6][termios.VQUIT] = b"\0"  # no character does
    termios.tcsetattr(descriptor, termios.TCSANOW, meanwhile)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


def line(text: str, style: str = "") -> Text:
    """Return a text that takes one line, cut where that is too short."""
    return Text(printable(text, LETTERS), style, no_wrap=True, overflow="ellipsis")
