"""The wall clock of a running server is stepped; no tick is lost or bunched, and stamps follow the new time."""

import itertools
import math
import time

import pytest
from processes import Server, steppable


@pytest.mark.parametrize("hours", [1, -1])
def test_a_step_of_the_wall_clock_moves_stamps_and_no_tick(tmp_path, hours):
    environment, step = steppable(tmp_path)
    server = Server(tmp_path, environment=environment)
    clients = server.subscribers(6, [0.05, 0.5])
    server.line("logged in")
    time.sleep(3)
    step(hours * 3600.0)
    results = clients.result()
    for result in results:
        arrivals = result["arrivals"]
        ideal = result["seconds"] / result["period"]
        missed = sum(value for name, value in server.scrape().items() if name.startswith("clockd_pushes_skipped"))
        assert math.floor(ideal) - 1 - missed <= len(arrivals) <= math.ceil(ideal) + 1
        offsets = [stamp - arrived for arrived, _, stamp in arrivals]
        assert abs(offsets[0]) < 1
        assert offsets[-1] == pytest.approx(hours * 3600, abs=1)
        gaps = [after[1] - before[1] for before, after in itertools.pairwise(arrivals)]
        assert max(gaps) < result["period"] * (2 + missed) + 0.5
    server.stop()
