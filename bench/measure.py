"""What processes cost, as the operating system counts it, and on what machine."""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")
CPUCLOCK_SCHED = 2
"""With the process id before it, the clock that clock_getcpuclockid(3) returns: `linux/posix-timers.h`."""


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that processes have used, in the kernel and outside of it, with threads that have ended."""
    return sum(map(_cpu_seconds, pids))


def _cpu_seconds(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)


def memory_bytes(pid: int) -> dict[str, int]:
    """Return what a process holds: `rss`; `pss`, which shares out what it shares; `private_dirty`, its own alone."""
    rollup = (PROC / str(pid) / "smaps_rollup").read_text()
    return {
        name: 1024 * int(re.search(rf"^{name.title()}: +(\d+) kB", rollup, re.MULTILINE)[1])
        for name in ("rss", "pss", "private_dirty")
    }


def waited_seconds(pid: int) -> float:
    """Return the time for which a process was to run, and something else had its core."""
    return int((PROC / str(pid) / "schedstat").read_text().split()[1]) / 1e9


def all_cpu_seconds() -> dict[int, float]:
    """Return the CPU time of every process there is, by process id."""
    seconds = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                seconds[int(folder.name)] = _cpu_seconds(int(folder.name))
    return seconds


def stolen_seconds() -> float:
    """Return the time that the hypervisor kept from the cores."""
    return int((PROC / "stat").read_text().split("\n", 1)[0].split()[8]) / TICKS


def machine() -> dict[str, str]:
    """Describe the machine, what runs on it, and the day."""
    cpu = re.search(r"^model name\s*: (.*)$", (PROC / "cpuinfo").read_text(), re.MULTILINE)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version for name in ("twisted", "clockd", "websockets", "uvloop") if (version := distribution(name))},
        **{name: version for name in ("mosquitto", "nats-server", "redis-server") if (version := program(name))},
    }


def distribution(name: str) -> str:
    """Return the version of an installed distribution, or nothing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def program(name: str) -> str:
    """Return the version of an installed program, or nothing."""
    path = find(name)
    if path is None:
        return ""
    flag = "-h" if name == "mosquitto" else "--version"
    said = subprocess.run([path, flag], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\d+\.\d+\.\d+", said)
    return version[0] if version else "of unknown version"


def find(name: str) -> str | None:
    """Return the path of a program; Debian puts servers where the path of most users does not lead."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
