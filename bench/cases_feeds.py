"""Cases about feeds: what it costs to publish, and what it costs that each subscriber gets the newest at its rate."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from math import hypot, inf, sqrt
from statistics import mean, median, stdev

from bench import measure
from bench.compare import ARRIVED, FULL, QUIET, Measurement, Shape, measured_once, notes
from bench.contenders import (
    PAYLOAD_BYTES,
    TOPICS,
    ClockdFeeds,
    ClockdManyFeeds,
    ClockdManyFeedsAsking,
    MosquittoManyTopics,
    RedisManyChannels,
)
from bench.figures import MIB, MICRO, MILLI, Figure
from bench.processes import Cores, LoadGenerator
from bench.scrape import scrape, skipped
from bench.subjects import WARMUP, started, subscribed

TELEMETRY_SECONDS = 60.0
"""How long telemetry is looked at."""

UPDATES, FEW_UPDATES = 5_000, 100
"""Updates a second that the publisher of telemetry makes; and at the end, where it hides less of what pushes cost."""

GROUPS = ((1_000, 1.0), (10, 0.02))
"""Subscribers of telemetry, and seconds between pushes to each of them."""

TURN_SECONDS = 2.0
"""How long one thing is looked at before it is the next one's turn; whole seconds have the same pushes in them."""

SETTLED = 0.4
"""Seconds from a change of subscriptions to a look."""

TURNS_SHARE, STEADY_SHARE, FEW_SHARE = 5 / 12, 1 / 3, 1 / 4
"""The parts of telemetry's time: looks in turn, a look at the feed alone, looks in turn at few updates."""

OLDEST = MILLI / UPDATES + 5
"""Milliseconds that the newest value may be old at a subscriber: one update, and what a push takes."""

GROWTH = 2.0
"""Per cent of the memory that may come to it: the allocator does not reuse every gap that resubscribing leaves."""

ROUNDS = 3
"""How often many feeds are measured."""

MANY_SECONDS = 5.0
"""How long they are measured."""


@dataclass(frozen=True)
class Span:
    """What was seen in a look at a server, its publisher and its subscribers.

    Attributes:
        server_share: CPU time of the server in a second.
        load_share: CPU time in a second of the publisher and the load generators.
        other_share: CPU time in a second of everything else on the machine.
        waited_share: Time in a second for which something else had the server's core while it was to run.
        updates: Calls of the publisher that were answered in a second.
        rates: Pushes a second to each subscriber, by group.
        ages: Percentiles of the time from stamp to arrival, by group.
    """

    server_share: float
    load_share: float
    other_share: float
    waited_share: float
    updates: float
    rates: tuple[float, ...]
    ages: tuple[dict[str, float], ...]

    @property
    def pushes(self) -> float:
        """Pushes a second to all subscribers."""
        return sum(rate * count for rate, (count, _) in zip(self.rates, GROUPS, strict=True))


@dataclass(frozen=True)
class Telemetry:
    """A server that runs, with its publisher and its subscribers.

    Attributes:
        clockd: The server.
        publisher: The publisher.
        loads: The subscribers, by group.
    """

    clockd: ClockdFeeds
    publisher: LoadGenerator
    loads: tuple[LoadGenerator, ...]

    @property
    def pid(self) -> int:
        """The server's process."""
        return self.clockd.programs[0].pid

    def memory(self) -> dict[str, int]:
        """Return what the server holds."""
        return measure.memory_bytes(self.pid)

    def look(self, what: str, seconds: float = TURN_SECONDS) -> Span:
        """Have all subscribed to `none`, to the `time` or to the `feeds`, and look at them."""
        for load in self.loads:
            load.change(what)
        time.sleep(SETTLED)
        for each in (self.publisher, *self.loads):
            each.start()
        before, waited, start = measure.all_cpu_seconds(), measure.waited_seconds(self.pid), time.monotonic()
        time.sleep(seconds)
        after, waited = measure.all_cpu_seconds(), measure.waited_seconds(self.pid) - waited
        seconds = time.monotonic() - start
        published, *counted = (each.count() for each in (self.publisher, *self.loads))
        shares = {pid: (cpu - before.get(pid, 0.0)) / seconds for pid, cpu in after.items()}
        del shares[os.getpid()]
        return Span(
            server_share=shares.pop(self.pid),
            load_share=sum(shares.pop(each.pid) for each in (self.publisher, *self.loads)),
            other_share=sum(shares.values()),
            waited_share=waited / seconds,
            updates=published["messages"] / published["seconds"],
            rates=tuple(
                each["messages"] / each["seconds"] / count for each, (count, _) in zip(counted, GROUPS, strict=True)
            ),
            ages=tuple(each["age_seconds"] for each in counted),
        )

    def turns(self, seconds: float) -> "Turns":
        """Look at the publisher alone, and with subscribers of its feed and of the time beside it, in turn."""
        alone: list[Span] = [self.look("none")]
        feeds: list[Span] = []
        times: list[Span] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for what, spans in (("feeds", feeds), ("time", times))[:: 1 if len(alone) % 2 else -1]:
                spans.append(self.look(what))
            alone.append(self.look("none"))
        return Turns(alone, feeds, times)


