"""Strangers: peers made of bytes that say what no client would, and a server that is watched while they do.

A `Stranger` speaks Perspective Broker with an encoder and a decoder of its own, so it can also say what is no PB. A
`Visited` server is a `clockd serve` that strangers come to, and a `Watched` one has ten stock clients besides, each
pushed to ten times a second; what strangers cost the server is read from the operating system, and what they cost the
clients from the stamps that those print.
"""

import fcntl
import itertools
import json
import operator
import os
import re
import socket
import struct
import sys
import termios
import time
from bisect import bisect_left, bisect_right
from contextlib import contextmanager, suppress
from hashlib import md5
from pathlib import Path
from types import SimpleNamespace

from processes import SECONDS, STARTED, Program, Server, clockd, eventually, without_coverage

from clockd.users import add_account

HONEST = 10
PERIOD = 0.1
"""Seconds between the pushes to each of the honest clients."""

LONGEST_GAP = 1.0
"""Seconds without a push to one of them that show that the loop was held; a busy machine makes gaps, too."""

MARGIN = 5
"""What the how-to's design spends is divided by this; clockd may spend the rest."""

CHECKING = 5 * 4 * 100e6
"""Bytes, times the margin: to check a password takes 64 MiB, and four threads do so at the most."""

WORDS = [
    *(b"", b"None", b"class", b"dereference", b"reference", b"dictionary", b"function", b"instance", b"list"),
    *(b"module", b"persistent", b"tuple", b"unpersistable", b"copy", b"cache", b"cached", b"remote", b"local"),
    *(b"lcache", b"version", b"login", b"password", b"challenge", b"logged_in", b"not_logged_in", b"cachemessage"),
    *(b"message", b"answer", b"error", b"decref", b"decache", b"uncache"),
]
"""Those that PB has numbers for, from 1."""

NONE = [b"None"]
TRUE = [b"boolean", b"true"]
ROOT = b"root"
MIND = [b"remote", 1]


HASH_ZERO = 2**61 - 1
"""Its multiples are ints whose hash is 0."""

BIG = 600_000
"""Bytes; stock Banana takes a string of 640 KiB."""


class Raw(bytes):
    """Bytes that stand in an expression as they are."""

    __slots__ = ()


def encode(thing):
    """Return Banana for bytes, numbers, and lists and tuples of such."""
    match thing:
        case Raw():
            return bytes(thing)
        case bytes():
            return prefix(len(thing)) + b"\x82" + thing
        case int():
            kind = (
                (b"\x81" if thing < 2**31 else b"\x85") if thing >= 0 else (b"\x83" if thing >= -(2**31) else b"\x86")
            )
            return prefix(abs(thing)) + kind
        case float():
            return b"\x84" + struct.pack("!d", thing)
        case list() | tuple():
            return prefix(len(thing)) + b"\x80" + b"".join(map(encode, thing))
    raise TypeError(thing)


def prefix(number):
    """Return a number to the base of 128, least digit first."""
    digits = bytearray()
    while number or not digits:
        digits.append(number & 0x7F)
        number >>= 7
    return bytes(digits)


def decode(data, start=0):
    """Return the expression that begins there and where it ends.

    Raises:
        IndexError: It is not all there.
    """
    number, place, end = 0, 0, start
    while (kind := data[end]) < 0x80:
        number |= kind << place
        place, end = place + 7, end + 1
    end += 1
    if kind == 0x80:
        items = []
        for _ in range(number):
            item, end = decode(data, end)
            items.append(item)
        return items, end
    if kind in (0x82, 0x84):
        size = number if kind == 0x82 else 8
        if len(data) < end + size:
            raise IndexError
        found = bytes(data[end : end + size])
        return (found if kind == 0x82 else struct.unpack("!d", found)[0]), end + size
    if kind == 0x87:
        return WORDS[number], end
    return (number if kind in (0x81, 0x85) else -number), end


def message(number, target, method, *arguments, keywords=(), wants=1):
    """Return the bytes of a call; arguments are what jelly makes of them."""
    return encode(
        [b"message", number, target, method, wants, [b"tuple", *arguments], [b"dictionary", *map(list, keywords)]]
    )


def bomb(levels):
    """Return jelly that doubles with each level."""
    jelly = [b"reference", 1, [b"tuple", b"x", b"x"]]
    for level in range(1, levels):
        jelly = [b"reference", level + 1, [b"tuple", jelly, [b"dereference", level]]]
    return jelly


def nested(levels):
    """Return lists in each other."""
    return Raw((b"\x02\x80" + encode(b"list")) * levels + b"\x01\x80" + encode(b"list"))


