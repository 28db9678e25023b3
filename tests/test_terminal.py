import io
import os
import pty
import signal
import termios

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from clockd.terminal import Drawing, line, silent

HOSTILE = "[bold]mallory[/]\x1b[31m\x9b2J\r\n\u202e:smile:"


class Reactor:
    """Makes calls at once."""

    def callFromThread(self, call):
        call()


class SilentTests(SynchronousTestCase):
    def test_what_is_typed_is_not_shown_until_it_is_left(self):
        ours, its = pty.openpty()
        self.addCleanup(os.close, ours)
        self.addCleanup(os.close, its)
        before = termios.tcgetattr(its)
        with self.assertRaises(ZeroDivisionError), silent(its):
            meanwhile = termios.tcgetattr(its)
            self.assertEqual(meanwhile[3] & termios.ECHO, 0)
            self.assertEqual((meanwhile[6][termios.VSUSP], meanwhile[6][termios.VQUIT]), (b"\0", b"\0"))
            self.assertTrue(meanwhile[3] & termios.ISIG)
            raise ZeroDivisionError
        self.assertEqual(termios.tcgetattr(its), before)


class Word(Drawing):
    word = "first"

    def drawn(self):
        return line(self.word)


class DrawingTests(SynchronousTestCase):
    def setUp(self):
        self.file = io.StringIO()
        console = Console(file=self.file, width=80, height=24, force_terminal=True, color_system=None)
        self.drawing = Word(console, Reactor())

    def lines(self):
        """Return what was drawn last."""
        return self.file.getvalue().rpartition("\x1b[H")[2].splitlines()

    def test_it_takes_the_other_screen_and_gives_it_back_with_the_cursor(self):
        before = signal.getsignal(signal.SIGWINCH)
        with self.assertRaises(ZeroDivisionError), self.drawing:
            self.assertTrue(self.file.getvalue().startswith("\x1b[?1049h"))
            self.assertIn("\x1b[?25l", self.file.getvalue())
            raise ZeroDivisionError
        self.assertTrue(self.file.getvalue().endswith("\x1b[?25h\x1b[?1049l"))
        self.assertEqual(signal.getsignal(signal.SIGWINCH), before)

    def test_it_is_drawn_at_once_anew_and_in_full(self):
        with self.drawing:
            self.assertEqual(self.lines(), ["first".ljust(80), *23 * [80 * " "]])
            self.drawing.word = 100 * "x"
            self.drawing.draw()
            self.assertEqual(self.lines(), [79 * "x" + "…", *23 * [80 * " "]])

    def test_it_is_drawn_anew_when_the_terminal_has_another_size(self):
        with self.drawing:
            self.drawing.console.size = (60, 10)
            os.kill(os.getpid(), signal.SIGWINCH)
            self.assertEqual([len(row) for row in self.lines()], 10 * [60])

    def test_what_others_chose_does_nothing_to_the_terminal(self):
        self.drawing.word = HOSTILE
        with self.drawing:
            drawn = self.lines()[0].rstrip()
        self.assertEqual(drawn, r"[bold]mallory[/]\x1b[31m\x9b2J\r\n\u202e:smile:")
