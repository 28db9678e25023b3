"""A real Prometheus scrapes a real server, and what it answers agrees with what the clients count."""

import json
import urllib.parse
import urllib.request

import pytest
from processes import SECONDS, Program, eventually, free_port, run


def ask(port, expression):
    """Return the series that a Prometheus answers an expression with."""
    words = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{words}", timeout=SECONDS) as answer:
        return json.load(answer)["data"]["result"]


def query(port, expression):
    """Return the value of an expression that has one, or None if it has none yet."""
    result = ask(port, expression)
    return float(result[0]["value"][1]) if result else None


@pytest.fixture
def prometheus(server, need, tmp_path):
    """A Prometheus that scrapes the server every second; its port."""
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: clockd, static_configs: [{{targets: ['{server.metrics}']}}]}}]\n"
    )
    port = free_port()
    program = Program(
        need("prometheus", "prometheus"),
        *(f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path / 'data'}"),
        f"--web.listen-address=127.0.0.1:{port}",
    )
    program.line("Server is ready to receive web requests")
    eventually(lambda: query(port, "up") == 1)
    yield port
    assert program.end() == 0


def test_prometheus_agrees_with_the_clients_own_counts(server, prometheus):
    periods = [0.05] * 8 + [0.5] * 8
    clients = server.subscribers(45, periods)
    eventually(lambda: query(prometheus, "clockd_avatars") == len(periods))
    assert query(prometheus, "clockd_push_requested_hertz") == pytest.approx(sum(1 / period for period in periods))
    steady = "count_over_time(clockd_avatars[31s]) >= 30 and min_over_time(clockd_avatars[31s]) == 16"
    eventually(lambda: query(prometheus, steady), 44)
    rate = query(prometheus, "rate(clockd_pushes_total[30s])")
    results = clients.result(60)
    counted = sum(len(result["arrivals"]) / result["seconds"] for result in results)
    assert rate == pytest.approx(counted, rel=0.02)
    assert query(prometheus, "clockd_push_requested_hertz offset 3s") == pytest.approx(counted, rel=0.02)
    eventually(lambda: query(prometheus, "clockd_avatars") == 0)


def test_promtool_finds_nothing_to_say_against_the_metrics(server, need):
    server.subscribers(0.5, [0.05]).result()
    checked = run(need("promtool", "prometheus"), "check", "metrics", stdin=server.get("/metrics"))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_health_answers_while_it_serves(server):
    assert server.get("/healthz") == "ok\n"
    assert json.loads(server.get("/readyz"))["ready"] is True