@dataclass(frozen=True)
class Turns:
    """What was seen in turn.

    Attributes:
        alone: The publisher alone, before and after each of those that follow.
        feeds: With subscribers of its feed.
        times: With the same subscribers of the time.
    """

    alone: list[Span]
    feeds: list[Span]
    times: list[Span]

    def beyond(self, spans: list[Span]) -> tuple[float, ...]:
        """Return the server's CPU time for a push, in microseconds, without what the publisher costs alone."""
        costs = [MICRO * each.server_share / each.updates for each in self.alone]
        before_and_after = map(mean, pairwise(costs))
        return tuple(
            (MICRO * span.server_share - span.updates * publish) / span.pushes
            for span, publish in zip(spans, before_and_after, strict=True)
        )


def telemetry(cores: Cores, seconds: float = TELEMETRY_SECONDS) -> Iterator[Figure]:
    """One publisher of 5,000 updates/s; 1,000 subscribers of the feed at 1 Hz and 10 at 50 Hz; no asks."""
    with started(ClockdFeeds, cores) as clockd, ExitStack() as stack:
        loads = tuple(stack.enter_context(subscribed(clockd, count, period, "--topics=1")) for count, period in GROUPS)
        publisher = clockd.publisher(1, 1 / UPDATES)
        stack.callback(publisher.stop)
        running = Telemetry(clockd, publisher, loads)
        time.sleep(WARMUP)
        scrape(clockd.metrics_port)
        for what in 2 * ("feeds", "time", "none"):  # what memory is taken once is taken then
            running.look(what, TURN_SECONDS / 2)
        memories, begin = [running.memory()], time.monotonic()
        turns = running.turns(TURNS_SHARE * seconds)
        memories.append(running.memory())
        before = scrape(clockd.metrics_port)
        steady = running.look("feeds", STEADY_SHARE * seconds)
        skips = skipped(before, scrape(clockd.metrics_port))
        memories.append(running.memory())
        publisher.stop()
        few = clockd.publisher(1, 1 / FEW_UPDATES)
        stack.callback(few.stop)
        few_turns = Telemetry(clockd, few, loads).turns(FEW_SHARE * seconds)
        memories.append(running.memory())
        lasted = time.monotonic() - begin
    yield from costs(turns, UPDATES)
    yield from costs(few_turns, FEW_UPDATES)
    yield from newest(turns, steady)
    for reason, count in skips.items():
        if count:
            yield Figure(f"pushes skipped in {STEADY_SHARE * seconds:.0f} s: {reason}", count)
    for what, label in (("private_dirty", "private memory"), ("rss", "resident memory")):
        sizes = tuple(each[what] / MIB for each in memories)
        row = f"before and after each part: {' '.join(f'{size:.2f}' for size in sizes)}"
        yield Figure(f"{label} at the end", sizes[-1], "MiB", each=sizes, notes=(row,))
    grown = 100 * (memories[-1]["private_dirty"] / memories[0]["private_dirty"] - 1)
    yield Figure(f"growth of the private memory in {lasted:.0f} s", grown, "%", GROWTH)


def costs(turns: Turns, asked: float) -> Iterator[Figure]:
    """Return what it costs to publish and to push, when so many updates a second are asked for."""
    remarks = spoilt([*turns.alone, *turns.feeds, *turns.times], asked)
    updates = tuple(each.updates for each in turns.alone)
    yield Figure(f"updates a second, of {asked:,}", median(updates), each=updates, notes=remarks)
    publishes = tuple(MICRO * each.server_share / each.updates for each in turns.alone)
    yield Figure(
        f"CPU of a publish, {asked:,} a second", median(publishes), "µs", each=publishes, notes=doubt(publishes)
    )
    feed, clock = turns.beyond(turns.feeds), turns.beyond(turns.times)
    for what, each in (("feed", feed), ("time", clock)):
        label = f"CPU per push of the {what}, beyond {asked:,} publishes a second"
        yield Figure(label, mean(each), "µs", each=each, notes=doubt(each))
    sides = mean(feed), mean(clock)
    ratio = sides[0] / sides[1] if min(sides) > 0 else inf
    label = f"a push of the feed against one of the time, {asked:,} publishes a second"
    error = ratio * hypot(*(standard_error(each) / mean(each) for each in (feed, clock)))
    yield Figure(label, ratio, "x", 1.5, each=sides, notes=(f"± {error:.2f}",))


