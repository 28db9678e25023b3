"""The source distribution and the wheel: what is in them, and that a wheel runs where nothing else is but its needs.

Nothing is fetched: hatchling is the one of this environment, and what clockd needs comes from there, too: no more of it
than the wheel's metadata ask for.
"""

import os
import re
import sys
import tarfile
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from processes import FREE, LONG_SECONDS, Program, run, without_coverage

from clockd import __version__

ROOT = Path(__file__).resolve().parents[2]


def build(source, folder, *kinds):
    """Build distributions of a folder without fetching anything; return their files by suffix."""
    words = (*(f"--{kind}" for kind in kinds), "--no-isolation", "--outdir", str(folder), str(source))
    done = run(sys.executable, "-m", "build", *words, seconds=LONG_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source distribution, and the wheel that is made of it."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def sources(distributions, tmp_path_factory):
    """A folder with what is in the source distribution."""
    folder = tmp_path_factory.mktemp("sources")
    with tarfile.open(distributions[".gz"]) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


def files_of(wheel):
    """Return what is in a wheel, by its name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def under_version_control(*options):
    listed = run("git", "-C", str(ROOT), "ls-files", "--exclude-standard", *options)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def test_the_source_distribution_is_what_is_under_version_control(sources):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout: there is nothing that says what belongs to the sources")
    packed = {str(path.relative_to(sources)) for path in sources.rglob("*") if path.is_file()}
    new = under_version_control("--others")  # it may be what somebody is writing
    assert packed - new == under_version_control("--cached") | {"PKG-INFO"}
    for name in packed - {"PKG-INFO"}:
        assert (sources / name).read_bytes() == (ROOT / name).read_bytes(), name
        assert os.access(sources / name, os.X_OK) == os.access(ROOT / name, os.X_OK), name


def test_tests_run_from_the_source_distribution(sources):
    words = ("-q", "-p", "no:cacheprovider", "tests/test_values.py", "tests/test_errors.py")
    code = "import clockd, pathlib, sys; sys.exit(not pathlib.Path(clockd.__file__).is_relative_to(pathlib.Path.cwd()))"
    assert run(sys.executable, "-c", code, cwd=sources).returncode == 0
    done = run(sys.executable, "-m", "pytest", *words, cwd=sources, seconds=LONG_SECONDS)
    assert done.returncode == 0, done.stdout


def test_the_wheel_is_the_same_without_the_way_over_the_source_distribution(distributions, tmp_path):
    assert files_of(build(ROOT, tmp_path, "wheel")[".whl"]) == files_of(distributions[".whl"])


def test_the_wheel_has_all_of_the_package_and_nothing_else(distributions):
    names = {name for name in files_of(distributions[".whl"]) if ".dist-info/" not in name}
    assert {"clockd/py.typed", "clockd/migrations/0001.sql"} <= names
    plugin = {"clockd/_twist_plugin.py"}
    files = under_version_control("--cached", "--others", "clockd")
    assert names == files - plugin | {"twisted/plugins/clockd_twist_plugin.py"}


def needed_by(wheel):
    """Return the names of all distributions that a wheel needs here, by its metadata and by theirs."""
    (described,) = (data for name, data in files_of(wheel).items() if name.endswith(".dist-info/METADATA"))
    waiting = [(Requirement(line), "") for line in message_from_bytes(described).get_all("Requires-Dist")]
    found = set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in {"", *requirement.extras}:
                if (requirement.name, wanted) not in found:
                    found.add((requirement.name, wanted))
                    lines = metadata.requires(requirement.name) or ()
                    waiting += [(Requirement(line), wanted) for line in lines]
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def environment(distributions, tmp_path_factory):
    """The programs of an environment of its own with the wheel, and with what that needs by its metadata."""
    folder, needs = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("needs")
    python = (sys._base_executable, "-m")
    pip = (*python, "pip", "--disable-pip-version-check", "--python", str(folder / "bin" / "python"))
    for command in (
        (*python, "venv", "--without-pip", str(folder)),
        (*pip, "install", "-q", "--no-deps", "--no-index", str(distributions[".whl"])),
    ):
        done = run(*command, seconds=LONG_SECONDS)
        assert done.returncode == 0, done.stderr
    for name in needed_by(distributions[".whl"]):
        for file in metadata.files(name):
            here = needs / file.parts[0]
            if file.parts[0] not in {"..", "__pycache__"} and not here.exists():
                here.symlink_to(metadata.distribution(name).locate_file(file.parts[0]))
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "needs.pth").write_text(f"{needs}\n")
    return folder / "bin"


def test_a_server_of_the_wheel_ticks_with_nothing_but_what_its_metadata_ask_for(environment, tmp_path):
    clockd, users = str(environment / "clockd"), str(tmp_path / "users")
    assert run(clockd, "--version", cwd=tmp_path).stdout == f"clockd {__version__}\n"
    secret = run(clockd, "user", "add", "alice", "--users", users, cwd=tmp_path).stdout.strip()
    words = ("--users", users, "--listen", FREE, "--metrics-listen", FREE)
    server = Program(clockd, "serve", *words, environment=without_coverage())
    port = re.search(r"pushes the time on \S+:(\d+)", server.line("pushes the time"))[1]
    done = run(clockd, "watch", f"alice@127.0.0.1:{port}", "--count", "1", environment={"CLOCKD_SECRET": secret})
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
    assert server.end() == 0
    assert "Traceback" not in server.output


def test_a_shell_completes_commands_and_options(environment):
    path = {"PATH": f"{environment}:{os.environ['PATH']}"}
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"^(eval .*_CLOCKD_COMPLETE.*)$", page, re.MULTILINE)
    ask = 'COMPREPLY=(); COMP_WORDS=({}); COMP_CWORD={}; _clockd_completion clockd; echo "${{COMPREPLY[@]}}"'
    script = [documented.replace(".venv/bin/", ""), ask.format("clockd se", 1), ask.format("clockd user add --pa", 3)]
    assert run("bash", "-euc", "\n".join(script), environment=path).stdout == "serve\n--password-stdin\n"
    zsh = {"_CLOCKD_COMPLETE": "zsh_complete", "COMP_WORDS": "clockd se", "COMP_CWORD": "1"}
    assert (
        run(str(environment / "clockd"), environment=zsh).stdout
        == "plain\nserve\nRun the server until SIGTERM or SIGINT.\n"
    )


def test_a_type_checker_sees_the_types_of_the_wheel(environment, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("from clockd.health import health_url\nreveal_type(health_url(''))\n")
    words = ("--strict", "--python-executable", str(environment / "python"), "--cache-dir", os.devnull, str(program))
    done = run(sys.executable, "-m", "mypy", *words, cwd=tmp_path, seconds=LONG_SECONDS)
    assert 'Revealed type is "str"' in done.stdout.replace("builtins.", ""), done.stdout
    assert done.returncode == 0
