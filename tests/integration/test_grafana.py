"""The dashboards: made by their program, accepted by Grafana's own types, and each query answered by a real Prometheus.

No Grafana takes part: what it makes of a dashboard on a screen is not shown here.
"""

import copy
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from certificates import Chain
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from processes import CLOCKD, FREE, LONG_SECONDS, Program, Server, clockd, eventually, free_port, run, without_coverage
from test_alerts import scaled
from test_prometheus import ask

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "grafana"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in board["panels"] if panel["type"] != "row"]
RULES = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()


def test_the_committed_dashboards_are_what_their_program_makes():
    done = run(sys.executable, str(GRAFANA / "generate.py"), "--check")
    assert done.returncode == 0, "run: python grafana/generate.py"
    assert list(BOARDS) == ["clock", "delivery", "overview", "runtime"]


@pytest.mark.parametrize("panel", [panel for _, panel in PANELS], ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_in_which_unit_and_links_to_the_runbook(panel):
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    anchors = [link["url"].partition("#")[2] for link in panel["links"]]
    assert anchors
    assert set(anchors) <= {"", *(heading.lower() for heading in re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE))}


def test_every_alert_has_a_panel_that_explains_it():
    linked = {link["title"].removeprefix("Runbook: ") for _, panel in PANELS for link in panel["links"]}
    about_no_process = {"ClockdMissing"}
    assert set(re.findall(r"alert: (\w+)", RULES)) - about_no_process <= linked


def test_panels_lie_beside_each_other():
    for board in BOARDS.values():
        taken = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert max(x for x, _ in cells) < 24
            taken |= cells
        numbers = [panel["id"] for panel in board["panels"]]
        assert len(set(numbers)) == len(numbers)


def lost(board):
    """Return what Grafana's own types for Python drop of a dashboard, or write otherwise: paths into it."""
    register_default_plugins()  # of each kind of panel and query, its types
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(copy.deepcopy(board))))

    def differences(before, after, path):
        if isinstance(before, dict) and isinstance(after, dict):
            for key, value in before.items():
                yield from differences(value, after.get(key), f"{path}.{key}")
        elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            for index, pair in enumerate(zip(before, after, strict=True)):
                yield from differences(*pair, f"{path}.{index}")
        elif before != after:
            yield path

    return list(differences(board, again, ""))


def broken(board, old, new):
    """Return a dashboard in which a word is another."""
    text = json.dumps(board)
    assert f'"{old}"' in text
    return json.loads(text.replace(f'"{old}"', f'"{new}"', 1))


TITLES = [".annotations.list.0.titleFormat", ".annotations.list.1.titleFormat"]
"""Grafana's Prometheus has them, and its types for Python do not."""


@pytest.mark.parametrize("name", BOARDS)
def test_a_round_trip_through_grafana_s_types_loses_nothing(name):
    assert lost(BOARDS[name]) == TITLES


@pytest.mark.parametrize(("old", "new"), [("gridPos", "gridpos"), ("legendFormat", "legendformat"), ("unit", "units")])
def test_a_round_trip_loses_what_is_misspelt(old, new):
    assert lost(broken(BOARDS["overview"], old, new)) != TITLES


@pytest.fixture(scope="module")
def complaints():
    """Return what TypeScript says of dashboards, held against @grafana/schema."""
    compiler = ROOT / ".venv" / "grafana" / "node_modules" / "typescript" / "bin" / "tsc"
    node = shutil.which("node")
    if node is None or not compiler.exists():
        assert os.environ.get("CI") != "true", "make .venv/grafana"
        pytest.skip("there is no @grafana/schema here: `make .venv/grafana` gets it, with npm")
    head = (GRAFANA / "schema" / "dashboard.ts").read_text()

    def complain(boards):
        file = compiler.parents[3] / f"check-{os.getpid()}.ts"
        file.write_text(
            head + "".join(f"export const {name}: Dashboard = {json.dumps(board)};\n" for name, board in boards.items())
        )
        options = ("--noEmit", "--strict", "--skipLibCheck", "--module", "esnext", "--moduleResolution", "bundler")
        done = subprocess.run(
            [node, compiler, *options, file], capture_output=True, text=True, timeout=LONG_SECONDS, check=False
        )
        file.unlink()
        return done.stdout + done.stderr

    return complain


