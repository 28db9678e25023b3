"""What is compared: how each server is started, and how its subscribers reach it.

Rules of this module: a contender starts its processes on free ports of 127.0.0.1 and keeps its files in a folder that
is removed with it; what it reports as the server's is the server alone, never a publisher.
"""

import getpass
import subprocess
import sys
from pathlib import Path

from bench import measure, stock
from bench.processes import ROOT, Cores, LoadGenerator, Program, free_port
from bench.protocols import around, topic
from clockd import schedule

GROUP_SIZE: int = getattr(schedule, "PHASE_MEMBERS", 128)
"""Subscribers that are sent a message one after the other: as many as clockd sends to in one firing."""

TOPICS = 100
"""Topics, channels or feeds of the contenders whose subscribers have many each."""

PAYLOAD_BYTES = 16
"""What a broker's message of such a topic carries: a stamp and, as a sample of a feed does, eight bytes more."""

FOREVER = 86400
"""Seconds; the longest that clockd's settings can name here: no answer is asked for but the first."""

ACCOUNT = "bench"

ROOM: dict[str, float] = {
    "min_period": 0.001,
    "connections": 1_000_000,
    "connections_per_account": 1_000_000,
    "pending": 10_000,
    "pending_per_address": 10_000,
}
"""Limits of clockd that no benchmark meets."""


class Contender:
    """A server of the comparison.

    Args:
        folder: Where its files go.
        cores: Where its processes run.
        subscribers: How many there will be.
        period: Seconds between two messages to each.
        group_size: How many of them are served together.

    Attributes:
        name: What it is called on the command line.
        title: What it is called in the table.
        protocol: What its subscribers speak.
        tls: Whether they do so over TLS.
        rate_share: The share of the rate that is asked of it.
        tree: Where its programs are started, with the packages of ours that they are taken from.
        message_bytes: Length of a message on the wire, where that can be chosen.
    """

    name = ""
    title = ""
    protocol = "raw"
    tls = False
    rate_share = 1.0
    tree = ROOT
    message_bytes = stock.PUSH_BYTES

    def __init__(self, folder: Path, cores: Cores, subscribers: int, period: float, group_size: int) -> None:
        self.folder = folder
        self.cores = cores
        self.subscribers = subscribers
        self.period = period
        self.group_size = group_size
        self.port = free_port()
        self.programs: list[Program] = []

    @classmethod
    def missing(cls) -> str:
        """Say what is not installed that it needs, or nothing."""
        return ""

    def start(self) -> None:
        """Start the server and return when it listens."""
        self.programs.append(self.serve().listens(self.port))

    def begin(self) -> None:
        """Have messages sent: all subscribers are there. Most servers begin by themselves."""

    def log(self) -> str:
        """Return the end of what the server wrote."""
        return self.programs[0].log() if self.programs else ""

    def stop(self) -> None:
        """End all its processes; idempotent."""
        for program in reversed(self.programs):
            program.stop()

    @property
    def server_pids(self) -> list[int]:
        """The processes whose CPU time is the server's."""
        return [self.programs[0].pid]

    @property
    def helper_pids(self) -> list[int]:
        """The processes that are there for its sake and not the server's."""
        return [program.pid for program in self.programs[1:]]

    def serve(self) -> Program:
        """Start the server."""
        raise NotImplementedError

    def load_arguments(self) -> list[str]:
        """Return the load generator's command line."""
        return [
            f"127.0.0.1:{self.port}",
            self.protocol,
            *(["--tls"] if self.tls else []),
            f"--connections={self.subscribers}",
            f"--group-size={self.group_size}",
            f"--message-bytes={self.message_bytes}",
        ]

    def program(self, command: list[str]) -> Program:
        """Start a server's program on the server's core."""
        return Program(command, self.folder / f"{self.name}.log", self.cores.server, folder=self.tree)

    def ours(self, module: str, *arguments: object) -> list[str]:
        """Return the command of one of our own servers, which all take these arguments first."""
        shape = (self.port, self.subscribers, self.group_size, self.period)
        return [sys.executable, "-m", module, *map(str, (*shape, *arguments))]


class Bare(Contender):
    """A loop of `socket.send` in Python."""

    name = "bare"
    title = "bare socket.send"

    def serve(self) -> Program:
        """Start it; it begins when all subscribers are connected."""
        return self.program(self.ours("bench.bare_server", stock.PUSH_BYTES))


