"""Cases about peers: those who log in, take memory, come and go, scrape, or stop to read."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench import measure
from bench.compare import FULL
from bench.contenders import Clockd, ClockdAsking, ClockdTLSAsking
from bench.figures import KIB, MIB, MILLI, Figure, lateness, latest
from bench.processes import Cores
from bench.scrape import Lateness, scrape
from bench.subjects import (
    WARMUP,
    Watched,
    bytes_per_subscriber,
    connections,
    continued,
    private_bytes,
    started,
    subscribed,
    wait_until,
    witness,
)

GROWTH = 32
"""Bytes that a connection may leave behind, on average over many: the allocator does not reuse every gap at once, and
takes 0.25 to 1 MiB at a time; an object of Python that was left would be 32 or more.
"""

QUIET_SECONDS = 8
"""How long lateness is measured before something happens."""


@dataclass(frozen=True)
class Storm:
    """What was seen of subscribers who are pushed to, before and while others log in.

    Attributes:
        logins: How many logged in.
        logins_per_second: How many did so in a second.
        cpu_seconds: CPU time of the server while they did, without what the pushes took.
        load_share: CPU time in a second of what logged them in.
        before: How late pushes were before.
        meanwhile: How late they were meanwhile.
        made: Pushes made meanwhile, of those that were due.
    """

    logins: int
    logins_per_second: float
    cpu_seconds: float
    load_share: float
    before: Lateness
    meanwhile: Lateness
    made: float


def storm(clockd: Watched, others: int, rate: float, logins: int, *flags: str) -> Storm:
    """Have some log in while others are pushed to.

    Those who log in ask for a period of an hour, so that the lateness is that of the others.

    Args:
        clockd: The server.
        others: How many are pushed to.
        rate: Pushes a second to each of them.
        logins: How many log in.
        flags: More for the command line of the load generator that logs them in.
    """
    with subscribed(clockd, others, 1 / rate):
        time.sleep(WARMUP)
        first, start, used = clockd.since(), time.monotonic(), measure.cpu_seconds(clockd.server_pids)
        time.sleep(QUIET_SECONDS)
        share = (measure.cpu_seconds(clockd.server_pids) - used) / (time.monotonic() - start)
        second, start, used = clockd.since(), time.monotonic(), measure.cpu_seconds(clockd.server_pids)
        with subscribed(clockd, logins, 3600.0, *flags) as load:
            seconds, used = time.monotonic() - start, measure.cpu_seconds(clockd.server_pids) - used
            third = clockd.since()
    meanwhile = Lateness(second.lateness, third.lateness)
    return Storm(
        logins=logins,
        logins_per_second=logins / load.login["login_seconds"],
        cpu_seconds=used - share * seconds,
        load_share=load.login["login_cpu_seconds"] / load.login["login_seconds"],
        before=Lateness(first.lateness, second.lateness),
        meanwhile=meanwhile,
        made=meanwhile.count / (others * rate * seconds),
    )


def storm_figures(seen: Storm, where: str = "", *remarks: str) -> Iterator[Figure]:
    """Return what was seen, where that was, if it was in several places, and what a reader has to know."""
    full = f"load generator {100 * seen.load_share:.0f} % busy{', at its limit' if seen.load_share > FULL else ''}"
    yield Figure(f"logins a second{where}", seen.logins_per_second, notes=(full, *remarks))
    yield Figure(f"server CPU per login{where}", MILLI * seen.cpu_seconds / seen.logins, "ms")
    for when, late in (("before", seen.before), ("meanwhile", seen.meanwhile)):
        yield from lateness(f"lateness of the others {when}{where}", late)
        yield latest(f"lateness of the others {when}{where}", late)
    yield Figure(f"pushes of the others meanwhile, of those due{where}", 100 * seen.made, "%")


def logins(cores: Cores) -> Iterator[Figure]:
    """5,000 logins with a secret, 256 at a time, while 100 others are pushed to at 10 Hz."""
    with started(Watched, cores) as clockd:
        yield from storm_figures(storm(clockd, 100, 10, 5_000, "--in-flight=256"))


def passwords(cores: Cores) -> Iterator[Figure]:
    """60 logins with a password, 8 at a time, while 1,000 others are pushed to at 1 Hz; on one core, then on all.

    1 Hz is what clockd pushes at by default. It leaves almost all of a core to the checks, and what they do to a push
    is not hidden by pushes that wait for each other. 8 logins at a time are enough for a check to wait at any moment,
    and fewer than clockd refuses.
    """
    remark = "checks run at nice 10: they give way to pushes, and beside other work get a tenth of a core"
    spread = "one thread checks for every two cores; argon2 spreads each check over threads of its own"
    places = (("one core", cores), ("all cores", Cores(cores.server | cores.load, cores.load)))
    for name, place in places if cores.server else (("all cores", cores),):
        where = f", {name}"
        with started(Watched, place) as clockd:
            flags = password_account(clockd)
            yield from storm_figures(storm(clockd, 1_000, 1, 60, "--in-flight=8", *flags), where, remark, spread)
            refused = scrape(clockd.metrics_port)['clockd_logins_total{method="password",result="throttled"}']
        yield Figure(f"logins refused{where}", refused)


def password_account(clockd: Clockd) -> list[str]:
    """Make an account with a password, which the server finds within a second; return how to log in as that."""
    name, password = "people", "correct horse battery staple"
    clockd.add_user(name, "--password-stdin", said=f"{password}\n")
    return [f"--name={name}", f"--secret={password}"]


def memory(cores: Cores) -> Iterator[Figure]:
    """Memory that a subscriber takes, plain and over TLS; and what remains when many have come and gone."""
    for kind, word, subscribers, targets in (
        (ClockdAsking, "plain", 5_000, (12, 8)),
        (ClockdTLSAsking, "over TLS", 2_000, (40, 30)),
    ):
        taken = bytes_per_subscriber(kind, cores, subscribers)
        yield Figure(f"memory per subscriber, {word}", taken / KIB, "KiB", *targets)
        yield from churn(kind, word, cores)


def churn(kind: type[Clockd], word: str, cores: Cores) -> Iterator[Figure]:
    """Measure the memory after each of many rounds of subscribers that come and go."""
    rounds, coming, staying, settled = 30, 1_000, 100, 3
    with started(kind, cores) as clockd, subscribed(clockd, staying, 1.0):
        after = []
        for _ in range(rounds):
            with subscribed(clockd, coming, 1.0):
                time.sleep(WARMUP / 3)
            wait_until(lambda: connections(clockd) == staying)
            after.append(private_bytes(clockd) / MIB)
        errors = scrape(clockd.metrics_port)["clockd_unhandled_errors_total"]
    rows = (f"after each: {' '.join(f'{size:.1f}' for size in after)}",)
    what = f"memory when {rounds} times {coming:,} came and went, {word}"
    yield Figure(what, after[-1], "MiB", each=tuple(after), notes=rows)
    grown = (after[-1] - after[settled - 1]) * MIB / (coming * (rounds - settled))
    yield Figure(f"growth from the third time to the last, a connection, {word}", max(0.0, grown), "bytes", GROWTH)
    yield Figure(f"unhandled errors, {word}", errors, "", 0)


def scrapes(cores: Cores) -> Iterator[Figure]:
    """/metrics with 10,000 subscribers at 1 Hz, scraped once a second."""
    subscribers, count = 10_000, 20
    with started(Watched, cores) as clockd, subscribed(clockd, subscribers, 1.0):
        time.sleep(WARMUP)
        first = clockd.since()
        time.sleep(count)
        second = clockd.since()
        durations = scrape_durations(clockd.metrics_port, count)
        third = clockd.since()
    without, scraped = Lateness(first.lateness, second.lateness), Lateness(second.lateness, third.lateness)
    yield Figure("a scrape, median", MILLI * median(durations), "ms", 50, 10, tuple(durations))
    yield Figure("the longest of 20 scrapes", MILLI * max(durations), "ms", 50, 10)
    yield from lateness("lateness without scrapes", without)
    yield latest("lateness without scrapes", without)
    yield from lateness("lateness with a scrape a second", scraped)
    yield latest("lateness with a scrape a second", scraped, (10, 10))


def pages(cores: Cores) -> Iterator[Figure]:
    """1,000 subscribers at 1 Hz, and the status page open in none and in 50 browsers in turn.

    What a page is told fits into the kernel's buffers, so nobody has to read it.
    """
    subscribers, count, rounds = 1_000, 50, 3
    late: dict[int, list[Lateness]] = {0: [], count: []}
    used: dict[int, list[float]] = {0: [], count: []}
    with started(Watched, cores) as clockd, subscribed(clockd, subscribers, 1.0):
        time.sleep(WARMUP)
        for opened in [0, count] * rounds:
            with ExitStack() as stack:
                for _ in range(opened):
                    page = stack.enter_context(socket.create_connection(("127.0.0.1", clockd.metrics_port)))
                    page.sendall(b"GET /events HTTP/1.1\r\nHost: bench\r\n\r\n")
                time.sleep(1)
                first, start, cpu = clockd.since(), time.monotonic(), measure.cpu_seconds(clockd.server_pids)
                time.sleep(QUIET_SECONDS)
                used[opened].append((measure.cpu_seconds(clockd.server_pids) - cpu) / (time.monotonic() - start))
                late[opened].append(Lateness(first.lateness, clockd.since().lateness))
    for opened, rounds_of in late.items():
        for number, seen in enumerate(rounds_of, 1):
            yield from lateness(f"lateness with {opened} pages, round {number}", seen)
        yield Figure(f"share of a core with {opened} pages", 100 * median(used[opened]), "%", each=tuple(used[opened]))


def scrape_durations(port: int, count: int) -> list[float]:
    """Scrape once a second; return how long each took, in seconds, from the connect to the last byte."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        scrape(port)
        found.append(time.perf_counter() - start)
        time.sleep(max(0.0, 1 - found[-1]))
    return found


def stopped(cores: Cores) -> Iterator[Figure]:
    """Subscribers of 20 pushes a second that are stopped for 10 s: what waits for them when they go on."""
    count, rate, seconds, ack_seconds = 8, 20, 10, 1.0
    with started(ClockdAsking, cores) as clockd, ExitStack() as stack:
        witnesses = []
        for _ in range(count):
            witnesses.append(stack.enter_context(witness(clockd, 1 / rate)))
            time.sleep(1.1 * ack_seconds / count)  # so that they are stopped at different points between two asks
        time.sleep(3 * ack_seconds)
        for each in witnesses:
            os.kill(each.pid, signal.SIGSTOP)
        time.sleep(seconds)
        found = [continued(each) for each in witnesses]
    bound = 2 * rate * ack_seconds + 1
    waiting = tuple(count for count, _ in found)
    yield Figure("pushes that waited, at most", max(waiting), "", bound, bound, waiting)
    fresh = max(first for _, first in found)
    yield Figure("until a fresh stamp was there, at most", MILLI * fresh, "ms")
