"""How punctual the service is, seen from a stock client in a process of its own: `python bench/service.py [SECONDS]`.

Prints what it measured in this run: the median and 99th percentile age of a stamp on arrival, and how far the last of
ten pushes a second has drifted from its ideal moment; the same with a hundred clients of a hundred periods beside it.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "integration"))

from processes import Server, without_coverage

PERIOD = 0.1


def measure(server, seconds, others):
    """Return the figures of one client at ten pushes a second, beside others."""
    *_, result = server.subscribers(seconds, [*others, PERIOD]).result(seconds + 60)
    ages = sorted(arrived - stamp for arrived, _, stamp in result["arrivals"])
    moments = [monotonic for _, monotonic, _ in result["arrivals"]]
    return {
        "clients": len(others) + 1,
        "seconds": seconds,
        "pushes": len(moments),
        "median_age_milliseconds": 1000 * statistics.median(ages),
        "p99_age_milliseconds": 1000 * ages[int(0.99 * len(ages))],
        "drift_milliseconds": 1000 * abs(moments[-1] - moments[0] - (len(moments) - 1) * PERIOD),
    }


def main(seconds=60.0):
    hundred = [0.01 * 1000 ** (i / 99) for i in range(100)]
    with tempfile.TemporaryDirectory() as folder:
        environment = without_coverage() | {"CLOCKD_LIMITS_CONNECTIONS_PER_ACCOUNT": "200"}
        server = Server(Path(folder), environment=environment)
        for others in ([], hundred):
            print(json.dumps(measure(server, seconds, others)))
        skipped = {name: value for name, value in server.scrape().items() if "skipped_total" in name}
        print(json.dumps({"skipped": sum(skipped.values())}))
        server.stop()


main(*map(float, sys.argv[1:]))
