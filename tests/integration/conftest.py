"""Fixtures of the tests that run real processes."""

import shutil

import pytest
from processes import STARTED, Server


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    """End by its process id what a test that failed did not end, and not what its module has started before it."""
    before = len(STARTED)
    yield
    while len(STARTED) > before:
        process = STARTED.pop().process
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def module_server(tmp_path_factory):
    """A running `clockd serve` that must end without an error of its own."""
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def server(module_server):
    """The server that the tests of a module share; of those before, nothing is left in it."""
    module_server.assert_empty()
    return module_server


@pytest.fixture(scope="session")
def need():
    """Skip a test, with the reason in words, where a program is missing that it needs."""

    def check(program, package):
        path = shutil.which(program)
        if path is None:
            pytest.skip(f"there is no {program} here; it comes with Debian's package {package}")
        return path

    return check
