"""Fixtures of the tests that run real processes."""

import shutil

import pytest
from processes import STARTED, Server


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    """End by its process id what a test that failed did not end."""
    yield
    while STARTED:
        process = STARTED.pop().process
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def server(tmp_path):
    """A running `clockd serve` that must end without an error of its own."""
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    yield server
    server.stop()


@pytest.fixture
def need():
    """Skip a test, with the reason in words, where a program is missing that it needs."""

    def check(program, package):
        path = shutil.which(program)
        if path is None:
            pytest.skip(f"there is no {program} here; it comes with Debian's package {package}")
        return path

    return check