class Clockd(Contender):
    """clockd, asking for no answers but the first of each connection.

    Attributes:
        settings: Its limits; what is not named has clockd's default.
    """

    name = "clockd"
    title = "clockd, no acknowledgements"
    protocol = "pb"
    settings = ROOM | {"ack_seconds": FOREVER, "stale_seconds": FOREVER}

    @property
    def users(self) -> Path:
        """Its users file."""
        return self.folder / "users"

    def add_user(self, *arguments: str, said: str = "") -> str:
        """Make an account; return what that printed.

        Args:
            arguments: Its name, and what else is on the command line of `clockd user add`.
            said: Its standard input.
        """
        command = [sys.executable, "-m", "clockd", "user", "add", f"--users={self.users}", *arguments]
        return subprocess.run(command, input=said, cwd=self.tree, capture_output=True, text=True, check=True).stdout

    def serve(self) -> Program:
        """Make an account and a configuration, and start the server."""
        self.secret = self.add_user(ACCOUNT).strip()
        self.metrics_port = free_port()
        keeps = (self.tree / "clockd" / "store.py").is_file()  # revisions before that know no state
        state = f'server.state = "{self.folder / "clockd.sqlite"}"\n' if keeps else ""
        (self.folder / "clockd.toml").write_text(
            f'{state}{self.listener()}{self.feeds()}[auth]\nusers = "{self.users}"\n'
            f'[metrics]\nlisten = "tcp:{self.metrics_port}:interface=127.0.0.1"\n'
            "[limits]\n" + "".join(f"{key} = {value}\n" for key, value in self.settings.items())
        )
        return self.program([sys.executable, "-m", "clockd", "serve", f"--config={self.folder / 'clockd.toml'}"])

    def listener(self) -> str:
        """Return the part of the configuration that says where it listens."""
        return f'server.listen = ["tcp:{self.port}:interface=127.0.0.1"]\n'

    def feeds(self) -> str:
        """Return the part of the configuration that says which feeds there are."""
        return ""

    def load_arguments(self) -> list[str]:
        """Add the account and the period, which is the client's choice."""
        return [*super().load_arguments(), *self.account(), f"--period={self.period!r}"]

    def account(self) -> list[str]:
        """Return the part of the load generator's command line that says how to log in."""
        return [f"--name={ACCOUNT}", f"--secret={self.secret}"]


class ClockdAsking(Clockd):
    """clockd as it is by default: about one push a second and connection asks for an answer."""

    name = "clockd-acks"
    title = "clockd"
    settings = ROOM


class ClockdTLS(Clockd):
    """clockd over TLS, asking for no answers but the first of each connection."""

    name = "clockd-tls"
    title = "clockd over TLS, no acknowledgements"
    tls = True

    def listener(self) -> str:
        """Return the part of the configuration that says where it listens."""
        certificate, key = make_certificate(self.folder)
        return (
            f'server.listen = ["tcp:{free_port()}:interface=127.0.0.1"]\n'
            f'tls.listen = ["tcp:{self.port}:interface=127.0.0.1"]\n'
            f'tls.certificate = "{certificate}"\ntls.private_key = "{key}"\n'
        )


class ClockdTLSAsking(ClockdTLS):
    """clockd over TLS as it is by default."""

    name = "clockd-tls-acks"
    title = "clockd over TLS"
    settings = ROOM


class HowTo(Contender):
    """The design of Twisted's how-to, as written."""

    name = "how-to"
    title = "the how-to's design"
    protocol = "pb"

    def serve(self) -> Program:
        """Start it."""
        return self.program(self.ours("bench.howto_server"))

    def load_arguments(self) -> list[str]:
        """Add the account and the period."""
        return [*super().load_arguments(), "--name=bench", "--secret=bench", f"--period={self.period!r}"]


class HowToSlower(HowTo):
    """The same at a rate that it can keep up with; at the full rate it saves by falling behind."""

    name = "how-to-slower"
    title = "the how-to's design, quarter rate"
    rate_share = 0.25


class Broker(Contender):
    """A broker of another protocol, and a publisher of ours on the load generator's core.

    Attributes:
        executable: The broker's program.
    """

    executable = ""

    @classmethod
    def missing(cls) -> str:
        """Say that the program is not installed, or nothing."""
        return "" if measure.find(cls.executable) else f"{cls.executable} is not installed"

    def serve(self) -> Program:
        """Start the broker."""
        return self.program([measure.find(self.executable) or self.executable, *self.flags()])

    def flags(self) -> list[str]:
        """Return the broker's command line."""
        raise NotImplementedError

    def publish_port(self) -> int:
        """Return where the publisher connects."""
        return self.port

    def begin(self) -> None:
        """Start the publisher."""
        command = self.ours("bench.publisher", self.protocol, self.message_bytes)
        command[3] = str(self.publish_port())
        self.programs.append(Program(command, self.folder / "publisher.log", self.cores.load))


class Mosquitto(Broker):
    """Eclipse Mosquitto, quality of service 0."""

    name = "mosquitto"
    title = "mosquitto"
    protocol = "mqtt"
    executable = "mosquitto"

    def flags(self) -> list[str]:
        """Write the configuration; the user is named because mosquitto, started by root, could not read its files."""
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text(
            f"user {getpass.getuser()}\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\n"
            f"sys_interval 0\nlog_type error\n{self.listeners()}"
        )
        return ["-c", str(configuration)]

    def listeners(self) -> str:
        """Return the part of the configuration that says where it listens."""
        return f"listener {self.port} 127.0.0.1\n"


