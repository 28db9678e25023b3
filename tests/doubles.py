"""Doubles for the unit tests: sinks, checkers, and an in-memory network of real PB connections on one clock."""

import gc
from collections.abc import Callable, Iterable
from contextlib import contextmanager

from twisted.cred.checkers import AllowAnonymousAccess, ICredentialsChecker
from twisted.cred.credentials import UsernamePassword
from twisted.cred.portal import IRealm, Portal
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.spread import banana, pb
from twisted.test.iosim import FakeTransport, IOPump
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clockd.auth import AccountChecker, IChallengeResponse
from clockd.broker import ClockServerFactory
from clockd.desk import FeedDesk
from clockd.errors import UnknownMethod
from clockd.feeds import ClockFeed, FeedTable, LatestFeed
from clockd.hostclock import UNKNOWN, HostClock
from clockd.interfaces import IClient
from clockd.realm import ClockRealm, Roster
from clockd.schedule import Schedule
from clockd.store import MemoryStore
from clockd.users import digest
from clockd.values import Account, Limits, Rights, Tally
from clockd.wire import ValueEncoder

EPOCH = 1_700_000_000.0
SECRET = "open sesame"


@implementer(IClient)
class Sink:
    """Records pushes; takes them while `takes` is true."""

    def __init__(self, takes=True):
        self.takes = takes
        self.address = "203.0.113.7:8787"
        self.pushes = self.skipped = 0
        self.acknowledgement = None
        self.pings = []
        self.closed = []
        self.samples = []
        self.pull = None
        self.takes_notices = False
        self.takes_samples = True
        self.expects = None
        self.received = EPOCH

    def push(self, sample):
        self.samples.append(sample)
        self.pushes += self.takes
        self.skipped += not self.takes
        return self.takes

    def ping(self):
        self.pings.append(Deferred())
        return self.pings[-1]

    def close(self, reason):
        self.closed.append(reason)

    def pull_from(self, pull):
        self.pull = pull

    def expect_samples(self, expected):
        self.expects = expected

    def take_notices(self, wanted=True):
        self.takes_notices = wanted

    def notify(self, notice):
        if self.takes_notices:
            self.samples.append(notice)


class Users:
    """The accounts of an `AccountChecker`, in memory, all of them with the same secret."""

    def __init__(self, names):
        self.names = names

    def account(self, name):
        return Account(name, "secret", digest(SECRET.encode())) if name in self.names else None

    def imitate(self, name):
        return Account(name, "secret", digest(f"nobody is called {name}".encode()))


@implementer(ICredentialsChecker)
class Delayed:
    """A checker whose answers the test gives by hand, through `asked`."""

    credentialInterfaces = (IChallengeResponse,)

    def __init__(self):
        self.asked = []

    def requestAvatarId(self, credentials):
        self.asked.append(Deferred())
        return self.asked[-1]


@implementer(IRealm)
class DelayedRealm:
    """A realm that makes the avatar at once and hands it out when the test fires `asked`."""

    def __init__(self, realm):
        self.realm = realm
        self.asked = []

    def requestAvatar(self, *args):
        made = self.realm.requestAvatar(*args)
        self.asked.append(Deferred())
        return self.asked[-1].addCallback(lambda _: made)


@implementer(ICredentialsChecker)
class Broken:
    """A checker with a bug."""

    credentialInterfaces = (IChallengeResponse,)

    def requestAvatarId(self, credentials):
        raise ZeroDivisionError("the secret is hunter2")


