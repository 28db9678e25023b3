"""Faults of real servers set off the alerts of deploy/prometheus/rules.yml, and the alerts heal when the faults do.

A real Prometheus scrapes all servers every second and has the very rules that are deployed, with all their durations
and windows divided by sixty: what is to last five minutes there lasts five seconds here. All faults are there at the
same time, and when they are healed Prometheus loses its targets. What the kernels of the servers say of their clocks is
made up, for nothing may change what this host's says.
"""

import json
import re
import signal
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest
from certificates import Certified
from processes import SECONDS, STARTED, Program, Server, eventually, free_port, steppable, without_coverage
from strangers import MIND, Gone, Stranger
from test_deploy import DEPLOY
from test_prometheus import ask

SCALE = 60
TEXT = [b"unicode", b"room"]

PLUGIN = """
import os, time
from pathlib import Path
from twisted.internet import reactor

kept = []

def sample():
    match Path(os.environ["FAULT"]).read_text():
        case "stall":
            reactor.callFromThread(time.sleep, 0.8)
            time.sleep(0.85)
        case "raise":
            reactor.callFromThread(lambda: 1 / 0)
            Path(os.environ["FAULT"]).write_text("leak")
        case "leak":
            kept[:] = kept or [bytearray(b"x") * (192 * 2**20)]
        case _:
            kept.clear()
    return len(kept)
"""
"""What a plug-in must not do, as a file tells it; `raise` goes on as `leak`."""

KERNEL = """
import ctypes, os, struct
from pathlib import Path

class Libc(ctypes.CDLL):
    def adjtimex(self, timex):
        error = int(Path(os.environ["KERNEL"]).read_text())
        struct.pack_into("@l", timex, struct.calcsize("@I2l"), error)
        return 5 if error >= 16_000_000 else 0

ctypes.CDLL = Libc
"""
"""A `sitecustomize` with which the C library gives a maximum error, in microseconds, that is told by a file."""

FEEDS = """
[feeds.room]
kind = "push"
publish = ["*"]

[feeds.fault]
kind = "python"
plugin = "fault"
every = 0.05
"""

YOURS = """
groups:
  - name: clockd-feeds
    rules:
      - {record: "clockd:feed_stale_after:seconds", expr: vector(5), labels: {feed: room}}
"""


def scaled(rules):
    """Return rules with all their durations and windows divided."""

    def divided(found):
        seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]
        return f"{seconds * 1000 // SCALE}ms"

    return re.sub(r"(?:(?<=for: )|(?<=offset )|(?<=\[))(\d+)([smh])(?=[\])\n])", divided, rules)


def certify(folder, days):
    """Write a certificate that is good for so many days."""
    own = Certified("localhost", valid=(-30, days))
    (folder / "server.pem").write_bytes(own.pem)
    (folder / "server.key").write_bytes(own.key_pem())


class Faulty(Server):
    """A server with a plug-in, a feed that somebody publishes and a certificate.

    Args:
        folder: Where its files are.
        days: As long is its certificate good.
        environment: More of its environment.
    """

    def __init__(self, folder, days=60, environment=None):
        self.folder = folder
        self.cause("nothing")
        self.tell_error(0.001)
        (folder / "sitecustomize.py").write_text(KERNEL)
        about = folder / "fault-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fault\nVersion: 1\n")
        (about / "entry_points.txt").write_text("[clockd.feeds]\nfault = fault:sample\n")
        (folder / "fault.py").write_text(PLUGIN)
        (folder / "clockd.toml").write_text(FEEDS)
        certify(folder, days)
        settings = {
            "PYTHONPATH": str(folder),
            "FAULT": str(folder / "fault"),
            "KERNEL": str(folder / "kernel"),
            "CLOCKD_SERVER_STATE": "",
            "CLOCKD_LIMITS_STALE_SECONDS": "120",
            "CLOCKD_TLS_LISTEN": '["tcp:0:interface=127.0.0.1"]',
            "CLOCKD_TLS_CERTIFICATE": str(folder / "server.pem"),
            "CLOCKD_TLS_PRIVATE_KEY": str(folder / "server.key"),
            **{f"CLOCKD_LIMITS_{key}": "210" for key in ("CONNECTIONS", "CONNECTIONS_PER_ACCOUNT")},
            **{f"CLOCKD_LIMITS_{key}": "210" for key in ("PENDING", "PENDING_PER_ADDRESS")},
        }
        environment = without_coverage() | settings | (environment or {})
        super().__init__(folder, "--config", str(folder / "clockd.toml"), environment=environment)
        self.port = int(re.search(r":(\d+)", json.loads(self.line("pushes the time"))["brokers"])[1])  # in clear

    def cause(self, fault):
        """Have the plug-in do something that it must not."""
        self._say("fault", fault)

    def tell_error(self, seconds):
        """Have the kernel tell how far the clock may be off; 16 s and more is what nobody keeps right."""
        self._say("kernel", f"{seconds * 1e6:.0f}")

    def _say(self, name, text):
        new = self.folder / "new"
        new.write_text(text)
        new.replace(self.folder / name)

    def renew(self):
        """Put a new certificate in force."""
        certify(self.folder, 60)
        self.process.send_signal(signal.SIGHUP)

    def alice(self):
        """Log in and return the client."""
        client = Stranger(self.port, "127.0.0.1").negotiate()
        client.login("alice", self.secret)
        return client


