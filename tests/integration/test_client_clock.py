"""What the client library knows of the time, over real sockets: the server is on this host, so the true offset is 0."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from processes import Program, Server, eventually, run

HERE = Path(__file__).parent
SECRET = "open sesame"


class Timekeeping(Program):
    """A client that looks at its clock a hundred times a second; see `timekeeping.py`."""

    def __init__(self, server, period=0.1):
        words = f"tcp:127.0.0.1:{server.port}", "alice", server.secret, str(period)
        super().__init__(sys.executable, str(HERE / "timekeeping.py"), *words, stdin=subprocess.PIPE)
        self.line("ready")
        self.ask("")  # what was before the first exchange

    def found(self, seconds=0.0):
        """Return what was found since the last time, which is so long ago; the time was in each interval."""
        time.sleep(seconds)
        found = self.ask("")
        assert found["wrong"] == [], found
        return found

    def until(self, condition):
        """Wait until something is found."""
        return eventually(lambda: (found := self.found()) and condition(found) and found)

    def leave(self):
        self.process.stdin.close()
        assert self.wait() == 0, self.output
        assert "Traceback" not in self.output


@pytest.fixture
def server(tmp_path):
    return Server(tmp_path, "--state", "")


def restarted(server, tmp_path):
    return Server(tmp_path, "--state", "", port=server.port, metrics=int(server.metrics.rpartition(":")[2]))


def test_the_interval_contains_the_time_through_a_restart_of_the_server(server, tmp_path):
    clock = Timekeeping(server)
    found = clock.found(1.0)
    assert found["unknown"] == 0
    assert found["statuses"].keys() <= {"synchronized", "unsynchronized", "unknown"}
    assert found["bound"] < 0.5  # some 0.0005 where nothing is held up
    assert 0 < found["round_trip"] < 1
    server.end(signal.SIGKILL)
    found = clock.until(lambda found: not found["connected"])
    assert "was lost" in found["trouble"]
    found = clock.found(1.0)
    assert (found["statuses"].keys(), found["unknown"], found["arrived"]) == ({"holdover"}, 0, 0)
    assert "cannot connect" in clock.until(lambda found: "cannot" in found["trouble"])["trouble"]
    again = restarted(server, tmp_path)
    clock.until(lambda found: found["connected"] and found["arrived"] and "holdover" not in found["statuses"])
    found = clock.found(2.0)
    assert (found["unknown"], "holdover" in found["statuses"]) == (0, False)
    assert found["bound"] < 0.5
    assert found["arrived"] > 4  # with the period it had: at the default there are three
    clock.leave()
    again.assert_empty()
    again.stop()


def test_the_interval_contains_the_time_while_the_server_or_the_client_stands_still(server):
    clock = Timekeeping(server)
    for process in (server.process, clock.process):
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        process.send_signal(signal.SIGCONT)
        found = clock.found(0.3)
        assert (found["connected"], found["unknown"], found["events"]) == (True, 0, [])
    clock.leave()
    scraped = server.scrape()
    assert scraped["clockd_subscriber_offset_seconds_count"] >= 1
    server.stop()


def test_a_stock_server_has_no_exchange_and_that_is_no_fault():
    code = """
    import asyncio, math, sys
    sys.path.insert(0, sys.argv[1])
    from clockd.client import connect

    async def main():
        connecting = connect("tcp:127.0.0.1:1", "alice", sys.argv[2])  # has a reactor installed
        from notices import Avatar, Realm, listen
        del Avatar.perspective_exchange
        async with connect(f"tcp:127.0.0.1:{listen(Realm(), sys.argv[2])}", "alice", sys.argv[2]) as clock:
            samples = clock.samples()
            for _ in range(10):
                sample = await anext(samples)
                assert (sample.offset, sample.bound, clock.now().bound) == (None, math.inf, math.inf)
            print(clock.now().status, clock.connected, clock.round_trip)

    asyncio.run(main())
    """
    done = run(sys.executable, "-c", textwrap.dedent(code), str(HERE), SECRET)
    assert done.returncode == 0, done.stderr
    assert "unknown True None" in done.stdout.splitlines()


def test_the_fake_server_listens_and_leaves_nothing_behind():
    code = """
    import asyncio, os, sys
    from clockd.client import connect
    from clockd.testing import FakeServer

    async def until(condition):
        while not condition():
            await asyncio.sleep(0.01)

    async def session():
        async with FakeServer() as server:
            async with connect(server.endpoint, "alice", "any secret") as clock:
                events = clock.events()
                samples = clock.samples()
                server.push()
                await anext(samples)
                server.ahead = 60.0
                server.drop()
                print((await anext(events)).kind, (await anext(events)).kind)
                assert clock._link.broker.transport.getTcpNoDelay()
                await until(lambda: abs(clock.now().offset or 0.0) > 1)
                print(round(clock.now().offset))
                server.step(-120.0)
                print((await anext(events)).text)
                await until(lambda: clock.now().offset is not None)
                print(round(clock.now().offset))

    async def main():
        await session()
        from twisted.internet import reactor
        await asyncio.sleep(0)
        before = len(os.listdir("/proc/self/fd"))
        await session()
        await asyncio.sleep(0)
        print(len(os.listdir("/proc/self/fd")) - before, len(reactor.getDelayedCalls()))

    asyncio.run(main())
    """
    done = run(sys.executable, "-W", "error", "-c", textwrap.dedent(code))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    seen = ["lost connected", "60", "the server's clock was set by -120.000000 s", "-60"]
    assert done.stdout.splitlines() == [*seen, *seen, "0 0"]
