"""The README and the pages in docs are true: their programs and commands run, their tables match the code."""

import ast
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import processes
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clockd import errors
from clockd.config import Config, load

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def is_server(self):
        return self.language == "sh" and "clockd serve" in self.text

    @property
    def is_feeds(self):
        return self.language == "toml" and self.text.startswith("[feeds.")

    @property
    def is_test(self):
        return self.language == "python" and self.page == "docs/testing.md"

    @property
    def is_make(self):
        return self.language == "sh" and all(line.split()[0] == "make" for line in self.text.splitlines())


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(str(page.relative_to(ROOT)), line, found[1], found[2])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def some(*, language):
    others = [b for b in BLOCKS if b.is_server or b.is_make or b.is_feeds or b.is_test]
    blocks = [b for b in BLOCKS if b.language == language and b not in others]
    return pytest.mark.parametrize("block", blocks, ids=str)


@dataclass(frozen=True)
class Server:
    """What the README's server, started here, is known by."""

    folder: Path
    ports: dict[str, str]
    environment: dict[str, str]

    def here(self, text):
        """Return a block's text with the ports that the server has here."""
        return re.sub("|".join(self.ports), lambda found: self.ports[found[0]], text)


@contextmanager
def running(command, folder, environment, output):
    """Run a process, its output going to a file; end it by its id when the block is left."""
    with output.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(processes.SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(what, process, output):
    """Wait until `what(output's text)` is true, or the process has ended; return the text."""
    end = time.monotonic() + processes.SECONDS
    while True:
        ended = process.poll() is not None
        text = output.read_text(encoding="utf-8")
        if what(text) or ended:
            return text
        assert time.monotonic() < end, f"waited in vain; so far it said:\n{text}"
        time.sleep(0.05)


def plain_environment():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLOCKD_")}
    return environment | {"PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The README's server, started by the README's commands, on free ports and with the feeds of the pages."""
    (block,) = [block for block in BLOCKS if block.is_server]
    folder = tmp_path_factory.mktemp("words")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(BIN)
    listen = "tcp:0:interface=127.0.0.1"
    environment = plain_environment()
    own = {"CLOCKD_SERVER_LISTEN": f'["{listen}"]', "CLOCKD_METRICS_LISTEN": listen}
    (folder / "clockd.toml").write_text("".join(b.text for b in BLOCKS if b.is_feeds), encoding="utf-8")
    script = re.sub(r"^(\S*clockd serve)", r"exec \1 --config clockd.toml", block.text, flags=re.MULTILINE)
    output = folder / "server.log"
    with running(["bash", "-euc", script], folder, environment | own, output) as process:
        said = wait_for(lambda text: "metrics are on" in text, process, output)
        found = re.search(r"pushes the time on \S+:(\d+); metrics are on \S+:(\d+)", said)
        assert found, said
        secret = (folder / "alice.secret").read_text(encoding="utf-8").strip()
        ports = {"8787": found[1], "9464": found[2]}
        yield Server(folder, ports, environment | {"CLOCKD_SECRET": secret})
        assert process.poll() is None, output.read_text(encoding="utf-8")
    said = output.read_text(encoding="utf-8")
    assert "Traceback" not in said, said


def ticks(text):
    """Return the lines that begin with a stamp of about now."""
    words = [line.split()[0] for line in text.splitlines() if line.strip()]
    numbers = [float(word) for word in words if re.fullmatch(r"\d+\.\d+", word)]
    return [number for number in numbers if abs(number - time.time()) < 60]


@some(language="python")
def test_programs_get_ticks(block, server, tmp_path):
    program, output = tmp_path / "program.py", tmp_path / "output"
    program.write_text(server.here(block.text), encoding="utf-8")
    with running([sys.executable, str(program)], tmp_path, server.environment, output) as process:
        said = wait_for(lambda text: len(ticks(text)) >= 3, process, output)
        assert process.poll() in {None, 0}, said
    assert len(ticks(said)) >= 3, said
    assert "Traceback" not in said, said
    assert ticks(said) == sorted(ticks(said))


CLIENTS = [block for block in BLOCKS if block.page == "README.md" and block.language == "python"]


def under_twisted():
    """Return the README's second client as it says that Twisted drives it."""
    (call,) = re.findall(r"`(task\.react\([^`]+)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    lines = ["from twisted.internet import task", *CLIENTS[1].text.splitlines()[:-2], call]
    return replace(CLIENTS[1], language="under Twisted", text="\n".join(lines))


(LIBRARY,) = [block for block in BLOCKS if block.page == "docs/client.md" and block.language == "python"]


@pytest.mark.parametrize("block", [*CLIENTS, under_twisted(), LIBRARY], ids=str)
def test_clients_end_quietly_on_ctrl_c(block, server, tmp_path):
    program, output = tmp_path / "program.py", tmp_path / "output"
    program.write_text(server.here(block.text), encoding="utf-8")
    with running([sys.executable, str(program)], tmp_path, server.environment, output) as process:
        wait_for(lambda text: len(ticks(text)) >= 1, process, output)
        process.send_signal(signal.SIGINT)
        process.wait(processes.SECONDS)
    said = output.read_text(encoding="utf-8")
    assert process.returncode == 0, said
    assert "Traceback" not in said, said
    assert "ignored" not in said, said
    assert "lost" not in said, said


def test_a_client_that_may_not_come_back_says_so_in_a_sentence(tmp_path):
    server = processes.Server(tmp_path)
    program, output = tmp_path / "program.py", tmp_path / "output"
    program.write_text(LIBRARY.text.replace("8787", str(server.port)), encoding="utf-8")
    secret = {"CLOCKD_SECRET": server.secret_file.read_text(encoding="utf-8").strip()}
    with running([sys.executable, str(program)], tmp_path, plain_environment() | secret, output) as process:
        wait_for(lambda text: len(ticks(text)) >= 1, process, output)
        assert processes.clockd("user", "remove", "alice", "--users", str(server.users)).returncode == 0
        assert process.wait(processes.SECONDS) == 1
    said = output.read_text(encoding="utf-8")
    assert "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("no time: "), said
    server.stop()


def test_the_stock_client_says_that_the_connection_was_lost(tmp_path):
    server = processes.Server(tmp_path)
    program, output = tmp_path / "program.py", tmp_path / "output"
    program.write_text(CLIENTS[0].text.replace("8787", str(server.port)), encoding="utf-8")
    secret = {"CLOCKD_SECRET": server.secret_file.read_text(encoding="utf-8").strip()}
    with running([sys.executable, str(program)], tmp_path, plain_environment() | secret, output) as process:
        wait_for(lambda text: len(ticks(text)) >= 1, process, output)
        server.end()
        assert process.wait(processes.SECONDS) == 0
    assert output.read_text(encoding="utf-8").splitlines()[-1] == "the connection was lost"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.is_test], ids=str)
def test_tests_pass(block, tmp_path):
    program, output = tmp_path / "program.py", tmp_path / "output"
    program.write_text(block.text, encoding="utf-8")
    trial = ["-m", "twisted.trial"] if "TestCase" in block.text else []
    with running([sys.executable, *trial, str(program)], tmp_path, plain_environment(), output) as process:
        said = wait_for(lambda _: False, process, output)
    assert process.returncode == 0, said
    assert re.search(r"PASSED \(successes=\d+\)", said) if trial else not said, said


def test_a_client_takes_fifteen_lines():
    assert [len(block.text.splitlines()) <= 15 for block in CLIENTS] == [True, True]


@some(language="sh")
def test_commands_succeed(block, server, tmp_path):
    output = tmp_path / "output"
    script = ["bash", "-euo", "pipefail", "-c", server.here(block.text)]
    with running(script, server.folder, server.environment, output) as process:
        said = wait_for(lambda _: False, process, output)
        assert process.returncode == 0, said


def test_the_picture_of_the_demo_is_what_it_prints(tmp_path):
    (picture,) = [b.text for b in BLOCKS if b.page == "README.md" and b.language == "text"]
    output = tmp_path / "output"
    with running([str(BIN / "clockd"), "demo"], ROOT, plain_environment(), output) as process:
        wait_for(lambda text: text.count("arrived") >= 2, process, output)
        process.send_signal(signal.SIGTERM)
        process.wait(processes.SECONDS)
        said = output.read_text(encoding="utf-8")
    assert timeless(said) == timeless(picture)


def timeless(text):
    """Return what the demo prints without what differs from run to run: secret, ports, folders, number of ticks."""
    text = re.sub(r"CLOCKD_SECRET=\S+", "CLOCKD_SECRET=...", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:...", text)
    text = re.sub(r"\S*bin/(python|clockd)\S*", r"bin/\1", text)
    return re.sub(r"(  \S+Z  arrived \S+ ms later.*\n)+", "  ticks\n", text)


@some(language="toml")
def test_configurations_show_every_default(block, tmp_path):
    file = tmp_path / "clockd.toml"
    file.write_text(block.text, encoding="utf-8")
    assert load(file, environment={}) == Config()
    assert tomllib.loads(block.text).keys() == msgspec.to_builtins(Config()).keys()
    for section, keys in msgspec.to_builtins(Config()).items():
        assert tomllib.loads(block.text)[section].keys() == keys.keys()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    commands = [line for block in BLOCKS if block.is_make for line in block.text.splitlines()]
    words = re.findall(r"`(make [a-z]+)", "".join(page.read_text(encoding="utf-8") for page in PAGES))
    assert {"make run", "make test"} <= set(commands)
    assert {command.split()[1] for command in commands + words} <= targets


def test_every_block_is_of_a_kind_that_is_known():
    assert {block.language for block in BLOCKS} <= {"sh", "python", "toml", "text", "console"}


def test_what_is_not_run_shows_its_prompt():
    assert [str(block) for block in BLOCKS if block.language == "console" and not block.text.startswith("$ ")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_protocol_names_every_refusal():
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    refusals = {
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.Refused)
    }
    table = set(re.findall(r"^\| `([A-Z]\w+)` \|", page, re.MULTILINE))
    assert table == refusals - {"Refused"}


def test_the_architecture_names_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = [*(ROOT / "clockd").glob("*.py"), *(init.parent for init in (ROOT / "clockd").glob("*/__init__.py"))]
    table = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert table == {file.stem for file in files} - {"__init__", "_twist_plugin"}
    (layers,) = [b.text for b in BLOCKS if b.page == "docs/architecture.md" and "cli | twist" in b.text]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert layers.splitlines() == project["tool"]["importlinter"]["contracts"][0]["layers"]


OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """What `/metrics` of a server with a feed answers that somebody has published to."""
    folder = tmp_path_factory.mktemp("scraped")
    (folder / "clockd.toml").write_text('[feeds.room]\nkind = "push"\npublish = ["*"]\n', encoding="utf-8")
    server = processes.Server(folder, "--config", str(folder / "clockd.toml"))
    words = ("publish", f"alice@127.0.0.1:{server.port}", "--secret-file", str(server.secret_file), "room", "1")
    assert processes.clockd(*words).returncode == 0
    page = server.get("/metrics")
    server.stop()
    return page


@pytest.fixture(scope="module")
def labels(scraped):
    """The values of each label of each metric, in the order of the answer."""
    values = defaultdict(list)
    for family in text_string_to_metric_families(scraped):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        for sample in family.samples:
            for label, value in sample.labels.items():
                values[name, label].append(value)
    return {key: list(dict.fromkeys(found)) for key, found in values.items()}


METRICS = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_page_of_metrics_is_current():
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], check=False)
    assert done.returncode == 0, "run: python docs/generate.py"


