"""Have connections come and go by the thousand, and see that nothing is left of them: `make soak`.

Each cycle is a connection from another address that greets, logs in, is pushed to, changes its period twice, stays
while others come, and leaves in one way or another. Half of them get no further than some byte of that: there they
leave, or they fall silent and stay until the server ends them. Then avatars, connections, delayed calls of the
reactor and descriptors of a `clockd serve` have to be what they were before the first came, and its memory, as the
operating system counts it, has to be less than 5 MB above what it was after the first few hundred.
"""

import argparse
import itertools
import signal
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from random import Random
from socket import SHUT_WR
from tempfile import TemporaryDirectory

from processes import CLOCKD, SECONDS, Program, eventually
from strangers import Stranger, Visited, watched

WARM_UP = 300
"""As many cycles come before memory is looked at for the first time: some of what they take, it keeps for the next."""

MOST_GROWTH, GROWTH, GROWTH_PER_CYCLE = 5000, 500, 0.45
"""Memory may have grown by less than this, in kB; a connection that is not let go of takes some 2.5."""

STAYING = 12
"""As many are logged in at a time, in their turn."""

SILENT = 60
"""As many, at the most, have fallen silent and wait for their end."""

LIMITS = {"login_seconds": 2, "ack_seconds": 0.5, "stale_seconds": 2, "connections_per_account": 1000}

TELLS = """
import signal

from twisted.internet import reactor

from clockd.__main__ import main


def tell():
    print("delayed calls:", len(reactor.getDelayedCalls()), flush=True)


signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(tell))
main()
"""


class Telling(Program):
    """The command `clockd`, of which SIGUSR1 asks how many delayed calls its reactor has."""

    def __init__(self, *command, **options):
        super().__init__(sys.executable, "-c", TELLS, *command[len(CLOCKD) :], **options)

    def delayed_calls(self):
        """Ask it."""

        def told():
            return [line for line in list(self.lines) if line.startswith("delayed calls:")]

        before = len(told())
        self.process.send_signal(signal.SIGUSR1)
        return int(eventually(lambda: told()[before:])[-1].split()[-1])


class Soaked(Visited, Telling):
    """A server that tells how many delayed calls it has."""

    def figures(self):
        """Return what has to be the same before and after."""
        now = self.scrape()
        return {
            "avatars": now["clockd_avatars"],
            "connections, not logged in": now["clockd_connections pending"],
            "connections, logged in": now["clockd_connections authenticated"],
            "subscriptions": now["clockd_subscriptions time"],
            "unsent bytes": now["clockd_send_buffer_bytes"],
            "unhandled errors": now["clockd_unhandled_errors_total"],
            "delayed calls": self.delayed_calls(),
            "descriptors": len(self.descriptors()),
        }


class Cut(Exception):  # it is no error
    """The visitor has said as much as it is to say."""


class Visitor(Stranger):
    """A connection that says so many bytes and no more.

    Attributes:
        said: As many has it said.
    """

    def __init__(self, port, source, most):
        self._most = most
        self.said = 0
        super().__init__(port, source)

    def send(self, data):
        part = data[: self._most - self.said]
        self.said += len(part)
        lasted = super().send(part)
        if len(part) < len(data):
            raise Cut
        return lasted


def let_go(visitor):
    visitor.say([b"decref", visitor.perspective])
    visitor.end()


def half_close(visitor):
    with suppress(OSError):  # it may have stayed too long
        visitor.socket.shutdown(SHUT_WR)
    visitor.end()


def say_nonsense(visitor):
    visitor.say([b"cachemessage"])
    visitor.end()


WAYS = (Visitor.close, lambda visitor: visitor.close(reset=True), let_go, half_close, say_nonsense)


