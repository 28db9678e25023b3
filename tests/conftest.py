"""What holds for every test: where CI=true, what is skipped has failed, so that nothing is left out unnoticed."""

import gc
import os

import pytest

os.environ["CLOCKD_SERVER_STATE"] = ""  # or each server that a test starts would keep its state where the test runs


def pytest_collection_finish():
    """Have the collector look at nothing that was imported: many tests have it look at what they left."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"CI leaves nothing out, but this was skipped: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def a_folder_of_its_own(request, tmp_path, monkeypatch):
    """Have what a unit test writes with trial's `mktemp` go to a temporary folder, and not into the checkout."""
    if "integration" not in request.path.parts:
        monkeypatch.chdir(tmp_path)