class Scene:
    """Servers, the faults that they have, and a Prometheus and an Alertmanager that look at them.

    Args:
        folder: Where all files are.
        need: The fixture.
    """

    def __init__(self, folder, need):
        managing = need("prometheus-alertmanager", "prometheus-alertmanager")
        scraping = need("prometheus", "prometheus")

        def make(name):
            (folder / name).mkdir()
            environment, days = None, 60
            if name == "clock":
                environment, self.step = steppable(folder / name)
                days = -1
            elif name == "door":
                days = 10
            elif name == "crowd":
                environment = {"CLOCKD_SERVER_STATE": str(folder / name / "missing" / "state")}
            return name, Faulty(folder / name, days, environment)

        with ThreadPoolExecutor(2) as pool:
            self.servers = dict(pool.map(make, ("calm", "stopped", "stalled", "crowd", "door", "clock")))
        self._over, self._ended = threading.Event(), threading.Event()
        self._publisher = threading.Thread(target=self._go_on_publishing, daemon=True)
        self._visitors = []
        ports = self.alertmanager, self.prometheus = free_port(), free_port()
        self._write_configuration(folder)
        self.programs = [
            Program(
                *(managing, f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'alerts'}"),
                *(f"--web.listen-address=127.0.0.1:{ports[0]}", "--cluster.listen-address="),
            ),
            Program(
                *(scraping, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
                f"--web.listen-address=127.0.0.1:{ports[1]}",
            ),
        ]
        self.programs[0].line("Listening on")
        self.programs[1].line("Server is ready to receive web requests")
        eventually(
            lambda: len(self.ask("up == 1 and on (instance) process_resident_memory_bytes")) == len(self.servers)
        )

    def _write_configuration(self, folder):
        (folder / "alertmanager.yml").write_text("{route: {receiver: nobody}, receivers: [{name: nobody}]}")
        (folder / "rules.yml").write_text(scaled((DEPLOY / "prometheus" / "rules.yml").read_text()))
        (folder / "yours.yml").write_text(YOURS)
        self._configuration = folder / "prometheus.yml"
        self.scrape(self.servers)

    def scrape(self, servers):
        """Have Prometheus scrape these servers, by name, from when it reads its configuration."""
        targets = [{"targets": [server.metrics], "labels": {"instance": name}} for name, server in servers.items()]
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"},
            "rule_files": ["rules.yml", "yours.yml"],
            "scrape_configs": [{"job_name": "clockd", "static_configs": targets}],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{self.alertmanager}"]}]}]},
        }
        self._configuration.write_text(json.dumps(configuration))

    def ask(self, expression):
        """Return the series that Prometheus answers an expression with."""
        return ask(self.prometheus, expression)

    def fired(self, name, instance, seconds):
        """Return whether an alert has fired of an instance in the last seconds."""
        fires = f'ALERTS{{alertstate="firing", alertname="{name}", instance="{instance}"}}'
        return bool(self.ask(f"max_over_time({fires}[{seconds}s])"))

    def notified(self, name, instance):
        """Return what Alertmanager has of an alert of an instance, or None."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.alertmanager}/api/v2/alerts", timeout=SECONDS) as answer:
            alerts = json.load(answer)
        here = [alert for alert in alerts if alert["labels"].get("instance") == instance]
        return next((alert for alert in here if alert["labels"]["alertname"] == name), None)

    def begin(self):
        """Cause all faults."""
        servers = self.servers
        self.clients = {
            "calm": servers["calm"].subscribers(120, [0.5] * 25),
            "stalled": servers["stalled"].subscribers(120, [0.1] * 4 + [1.0] * 60),
            "crowd": servers["crowd"].subscribers(120, [0.5] * 200),
        }
        self.publish()
        reader = servers["door"].alice()
        reader.answers = False  # it would answer samples, too, and nobody asks it to
        reader.call(reader.perspective, b"subscribe", TEXT)
        self._reader = reader  # it stays
        servers["door"].cause("raise")
        self._visitors = [
            threading.Thread(target=self._visit, args=(who,), daemon=True) for who in (self._guess, self._come)
        ]
        for thread in self._visitors:
            thread.start()
        self.step(3600)
        servers["clock"].tell_error(0.5)
        servers["door"].tell_error(16)
        eventually(lambda: servers["stalled"].scrape()["clockd_avatars"] == 64)
        servers["stalled"].cause("stall")
        eventually(lambda: servers["crowd"].scrape()["clockd_push_requested_hertz time"] == 400)
        self.clients["crowd"].process.send_signal(signal.SIGSTOP)
        servers["stopped"].process.send_signal(signal.SIGSTOP)

    def publish(self):
        """Publish a sample of the feed that is to become stale."""
        publisher = self.servers["door"].alice()
        publisher.call(publisher.perspective, b"publish", TEXT, 1.5)
        publisher.close()

    def heal(self):
        """End all faults."""
        servers = self.servers
        servers["stopped"].process.send_signal(signal.SIGCONT)
        servers["stalled"].cause("nothing")
        servers["door"].cause("nothing")
        self.clients["crowd"].end(signal.SIGKILL)
        (servers["crowd"].folder / "missing").mkdir()
        self._over.set()
        for thread in self._visitors:
            thread.join()
        self._publisher.start()
        for name in ("door", "clock"):
            servers[name].renew()
            servers[name].tell_error(0.001)

    def end(self):
        """End everything."""
        self._over.set()
        self._ended.set()
        if self._publisher.is_alive():
            self._publisher.join()
        self._reader.close()
        for client in self.clients.values():
            client.end(signal.SIGKILL)
        assert [program.end() for program in (*self.programs, *self.servers.values())] == [0] * 8

    def _visit(self, visit):
        while not self._over.wait(0.02):
            with suppress(Gone, OSError):
                visit()

    def _go_on_publishing(self):
        while not self._ended.wait(1):
            self.publish()

    def _guess(self):
        with closing(Stranger(self.servers["door"].port, "127.0.0.9")) as guest:
            guest.negotiate()
            for _ in range(3):
                _, challenger = guest.challenge(b"alice")
                guest.refused(challenger, b"respond", bytes(16), MIND)

    def _come(self):
        self.servers["door"].alice().close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory, need):
    """Servers whose faults have begun."""
    before = len(STARTED)
    try:
        scene = Scene(tmp_path_factory.mktemp("alerts"), need)
        scene.begin()
        yield scene
        scene.end()
    finally:
        for program in STARTED[before:]:
            program.process.kill()


FAULTS = [
    ("stopped", "ClockdDown"),
    ("stalled", "ClockdNotReady"),
    ("stalled", "ClockdFulfilmentLow"),
    ("stalled", "ClockdLatenessHigh"),
    ("stalled", "ClockdReactorStalled"),
    ("crowd", "ClockdManySlowSubscribers"),
    ("crowd", "ClockdNearConnectionLimit"),
    ("crowd", "ClockdStoreDown"),
    ("door", "ClockdLoginFailures"),
    ("door", "ClockdReconnectStorm"),
    ("door", "ClockdCertificateExpiring"),
    ("door", "ClockdFeedStale"),
    ("door", "ClockdUnhandledErrors"),
    ("door", "ClockdMemoryGrowing"),
    ("door", "ClockdClockUnsynchronized"),
    ("clock", "ClockdCertificateExpired"),
    ("clock", "ClockdClockStepped"),
    ("clock", "ClockdClockErrorBoundHigh"),
]


@pytest.mark.parametrize(("instance", "alert"), FAULTS)
def test_a_fault_sets_off_its_alert(scene, instance, alert):
    eventually(lambda: scene.fired(alert, instance, 300), 30)


def test_an_alert_travels_to_alertmanager(scene):
    told = eventually(lambda: scene.notified("ClockdDown", "stopped"))
    assert told["labels"] == {
        "alertname": "ClockdDown",
        "instance": "stopped",
        "job": "clockd",
        "severity": "critical",
    }
    assert told["annotations"] == {
        "summary": "clockd on stopped does not answer",
        "description": "stopped (clockd) has answered no scrape for a minute.",
        "runbook_url": "docs/runbook.md#clockddown",
    }
    assert told["status"]["state"] == "active"


def test_all_that_last_go_on_together(scene):
    lasting = [fault for fault in FAULTS if fault[1] not in {"ClockdClockStepped", "ClockdUnhandledErrors"}]
    eventually(lambda: all(scene.fired(alert, instance, 3) for instance, alert in lasting))


@pytest.fixture(scope="module")
def healed(scene):
    """The same without the faults."""
    scene.heal()
    return scene


@pytest.mark.parametrize(("instance", "alert"), FAULTS)
def test_an_alert_heals_with_its_fault(healed, instance, alert):
    eventually(lambda: not healed.fired(alert, instance, 3), 30)


def test_alertmanager_is_told_that_it_is_over(healed):
    eventually(lambda: healed.notified("ClockdDown", "stopped") is None)


def test_of_a_server_without_a_fault_nothing_is_told(healed):
    fired = {
        series["metric"]["alertname"]
        for series in healed.ask('max_over_time(ALERTS{alertstate="firing", instance="calm"}[5m])')
    }
    assert fired <= {"ClockdLatenessHigh"}  # other tests may have the processors


def test_that_prometheus_has_no_target_is_told_until_it_has_one_again(healed):
    prometheus = healed.programs[1].process
    healed.scrape({})
    prometheus.send_signal(signal.SIGHUP)
    eventually(lambda: healed.fired("ClockdMissing", "", 3))
    healed.scrape(healed.servers)
    prometheus.send_signal(signal.SIGHUP)
    eventually(lambda: not healed.fired("ClockdMissing", "", 3))
