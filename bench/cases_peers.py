"""Cases about peers: those who log in, take memory, come and go, scrape, or stop to read."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

from bench import measure
from bench.compare import FULL
from bench.contenders import Clockd, ClockdAsking, ClockdTLSAsking
from bench.figures import KIB, MIB, MICRO, MILLI, Figure, lateness, latest
from bench.processes import Cores
from bench.scrape import Lateness, scrape
from bench.subjects import (
    WARMUP,
    Watched,
    connections,
    continued,
    private_bytes,
    started,
    subscribed,
    wait_until,
    witness,
)

GROWTH = 1.0
"""Per cent of the memory that 7,000 connections may leave behind, since the allocator does not reuse every gap."""

QUIET_SECONDS = 8
"""How long lateness is measured before something happens."""


def logins(cores: Cores) -> Iterator[Figure]:
    """5,000 logins with a secret, 256 at a time, while 100 others are pushed to at 10 Hz.

    Those who log in ask for a period of an hour, so that the lateness is that of the 100.
    """
    count, others, rate = 5_000, 100, 10
    with started(Watched, cores) as clockd, subscribed(clockd, others, 1 / rate):
        time.sleep(WARMUP)
        first, start, used = clockd.since(), time.monotonic(), measure.cpu_seconds(clockd.server_pids)
        time.sleep(QUIET_SECONDS)
        share = (measure.cpu_seconds(clockd.server_pids) - used) / (time.monotonic() - start)
        second, start, used = clockd.since(), time.monotonic(), measure.cpu_seconds(clockd.server_pids)
        with subscribed(clockd, count, 3600.0, "--in-flight=256") as storm:
            seconds, used = time.monotonic() - start, measure.cpu_seconds(clockd.server_pids) - used
            third = clockd.since()
    before, meanwhile = Lateness(first.lateness, second.lateness), Lateness(second.lateness, third.lateness)
    busy = storm.login["login_cpu_seconds"] / storm.login["login_seconds"]
    full = (f"load generator {100 * busy:.0f} % busy{', at its limit' if busy > FULL else ''}",)
    yield Figure("logins a second", count / storm.login["login_seconds"], notes=full)
    yield Figure("server CPU per login", MICRO * (used - share * seconds) / count, "µs")
    for what, seen in (("before", before), ("meanwhile", meanwhile)):
        yield from lateness(f"lateness of the others {what}", seen)
        yield latest(f"lateness of the others {what}", seen)
    yield Figure("pushes of the others meanwhile, of those due", 100 * meanwhile.count / (others * rate * seconds), "%")


def memory(cores: Cores) -> Iterator[Figure]:
    """Memory that a subscriber takes, plain and over TLS; and what remains when many have come and gone."""
    for kind, word, subscribers, targets in (
        (ClockdAsking, "plain", 5_000, (12, 8)),
        (ClockdTLSAsking, "over TLS", 2_000, (40, 30)),
    ):
        with started(kind, cores) as clockd, subscribed(clockd, 100, 1.0):
            time.sleep(WARMUP)
            before = private_bytes(clockd)
            with subscribed(clockd, subscribers, 1.0):
                time.sleep(2 * WARMUP)
                taken = private_bytes(clockd) - before
        yield Figure(f"memory per subscriber, {word}", taken / subscribers / KIB, "KiB", *targets)
        yield from churn(kind, word, cores)


def churn(kind: type[Clockd], word: str, cores: Cores) -> Iterator[Figure]:
    """Measure the memory after each of many rounds of subscribers that come and go."""
    rounds, coming, staying, settled = 10, 1_000, 100, 3
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
    grown = (after[-1] - after[settled - 1]) / after[settled - 1]
    yield Figure(f"growth from the third time to the last, {word}", 100 * grown, "%", GROWTH)
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
