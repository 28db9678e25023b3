"""Cases about pushes: what they cost and how late they are, by number of subscribers, by rate and by periods."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from bench.compare import Shape, measured_once, notes
from bench.contenders import ACCOUNT, GROUP_SIZE, Bare, Clockd, ClockdAsking
from bench.figures import MICRO, MILLI, Figure, cost, lateness, latest
from bench.processes import ROOT, SECONDS, Cores, Program
from bench.scrape import Lateness, scrape, skipped
from bench.subjects import WARMUP, Look, Record, Watched, connections, look_at_new, started, subscribed, wait_until

ROUNDS = 2
"""How often what is printed is measured."""

COMPARED_ROUNDS = 5
"""How often what is compared is measured in turn: the caches are shared with whoever else is on the machine."""

ASK_SECONDS = 9
"""Each subscriber of 1 Hz is asked for an answer once in so many seconds: 8 pushes lie between two that ask."""

STOCK_PERIOD = 0.1
"""Seconds between pushes to the stock client that is looked at."""

STOCK_CLIENTS = ROOT / "tests" / "integration" / "subscribers.py"

TOTAL_RATE = 10_000
"""Pushes a second, over all subscribers."""


def scale(cores: Cores) -> Iterator[Figure]:
    """CPU per push at a total of 10,000 pushes a second, from 10 subscribers to 10,000.

    At 1,000 a second each, about an eighth is skipped: the reactor waits for whole milliseconds, as epoll does.
    """
    sizes, compared = (10, 100, 1_000, 10_000), (100, 10_000)
    looks: dict[tuple[type[Clockd], int], list[Look]] = {}
    bare: dict[int, list[float]] = {size: [] for size in compared}
    for turn in range(COMPARED_ROUNDS):
        for subscribers in sizes if turn < ROUNDS else compared:
            period = subscribers / TOTAL_RATE
            kinds = ((Clockd, 5), (ClockdAsking, max(5, ASK_SECONDS * period)))
            for kind, seconds in kinds if turn < ROUNDS else kinds[:1]:
                found = look_at_new(kind, cores, subscribers, period, seconds)
                looks.setdefault((kind, subscribers), []).append(found)
        for size, found_bare in bare.items():
            found_bare.append(bare_microseconds(cores, size))
    for kind, label, targets in ((Clockd, "no asks", (1.3, 1.1)), (ClockdAsking, "default asks", ())):
        costs = {
            size: cost(f"{size:,} subscribers at {TOTAL_RATE / size:,.0f}/s, {label}", looks[kind, size])
            for size in sizes
        }
        yield from costs.values()
        many, few = costs[10_000].value, costs[100].value
        yield Figure(f"10,000 subscribers against 100, {label}", many / few, "x", *targets, each=(many, few))
    many, few = median(bare[10_000]), median(bare[100])
    yield Figure("10,000 subscribers against 100, bare socket.send", many / few, "x", each=(many, few))


def bare_microseconds(cores: Cores, subscribers: int) -> float:
    """Measure what a push costs without a server around it."""
    shape = Shape(subscribers, TOTAL_RATE / subscribers, GROUP_SIZE, WARMUP, 5, cores)
    return measured_once(Bare, shape).push_microseconds


def ten_thousand(cores: Cores) -> Iterator[Figure]:
    """10,000 subscribers at 1 Hz with default acknowledgements; then again with a watch on what holds the loop."""
    subscribers = 10_000
    seen = look_at_new(ClockdAsking, cores, subscribers, 1.0, 2 * ASK_SECONDS)
    share = 100 * seen.measurement.server_share
    yield Figure("one core used", share, "%", 35, 25, notes=tuple(notes([seen.measurement])))
    yield cost("CPU per push", [seen])
    yield from lateness("lateness", seen.lateness, (10, 3))
    for name in ("p50", "p99"):
        yield Figure(f"age at the clients, {name}", MILLI * seen.measurement.age_seconds[name], "ms")
    for reason, count in seen.skipped.items():
        yield Figure(f"pushes skipped: {reason}", count)
    yield from stops(cores, subscribers)


def stops(cores: Cores, subscribers: int) -> Iterator[Figure]:
    """Measure what holds the loop."""
    seconds = 2 * ASK_SECONDS
    with started(Watched, cores) as clockd:
        time.sleep(WARMUP)
        clockd.since()
        with subscribed(clockd, subscribers, 1.0):
            time.sleep(WARMUP)
            logging_in = clockd.since()
            time.sleep(seconds)
            steady = clockd.since()
            with subscribed(clockd, 2_000, 1.0):
                time.sleep(WARMUP)
            wait_until(lambda: connections(clockd) == subscribers)
            time.sleep(WARMUP)
            churning = clockd.since()
    yield latest("lateness", Lateness(logging_in.lateness, steady.lateness))
    yield collector("longest stop by the collector", steady)
    yield collector("the same while the 10,000 log in", logging_in)
    yield collector("the same while 2,000 more come and go", churning)
    sweep = steady.sweep
    cpu = f"{MILLI * sweep['longest_cpu']:.2f} ms of CPU"
    yield Figure("longest sweep of a part of the connections", MILLI * sweep["longest"], "ms", notes=(cpu,))
    yield Figure("CPU of all sweeps in a second", MILLI * sweep["cpu_seconds"] / seconds, "ms")


def collector(what: str, record: Record) -> Figure:
    """Return the longest stop by the collector, with the number of its runs and the CPU time of the longest."""
    longest = max(stops["longest"] for stops in record.collector)
    runs = (
        f"generation {number}: {stops['count']}, up to {MILLI * stops['longest_cpu']:.2f} ms of CPU"
        for number, stops in enumerate(record.collector)
        if stops["count"]
    )
    return Figure(what, MILLI * longest, "ms", 5, 1, notes=tuple(runs))


def fast(cores: Cores) -> Iterator[Figure]:
    """1,000 subscribers at 20 Hz with default acknowledgements."""
    seen = look_at_new(ClockdAsking, cores, 1_000, 0.05, 8)
    yield cost("CPU per push", [seen])
    yield Figure("one core used", 100 * seen.measurement.server_share, "%")
    yield from lateness("lateness", seen.lateness)


def distinct(cores: Cores) -> Iterator[Figure]:
    """10,000 subscribers with as many periods, from 0.5 to 1.5 s, against 10,000 with one; no asks."""
    shortest, longest = 0.5, 1.5
    flags = (f"--distinct-from={shortest}", f"--distinct-to={longest}")
    rate = 1.0986  # the mean of 1/period: ln(longest / shortest)
    one: list[Look] = []
    many: list[Look] = []
    ticks: list[float] = []
    for _ in range(ROUNDS):
        one.append(look_at_new(Clockd, cores, 10_000, 1.0, 6))
        many.append(look_at_new(Clockd, cores, 10_000, 1.0, 6, *flags, rate=rate))
        ticks.append(tick_microseconds(cores, 10_000, shortest, longest))
    costs = cost("CPU per push, one period", one), cost("CPU per push, distinct periods", many)
    yield from costs
    tick = median(ticks)
    yield Figure("CPU of a TimerService's tick that does nothing, distinct periods", tick, "µs", each=tuple(ticks))
    yield Figure("a push costs more with distinct periods", costs[1].value - costs[0].value, "µs", tick)
    yield from lateness("lateness, one period", one[-1].lateness)
    yield from lateness("lateness, distinct periods", many[-1].lateness)


def tick_microseconds(cores: Cores, count: int, shortest: float, longest: float) -> float:
    """Measure what a tick of one Twisted timer a subscriber costs."""
    with tempfile.TemporaryDirectory(prefix="clockd-bench-") as folder:
        command = [sys.executable, "-m", "bench.timers", *map(str, (count, shortest, longest, 2 * longest, 6))]
        program = Program(command, Path(folder) / "timers.log", cores.server, pipes=True)
        try:
            said, _ = program.process.communicate(timeout=SECONDS)
            found = json.loads(said)
        except ValueError as error:
            raise RuntimeError(f"the timers ended:\n{program.log()}") from error
        finally:
            program.stop()
    return MICRO * found["cpu_seconds"] / found["ticks"]


def service(cores: Cores) -> Iterator[Figure]:
    """A stock client at 10 Hz, alone for half a minute; then for another beside 100 of 100 periods, 0.01 to 10 s."""
    hundred = [0.01 * 1000 ** (i / 99) for i in range(100)]
    with started(ClockdAsking, cores) as clockd:
        before = scrape(clockd.metrics_port)
        for label, others in (("alone", []), ("beside 100 others", hundred)):
            yield from punctuality(label, stock_client(clockd, 30, others))
        for reason, count in skipped(before, scrape(clockd.metrics_port)).items():
            yield Figure(f"pushes skipped: {reason}", count)


def punctuality(label: str, arrivals: list[tuple[float, float, float]]) -> Iterator[Figure]:
    """Return how old stamps were when they came, and how far the last push was from its ideal moment."""
    ages = sorted(arrived - stamp for arrived, _, stamp in arrivals)
    moments = [monotonic for _, monotonic, _ in arrivals]
    drift = abs(moments[-1] - moments[0] - (len(moments) - 1) * STOCK_PERIOD)
    yield Figure(f"pushes to it, {label}", len(arrivals))
    yield Figure(f"age at the client, {label}, p50", MILLI * median(ages), "ms")
    yield Figure(f"age at the client, {label}, p99", MILLI * ages[int(0.99 * (len(ages) - 1))], "ms")
    yield Figure(f"drift of the last push, {label}", MILLI * drift, "ms")


def stock_client(clockd: Clockd, seconds: float, others: list[float]) -> list[tuple[float, float, float]]:
    """Run stock clients in a process of their own.

    Args:
        clockd: The server.
        seconds: For how long they count.
        others: The periods of those whose pushes are not looked at.

    Returns:
        When each push came to the one that is looked at, by the wall clock and the monotonic clock, and its stamp.
    """
    account = (str(clockd.port), ACCOUNT, clockd.secret)
    words = [*account, str(seconds), json.dumps([*others, STOCK_PERIOD])]
    program = Program(
        [sys.executable, str(STOCK_CLIENTS), *words], clockd.folder / "stock.log", cores=clockd.cores.load, pipes=True
    )
    try:
        output, _ = program.process.communicate(timeout=seconds + SECONDS)
        *_, found = json.loads(output)
    except ValueError as error:
        raise RuntimeError(f"the stock clients ended:\n{program.log()}") from error
    finally:
        program.stop()
    return found["arrivals"]