def doubt(each: Sequence[float]) -> tuple[str, ...]:
    """Say how far the mean of several looks may be from what it is of."""
    return (f"± {standard_error(each):.1f}, {len(each)} looks",) if len(each) > 1 else ("one look",)


def standard_error(each: Sequence[float]) -> float:
    """Return the standard error of the mean of several looks, of which one has none."""
    return stdev(each) / sqrt(len(each)) if len(each) > 1 else 0.0


def newest(turns: Turns, steady: Span) -> Iterator[Figure]:
    """Return which rates the subscribers got, and how old the values were that came."""
    remarks = spoilt([steady], UPDATES)
    for (count, period), rate in zip(GROUPS, steady.rates, strict=True):
        what = f"pushes to {count:,} subscribers at {1 / period:g}/s, of those asked for"
        yield Figure(what, 100 * rate * period, "%", notes=remarks)
    for i, (count, period) in enumerate(GROUPS):
        what = f"age at {count:,} subscribers at {1 / period:g}/s"
        clock = median(each.ages[i]["p99"] for each in turns.times)
        yield Figure(f"{what}, p50", MILLI * steady.ages[i]["p50"], "ms")
        remark = f"of the time it is {MILLI * clock:.2f}"
        yield Figure(f"{what}, p99", MILLI * steady.ages[i]["p99"], "ms", OLDEST, notes=(remark, *remarks))


def spoilt(spans: list[Span], asked: float) -> tuple[str, ...]:
    """Return what takes from the worth of the spans, when so many updates a second were asked for."""
    found = []
    fewest = min(each.updates for each in spans)
    if fewest < ARRIVED * asked:
        found.append(f"the publisher does not reach its rate: {fewest:,.0f} a second once")
    if max(each.server_share for each in spans) > FULL:
        found.append("the server's core is full")
    if max(each.load_share for each in spans) > FULL:
        found.append("load generator at its limit")
    if max(each.other_share for each in spans) > QUIET:
        found.append(f"the machine was busy otherwise, {100 * max(each.other_share for each in spans):.0f} %")
    if max(each.waited_share for each in spans) > QUIET:
        found.append(f"the server waited for its core, {100 * max(each.waited_share for each in spans):.0f} %")
    return tuple(found)


def many_feeds(cores: Cores) -> Iterator[Figure]:
    """100 feeds of an update a second each, to 200 subscribers of all of them at 1 Hz, beside brokers.

    A broker sends each message at once and by itself. clockd sends what is due for a subscriber together, the newest of
    each feed: it is older when it comes. A sample of clockd carries a sequence number and the call, too.
    """
    kinds = (ClockdManyFeeds, ClockdManyFeedsAsking, MosquittoManyTopics, RedisManyChannels)
    shape = Shape(200, TOPICS, 1, WARMUP, MANY_SECONDS, cores)
    there = [kind for kind in kinds if not kind.missing()]
    missing = tuple(f"{kind.missing()}: left out" for kind in kinds if kind.missing())
    found: dict[str, list[Measurement]] = {kind.title: [] for kind in there}
    for _ in range(ROUNDS):
        for kind in there:
            found[kind.title].append(measured_once(kind, shape))
    for title, seen in found.items():
        yield Figure(
            f"deliveries a CPU-second, {title}",
            MICRO / median(each.push_microseconds for each in seen),
            each=tuple(MICRO / each.push_microseconds for each in seen),
            notes=delivered(seen),
        )
    ours, *others = (median(each.push_microseconds for each in seen) for seen in found.values())
    for title, theirs in zip([*found][1:], others, strict=True):
        yield Figure(
            f"CPU of a delivery by {ClockdManyFeeds.title} against {title}",
            ours / theirs,
            "x",
            each=(ours, theirs),
            notes=missing,
        )


def delivered(seen: list[Measurement]) -> tuple[str, ...]:
    """Say what was delivered."""
    size = median(each.message_bytes for each in seen)
    age = MILLI * median(each.age_seconds["p50"] for each in seen)
    arrived = 100 * median(each.arrived for each in seen)
    what = f"{size:.0f} bytes on the wire, {PAYLOAD_BYTES} of them stamp and value; {arrived:.1f} % arrived"
    return (what, f"median age {age:.1f} ms", *notes(seen))
