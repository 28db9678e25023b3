"""Commands on terminals of their own."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from contextlib import suppress

from processes import CLOCKD, SECONDS, STARTED, eventually

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?25h\x1b[?1049l"
"""What takes a terminal's other screen, and what gives it back with the cursor."""


class Terminal:
    """A command on a terminal of its own.

    Args:
        words: The command line.
        columns, lines: The terminal's size.
        environment: What its environment has beside the test's own, and any secret.
    """

    def __init__(self, *words, columns=80, lines=24, environment=None):
        self._end, its_end = pty.openpty()
        self.resize(columns, lines)
        environment = {**os.environ, "TERM": "xterm", "CLOCKD_SECRET": "any", **(environment or {})}
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), its_end)
        self.process = subprocess.Popen([*CLOCKD, *words], **ends, env=environment, start_new_session=True)
        STARTED.append(self)
        os.close(its_end)
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        data = b""
        with suppress(OSError):  # the other end is closed
            while more := os.read(self._end, 65536):
                data += more
                self.text = data.decode("utf-8", "replace")

    def type(self, text):
        os.write(self._end, text.encode())

    def resize(self, columns, lines):
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def screen(self):
        """The lines that were drawn last, without styles."""
        drawn = self.text.rpartition("\x1b[H")[2]
        return re.sub(r"\x1b\[[0-9;]*m", "", drawn).split("\r\n")

    def wait_for(self, text):
        """Wait until the screen shows a text."""
        return eventually(lambda: text in "\n".join(self.screen))

    def ended(self, number):
        """Send a signal; return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        os.close(self._end)
        return code