JELLY = {
    "class": [b"class", b"os.system"],
    "module": [b"module", b"os"],
    "function": [b"function", b"os.system"],
    "instance": [b"instance", [b"class", b"clockd.realm.Roster"], [b"dictionary"]],
    "method": [b"method", b"system", NONE, [b"class", b"os.path"]],
    "dotted": [b"clockd.realm.Roster", [b"dictionary"]],
    "dotted builtin": [b"builtins.eval", [b"tuple"]],
    "unknown": [b"whatever"],
    "set": [b"set", 1],
    "frozenset": [b"frozenset", 1],
    "decimal": [b"decimal", 1, 999_999],
    "date": [b"date", b"2026 1 1"],
    "time": [b"time", b"1 1 1 1"],
    "datetime": [b"datetime", b"2026 1 1 0 0 0 0"],
    "timedelta": [b"timedelta", b"1 1 1"],
    "persistent": [b"persistent", b"x"],
    "unpersistable": [b"unpersistable", b"x"],
    "reference": [b"reference", 1, b"x"],
    "dereference": [b"dereference", 1],
    "copy": [b"copy", b"x", [b"dictionary"]],
    "cache": [b"cache", 1, b"x", [b"dictionary"]],
    "cached": [b"cached", 1],
    "lcache": [b"lcache", 1],
    "local root": [b"local", b"root"],
    "local": [b"local", 1],
    "copied failure": [
        b"twisted.spread.pb.CopyableFailure",
        [b"dictionary", [b"type", b"builtins.ValueError"], [b"value", b"x"], [b"parents", [b"list"]]],
    ],
    "remote by name": [b"remote", b"x" * 200],
    "remote list": [b"remote", [b"list"]],
    "empty list": [],
    "list of a number": [1, 2],
    "no UTF-8": [b"unicode", b"\xff"],
    "half a boolean": [b"boolean", b"maybe"],
    "bare boolean": [b"boolean"],
    "unhashable key": [b"dictionary", [[b"list"], 1]],
    "key without value": [b"dictionary", [1]],
    "number as pair": [b"dictionary", 1],
}
"""What no client sends, by what it is."""


MALFORMED = {
    **{f"type {kind:02x}": bytes([kind]) for kind in range(0x88, 0x100, 0x11)},
    "a long number": b"\x01" * 65 + b"\x81",
    "a number without end": b"\x01" * 2000,
    "a long list": prefix(640 * 1024 + 1) + b"\x80",
    "a long string": prefix(640 * 1024 + 1) + b"\x82",
    "a list of 2**448": b"\x7f" * 64 + b"\x80",
    "word 0": b"\x01\x80\x87",
    "word 32": b"\x01\x80\x20\x87",
    "word 2**448": b"\x01\x80" + b"\x7f" * 64 + b"\x87",
    "a bare number": b"\x81",
    "a bare string": b"\x05\x82hello",
    "a bare float": encode(0.5),
    "a bare word": b"\x01\x87",
    "an empty list": b"\x00\x80",
    "the dialect again": encode(b"pb"),
    "another version": encode([b"version", 7]),
    "a version of much": encode([b"version", 6, 6]),
    "a number as command": encode([1]),
    "a list as command": encode([[b"message"]]),
    "a float as command": encode([float("nan")]),
    "no UTF-8 as command": encode([b"\xff\xfe"]),
    "a message of nothing": encode([b"message"]),
    "a message of five": encode([b"message", 1, ROOT, b"login", 1]),
    "a message of eight": encode([b"message", 1, ROOT, b"login", 1, [b"tuple"], [b"dictionary"], 1]),
    "bytes as number": message(b"1", ROOT, b"login", b"alice"),
    "a float as number": message(1.0, ROOT, b"login", b"alice"),
    "a list as number": message([b"list"], ROOT, b"login", b"alice"),
    "a list as object": message(1, [b"list"], b"login", b"alice"),
    "no UTF-8 as method": message(1, ROOT, b"\xff\xfe", b"alice"),
    "an answer": encode([b"answer", 99, NONE]),
    "an answer to bytes": encode([b"answer", b"1", NONE]),
    "an answer to a list": encode([b"answer", [1], NONE]),
    "an answer of nothing": encode([b"answer"]),
    "an error": encode([b"error", 99, b"x" * 500]),
    "decref of nothing known": encode([b"decref", 7]),
    "decref of a name": encode([b"decref", b"nobody"]),
    "decref of a list": encode([b"decref", [1]]),
    "decref of nothing": encode([b"decref"]),
    "decref of nan": encode([b"decref", float("nan")]),
    "decache": encode([b"decache", 1]),
    "uncache": encode([b"uncache", 1]),
    "cachemessage": encode([b"cachemessage", 1, 1, b"x", 1, [b"tuple"], [b"dictionary"]]),
}
"""What is no message of PB, by what it is; it ends a connection."""


