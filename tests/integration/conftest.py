"""Fixtures of the tests that run real processes."""

import os
import shutil

import pytest
from processes import STARTED, Server, without_coverage

COVERED_ELSEWHERE = {"test_churn", "test_examples", "test_image", "test_library", "test_password_logins"}
"""Modules whose programs run nothing that those of other modules, or the unit tests, do not run as well."""


@pytest.fixture(autouse=True, scope="module")
def measured_where_it_tells_something(request):
    """Start the programs of some modules without coverage, which slows them down."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ in COVERED_ELSEWHERE:
            for key in os.environ.keys() - without_coverage().keys():
                patch.delenv(key)
        yield


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
