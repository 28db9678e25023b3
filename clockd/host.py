"""The load of the host, as psutil tells it.

Rules of this module: it alone knows psutil. A reading takes half a millisecond at most, so it may be taken in the
reactor's thread.
"""

import time

import psutil

LOOPBACK = "lo"


class HostMeter:
    """Reads how busy the host is; what cannot be told here is left out."""

    def __init__(self) -> None:
        self._cpu_percent = 0.0
        self._cpu_before = (0.0, 0.0)

    def take(self) -> dict[str, float]:
        """Return a reading; its keys are those of `docs/feeds.md`."""
        found: dict[str, float] = {}
        for read in (self._cpu, _cpus, _load, _memory, _disk, _network, _uptime):
            try:
                found |= read()
            except Exception:  # noqa: BLE001, S112  # psutil raises many kinds where a host does not tell
                continue
        return found

    def _cpu(self) -> dict[str, float]:
        """Return how busy all processors were since the reading before; at the first since the host's start.

        psutil's own `cpu_percent` remembers one reading for all who ask.
        """
        times = psutil.cpu_times()
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)  # in user, too
        idle = times.idle + getattr(times, "iowait", 0.0)
        passed, idled = total - self._cpu_before[0], idle - self._cpu_before[1]
        if passed > 0:  # else it is the same clock tick
            self._cpu_before = total, idle
            self._cpu_percent = min(max(100.0 * (1 - idled / passed), 0.0), 100.0)  # iowait may go back
        return {"cpu_percent": self._cpu_percent}


def _cpus() -> dict[str, float]:
    count = psutil.cpu_count()
    return {} if count is None else {"cpus": count}


def _load() -> dict[str, float]:
    return dict(zip(("load_1", "load_5", "load_15"), psutil.getloadavg(), strict=True))


def _memory() -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {"memory_bytes": memory.total, "memory_available_bytes": memory.available}


def _disk() -> dict[str, float]:
    disk = psutil.disk_usage("/")
    return {"disk_bytes": disk.total, "disk_free_bytes": disk.free}


def _network() -> dict[str, float]:
    """Return what all interfaces but loopback have carried; not rates, which would tell nothing of samples missed."""
    interfaces = psutil.net_io_counters(pernic=True, nowrap=False)
    counts = [interface for name, interface in interfaces.items() if name != LOOPBACK]
    return {
        "network_received_bytes": sum(interface.bytes_recv for interface in counts),
        "network_sent_bytes": sum(interface.bytes_sent for interface in counts),
    }


def _uptime() -> dict[str, float]:
    """Return how long the host has been up; psutil tells it by the wall clock, to the second."""
    return {"uptime_seconds": time.clock_gettime(time.CLOCK_BOOTTIME)}