class Mind(pb.Referenceable):
    """A stock client's mind; `answer` is what its pushes return, or raise."""

    def __init__(self, answer=None):
        self.answer = answer
        self.stamps = []
        self.samples = []

    def remote_notifyTime(self, stamp):
        self.stamps.append(stamp)
        return self._answer()

    def remote_notifySample(self, *sample):
        self.samples.append(sample)
        return self._answer()

    def _answer(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


class Timeless:
    """Of what a client may call at a server that has no exchange, and says so without a traceback."""

    def remote_exchange(self, stamp):
        raise UnknownMethod("there is no such method")


class Transport(FakeTransport):
    """iosim's, with an `abortConnection` that drops what is unsent; it keeps all that was written, and each write."""

    other = None
    aborted = False
    reported = False

    def __init__(self, protocol, isServer, peer):
        super().__init__(protocol, isServer, peerAddress=peer)
        self.written = b""
        self.writes = []

    def write(self, data):
        if not self.disconnecting:
            self.written += data
            self.writes.append(data)
        super().write(data)

    def bufferReceived(self, data):
        if not self.aborted:
            super().bufferReceived(data)

    def reportDisconnect(self):
        if not self.reported:
            self.reported = True
            super().reportDisconnect()

    def abortConnection(self):
        if not self.reported:
            self.aborted = self.disconnecting = True
            self.stream = []
            self.disconnectReason = ConnectionAborted()
            self.other.disconnectReason = ConnectionLost()


class Wire(IOPump):
    """A connection; while `frozen` nothing moves on it but an abort, which its own side hears of."""

    frozen = False

    def pump(self, debug=False, advanceClock=True):
        if not self.frozen:
            return super().pump(debug, advanceClock)
        for transport in (self.clientIO, self.serverIO):
            if transport.aborted and not transport.reported:
                transport.reportDisconnect()
                return True
        return False

    def cut(self):
        """Lose the connection, as when a cable is pulled and both sides have noticed."""
        self.serverIO.abortConnection()
        self.serverIO.disconnectReason = ConnectionLost()


@implementer(IStreamClientEndpoint)
class Network:
    """An endpoint that leads to one server factory, by connections that move when the test says so.

    Attributes:
        wires: All connections there have been.
        down: If set, connecting fails with it.
        delays: If true, connections are made when the test fires `waiting`.
    """

    def __init__(self, factory, clock):
        self.factory = factory
        self.clock = clock
        self.wires = []
        self.down = None
        self.delays = False
        self.waiting = []
        self.attempts = 0

    def connect(self, factory):
        self.attempts += 1
        if self.delays:
            self.waiting.append(Deferred())
            return self.waiting[-1].addCallback(lambda _: self._connect(factory))
        deferred = succeed(None)
        return deferred.addCallback(lambda _: self._connect(factory))

    def _connect(self, factory):
        if self.down is not None:
            raise self.down
        peer = IPv4Address("TCP", "192.0.2.7", 40000 + len(self.wires))
        client = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 8787))
        server = self.factory.buildProtocol(peer)
        there, here = Transport(server, True, peer), Transport(client, False, None)
        there.other, here.other = here, there
        server.makeConnection(there)
        client.makeConnection(here)
        self.wires.append(Wire(client, server, here, there, False, clock=self.clock))
        return client

    def flush(self):
        """Move what there is to move, and run what is due."""
        for _ in range(200):
            self.clock.advance(0)
            if not sum(wire.pump(advanceClock=False) for wire in self.wires):
                return
        raise AssertionError("too long")

    def advance(self, seconds, step=None):
        """Let time pass, in steps, and have everything delivered after each."""
        step = seconds if step is None else step
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.flush()


class Peer:
    """A stock PB client and its connection."""

    def __init__(self, network):
        self.network = network
        self.factory = pb.PBClientFactory()
        self.factory.noisy = False
        network.connect(self.factory)
        self.wire = network.wires[-1]
        self.broker, self.server = self.wire.client, self.wire.server
        self.perspective = None
        network.flush()

    @property
    def root(self):
        return self.broker.remoteForName("root")

    def ask(self, reference, *args, **kwargs):
        """Call a remote method; returns what was answered, a Failure if that was an error, or None if nothing was."""
        answers = []
        deferred = reference.callRemote(*args, **kwargs)
        if deferred is not None:
            deferred.addBoth(answers.append)
        self.network.flush()
        return answers[0] if answers else None

    def login(self, mind=None, name=b"alice", secret=SECRET):
        """Log in as a stock client does; returns the perspective, or a Failure."""
        answers = []
        self.factory.login(UsernamePassword(name, secret.encode()), mind).addBoth(answers.append)
        self.network.flush()
        return answers[0] if answers else None

    def enter(self, mind, name=b"alice"):
        """Log in, expecting success, and keep the perspective."""
        self.perspective = self.login(mind, name)
        assert isinstance(self.perspective, pb.RemoteReference), self.perspective
        return self

    def ask_raw(self, object_id, method, *args, answer=1):
        """Call a remote method with arguments in jelly, which no stock client would make."""
        answers = []
        self.broker.proto_decref = lambda _: None  # a stock client would choke on a reference it did not make
        if answer:
            self.broker.waitingForAnswers[-1] = Deferred().addBoth(answers.append)
        self.send([b"message", -1, object_id, method, answer, [b"tuple", *args], [b"dictionary"]])
        return answers[0] if answers else None

    def challenge(self, name=b"alice", secret=SECRET):
        """Ask for a challenge; returns the object that takes the response, and the response."""
        challenge, challenger = self.ask(self.root, "login", name)
        return challenger, pb.respond(challenge, secret.encode())

    def pushes(self):
        """Return whether an answer was asked for, for each push that the server has written."""
        return [bool(e[4]) for e in written(self.wire.serverIO) if e[0] == b"message" and e[3] == b"notifyTime"]

    def deafen(self):
        """Have the client look at nothing that comes, so that it can be made to send anything."""
        self.broker.proto_answer = self.broker.proto_error = self.broker.proto_decref = lambda *_: None

    def send(self, *expressions):
        """Send raw PB expressions."""
        self.raw(b"".join(encoded(self.broker, expression) for expression in expressions))

    def raw(self, data):
        """Send raw bytes."""
        self.wire.clientIO.write(data)
        self.network.flush()

    def leave(self):
        """Close the connection."""
        self.wire.clientIO.loseConnection()
        self.network.flush()