def test_the_page_of_metrics_names_every_metric(scraped, labels):
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| \w* ?\| ([^|]*)\|", METRICS, re.MULTILINE)
    kinds = {name: "gauge" if kind == "info" else kind for name, kind, _ in rows}  # this format knows no info
    assert kinds == dict(re.findall(r"^# TYPE (\w+) (\w+)$", scraped, re.MULTILINE))
    assert {(name, label) for name, _, cell in rows for label in quoted(cell)} == labels.keys()


def test_the_page_of_metrics_names_every_label_value(labels):
    rows = re.findall(r"^\| `(\w+)` \| (`clockd_[^|]+) \| ([^|]*)\|", METRICS, re.MULTILINE)
    told = defaultdict(list)
    for label, of, cell in rows:
        for name in quoted(of):
            told[name, label] += quoted(cell)
    for name, bounds in re.findall(r"^- `(\w+_seconds)`: ([\d., \n]+)\.$", METRICS, re.MULTILINE):
        told[name, "le"] = [*bounds.replace(",", " ").split(), "+Inf"]

    def sorted_values(found):
        """Return those that are clockd's own; a feed's name is the operator's."""
        return {
            key: sorted(values)
            for key, values in found.items()
            if key[0].startswith("clockd_") and "_info" not in key[0] and key[1] != "feed"
        }

    assert sorted_values(told) == sorted_values(labels)


def test_the_page_of_metrics_says_how_many_series_there_are(scraped):
    (told,) = re.findall(r"own has (\d+)\nseries|own has (\d+) series", METRICS)
    counted = sum(line.startswith("clockd_") for line in scraped.splitlines())
    room = sum('feed="room"' in line for line in scraped.splitlines())
    assert counted - room == int("".join(told))


def test_the_operations_page_names_every_log_line():
    logged = set()
    for file in (ROOT / "clockd").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.fullmatch(r"(self\.)?_log\.\w+", ast.unparse(node.func)):
                level = {"failure": "critical"}.get(node.func.attr, node.func.attr)
                logged.add((node.args[0].value.replace("!r}", "}"), level))
    told = re.findall(r"^\| `([^`|]+)` \| (debug|info|warn|error|critical) \|", OPERATIONS, re.MULTILINE)
    assert len(logged) > 10
    assert set(told) == logged
