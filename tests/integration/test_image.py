"""The image: built with the project's own Dockerfile, run without rights on a read-only root, stopped, run again.

Where no image registry is reached, `.ci/stand-ins` makes the image that the Dockerfile starts from. The containers use
the host's network, so the ports of their configuration are moved by the environment.
"""

import json
import os
import re
import signal
import time
import uuid
from pathlib import Path

import pytest
from containers import build_image, podman_command
from processes import clockd, eventually, free_port

HARDENED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")


@pytest.fixture(scope="module")
def podman(tmp_path_factory):
    with podman_command(tmp_path_factory) as podman:
        yield podman


@pytest.fixture(scope="module")
def image(podman):
    """The name of the image, built from this checkout without a cache; it is removed afterwards."""
    name = f"localhost/clockd-test-{uuid.uuid4().hex[:8]}"
    build_image(podman, name, "--no-cache")
    yield name
    podman("rmi", "--force", name)


class Container:
    """A container of the image that is removed at the end.

    Args:
        podman: Runs podman.
        image: Its image.
        options: More of `podman run`.
    """

    def __init__(self, podman, image, *options):
        self.podman = podman
        self.port, self.metrics = free_port(), free_port()
        ports = (
            f"--env=CLOCKD_SERVER_LISTEN=['tcp:{self.port}:interface=127.0.0.1']",
            f"--env=CLOCKD_METRICS_LISTEN=tcp:{self.metrics}:interface=127.0.0.1",
        )
        self.id = podman("run", "--detach", "--network=host", *ports, *options, image).stdout.strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.podman("rm", "--force", "--volumes", "--time=0", self.id)

    def inspect(self, template):
        return self.podman("inspect", self.id, "--format", template).stdout.strip()

    def log(self):
        done = self.podman("logs", self.id)
        return done.stdout + done.stderr

    def wait_until_ready(self):
        url = f"http://127.0.0.1:{self.metrics}/readyz"
        eventually(lambda: clockd("health", url).returncode == 0)

    def secret(self):
        return self.log().partition("shown only now: ")[2].split()[0]

    def ticks(self, secret):
        done = clockd(
            *("watch", f"clockd@127.0.0.1:{self.port}", "--period", "0.05", "--count", "3"),
            environment={"CLOCKD_SECRET": secret},
        )
        return len(done.stdout.splitlines())


@pytest.fixture
def volume(podman):
    name = f"clockd-test-{uuid.uuid4().hex[:8]}"
    podman("volume", "create", name)
    yield f"--volume={name}:/var/lib/clockd"
    podman("volume", "rm", "--force", name)


def test_it_serves_without_rights_and_knows_its_account_again(podman, image, volume):
    with Container(podman, image, *HARDENED, volume) as first:
        first.wait_until_ready()
        assert podman("healthcheck", "run", first.id).returncode == 0
        secret = first.secret()
        assert first.ticks(secret) == 3
        assert podman("exec", first.id, "id", "-u").stdout.strip() == "8787"
        began = time.monotonic()
        podman("stop", "--time=10", first.id)
        assert time.monotonic() - began < 2  # a stop that is not heard takes 10 s and ends in 137
        assert first.inspect("{{.State.ExitCode}}") == "0"
        assert "Traceback" not in first.log()
    with Container(podman, image, *HARDENED, volume) as second:
        second.wait_until_ready()
        assert second.ticks(secret) == 3
        assert "secret" not in second.log()
        assert secret not in second.log()


def test_a_mounted_configuration_and_users_file_are_used_and_left_alone(podman, image, tmp_path):
    tmp_path.chmod(0o755)
    users = tmp_path / "users"
    secret = clockd("user", "add", "clockd", "--users", str(users)).stdout.strip()
    os.chown(users, 8787, 8787)
    before = users.read_bytes()
    configuration = tmp_path / "clockd.toml"
    configuration.write_text("[auth]\nusers = '/users'\n[limits]\nmin_period = 0.5\n")
    configuration.chmod(0o644)
    mounts = (f"--volume={configuration}:/etc/clockd/clockd.toml:ro", f"--volume={users}:/users:ro")
    with Container(podman, image, *HARDENED, *mounts) as container:
        container.wait_until_ready()
        done = clockd(
            *("watch", f"clockd@127.0.0.1:{container.port}", "--period", "0.1", "--count", "1"),
            environment={"CLOCKD_SECRET": secret},
        )
        assert done.stderr == "clockd: the server grants a period of 0.5 s\n"
        assert "shown only now" not in container.log()
    assert users.read_bytes() == before


@pytest.mark.parametrize("seconds", [0, 0.05, 0.2, 0.5, 0.9])
def test_a_stop_in_its_first_second_ends_it_in_good_order(podman, image, seconds):
    with Container(podman, image, *HARDENED) as container:
        status = Path("/proc", container.inspect("{{.State.Pid}}"), "status")
        caught = 1 << (signal.SIGTERM - 1)  # before that, in Python's own start, the kernel passes process 1 no signal
        eventually(lambda: int(re.search("SigCgt:\\s+(\\w+)", status.read_text())[1], 16) & caught)
        time.sleep(seconds)
        podman("stop", "--time=10", container.id)
        assert container.inspect("{{.State.ExitCode}}") == "0"


def test_health_tells_of_a_server_that_is_not_ready(podman, image):
    with Container(podman, image, *HARDENED) as container:
        container.wait_until_ready()
        elsewhere = podman("exec", container.id, "clockd", "health", f"http://127.0.0.1:{free_port()}/", check=False)
        assert elsewhere.returncode == 1


def test_it_is_small_runs_as_nobody_in_particular_and_holds_no_secret(podman, image):
    (described,) = json.loads(podman("inspect", image).stdout)
    assert described["Config"]["User"] == "8787:8787"
    assert described["Config"]["Labels"]["org.opencontainers.image.title"] == "clockd"
    assert described["HealthCheck" if "HealthCheck" in described else "Healthcheck"]["Test"][1:] == ["clockd", "health"]
    (base,) = json.loads(podman("inspect", "localhost/python:3.13-slim").stdout)
    assert described["Size"] - base["Size"] < 80e6
    history = podman("history", "--no-trunc", image).stdout.lower()
    assert "secret" not in history
    files = podman("run", "--rm", "--entrypoint=find", image, "/var/lib/clockd", "/etc/clockd", "-type", "f").stdout
    assert files.split() == ["/etc/clockd/clockd.toml"]


def test_built_again_without_a_cache_its_layers_are_the_same(podman, image):
    again = f"localhost/clockd-test-{uuid.uuid4().hex[:8]}"
    build_image(podman, again, "--no-cache")
    layers = [podman("inspect", name, "--format", "{{json .RootFS.Layers}}").stdout for name in (image, again)]
    podman("rmi", "--force", again)
    assert layers[0] == layers[1]
