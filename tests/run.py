"""Run every test: the unit tests on each CPython from 3.11 to 3.13 that is here, and tests of real processes.

Of these, some look at their pace and wait more than they work. They run beside the unit tests, which never wait and,
being nice, leave them the processors whenever they want one. Some look at nobody's pace, and are run by twice as many
workers as there are processors, for they wait, too. All others have the machine to themselves.

Other interpreters get an environment of their own, `.venv-3.12` for one, from the same locked requirements. Branch
coverage is measured twice, as the project promises it: of all that is below the service, the client and the command
line by the unit tests alone (at least 90 %), and of the whole package by all tests (at least 95 %).
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12", "3.13")
UPPER_LAYERS = (
    *("cli", "accounts", "administration", "publish", "watch", "dial", "outcome"),
    *("demo", "twist", "service", "client", "__main__", "_twist_plugin"),
)
UNIT_COVERAGE, COVERAGE = 90, 95
UNIT_DATA = ROOT / ".coverage-of-units"
NICE = ("nice", "-n", "19")
PACELESS = (
    *("image", "publish", "commands", "tls", "words", "library", "password_logins", "churn", "holdover"),
    *("examples", "deploy", "administration", "platforms", "haproxy", "packages", "grafana", "alerts"),
)
"""What takes long comes first, and the two that build images apart: one waits until the other is done."""
WAITING = (
    *("prometheus", "stopped", "subscribers", "wall_clock", "feeds", "feed_sources", "store", "avatars"),
    *("clock", "client_clock", "page"),
)


def main() -> None:
    """Run them; the last line printed is pytest's own."""
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    with TemporaryDirectory() as folder:
        parts = ["waiting", *(version for version in VERSIONS if version != here)]
        beside = [Beside(part, Path(folder)) for part in parts]
        try:
            own_version(here)
            for part in beside:
                part.finish()
        finally:
            for part in beside:
                part.end()
    UNIT_DATA.rename(ROOT / ".coverage.unit")  # a name that pytest-cov looks for when it puts together what there is
    say("tests of real processes, of which nobody's pace matters")
    workers = f"--numprocesses={2 * (os.cpu_count() or 1)}"
    run(integration(PACELESS, workers, "--dist=loadfile", "--no-loadscope-reorder", "--cov-report="))
    say("all other tests, with the coverage of the whole package by these and those")
    ignored = [f"--ignore={file_of(name)}" for name in PACELESS + WAITING]
    report = ("--cov-report=term-missing:skip-covered", f"--cov-fail-under={COVERAGE}")
    run([sys.executable, "-m", "pytest", "tests/integration", *ignored, "--cov", "--cov-append", *report])


def waiting() -> None:
    """Run the integration tests that look at their pace, and wait more than they work."""
    say("tests of real processes that look at their pace, and wait more than they work")
    run(integration(WAITING, "--quiet", "--numprocesses=4", "--dist=worksteal", "--cov-report="))


def integration(names: tuple[str, ...], *options: str) -> list[str]:
    """Return the command that runs some integration tests, their coverage added to what was measured before."""
    files = map(file_of, names)
    return [sys.executable, "-m", "pytest", *files, "--cov", "--cov-append", *options]


def file_of(name: str) -> str:
    """Return the file of the integration tests of a name."""
    return f"tests/integration/test_{name}.py"


class Beside:
    """A part that is run at the same time as our unit tests; what it prints is kept until it is done.

    It stays in our session: Linux lets processes be nice to those of their own session only.
    """

    def __init__(self, part: str, folder: Path) -> None:
        self.output = folder / part
        command = [sys.executable, __file__, part]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, process_group=0)

    def finish(self) -> None:
        """Wait for it, print what it said, and end with its exit code if it failed."""
        code = self.process.wait()
        print(self.output.read_text(encoding="utf-8"), end="", flush=True)
        if code:
            sys.exit(code)

    def end(self) -> None:
        """End it, and what it has started, if it is not done."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def own_version(here: str) -> None:
    """Run the unit tests on this CPython, with their coverage."""
    settings = ROOT / ".coverage-unit.toml"
    omitted = ", ".join(f'"clockd/{name}.py"' for name in UPPER_LAYERS)
    ran = f"[run]\nbranch = true\nsource = ['clockd']\ndata_file = '{UNIT_DATA}'\n"
    settings.write_text(f"{ran}[report]\nomit = [{omitted}]\n", encoding="utf-8")
    say(f"unit tests on CPython {here}, with the coverage of all below the service, the client and the command line")
    unit = ("tests", "--ignore=tests/integration", "--cov", "--cov-report=term:skip-covered")
    options = (f"--cov-config={settings}", f"--cov-fail-under={UNIT_COVERAGE}")
    run([*NICE, sys.executable, "-m", "pytest", *unit, *options])
    settings.unlink()


def other_version(version: str) -> None:
    """Run the unit tests on another CPython, if there is one."""
    python = find(version)
    if python is None:
        say(f"unit tests on CPython {version}: left out, there is none on this machine")
        return
    say(f"unit tests on CPython {version}")
    environment = ROOT / f".venv-{version}"
    own = environment / "bin" / "python"
    locks = [ROOT / f"requirements{kind}.lock" for kind in ("", "-build", "-dev")]
    ready = environment / "ready"
    if not ready.exists() or ready.stat().st_mtime < max(lock.stat().st_mtime for lock in locks):
        run([python, "-m", "venv", "--without-pip", "--clear", str(environment)])
        pip = [python, "-m", "pip", "--disable-pip-version-check", "--python", str(own), "install", "-qq", "--no-deps"]
        run([*pip, "--no-compile", "--require-hashes", *(word for lock in locks for word in ("-r", str(lock)))])
        run([*pip, "--no-build-isolation", "-e", "."])
        ready.touch()
    run([*NICE, str(own), "-m", "pytest", "-q", "tests", "--ignore=tests/integration", "-p", "no:cacheprovider"])


def find(version: str) -> str | None:
    """Return a CPython of this version that runs and has pip."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    installed = sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")), reverse=True)
    for python in (f"python{version}", *installed, f"/usr/bin/python{version}"):
        try:
            subprocess.run([python, "-m", "pip", "--version"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return None


def say(what: str) -> None:
    """Print a heading."""
    print(f"\n--- {what}", flush=True)


def run(command: list[str]) -> None:
    """Run a command, and end with its exit code if it fails."""
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


os.chdir(ROOT)
match sys.argv[1:]:
    case []:
        main()
    case ["waiting"]:
        waiting()
    case [version]:
        other_version(version)