def test_grafana_s_schema_accepts_the_dashboards(complaints):
    assert complaints(BOARDS) == ""


def test_grafana_s_schema_refuses_what_is_misspelt(complaints):
    assert "'\"gridpos\"' does not exist" in complaints({"broken": broken(BOARDS["overview"], "gridPos", "gridpos")})
    assert "is not assignable" in complaints({"broken": broken(BOARDS["overview"], "absolute", "absolutely")})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, need):
    """A Prometheus with the rules that scrapes a server which has all there is to see; its port, and the server."""
    prometheus = need("prometheus", "prometheus")
    folder = tmp_path_factory.mktemp("loaded")
    _, certificate, key = Chain().write(folder)
    (folder / "clockd.toml").write_text(
        f'tls.listen = ["{FREE}"]\ntls.certificate = "{certificate}"\ntls.private_key = "{key}"\n'
        '[feeds.room]\nkind = "push"\npublish = ["*"]\n'
    )
    server = Server(folder, "--config", str(folder / "clockd.toml"), environment=without_coverage())
    server.port = int(json.loads(server.line("pushes the time"))["brokers"].split(", ")[0].rpartition(":")[2])
    login = (f"alice@127.0.0.1:{server.port}", "--secret-file", str(server.secret_file))
    aware = [
        Program(*CLOCKD, "watch", *login, "--period", "0.1", *more, environment=without_coverage())
        for more in ((), ("--feed", "room"), ())
    ]
    stock = server.subscribers(40, [0.05] * 4)
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\n"
        f"scrape_configs: [{{job_name: clockd, static_configs: [{{targets: ['{server.metrics}']}}]}}]\n"
    )
    (folder / "rules.yml").write_text(scaled(RULES))  # five minutes of data are there after five seconds
    port = free_port()
    program = Program(
        prometheus,
        *(f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
        f"--web.listen-address=127.0.0.1:{port}",
    )
    program.line("Server is ready to receive web requests")
    for value in ("1", "2"):
        assert clockd("publish", *login[:1], "room", value, *login[1:], environment=without_coverage()).returncode == 0
    aware[2].process.send_signal(signal.SIGSTOP)
    eventually(lambda: server.scrape()["clockd_pushes_skipped_total time unacknowledged"] > 0)
    eventually(lambda: server.scrape()["clockd_subscriber_error_bound_seconds_count"] > 2)
    eventually(lambda: ask(port, "count_over_time(clockd:push_fulfilment:ratio5m[1m]) > 5"))
    yield port, server
    aware[2].process.send_signal(signal.SIGCONT)
    for each in (*aware, stock):
        each.end(signal.SIGKILL)
    server.stop()
    assert program.end() == 0


def filled_in(expression):
    """Return an expression with what Grafana would put in place of its variables."""
    for variable, value in (("$__rate_interval", "10s"), ("$job", "clockd"), ("$instance", ".*")):
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


def expected_empty(server):
    """Return the panels that should show nothing of this server, by dashboard and title, and why."""
    empty = {}
    if math.isinf(server.scrape()["clockd_clock_error_bound_seconds"]):
        empty["clock", "Error bound"] = "the kernel of this host knows no bound, and an infinite one is not drawn"
    return empty


def test_every_panel_shows_something_of_a_server_under_load(loaded):
    port, server = loaded
    empty = expected_empty(server)
    nothing = []
    for name, panel in PANELS:
        may_be_empty = panel["type"] == "timeseries" and (name, panel["title"]) in empty
        for target in panel["targets"]:
            found = ask(port, filled_in(target["expr"]))
            shown = any(sample["value"][1] != "NaN" for sample in found)
            if shown == may_be_empty:
                nothing.append((name, panel["title"], target["expr"]))
    assert nothing == []


def test_every_mark_and_every_choice_can_be_asked_for(loaded):
    port, _ = loaded
    for board in BOARDS.values():
        for mark in board["annotations"]["list"]:
            ask(port, filled_in(mark["expr"]))
        for choice in board["templating"]["list"]:
            if choice["type"] == "query":
                expression = re.fullmatch(r"label_values\((.*), \w+\)", choice["query"]).group(1)
                assert ask(port, filled_in(expression)), choice["name"]


def test_a_query_of_a_metric_that_there_is_not_finds_nothing(loaded):
    port, _ = loaded
    assert ask(port, 'sum(clockd_avatar{job=~"clockd"})') == []
