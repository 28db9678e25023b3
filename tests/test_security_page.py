"""docs/security.md names tests that exist, and all that attack."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")


def names_in(*files):
    return {
        node.name
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


ROWS = re.findall(r"^\| (.+) \| (.+) \| (.+) \| (`test_.+) \|$", PAGE, re.MULTILINE)
NAMED = {name for *_, cell in ROWS for name in re.findall(r"`(\w+)`", cell)}


def test_every_finding_names_a_test_that_exists():
    assert len(ROWS) > 50
    assert NAMED - names_in(*TESTS.rglob("test_*.py")) == set()


def test_every_test_that_attacks_is_named():
    attacks = names_in(*(TESTS / "integration").glob("test_hardening_*.py"))
    assert len(attacks) > 50
    assert attacks - NAMED == set()


def test_every_row_of_the_findings_has_a_test():
    _, findings = PAGE.split("## Findings")
    findings, _ = findings.split("## Run the proof")
    rows = [line for line in findings.splitlines() if line.startswith("|") and not re.match(r"\|( attack |---)", line)]
    assert len(rows) == len(ROWS)
