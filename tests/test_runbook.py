"""docs/runbook.md has what deploy/prometheus/rules.yml alerts of, and clockd has what those rules ask for."""

import re
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.web.test.requesthelper import DummyRequest

from clockd.metrics import MetricsPage, TallyCollector
from clockd.values import Tally

ROOT = Path(__file__).resolve().parents[1]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
YOURS = "clockd:feed_stale_after:seconds"
"""What an operator may record; the runbook says how."""


def samples():
    """Return name and labels of all that a server of two feeds shows, of which one was published."""
    tally = Tally()
    tally.feed("time")
    tally.feed("room").updated = tally.tls_expiry = 0.0
    page = MetricsPage(TallyCollector(tally, Clock()), lambda call: succeed(call()), lambda: None)
    request = DummyRequest([b"metrics"])
    request.render(page)
    text = b"".join(request.written).decode()
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


def test_every_alert_has_its_heading_and_every_heading_its_alert():
    page = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == list(ALERTS)
    assert YOURS in page
    for part in page.split("\n## ")[1:]:
        assert re.findall(r"^\*(\w+)", part, re.MULTILINE) == ["Means", "Look", "Do", "Heals"], part.splitlines()[0]


def test_every_alert_says_how_long_how_bad_what_and_where_to_read_on():
    for name, rule in ALERTS.items():
        assert re.fullmatch(r"\d+[sm]", rule["for"]), name
        assert rule["labels"]["severity"] in {"critical", "warning"}, name
        about = rule["annotations"]
        assert about["runbook_url"] == f"docs/runbook.md#{name.lower()}"
        if name != "ClockdMissing":  # of nothing there is no instance
            assert "$labels.instance" in about["summary"], name
            assert "$labels.instance" in about["description"], name


def test_all_metrics_of_the_rules_are_clockd_s_own_or_recorded():
    shown = samples()
    names = {sample.name for sample in shown}
    recorded = {rule["record"] for rule in RULES if "record" in rule} | {YOURS}
    for rule in RULES:
        expression = rule["expr"]
        asked = set(re.findall(r"\b(?:clockd|process)[_:][a-z0-9_:]+", expression))
        assert asked - names - recorded == set(), expression
        for name, label, value in re.findall(r'\b(clockd_\w+)\{(\w+)="(.*?)"\}', expression):
            assert any(s.name == name and s.labels[label] == value for s in shown), (name, label, value)
