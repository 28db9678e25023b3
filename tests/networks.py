"""Random networks and clocks, to prove a timekeeper wrong: `python -m tests.networks --exchanges 1000000`.

Each network has delays of its own in both directions, from 0.1 ms to 300 ms, its own kind of jitter, and clocks that
drift by up to 50 ppm, now this way and now that. Connections stall and are lost, and programs are held up. After
everything that happens the server's clock is compared with the interval that the client would tell.

Once between two exchanges the bound is compared with the best that exchanges alone could give: half the shortest
round trip of the last 64 s.
"""

import argparse
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random
from statistics import median, quantiles

from clockd.offset import DRIFT, WINDOW
from clockd.testing.simulator import Delay, Simulation, jitter

EXCHANGES = 500
"""In each network, about as many, in an hour."""


@dataclass
class Found:
    """What was found.

    Attributes:
        networks: How many there were.
        exchanges: How many answers arrived.
        looks: How often an interval was compared with the truth.
        wrong: Seeds of the networks in which one did not hold, each time.
        contradictions: How often a timekeeper believed that the server's clock had been set; it never was.
        ratios: Each bound, as a multiple of the best possible one; by the shortest round trip's power of ten.
    """

    networks: int = 0
    exchanges: int = 0
    looks: int = 0
    wrong: list[int] = field(default_factory=list)
    contradictions: int = 0
    ratios: list[tuple[float, float]] = field(default_factory=list)


def delays(random: Random) -> Delay:
    """Return the delays of one direction of a network."""
    least = 10 ** random.uniform(-4, -0.8)
    mean = least * 10 ** random.uniform(-2, 0.5)
    kind = random.randrange(4)
    if kind == 0:
        return jitter(random, least, mean)
    if kind == 1:  # seldom late, and then much
        return lambda: least + (mean * random.paretovariate(1.2) if random.random() < 0.1 else 0.0)
    if kind == 2:
        return lambda: random.uniform(least, least + 2 * mean)
    return lambda: least  # only that it queues


def explore(seed: int, found: Found, exchanges: int) -> None:
    """Run one network, and note what is found."""
    random = Random(seed)
    simulation = Simulation(random, delays(random), delays(random))
    simulation.period = random.choice((None, 0.2, 1.0, 1.0, 8.0))
    if random.random() < 0.3:
        simulation.takes = jitter(random, 0.0, 10 ** random.uniform(-5, -1))
    trips: deque[tuple[float, float]] = deque()
    answered = 0

    def look() -> None:
        nonlocal answered
        found.looks += 1
        if not simulation.holds():
            found.wrong.append(seed)
        if simulation.exchanges > answered:
            answered = simulation.exchanges
            trips.append((simulation.time.seconds(), simulation.timekeeper.round_trip))

    simulation.connect()
    simulation.run(1.0, look)
    for _ in range(exchanges):
        happen(simulation, random, trips)
        simulation.run(random.uniform(0.0, 16.0), look)
        look()
        while trips and trips[0][0] < simulation.time.seconds() - WINDOW:
            trips.popleft()
        if trips:
            best = min(trip for _, trip in trips)
            found.ratios.append((best, simulation.timekeeper.now().bound / (best / 2)))
    assert simulation.exchanges > exchanges / 2
    found.networks += 1
    found.exchanges += simulation.exchanges
    found.contradictions += simulation.timekeeper.steps


def happen(simulation: Simulation, random: Random, trips: deque[tuple[float, float]]) -> None:
    """Have something happen now and then."""
    if random.random() < 0.1:
        drift = random.choice((-DRIFT, DRIFT, random.uniform(-DRIFT, DRIFT)))
        simulation.local.set_drift(drift)
    if random.random() < 0.02:
        link = random.choice((simulation.there, simulation.back))
        link.stall(random.expovariate(0.5))
    if random.random() < 0.01:
        trips.clear()
        simulation.lose()
        simulation.run(random.expovariate(0.01))
        simulation.connect()


def explored(exchanges: int, seeds: Iterator[int], in_each: int = EXCHANGES) -> Found:
    """Run as many networks as it takes."""
    found = Found()
    while found.exchanges < exchanges:
        explore(next(seeds), found, in_each)
    return found


def main() -> None:
    """Run what the command line asks for; end with 1 if an interval did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.networks", description=__doc__)
    parser.add_argument("--exchanges", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="of the first network; each has the next number")
    options = parser.parse_args()
    begun = time.process_time()
    found = explored(options.exchanges, count(options.seed))
    took = time.process_time() - begun
    print(f"{found.exchanges:,} exchanges in {found.networks:,} networks, {took:.0f} s of CPU")
    print(f"{found.looks:,} intervals compared with the truth, {len(found.wrong)} wrong {sorted(set(found.wrong))[:9]}")
    print(f"{found.contradictions} steps believed, of none")
    for least, most in ((0.0, 9.0), (0.0, 0.001), (0.001, 0.01), (0.01, 0.1), (0.1, 9.0)):
        ratios = [ratio for trip, ratio in found.ratios if least <= trip < most]
        if len(ratios) > 1:
            last = quantiles(ratios, n=100)[-1]
            which = f"round trips of {least * 1000:g} to {most * 1000:g} ms"
            print(f"{which}: {len(ratios):,} bounds, in the median {median(ratios):.3f} of the best, 99 % {last:.2f}")
    raise SystemExit(bool(found.wrong or found.contradictions))


if __name__ == "__main__":
    main()
