"""A real server that fuzzed inputs come to over sockets, while ten honest clients are pushed to.

Each input is a connection of its own, from an address of its own, that has come as far as its stage. Some are under way
at a time; the next come when these have left, and most of them do when the server has ended them.
"""

import re
import sys
import time
from collections import Counter
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from socket import SHUT_WR
from tempfile import TemporaryDirectory

from fuzz.inputs import random_input, segments
from fuzz.targets import GREETINGS, STAGES
from processes import eventually
from strangers import LONGEST_GAP, MIND, PERIOD, ROOT, Stranger, Watched, encode, message, response, watched

TOGETHER = 32
"""As many inputs are under way at a time."""

WARM_UP = 512
"""As many come before memory is looked at for the first time."""

GROWTH_BYTES = 5e6
"""Memory may have grown by less than this."""

GREETING = encode(b"pb") + encode([b"version", 6])


def besiege(seeds):
    """Start a server and throw all of the inputs at it, of which these are the seeds.

    Raises:
        AssertionError: The server has faulted, has grown, or has held up its honest clients.
    """
    with TemporaryDirectory() as folder, watched(Path(folder), connections_per_account=100) as server:
        Siege(server).throw(iter(seeds))


class Siege:
    """A server under fuzzed inputs, and what has come of them.

    Args:
        server: A `Watched` one.
    """

    def __init__(self, server: Watched):
        self._server = server
        self._lines = 0
        self._stages = Counter()

    def throw(self, seeds):
        """See `besiege`."""
        server, began = self._server, time.time()
        while self._stages.total() < WARM_UP and self._throw(seeds):
            pass
        memory = self._memory_at_rest()
        while self._throw(seeds):
            pass
        self._judge(memory, self._memory_at_rest(), server.stamps(began, time.time()))

    def _throw(self, seeds):
        """Throw some inputs; tell whether there were any left."""
        batch = list(islice(seeds, TOGETHER))
        if not batch:
            return False
        try:
            peers = [Peer(self._server, seed) for seed in batch]
            for peer in peers:
                peer.speak()
            for peer in peers:
                peer.leave()
            self._look_at_log()
        except BaseException:
            print(f"with --seed {batch[0]} --inputs {len(batch)}, or just before", file=sys.stderr)
            raise
        self._stages.update(peer.stage for peer in peers)
        return True

    def _memory_at_rest(self):
        """Wait until all have gone and what looked like passwords has been checked; return the server's memory."""

        def is_at_rest():
            before = self._server.cpu()
            time.sleep(0.5)
            return self._server.cpu() - before < 0.1

        self._server.alone()
        eventually(is_at_rest)
        return self._server.memory()

    def _look_at_log(self):
        lines = self._server.lines[self._lines :]
        self._lines += len(lines)
        faults = [line for line in lines if re.search(r'"level": "(error|critical)"|Traceback|ignored in', line)]
        assert not faults, "\n".join(faults)

    def _judge(self, memory, memory_at_end, stamps):
        server = self._server
        errors = int(server.scrape()["clockd_unhandled_errors_total"])
        pushes = sum(len(its) - 1 for its in stamps)
        due = sum(round((its[-1] - its[0]) / PERIOD) for its in stamps)
        gap = max(after - before for its in stamps for before, after in pairwise(its))
        print(
            f"inputs by stage: {dict(self._stages)}\n"
            f"the server: {errors} unhandled errors, {memory / 1e6:.1f} MB after {WARM_UP} inputs and "
            f"{memory_at_end / 1e6:.1f} MB in the end, {server.cpu():.1f} s of a processor\n"
            f"its honest clients: {pushes} pushes of {due} that were due, longest gap {gap:.2f} s; "
            f"it has waited {server.waited():.1f} s for a processor"
        )
        assert errors == 0
        assert memory_at_end - memory < GROWTH_BYTES
        assert gap < LONGEST_GAP, (
            "a push was late: if the server has waited for a processor, try again with less beside it"
        )


class Peer:
    """A connection that says an input.

    Args:
        server: Where to.
        seed: Of the input, its stage, and all else that is left to chance.

    Attributes:
        stage: How far it has come when it says it; one of `STAGES`.
    """

    def __init__(self, server, seed):
        self._random = Random(seed)
        self._data = random_input(self._random)
        self.stage = self._random.choice(STAGES)
        self._secret = server.secrets["mallory"]
        self._stranger = Stranger(server.port, server.address())
        if self.stage == "stranger":
            self._data = self._random.choice(GREETINGS) + self._data
        else:
            self._stranger.send(GREETING)
        if self.stage == "challenged":  # not mallory: too many wrong responses, and she would have to wait
            self._stranger.send(message(1, ROOT, b"login", b"alice"))
        elif self.stage == "serving":
            self._stranger.send(message(1, ROOT, b"login", b"mallory"))

    def speak(self):
        """Say the input, whatever becomes of the connection."""
        if self.stage == "serving":
            _, challenge, [_, challenger] = self._stranger.answer(1)
            self._stranger.send(message(2, challenger, b"respond", response(self._secret, challenge), MIND))
        for segment in segments(self._random, self._data):
            if not self._stranger.send(segment):
                return

    def leave(self):
        """Leave in one way or another, mostly when the server has taken all that was said."""
        if self._random.random() < 0.7:
            with suppress(OSError):  # it has ended already
                self._stranger.socket.shutdown(SHUT_WR)
            self._stranger.end()
        self._stranger.close(reset=self._random.random() < 0.5)
