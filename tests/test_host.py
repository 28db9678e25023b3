import itertools
from typing import NamedTuple

import psutil
from twisted.trial.unittest import SynchronousTestCase

from clockd.host import HostMeter
from clockd.wire import ValueEncoder


class Times(NamedTuple):
    user: float
    system: float
    idle: float
    iowait: float
    guest: float


class Counts(NamedTuple):
    bytes_recv: int
    bytes_sent: int


KEYS = {
    *("cpu_percent", "cpus", "load_1", "load_5", "load_15", "memory_bytes", "memory_available_bytes"),
    *("disk_bytes", "disk_free_bytes", "network_received_bytes", "network_sent_bytes", "uptime_seconds"),
}


def refuse(*_, **__):
    raise NotImplementedError("not on this platform")


class HostMeterTests(SynchronousTestCase):
    def percents(self, *times):
        """Return what a meter finds while psutil tells these times of the processors, one after the other."""
        left = iter(times)
        self.patch(psutil, "cpu_times", lambda: next(left))
        meter = HostMeter()
        return [meter.take()["cpu_percent"] for _ in times]

    def test_a_reading_of_this_host_has_every_key_and_can_be_sent(self):
        value = HostMeter().take()
        self.assertEqual(value.keys(), KEYS)
        self.assertTrue(ValueEncoder(b"pb").encode(value))
        self.assertEqual(set(map(type, value.values())), {int, float})

    def test_a_reading_of_this_host_is_plausible(self):
        value = HostMeter().take()
        self.assertTrue(0 < value["memory_available_bytes"] <= value["memory_bytes"])
        self.assertTrue(0 <= value["disk_free_bytes"] <= value["disk_bytes"] > 0)
        self.assertTrue(value["cpus"] >= 1 and value["uptime_seconds"] > 0)
        self.assertTrue(0 <= value["cpu_percent"] <= 100)

    def test_processors_are_busy_when_they_are_neither_idle_nor_waiting_since_the_reading_before(self):
        found = self.percents(Times(20, 5, 50, 25, 0), Times(80, 15, 80, 35, 0), Times(80, 15, 180, 35, 0))
        self.assertEqual(found, [25.0, 63.63636363636363, 0.0])

    def test_guests_are_counted_once_as_users_of_the_processor(self):
        self.assertEqual(self.percents(Times(50, 0, 50, 0, 50)), [50.0])

    def test_within_one_tick_of_the_hosts_clock_nothing_changes(self):
        self.assertEqual(self.percents(Times(1, 0, 1, 0, 0), Times(1, 0, 1, 0, 0)), [50.0, 50.0])

    def test_times_that_go_back_make_no_percentage_that_is_none(self):
        found = self.percents(Times(0, 0, 100, 50, 0), Times(10, 0, 100, 45, 0), Times(10, 0, 110, 45, 0))
        self.assertEqual(found, [0.0, 100.0, 0.0])

    def test_two_meters_do_not_know_each_other(self):
        clock = itertools.count(1)
        self.patch(psutil, "cpu_times", lambda: Times(next(clock), 0, 0, 0, 0))
        one, other = HostMeter(), HostMeter()
        self.assertEqual([meter.take()["cpu_percent"] for meter in (one, other, one, other)], [100.0] * 4)

    def test_loopback_carries_nothing_to_or_from_the_host(self):
        interfaces = {"lo": Counts(1000, 1000), "eth0": Counts(3, 5), "eth1": Counts(30, 50)}
        self.patch(psutil, "net_io_counters", lambda **_: interfaces)
        value = HostMeter().take()
        self.assertEqual((value["network_received_bytes"], value["network_sent_bytes"]), (33, 55))

    def test_what_a_host_does_not_tell_is_left_out(self):
        for name, keys in (
            ("cpu_times", {"cpu_percent"}),
            ("cpu_count", {"cpus"}),
            ("getloadavg", {"load_1", "load_5", "load_15"}),
            ("virtual_memory", {"memory_bytes", "memory_available_bytes"}),
            ("disk_usage", {"disk_bytes", "disk_free_bytes"}),
            ("net_io_counters", {"network_received_bytes", "network_sent_bytes"}),
        ):
            patched = self.patch(psutil, name, refuse)
            self.assertEqual(KEYS - HostMeter().take().keys(), keys)
            patched.restore()

    def test_a_host_that_does_not_count_its_processors_has_no_number_of_them(self):
        self.patch(psutil, "cpu_count", lambda: None)
        self.assertEqual(KEYS - HostMeter().take().keys(), {"cpus"})