class Refusal(Exception):  # named as clockd's own are
    """A call was answered with an error.

    Attributes:
        name: The class of the error, without its module.
        jelly: All that was said.
    """

    def __init__(self, jelly):
        state = {key[1]: value for key, value in jelly[1][1:]}
        self.name = state[b"type"].rpartition(b".")[2].decode()
        self.jelly = jelly
        super().__init__(self.name, state[b"value"][1].decode())


class Gone(Exception):
    """The server has ended the connection."""


class Stranger:
    """A connection of bytes.

    Args:
        port: Where the server listens, on 127.0.0.1.
        source: The loopback address that it comes from.
        receive_bytes: Size of its receive buffer, if it is to be small.
        timeout: Seconds that anything may take.

    Attributes:
        answers: Whether it answers the pushes that ask for it.
        stamps: Of the pushes that it has heard.
        heard: As many bytes has the server sent.
        unasked: What the server said beside pushes and answers.
    """

    def __init__(self, port, source, receive_bytes=None, timeout=SECONDS):
        self.socket = socket.socket()
        self.socket.settimeout(timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        self.answers = True
        self.stamps = []
        self.unasked = []
        self.heard = 0
        self._data = bytearray()
        self._numbers = itertools.count(1)
        self._was_reset = False

    def send(self, data):
        """Send bytes; tell whether the connection lasted until all were on their way."""
        try:
            self.socket.sendall(data)
        except ConnectionError as error:
            self._was_reset |= isinstance(error, ConnectionResetError)
            return False
        return True

    def say(self, *expressions):
        """Send expressions; tell as `send` does."""
        return self.send(b"".join(map(encode, expressions)))

    def _receive(self):
        data = self.socket.recv(65536)
        if not data:
            raise Gone
        self.heard += len(data)
        self._data += data

    def hear(self):
        """Return the next expression.

        Raises:
            Gone: There comes no more.
        """
        while True:
            try:
                expression, end = decode(self._data)
            except IndexError:
                try:
                    self._receive()
                except ConnectionError as error:
                    raise Gone from error
            else:
                del self._data[:end]
                return expression

    def negotiate(self, dialect=b"pb"):
        """Agree on a dialect."""
        assert b"pb" in self.hear()
        self.say(dialect)
        assert self.hear() == [b"version", 6]
        return self

    def call(self, target, method, *arguments, keywords=()):
        """Call and wait for the answer, as jelly.

        Raises:
            Refusal: It is an error.
            Gone: There is none.
        """
        number = next(self._numbers)
        if not self.send(message(number, target, method, *arguments, keywords=keywords)):
            raise Gone
        return self.answer(number)

    def answer(self, number):
        """Wait for the answer to a request, taking pushes meanwhile; see `call`."""
        while True:
            match self.hear():
                case [b"answer", int(answered), jelly] if answered == number:
                    return jelly
                case [b"error", int(answered), jelly] if answered == number:
                    raise Refusal(jelly)
                case other:
                    self._take(other)

    def refused(self, target, method, *arguments, keywords=()):
        """Call and return the name of the error that it is answered with; see `call`."""
        try:
            self.call(target, method, *arguments, keywords=keywords)
        except Refusal as refusal:
            return refusal.name
        raise AssertionError("it was not refused")

    def pushed(self):
        """Wait for the next push and return its stamp."""
        before = len(self.stamps)
        while len(self.stamps) == before:
            self._take(self.hear())
        return self.stamps[-1]

    def listen(self, seconds):
        """Take what comes for so long, or until the connection ends; return how many pushes came."""
        before, end = len(self.stamps), time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                self.socket.settimeout(left)
                self._take(self.hear())
        except (TimeoutError, Gone):
            pass
        finally:
            self.socket.settimeout(SECONDS)
        return len(self.stamps) - before

    def _take(self, expression):
        match expression:
            case [b"message", number, 1, b"notifyTime", wants, [b"tuple", stamp], _]:
                self.stamps.append(stamp)
                if wants and self.answers:
                    self.say([b"answer", number, NONE])
            case [b"message", number, *_] if self.answers:
                self.say([b"error", number, b"no such object"])
            case other:
                self.unasked.append(other)

    def challenge(self, name):
        """Begin a login; return the challenge and the id of what takes the response."""
        _, challenge, [_, challenger] = self.call(ROOT, b"login", name)
        return challenge, challenger

    def login(self, name, secret, mind=MIND):
        """Log in and return the perspective's id."""
        challenge, challenger = self.challenge(name.encode())
        self.perspective = self.call(challenger, b"respond", response(secret, challenge), mind)[1]
        return self.perspective

    def end(self):
        """Read until the server ends the connection; return whether it was `closed` or `reset`."""
        try:
            while True:
                self._receive()
        except Gone:
            return "reset" if self._was_reset else "closed"
        except ConnectionResetError:
            return "reset"

    def close(self, *, reset=False):
        """Leave, with or without ceremony."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def response(secret, challenge):
    """Return what PB's login answers to a challenge."""
    return md5(md5(secret.encode()).digest() + challenge).digest()


CLIENTS = f"""
import sys

from twisted.cred.credentials import UsernamePassword
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.spread import pb

port, name, secret = sys.argv[1:]
avatars = []


class Mind(pb.Referenceable):
    def __init__(self, number):
        self.number = number

    def remote_notifyTime(self, stamp):
        print(self.number, stamp, flush=True)


async def subscribe(number):
    factory = pb.PBClientFactory()
    reactor.connectTCP("127.0.0.1", int(port), factory)
    avatar = await factory.login(UsernamePassword(name.encode(), secret.encode()), Mind(number))
    await avatar.callRemote("setperiod", {PERIOD})
    avatars.append(avatar)


async def main():
    await gatherResults([Deferred.fromCoroutine(subscribe(number)) for number in range({HONEST})])
    print("all are in", flush=True)


def failed(failure):
    failure.printTraceback(sys.stdout)
    reactor.stop()


reactor.callWhenRunning(lambda: Deferred.fromCoroutine(main()).addErrback(failed))
reactor.run()
"""


class Visited(Server):
    """A server for strangers; besides `alice` there is an account `mallory`.

    Args:
        folder: Where its files are.
        arguments: More of its command line.
        environment: More of its environment.
        limits: Keys of the section `[limits]`.

    Attributes:
        port: The first that it listens on, in clear.
        other_ports: Those that its command line and its environment name.
        metrics_port: Where it speaks HTTP.
        secrets: By account.
    """

    def __init__(self, folder, *arguments, environment=None, **limits):
        settings = {f"CLOCKD_LIMITS_{key.upper()}": str(value) for key, value in limits.items()}
        self.secrets = {name: add_account(folder / "users", name) for name in ("alice", "mallory")}
        super().__init__(folder, *arguments, environment=without_coverage() | settings | (environment or {}))
        brokers = json.loads(self.line("pushes the time"))["brokers"]
        self.metrics_port = int(self.metrics.rpartition(":")[2])
        self.port, *self.other_ports = (int(address.rpartition(":")[2]) for address in brokers.split(", "))
        self._addresses = itertools.cycle(
            f"127.0.{third}.{fourth}" for third, fourth in itertools.product(range(1, 200), range(1, 250))
        )
        self._strangers = []

    def add_password_account(self, name, password):
        """Make an account with a password."""
        arguments = ("user", "add", "--users", str(self.users), name, "--password-stdin")
        assert clockd(*arguments, stdin=f"{password}\n").returncode == 0
        self.secrets[name] = password

    def address(self):
        """Return a loopback address that nobody had lately."""
        return next(self._addresses)

    def stranger(self, port=None, source=None, **options):
        """Return a connection, from an address of its own if none is named."""
        stranger = Stranger(port or self.port, source or self.address(), **options)
        self._strangers.append(stranger)
        return stranger

    def greeted(self, **options):
        """Return a connection that has agreed on the dialect."""
        return self.stranger(**options).negotiate()

    def client(self, name="mallory", mind=MIND, **options):
        """Return a connection that has logged in."""
        stranger = self.greeted(**options)
        stranger.login(name, self.secrets[name], mind)
        return stranger

    def proof(self, stranger, name="mallory"):
        """Begin a login; return what takes the response, and the right one."""
        challenge, challenger = stranger.challenge(name.encode())
        return challenger, response(self.secrets[name], challenge)

    def dismiss(self):
        """Close every connection that was handed out."""
        while self._strangers:
            self._strangers.pop().close()

    def cpu(self):
        """Return how many seconds of the processor it has had."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def waited(self):
        """Return for how many seconds it could have run, and the machine had no processor for it."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9

    def memory(self, field="VmRSS"):
        """Return how many bytes of memory it holds, or what else the operating system calls by that name."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024

    def descriptors(self):
        """Return what its open descriptors are."""
        found = []
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it was closed meanwhile
                found.append(str(link.readlink()))
        return found

    def stop(self, *arguments):
        """End it in good order."""
        super().stop(*arguments)
        assert "Exception ignored" not in self.output


class Watched(Visited):
    """A server with ten honest clients of the account `alice`; see `Visited` for its arguments and attributes."""

    def __init__(self, folder, *arguments, **options):
        super().__init__(folder, *arguments, **options)
        self.honest = Program(
            *(sys.executable, "-c", CLIENTS, str(self.port), "alice", self.secrets["alice"]),
            environment=without_coverage(),
        )
        self.honest.line("all are in")

    @contextmanager
    def attacked(self, *, cpu=1.0, memory=40e6, log=50_000):
        """Bound what happens meanwhile, and see that everybody else is served.

        Args:
            cpu: Seconds of the processor that the how-to's design spends on it.
            memory: Bytes that it holds, at the most.
            log: Bytes that it writes to its log.

        Yields:
            What was seen, once it is over: `cpu`, `memory`, `log`, and by how much each sample of a scrape has grown.
        """
        seen = SimpleNamespace()
        before = self.scrape()
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # the highest memory is counted from here
        spent, waited, held, written, began = self.cpu(), self.waited(), self.memory(), self._written(), time.time()
        try:
            yield seen
            after = self.scrape()
            seen.cpu = self.cpu() - spent
            seen.memory = self.memory("VmHWM") - held
            seen.log = self._written() - written
            seen.grown = {name: value - before.get(name, 0) for name, value in after.items()}
            seen.closed = {
                name.split()[1]: int(grown)
                for name, grown in seen.grown.items()
                if name.startswith("clockd_connections_closed_total ") and grown
            }
            self.newcomer()
        finally:
            self.dismiss()
        self.alone()
        gaps = [list(map(operator.sub, its[1:], its)) for its in self.stamps(began, time.time())]
        longest, mean = max(map(max, gaps)), max(sum(its) / len(its) for its in gaps)
        print(  # pytest shows it when the test fails, or with -s
            f"{seen.cpu:.2f} s, {seen.memory / 1e6:.1f} MB, {seen.log} bytes of log, closed {seen.closed}, "
            f"longest gap {longest:.2f} s; it has waited {self.waited() - waited:.2f} s for a processor"
        )
        assert seen.cpu <= cpu / MARGIN
        assert seen.memory <= memory / MARGIN
        assert seen.log <= log / MARGIN
        assert longest < LONGEST_GAP
        assert mean < 2 * PERIOD
        assert seen.grown["clockd_unhandled_errors_total"] == 0

    def ticks(self):
        """Return how many pushes the honest clients have got so far."""
        return sum(line[0].isdigit() for line in list(self.honest.lines))

    def newcomer(self, **options):
        """Have an honest client log in and leave."""
        newcomer = self.client("alice", source="127.0.0.1", **options)
        newcomer.pushed()
        newcomer.close()

    def alone(self):
        """Wait until there are the honest clients and nobody else."""

        names = ("clockd_connections pending", "clockd_connections authenticated", "clockd_avatars")

        def are_alone():
            now = self.scrape()
            return [now[name] for name in names] == [0, HONEST, HONEST]

        eventually(are_alone)

    def stop(self, *arguments):
        """End the honest clients, then the server, in good order."""
        self.honest.end()
        super().stop(*arguments)

    def _written(self):
        """Return how long its log is, without the lines about who came and went: the how-to's server has none."""
        eventually(lambda: fcntl.ioctl(self.process.stdout, termios.FIONREAD, bytes(4)) == bytes(4))
        lines = (line for line in list(self.lines) if " logged in from " not in line and " has left: " not in line)
        return sum(len(line) + 1 for line in lines)

    def stamps(self, began, ended):
        """Return the stamps of each honest client's pushes, from the last before `began` to the first after `ended`."""

        def stamps():
            found = [[] for _ in range(HONEST)]
            for number, stamp in (line.split() for line in list(self.honest.lines) if line[0].isdigit()):
                found[int(number)].append(float(stamp))
            return found if all(its[-1] > ended for its in found) else None

        return [its[max(bisect_left(its, began) - 1, 0) : bisect_right(its, ended) + 1] for its in eventually(stamps)]


@contextmanager
def watched(folder, *arguments, kind=Watched, **options):
    """Start a server for strangers, and end it in good order unless a test has failed to."""
    before, programs = len(STARTED), []
    try:
        server = kind(folder, *arguments, **options)
        programs = STARTED[before:]
        del STARTED[before:]  # they outlive the test that starts them
        yield server
        server.stop()
    finally:
        for program in programs or STARTED[before:]:
            if program.process.poll() is None:
                program.process.kill()
                program.wait()