class MosquittoTLS(Mosquitto):
    """Mosquitto with its subscribers over TLS; the publisher's few messages go in clear."""

    name = "mosquitto-tls"
    title = "mosquitto over TLS"
    tls = True

    def listeners(self) -> str:
        """Return the part of the configuration that says where it listens."""
        certificate, key = make_certificate(self.folder)
        self.clear_port = free_port()
        return f"listener {self.clear_port} 127.0.0.1\n{super().listeners()}certfile {certificate}\nkeyfile {key}\n"

    def publish_port(self) -> int:
        """Return where the publisher connects."""
        return self.clear_port


class NATS(Broker):
    """A NATS server."""

    name = "nats"
    title = "NATS"
    protocol = "nats"
    executable = "nats-server"

    def flags(self) -> list[str]:
        """Return the broker's command line."""
        return ["--addr=127.0.0.1", f"--port={self.port}"]


class Redis(Broker):
    """Redis pub/sub, nothing kept on disk."""

    name = "redis"
    title = "Redis pub/sub"
    protocol = "redis"
    executable = "redis-server"

    def flags(self) -> list[str]:
        """Return the broker's command line."""
        connections = f"{self.subscribers + 64}"
        memory_only = ["--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        return ["--bind", "127.0.0.1", "--port", str(self.port), "--maxclients", connections, *memory_only]


class WebSockets(Contender):
    """A server that calls `websockets.broadcast`."""

    name = "websockets"
    protocol = "websocket"
    title = f"websockets.broadcast on {'uvloop' if measure.distribution('uvloop') else 'asyncio'}"

    @classmethod
    def missing(cls) -> str:
        """Say that the library is not installed, or nothing."""
        return "" if measure.distribution("websockets") else "websockets is not installed"

    def serve(self) -> Program:
        """Start it; it begins when all subscribers are connected."""
        return self.program(self.ours("bench.websockets_server", stock.PUSH_BYTES))


class ClockdFeeds(Clockd):
    """clockd with feeds in place of the time, asking for no answers but the first of each connection."""

    name = "clockd-feeds"
    protocol = "feeds"
    settings = Clockd.settings | {"subscriptions": TOPICS}

    def feeds(self) -> str:
        """Let the account publish all of them."""
        names = (topic(number).decode() for number in range(TOPICS))
        return "".join(f'[feeds.{name}]\nkind = "push"\npublish = ["{ACCOUNT}"]\n' for name in names)

    def publisher(self, feeds: int, period: float) -> LoadGenerator:
        """Start a client that publishes to so many feeds in turn, once in so many seconds."""
        shape = (f"127.0.0.1:{self.port}", "publish", "--connections=1", f"--topics={feeds}", f"--period={period!r}")
        return LoadGenerator([*shape, *self.account()], self.folder / "publisher.log", self.cores.load)


class ManyTopics(Contender):
    """A server each of whose subscribers has all of many topics, to each of which goes a message a period."""

    def __init__(self, folder: Path, cores: Cores, subscribers: int, period: float, group_size: int) -> None:
        super().__init__(folder, cores, subscribers, TOPICS * period, max(1, subscribers // TOPICS))
        self.message_bytes = PAYLOAD_BYTES + sum(map(len, around(self.protocol, topic(0), PAYLOAD_BYTES)))

    def load_arguments(self) -> list[str]:
        """Add how many topics there are."""
        return [*super().load_arguments(), f"--topics={TOPICS}"]


class ClockdManyFeeds(ManyTopics, ClockdFeeds):
    """clockd, asking for no answers but the first of each connection."""

    name = "clockd-many"

    def begin(self) -> None:
        """Start the publisher."""
        self.programs.append(self.publisher(TOPICS, self.period / TOPICS))


class ClockdManyFeedsAsking(ClockdManyFeeds):
    """clockd as it is by default."""

    name = "clockd-many-acks"
    title = "clockd"
    settings = ROOM | {"subscriptions": TOPICS}


class MosquittoManyTopics(ManyTopics, Mosquitto):
    """Eclipse Mosquitto, quality of service 0."""

    name = "mosquitto-many"


class RedisManyChannels(ManyTopics, Redis):
    """Redis pub/sub, nothing kept on disk."""

    name = "redis-many"


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that signs itself, and return where it and its key are."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
            *("-out", str(certificate), "-keyout", str(key)),
        ],
        capture_output=True,
        check=True,
    )
    return certificate, key


CONTENDERS: tuple[type[Contender], ...] = (
    Bare,
    Clockd,
    ClockdAsking,
    Redis,
    Mosquitto,
    NATS,
    WebSockets,
    HowTo,
    HowToSlower,
    MosquittoTLS,
    ClockdTLS,
    ClockdTLSAsking,
)
"""All of them, in the order of the table."""
