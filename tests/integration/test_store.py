"""A store in a process of its own: killed at any moment, and with disks and files that do not do what they should."""

import json
import os
import random
import resource
import signal
import sqlite3
import sys
import time
import zipfile
from contextlib import closing, suppress
from pathlib import Path

import pytest
from processes import CLOCKD, HERE, LONG_SECONDS, Program, eventually, run, without_coverage

from clockd.store import BUSY_SECONDS
from clockd.users import add_account

ROOT = HERE.parents[1]
KILLS = int(os.environ.get("CLOCKD_TEST_KILLS", "5"))
"""How often a store is killed."""

WINDOW_SECONDS = 1.0
"""As much may be lost of what was remembered last."""

GARBAGE = b"this is no database\n" * 1000
HEADED = b"SQLite format 3\0" + GARBAGE
"""What begins as a database, and is none."""


class Keeper(Program):
    """A `keeper.py`.

    Args:
        path: Its file.
        hertz: How often it remembers something.
        name: What the names of its accounts begin with.
        before: A command that runs it.
    """

    def __init__(self, path, hertz=20, name="a", before=()):
        words = [sys.executable, str(HERE / "keeper.py"), str(path), str(hertz), name]
        super().__init__(*before, *words, environment=without_coverage())
        self.opened = json.loads(self.line('"opened"'))
        self.line('"moment"')

    def said(self, key):
        """Return what it has said with this key."""
        return [words for words in map(json.loads, list(self.lines)) if key in words]

    def now(self):
        """Return how it is."""
        return self.said("moment")[-1]

    def goes_on(self):
        """Wait until it has remembered something more, and the store has had time to write it or to fail."""
        count = self.now()["count"] + 20
        eventually(lambda: self.now()["count"] > count)

    def comes_into_trouble(self, words):
        """Wait for trouble."""
        trouble = eventually(lambda: self.now()["trouble"])
        assert words in trouble
        failures = self.now()["failures"]
        eventually(lambda: self.now()["failures"] > failures)  # and it has tried again
        assert words in self.now()["trouble"]

    def comes_out_of_it(self):
        """Wait until it ends; then end the program, which finds all in the file. Return what it has warned of."""
        eventually(lambda: self.now()["trouble"] is None)
        levels = [words["level"] for words in self.said("level")]
        assert (levels.count("info"), levels[-1]) == (1, "info")
        return self.ends_whole()

    def ends_whole(self):
        """End it; it finds all in the file. Return what it has warned of."""
        self.goes_on()
        assert self.end() == 0, self.output
        (last,) = self.said("whole")
        assert last["whole"] is True, self.output
        assert last["accounts"] >= self.now()["count"]
        assert self.now()["longest"] < BUSY_SECONDS  # what the thread waits for, the reactor does not
        return [words["message"] for words in self.said("level") if words["level"] != "info"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.sqlite"


@pytest.fixture
def bound_by_permissions(need):
    """A command that has root obey permission bits; none is needed for anybody else."""
    if os.geteuid() != 0:
        return []
    command = [need("setpriv", "util-linux"), "--bounding-set=-dac_override,-dac_read_search"]
    tried = run(*command, "true")
    if tried.returncode:
        pytest.skip(f"capabilities cannot be given up here: {tried.stderr.strip()}")
    return command


@pytest.fixture
def small_disk(need, tmp_path):
    """A folder, and a command that mounts a file system of 1 MiB on it for whom it runs."""
    script = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    folder = tmp_path / "disk"
    folder.mkdir()
    command = [need("unshare", "util-linux"), "--mount", "sh", "-c", script, str(folder)]
    tried = run(*command, "true")
    if tried.returncode:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    return folder, command


def kept(path):
    """Return how often each account has logged in, as the file has it."""
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, logins FROM account"))


def test_what_was_remembered_a_second_before_a_kill_is_there_after_it(path):
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    keeper = Keeper(path, 1000, "0")
    for number in range(KILLS):
        time.sleep(chance.uniform(WINDOW_SECONDS, 3))
        killed = time.monotonic()
        keeper.end(signal.SIGKILL)
        counts = [words["count"] for words in keeper.said("moment") if words["moment"] < killed - WINDOW_SECONDS]
        keeper = Keeper(path, 1000, str(number + 1))
        assert keeper.opened["trouble"] is None, f"seed {seed}, kill {number}: {keeper.output}"
        found = kept(path)
        lost = [count for count in range(1, max(counts, default=0) + 1) if found.get(f"{number}-{count}") != count]
        assert not lost, f"seed {seed}, kill {number}: {len(lost)} of {max(counts)} from {lost[0]} on"
        assert found.get(f"{number}-same", 0) >= max(counts, default=0)
    assert keeper.ends_whole() == []
    assert [file.name for file in path.parent.iterdir()] == ["state.sqlite"]


def test_a_disk_that_is_full(small_disk):
    folder, command = small_disk
    keeper = Keeper(folder / "state.sqlite", before=command)
    assert keeper.opened == {"opened": 0, "trouble": None}
    filler = Path(f"/proc/{keeper.process.pid}/root{folder}/filler")
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    keeper.comes_into_trouble("the disk is full; make room on it")
    filler.unlink()
    assert len(keeper.comes_out_of_it()) == 1


def test_a_disk_that_is_full_from_the_start(small_disk):
    folder, (*command, mounted) = small_disk
    command[-1] = command[-1].replace("exec", "! head -c 2m /dev/zero 2>/dev/null >$0/filler && exec")
    keeper = Keeper(folder / "state.sqlite", before=[*command, mounted])
    keeper.comes_into_trouble("disk")
    Path(f"/proc/{keeper.process.pid}/root{folder}/filler").unlink()
    assert len(keeper.comes_out_of_it()) == 1


def test_a_disk_that_gives_errors(path):
    keeper = Keeper(path)
    unlimited = resource.prlimit(keeper.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(keeper.process.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))
    keeper.comes_into_trouble("the disk cannot be read or written")
    resource.prlimit(keeper.process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert len(keeper.comes_out_of_it()) == 1


def test_a_file_that_is_read_only_is_read(path, bound_by_permissions):
    keeper = Keeper(path)
    assert keeper.ends_whole() == []
    path.chmod(0o444)
    keeper = Keeper(path, name="b", before=bound_by_permissions)
    assert keeper.opened["opened"] > 0
    keeper.comes_into_trouble("it is read-only; give the server the right to write")
    path.chmod(0o600)
    assert len(keeper.comes_out_of_it()) == 1
    assert {name[0] for name in kept(path)} == {"a", "b"}


def test_a_directory_in_which_no_log_can_be_made(path, bound_by_permissions):
    keeper = Keeper(path)
    assert keeper.ends_whole() == []
    path.parent.chmod(0o555)
    keeper = Keeper(path, name="b", before=bound_by_permissions)
    keeper.comes_into_trouble("the server")
    path.parent.chmod(0o755)
    assert len(keeper.comes_out_of_it()) == 1
    assert {name[0] for name in kept(path)} == {"a", "b"}


def test_a_directory_in_which_no_file_can_be_made(path, bound_by_permissions):
    path.parent.chmod(0o555)
    keeper = Keeper(path, before=bound_by_permissions)
    keeper.comes_into_trouble("Permission denied; see that")
    path.parent.chmod(0o755)
    assert len(keeper.comes_out_of_it()) == 1


LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(600)
"""


def test_a_file_that_another_program_has_locked(path):
    keeper = Keeper(path)
    locker = Program(sys.executable, "-c", LOCK, str(path), environment=without_coverage())
    locker.line("locked")
    keeper.comes_into_trouble("another program has locked it; end that program")
    locker.end(signal.SIGKILL)
    assert len(keeper.comes_out_of_it()) == 1


def test_two_that_have_one_file_lose_nothing_of_each_other_s(path):
    keepers = [Keeper(path, 1000, name) for name in "ab"]
    ended = []
    for keeper, name in zip(keepers, "ab", strict=True):
        for other in keepers[len(ended) :]:
            other.goes_on()
        assert keeper.end() == 0, keeper.output
        assert keeper.said("level") == []
        ended.append((name, keeper.now()["count"]))
        found = kept(path)
        for first, last in ended:
            assert all(found.get(f"{first}-{count}") == count for count in range(1, last + 1))


def remove(path):
    path.unlink()


def replace(path):
    other = path.with_name("other")
    other.write_bytes(HEADED)
    other.rename(path)


def overwrite(path):
    with path.open("r+b") as file:
        file.write(GARBAGE)


def cut(path):
    os.truncate(path, 4096)


@pytest.mark.parametrize("harm", [remove, replace, overwrite, cut])
def test_a_file_that_is_harmed_while_it_is_open(path, harm):
    assert Keeper(path).ends_whole() == []
    keeper = Keeper(path, name="b")
    keeper.goes_on()
    harm(path)
    eventually(lambda: keeper.now()["failures"])
    keeper.goes_on()
    warnings = keeper.ends_whole()
    assert keeper.now()["trouble"] is None
    aside = [file for file in path.parent.iterdir() if ".broken-" in file.name and file.name.endswith("Z")]
    assert len(aside) == (harm is not remove)
    assert all(f"it is kept as {file}" in warnings[-1] for file in aside)
    if harm in {replace, overwrite}:
        assert aside[0].read_bytes().startswith(HEADED if harm is replace else GARBAGE)
    assert {name[0] for name in kept(path)} == {"a", "b"}


def test_check_finds_a_place_that_is_read_only(path, bound_by_permissions):
    users = path.with_name("users")
    add_account(users, "alice")
    environment = {**os.environ, "CLOCKD_AUTH_USERS": str(users), "CLOCKD_SERVER_STATE": str(path)}
    check = (*bound_by_permissions, *CLOCKD, "check")
    path.touch()
    for place, mode, told in (
        (path, 0o400, "it is read-only; give the server the right to write to it and to its directory"),
        (path, 0o200, "Permission denied; see that its directory is there and that the server may write to it"),
        (path.parent, 0o500, "it is read-only; give the server the right to write to it and to its directory"),
    ):
        before = place.stat().st_mode
        place.chmod(mode)
        done = run(*check, environment=environment)
        place.chmod(before)
        assert (done.returncode, done.stderr) == (2, f"clockd: CLOCKD_SERVER_STATE: server.state: {path}: {told}\n")
    assert run(*check, environment=environment).stdout == "defaults: good\n"


def test_what_never_was_a_database_is_left_alone(path):
    path.write_bytes(GARBAGE)
    keeper = Keeper(path)
    keeper.comes_into_trouble("is no database of SQLite; name another file in server.state")
    assert (path.read_bytes(), [file.name for file in path.parent.iterdir()]) == (GARBAGE, [path.name])
    path.unlink()
    assert len(keeper.comes_out_of_it()) == 1


def test_the_wheel_has_the_migrations(tmp_path):
    done = run(
        sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=ROOT, seconds=LONG_SECONDS
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = [name for name in archive.namelist() if name.startswith("clockd/migrations/")]
    assert sorted(found) == sorted(f"clockd/migrations/{file.name}" for file in (ROOT / "clockd/migrations").iterdir())
