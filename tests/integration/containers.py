"""Running podman as root on a machine without systemd, and building this checkout's image with it."""

import fcntl
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import LONG_SECONDS, run

ROOT = Path(__file__).resolve().parents[2]
ENGINE = """\
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
BUILD_SECONDS = 300


@contextmanager
def podman_command(tmp_path_factory):
    """Hand out what runs a podman command here, to one module at a time.

    The images of all modules have layers in common: who removes one could take away what another is building on.
    """
    for program in ("podman", "buildah", "runc"):
        if run("which", program).returncode:
            pytest.skip(f"there is no {program} here; it comes with Debian's package {program}")
    configuration = tmp_path_factory.mktemp("podman") / "containers.conf"
    configuration.write_text(ENGINE)
    environment = {"CONTAINERS_CONF": str(configuration)}

    def podman(*words, check=True, seconds=LONG_SECONDS):
        done = run("podman", *words, environment=environment, seconds=seconds)
        assert done.returncode == 0 or not check, done.stderr
        return done

    podman.environment = environment
    with (tmp_path_factory.getbasetemp().parent / "podman").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield podman


def build_image(podman, name, *options):
    """Build with what `make image` calls; this machine's pip finds its index and authorities in mounted files."""
    if podman("image", "exists", "localhost/python:3.13-slim", check=False).returncode:
        pytest.skip("there is no image python:3.13-slim here: `.ci/stand-ins python` makes a stand-in")
    mounts = [f"--volume={path}:{path}:ro" for path in ("/etc/ssl/certs", "/etc/pip.conf") if Path(path).exists()]
    done = run(
        *(str(ROOT / "deploy" / "build-image"), name, "--isolation=chroot", "--pull=never", "--layers"),
        *mounts,
        *options,
        environment=podman.environment,
        seconds=BUILD_SECONDS,
    )
    assert done.returncode == 0, done.stderr
