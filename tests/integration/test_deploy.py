"""What is in deploy/ and grafana/ is true: the example configuration, the unit, the composition."""

import itertools
import json
import re
import sys
import tomllib
import urllib.request
import uuid
from pathlib import Path

import msgspec
import pytest
from containers import build_image, podman_command
from processes import HERE, LONG_SECONDS, Program, eventually, free_port, run, without_coverage
from test_prometheus import ask

from clockd.config import Config, load
from clockd.health import health_url, ready

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent


def test_the_example_configuration_has_every_key_with_its_default_and_a_word_on_it():
    text = (DEPLOY / "clockd.toml").read_text()
    assert tomllib.loads(text) == json.loads(msgspec.json.encode(Config()))
    lines = text.splitlines()
    undocumented = [line for before, line in itertools.pairwise(lines) if " = " in line and before[:1] != "#"]
    assert undocumented == []


def test_the_image_s_configuration_is_one_and_health_finds_its_default_port():
    config = load(DEPLOY / "container.toml", {})
    assert config.server.listen == ("tcp:8787",)
    assert health_url(config.metrics.listen) == health_url("")


@pytest.fixture(scope="module")
def podman(tmp_path_factory):
    with podman_command(tmp_path_factory) as podman:
        yield podman


@pytest.fixture(scope="module")
def composition(podman):
    """clockd and Prometheus as compose.yaml has them, on free ports; there is no image of Grafana to be had here."""
    if podman("image", "exists", "localhost/prometheus:latest", check=False).returncode:
        pytest.skip("there is no image of Prometheus here: `.ci/stand-ins prometheus` makes a stand-in")
    project = f"clockd-test-{uuid.uuid4().hex[:8]}"
    image = f"localhost/{project}"
    build_image(podman, image)
    ports = {f"{name}_PORT": free_port() for name in ("CLOCKD", "METRICS", "PROMETHEUS")}
    environment = podman.environment | {key: str(port) for key, port in ports.items()}
    environment |= {"CLOCKD_IMAGE": image, "PROMETHEUS_IMAGE": "localhost/prometheus:latest"}
    compose = (str(BIN / "podman-compose"), "-p", project, "-f", str(DEPLOY / "compose.yaml"))
    try:
        up = run(
            *compose, "up", "-d", "--no-build", "clockd", "prometheus", environment=environment, seconds=LONG_SECONDS
        )
        assert up.returncode == 0, up.stderr
        log = eventually(lambda: secret_of(podman, f"{project}_clockd_1"), 60)
        yield {name.removesuffix("_PORT").lower(): port for name, port in ports.items()} | {"secret": log}
    finally:
        run(*compose, "down", "--volumes", "--timeout", "5", environment=environment, seconds=LONG_SECONDS)
        podman("rmi", "--force", image, check=False)


def secret_of(podman, container):
    return next(iter(re.findall("shown only now: (.*)", podman("logs", container, check=False).stdout)), None)


def test_the_composition_is_scraped_by_its_rules_and_has_its_page(composition):
    prometheus = composition["prometheus"]
    eventually(lambda: ready(f"http://127.0.0.1:{prometheus}/-/ready").ok, 60)
    eventually(lambda: ask(prometheus, 'up{job="clockd"} == 1'), 60)
    script, port, seconds = str(HERE / "subscribers.py"), str(composition["clockd"]), "60"
    words = (script, port, "clockd", composition["secret"], seconds, json.dumps([0.1] * 5))
    clients = Program(sys.executable, *words, environment=without_coverage())
    try:
        eventually(lambda: ask(prometheus, "clockd_avatars == 5"), 60)
        eventually(lambda: ask(prometheus, "clockd_push_achieved_hertz > 40"), 60)
        eventually(lambda: ask(prometheus, "clockd:push_slow:ratio5m == 0"), 60)  # it has the rules
        page = f"http://127.0.0.1:{composition['metrics']}/"
        with urllib.request.urlopen(page, timeout=10) as answer:
            assert b"<title>clockd</title>" in answer.read()
        with urllib.request.urlopen(f"{page}events", timeout=10) as events:
            status = next(line for line in events if line.startswith(b'data: {"stamp"'))
            assert json.loads(status[6:])["moment"][1] == 5
    finally:
        clients.process.kill()
        clients.wait()


def test_health_needs_no_twisted():
    code = "import sys; from clockd.cli import main; main(['health', 'http://127.0.0.1:1/'], standalone_mode=False)"
    done = run(sys.executable, "-X", "importtime", "-c", code)
    assert done.returncode == 1
    assert "click" in done.stderr
    assert "twisted" not in done.stderr
    assert "msgspec" not in done.stderr