class Churn:
    """Those who come and go.

    Args:
        server: Where to.
        seed: Of all that is left to chance.

    Attributes:
        kinds: How many there have been of each kind.
    """

    def __init__(self, server, seed):
        self._server = server
        self._chance = Random(seed)
        self._length = None
        self._staying = deque()
        self._silent = deque()
        self.kinds = Counter()

    def cycle(self):
        """Have one come, and others go for it."""
        if self._length is None or self._chance.random() < 0.5:
            visitor = self._visitor(sys.maxsize)
            self._visit(visitor)
            self._length = visitor.said
            self.kinds["whole"] += 1
            self._staying.append(visitor)
            if len(self._staying) > STAYING:
                self._leave(self._staying.popleft())
            return
        visitor = self._visitor(self._chance.randrange(self._length))
        try:
            self._visit(visitor)
        except Cut:
            pass
        else:
            raise AssertionError("a session is shorter than the first was")
        if self._chance.random() < 0.1:
            self.kinds["cut, then silent"] += 1
            self._silent.append(visitor)
            if len(self._silent) > SILENT:
                self._end(self._silent.popleft())
        else:
            self.kinds["cut"] += 1
            visitor.close(reset=self._chance.random() < 0.5)

    def finish(self):
        """Have all go, also the silent ones."""
        while self._staying:
            self._leave(self._staying.popleft())
        while self._silent:
            self._silent.popleft().close()

    def wait_for_the_silent(self):
        """Wait until the server has ended those who say nothing."""
        while self._silent:
            self._end(self._silent.popleft())

    def _visitor(self, most):
        return Visitor(self._server.port, self._server.address(), most)

    def _visit(self, visitor):
        visitor.negotiate()
        visitor.login("mallory", self._server.secrets["mallory"])
        visitor.answers = False  # so that all say as much
        visitor.pushed()
        for _ in range(2):
            period = self._chance.choice((0.01, 0.05, 0.7, 60.0))
            assert visitor.call(visitor.perspective, b"setperiod", period) == period

    def _leave(self, visitor):
        self._chance.choice(WAYS)(visitor)
        visitor.close()

    def _end(self, visitor):
        visitor.end()
        visitor.close()


def main():
    """Run what the command line asks for; end with 1 if something is left."""
    parser = argparse.ArgumentParser(prog="soak.py", description="Have connections come and go; see what is left.")
    parser.add_argument("--seed", type=int, default=1, help="of what is left to chance")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--cycles", type=int, default=10_000, help="how many connections come and go")
    length.add_argument("--seconds", type=float, help="how long to go on")
    options = parser.parse_args()
    with TemporaryDirectory() as folder, watched(Path(folder), kind=Soaked, **LIMITS) as server:
        soak(server, options)


def soak(server, options):
    """Have them come and go; end the program if something is left."""
    before = eventually(lambda: (seen := server.figures()) == server.figures() and seen)
    churn = Churn(server, options.seed)
    for _ in range(WARM_UP):
        churn.cycle()
    churn.finish()
    at_rest(server, before)
    memory, begun = server.memory(), time.monotonic()
    for done in itertools.count():
        took = time.monotonic() - begun
        if (done == options.cycles) if options.seconds is None else (took >= options.seconds):
            break
        churn.cycle()
    churn.wait_for_the_silent()
    churn.finish()
    after = at_rest(server, before)
    print(f"{WARM_UP} cycles to warm up, then {done} in {took:.0f} s: {dict(churn.kinds)}")
    print(f"{'':28}{'before':>10}{'after':>10}")
    before["memory, kB"], after["memory, kB"] = memory / 1000, server.memory() / 1000
    for name, value in before.items():
        print(f"{name:28}{value:10.0f}{after[name]:10.0f}")
    grown = after.pop("memory, kB") - before.pop("memory, kB")
    wrong = [name for name in before if after[name] != before[name]]
    if grown >= min(MOST_GROWTH, GROWTH + GROWTH_PER_CYCLE * done):
        wrong.append("memory")
    now = server.scrape()
    opened, ok = now["clockd_connections_opened_total"], now["clockd_logins_total secret ok"]
    if opened != churn.kinds.total() or ok < churn.kinds["whole"]:
        wrong.append("connections that have come to the server")
    if wrong:
        sys.exit(f"not what it has to be: {', '.join(wrong)}")
    print(f"nothing is left, and memory has grown by {grown / 1000:.1f} MB")


def at_rest(server, before):
    """Wait for what was there before; return what is there in the end."""
    end = time.monotonic() + SECONDS
    while (after := server.figures()) != before and time.monotonic() < end:
        time.sleep(0.05)
    return after


if __name__ == "__main__":
    main()
