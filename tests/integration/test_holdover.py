"""Clients stay with a server that is killed, restarted, stopped and cut off at random, and know the time meanwhile.

`CLOCKD_TEST_CHAOS_SECONDS=300` has it go on for five minutes; `CLOCKD_TEST_CHAOS_SEED` repeats what happened.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from processes import HERE, Program, Server, eventually, without_coverage

CHAOS_SECONDS = float(os.environ.get("CLOCKD_TEST_CHAOS_SECONDS", "5"))
SEED = int(os.environ.get("CLOCKD_TEST_CHAOS_SEED", random.randrange(2**32)))
PERIODS = [0.1 * (number + 1) for number in range(10)]
HERTZ = sum(1 / period for period in PERIODS)
OUTAGE_SECONDS = max(0.5, CHAOS_SECONDS / 60)
"""The longest of one thing that happens; what comes next comes after three times as long at most."""

RETURN_SECONDS = 90
"""A client waits for half a minute at most before it connects again; then it logs in."""


class Line:
    """What is between clients and a server: connections can be held up in either direction, and cut.

    Attributes:
        port: Where clients connect.
        to: The server's port, or None while there is no way to it.
    """

    def __init__(self):
        self.to = None
        self.flows = {"there": threading.Event(), "back": threading.Event()}
        self.let_flow()
        self._pairs = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to or 1))
            except OSError:
                near.close()
                continue
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._start(self._carry, near, far)

    def _start(self, *call):
        self._threads.append(threading.Thread(target=call[0], args=call[1:]))
        self._threads[-1].start()
        return self._threads[-1]

    def _carry(self, near, far):
        pair = near, far
        self._pairs.add(pair)
        back = self._start(self._pump, far, near, self.flows["back"])
        self._pump(near, far, self.flows["there"])
        back.join()
        self._pairs.discard(pair)
        near.close()
        far.close()

    def _pump(self, source, sink, flow):
        with suppress(OSError):
            while data := source.recv(65536):
                flow.wait()
                sink.sendall(data)
        hang_up(source, sink)

    def hold(self, *ways):
        for way in ways:
            self.flows[way].clear()

    def let_flow(self):
        for flow in self.flows.values():
            flow.set()

    def cut(self):
        for pair in list(self._pairs):
            hang_up(*pair)

    def close(self):
        hang_up(self._listener)
        self._listener.close()
        self.let_flow()
        self.cut()
        for thread in self._threads:
            thread.join()


def hang_up(*sockets):
    for each in sockets:
        with suppress(OSError):  # it is so already
            each.shutdown(socket.SHUT_RDWR)


class Survivor(Program):
    """A client, see `survivor.py`."""

    def __init__(self, port, secret, period):
        command = (sys.executable, str(HERE / "survivor.py"), str(port), "alice", secret, str(period))
        super().__init__(*command, environment=without_coverage(), stdin=subprocess.PIPE)

    def report(self):
        return self.ask("report")

    def leave(self):
        self.process.stdin.write("leave\n")
        self.process.stdin.flush()


class Chaos:
    """What happens to a server, and to the line to it.

    Args:
        folder: Where the server's files are.
        line: The line.
        chance: Decides.
    """

    def __init__(self, folder, line, chance):
        self._folder = folder
        self._line = line
        self._chance = chance
        self.server = None
        self.connect()

    def connect(self):
        limits = {"CLOCKD_LIMITS_CONNECTIONS_PER_ACCOUNT": "1000"}  # those cut off stay for a while
        self.server = Server(self._folder, environment=without_coverage() | limits)
        self._line.to = self.server.port

    def wait(self, longest=OUTAGE_SECONDS):
        time.sleep(self._chance.uniform(0.1, longest))

    def kill(self):
        self.server.end(signal.SIGKILL)
        self.wait()
        self.connect()

    def restart(self):
        self.server.stop()
        self.wait()
        self.connect()

    def stop(self):
        self.server.process.send_signal(signal.SIGSTOP)
        self.wait()
        self.server.process.send_signal(signal.SIGCONT)

    def cut(self):
        self._line.to = None
        self._line.cut()
        self.wait()
        self._line.to = self.server.port

    def hold(self, *ways):
        self._line.hold(*ways)
        self.wait()
        if self._chance.random() < 0.5:
            self._line.cut()  # and what was on its way is lost
        self._line.let_flow()

    def hold_all(self):
        self.hold("there", "back")

    def hold_there(self):
        self.hold("there")

    def hold_back(self):
        self.hold("back")

    def go_on(self, seconds):
        """Have everything happen at least once, and again until it was so many seconds."""
        every = (self.kill, self.restart, self.stop, self.cut, self.hold_all, self.hold_there, self.hold_back)
        begun = time.monotonic()
        due = []
        while due or time.monotonic() - begun < seconds:
            due = due or self._chance.sample(every, len(every))
            happens = due.pop()
            print(f"{time.monotonic() - begun:6.1f} s: {happens.__name__}")
            happens()
            self.wait(3 * OUTAGE_SECONDS)


@pytest.fixture
def line():
    line = Line()
    yield line
    line.close()


def test_clients_come_back_with_their_periods_know_the_time_meanwhile_and_leak_nothing(tmp_path, line):
    print(f"CLOCKD_TEST_CHAOS_SEED={SEED}")
    chaos = Chaos(tmp_path, line, random.Random(SEED))
    clients = [Survivor(line.port, chaos.server.secret, period) for period in PERIODS]
    for client in clients:
        client.line('"connected"')
    all_are_there(chaos.server)
    before = [eventually(lambda client=client: at_rest(client)) for client in clients]
    chaos.go_on(CHAOS_SECONDS)

    # the last restart: what the server holds without them is looked at before they find it
    chaos.server.stop()
    line.to = None
    last = Server(tmp_path, environment=without_coverage())
    alone = descriptors(last)
    line.to = last.port
    all_are_there(last)
    then = [client.report()["samples"] for client in clients]
    for client, rest, samples in zip(clients, before, then, strict=True):
        eventually(lambda client=client, samples=samples: client.report()["samples"] >= samples + 2)
        eventually(lambda client=client, rest=rest: client.report()["held"] == rest)
    for client in clients:
        client.leave()
    for client in clients:
        print(seen := client.result())
        assert (seen["wrong"], seen["errors"]) == ([], [])
        assert all(count <= seen["before"][what] for what, count in seen["held"].items())
        assert seen["events"].keys() & {"lost", "draining"}
        assert seen["looks"]["not connected, holdover, finite"] > 0
    last.assert_empty()
    eventually(lambda: descriptors(last) == alone)
    last.stop()


def all_are_there(server):
    def there():
        now = server.scrape()
        hertz = now["clockd_push_requested_hertz time"]
        return now["clockd_connections authenticated"] == len(PERIODS) and hertz == pytest.approx(HERTZ)

    eventually(there, RETURN_SECONDS)


def at_rest(client):
    """Return what a client holds, if it is the same twice."""
    held = client.report()["held"]
    return held if held == client.report()["held"] else None


def descriptors(server):
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