def encoded(broker, expression):
    """Return an expression's bytes in the dialect that the broker speaks."""
    parts = []
    broker._encode(expression, parts.append)
    return b"".join(parts)


def written(transport):
    """Return the expressions that a side has written."""
    decoder = banana.Banana(isClient=1)
    decoder.connectionMade()
    decoder.currentDialect = b"pb"
    found = []
    decoder.callExpressionReceived = found.append
    decoder.dataReceived(transport.written)
    return [expression for expression in found if isinstance(expression, list)]


def push_feeds(rights):
    """Return what makes the feeds of a rig, which clients publish: by name, with their rights."""
    encode = ValueEncoder(b"pb").encode
    return lambda rig: [
        (LatestFeed(name, encode, rig.tally.feed(name), rig.now), right) for name, right in rights.items()
    ]


class Rig:
    """A server without sockets: everything below the service, on one clock."""

    def __init__(
        self,
        limits: Limits | None = None,
        names: Iterable[str] = ("alice", "bob"),
        anonymous: bool = False,
        checker: object | None = None,
        realm: Callable[[IRealm], IRealm] = lambda realm: realm,
        feeds: Callable[["Rig"], Iterable[tuple[object, Rights]]] = lambda _: (),
        sharing: str = "connection",
        when_full: str = "reject",
    ):
        self.clock = Clock()
        self.ahead = 0.0
        self.kernel = UNKNOWN
        self.limits = limits or Limits()
        self.tally = Tally()
        self.tally.feed("time")
        self.store = MemoryStore()
        self.admins = set()
        self.removed = set()
        self.roster = Roster(self.limits, when_full, self.clock, self.now, self.role_of)
        self.feeds = FeedTable([(ClockFeed(self.now), Rights()), *feeds(self)])
        self.schedule = Schedule(self.clock, self.tally.lateness)
        self.host = HostClock(lambda: self.kernel, self.now, self.clock.seconds, self.tally)
        self.desk = FeedDesk(self.feeds, self.schedule, self.limits, self.tally)
        clock_realm = ClockRealm(sharing, self.roster, self.desk, self.store, self.host, self.tally)
        self.avatars = clock_realm._avatars
        self.realm = realm(clock_realm)
        accounts = AccountChecker(Users(names), None)
        self.portal = Portal(self.realm, [checker or accounts] + [AllowAnonymousAccess()] * anonymous)
        self.factory = ClockServerFactory(
            self.portal,
            self.schedule,
            self.limits,
            self.tally,
            self.clock,
            self.now,
            anonymous,
            accounts.challenge,
        )
        self.host.stepped = self.factory.stepped
        self.schedule.prelude = self.host.look
        self.network = Network(self.factory, self.clock)
        self.peers = []

    def now(self):
        return EPOCH + self.clock.seconds() + self.ahead

    def role_of(self, name):
        return None if name in self.removed else "admin" if name in self.admins else ""

    def sweep(self):
        """Look after every connection once."""
        self.factory.sweep()

    def peer(self):
        self.peers.append(Peer(self.network))  # one that is let go of lets go of its perspective, and is logged out
        return self.peers[-1]

    @property
    def time(self):
        return self.tally.feeds["time"]


class RigCase(SynchronousTestCase):
    """A test case whose rig must be empty again when all have left."""

    def rig(self, *args, **kwargs):
        rig = Rig(*args, **kwargs)
        self.addCleanup(self.assert_empty, rig)
        return rig

    def assert_empty(self, rig):
        """Have everyone leave; nothing is left of them then, and nothing was logged as an error."""
        for wire in rig.network.wires:
            wire.frozen = False
            wire.clientIO.loseConnection()
        rig.network.flush()
        tally = rig.tally
        self.assertEqual((tally.pending, tally.authenticated, tally.avatars), (0, 0, 0))
        for name, counts in tally.feeds.items():
            self.assertEqual((counts.subscriptions, counts.requested), (0, 0.0), name)
        self.assertEqual(tally.opened, sum(tally.closed.values()))
        self.assertEqual((rig.roster._sessions, rig.avatars), ({}, {}))
        self.assertEqual(rig.factory.connections, set())
        self.assertEqual(rig.clock.getDelayedCalls(), [])

    def collect(self):
        """Have Deferreds that nobody looks at report their errors."""
        gc.collect()

    def assert_failed(self, result, name):
        """Check that a call ended in the error of this name, in `clockd.errors`."""
        self.assertTrue(result and result.check(f"clockd.errors.{name}"), result)


@contextmanager
def clockd_logs(level=LogLevel.info):
    """Give the list that clockd's own log events of a level and above are in, once the block has ended."""
    found = []
    with capturedLogs() as events:
        yield found
    found += [e for e in events if e["log_namespace"].startswith("clockd") and e["log_level"] >= level]
