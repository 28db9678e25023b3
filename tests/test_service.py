"""The composition root on a reactor in memory."""

import gc
import shutil
import tempfile
from errno import EADDRINUSE, EADDRNOTAVAIL
from pathlib import Path

from certificates import HOST, Certified, Chain
from doubles import EPOCH, Mind, Network, Peer, clockd_logs
from twisted.application.service import IService
from twisted.cred.portal import IRealm
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import Logger, formatEvent
from twisted.python.failure import Failure
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from clockd import __version__
from clockd.config import Auth, Config, Metrics, Server, Tls
from clockd.errors import CannotListen, Misconfigured, UsersFileError
from clockd.hostclock import UNKNOWN, HostClock
from clockd.interfaces import ISession
from clockd.reload import EXPIRY_SECONDS
from clockd.schedule import Schedule
from clockd.service import LATE_SECONDS, Listener, make_realm_service, make_service
from clockd.store import MemoryStore
from clockd.users import add_account
from clockd.values import Limits, Readiness, Sample, Tally

UNCHANGED = ("info", "nothing of the configuration has changed")


@implementer(IListeningPort)
class Port:
    """A port that closes when the test says so, or at once."""

    def __init__(self, closing=None):
        self.closing = closing
        self.stopped = 0

    def getHost(self):
        return IPv4Address("TCP", "127.0.0.1", 8787)

    def stopListening(self):
        self.stopped += 1
        return self.closing


class Endpoint:
    def __init__(self):
        self.listening = Deferred()

    def listen(self, factory):
        return self.listening


class Reactor(MemoryReactorClock):
    """In memory; the ports in `taken` cannot be listened on."""

    def __init__(self):
        super().__init__()
        self.taken = {}
        self.ports = []

    def listenTCP(self, port, factory, backlog=50, interface=""):
        if port in self.taken:
            raise self.taken[port]
        super().listenTCP(port, factory, backlog, interface)
        self.ports.append(Port())
        return self.ports[-1]


class SlowStore(MemoryStore):
    """Is open when the test says so."""

    def __init__(self, opening):
        super().__init__()
        self.opening = opening

    def open(self):
        return self.opening


class ServiceCase(SynchronousTestCase):
    def setUp(self):
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.users = folder / "users"
        self.secret = add_account(self.users, "alice")
        self.reactor = Reactor()

    def now(self):
        return EPOCH + self.reactor.seconds()

    def make(self, **sections):
        sections.setdefault("auth", Auth(users=str(self.users)))
        sections.setdefault("server", Server(state=""))
        self.config = Config(**sections)
        self.service = make_service(self.config, self.reactor, self.now, lambda: self.config, self.reactor.seconds)
        return self.service

    def start(self, **sections):
        service = self.make(**sections)
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def peer(self):
        factory = next(factory for port, factory, *_ in self.reactor.tcpServers if port == 8787)
        self.network = Network(factory, self.reactor)
        return Peer(self.network)


class StartTests(ServiceCase):
    def test_nothing_happens_before_the_start(self):
        service = self.make()
        self.assertEqual((self.reactor.tcpServers, self.reactor.getDelayedCalls()), ([], []))
        self.assertNoResult(service.ready)
        self.assertEqual(service.trouble(), "starting")

    def test_started_it_listens_where_it_was_told_and_is_ready(self):
        listen = ("tcp:8787:interface=127.0.0.1", "tcp:1")
        service = self.start(server=Server(listen=listen, state=""), metrics=Metrics("tcp:2"))
        self.assertEqual(self.successResultOf(service.ready), self.reactor.ports)
        self.assertEqual(
            [(port, at) for port, _, _, at in self.reactor.tcpServers], [(8787, "127.0.0.1"), (1, ""), (2, "")]
        )
        self.assertIsNone(service.trouble())
        self.assertTrue(verifyObject(IService, service))

    def test_the_tally_tells_whether_it_is_ready(self):
        service = self.make()
        self.assertIs(service.tally.ready, False)
        service.startService()
        self.assertIs(service.tally.ready, True)
        peer = self.peer()
        peer.perspective = peer.login(Mind(), secret=self.secret)
        peer.ask(peer.perspective, "subscribe", "server")
        stopped = service.stopService()
        self.assertNoResult(stopped)
        self.assertIs(service.tally.ready, False)
        self.reactor.advance(5)
        self.successResultOf(stopped)

    def test_the_tally_tells_how_many_may_be_logged_in(self):
        limits = Limits(connections=1000)
        service = self.start(limits=limits)
        self.assertEqual(service.tally.connections_limit, 1000)
        limits.connections = 900
        self.reactor.advance(1)
        self.assertEqual(service.tally.connections_limit, 900)
        service.make_room(500)
        self.assertEqual(service.tally.connections_limit, 372)
        self.reactor.advance(1)
        self.assertEqual(service.tally.connections_limit, 372)

    def test_its_clock_is_looked_at_once_a_second_and_steps_are_told(self):
        ahead = 0.0
        self.now = lambda: EPOCH + self.reactor.seconds() + ahead
        service = self.start(limits=Limits(default_period=1000))
        mind = Mind()
        peer = self.peer()
        peer.perspective = peer.login(mind, secret=self.secret)
        peer.ask(peer.perspective, "subscribe", "server")
        ahead = -3600.0
        self.network.advance(1)
        self.assertEqual([sample[3] for sample in mind.samples], [{"kind": "clock_step", "step_seconds": -3600.0}])
        self.assertEqual((service.tally.clock_steps, len(mind.stamps)), (1, 1))
        self.assertEqual(peer.ask(peer.perspective, "exchange", 1.5)[1:3], (EPOCH - 3599, EPOCH - 3599))

    def test_a_client_logs_in_and_is_pushed_the_time(self):
        self.start(limits=Limits(default_period=2))
        mind = Mind()
        peer = self.peer()
        peer.perspective = peer.login(mind, secret=self.secret)
        self.network.advance(4, 1)
        self.assertEqual(mind.stamps, [EPOCH, EPOCH + 2, EPOCH + 4])

    def test_anonymous_is_offered_only_if_it_was_configured(self):
        for anonymous in (False, True):
            self.reactor = Reactor()
            self.start(auth=Auth(users=str(self.users), anonymous=anonymous))
            peer = self.peer()
            answer = peer.ask(peer.root, "loginAnonymous", Mind())
            self.assertEqual(hasattr(answer, "callRemote"), anonymous)

    def test_the_limit_of_connections_is_the_configured_one(self):
        self.start(limits=Limits(connections_per_account=1))
        first, second = self.peer(), self.peer()
        first.perspective = first.login(Mind(), secret=self.secret)
        self.assertTrue(second.login(Mind(), secret=self.secret).check("clockd.errors.TooManyConnections"))

    def test_connections_are_looked_after_once_a_second(self):
        service = self.start(limits=Limits(default_period=100, stale_seconds=10))
        peer = self.peer()
        peer.perspective = peer.login(Mind(), secret=self.secret)
        peer.wire.frozen = True
        self.network.advance(9.8, 0.1)
        self.assertEqual(service.tally.closed["stale"], 0)
        self.network.advance(4, 0.1)
        self.assertEqual(service.tally.closed["stale"], 1)


@implementer(IRealm, ISession)
class Own(pb.Avatar):
    """A realm with one session, itself; what happens to it is noted."""

    account = "alice"

    def __init__(self):
        self.events = []

    def requestAvatar(self, avatarId, mind, *interfaces):
        self.mind = mind
        self.events.append(("asked", avatarId, interfaces))
        return pb.IPerspective, self, lambda: self.events.append("left")

    def begin(self):
        self.events.append("began")
        self.mind.push(Sample("own", 1, 2.5, "pushed"))

    def perspective_greet(self):
        return "hello"


class RealmTests(ServiceCase):
    """A service with a realm of somebody's own."""

    def make(self, **sections):
        config = Config(auth=Auth(users=str(self.users)), **sections)
        self.own, tally = Own(), Tally()
        tally.feed("own")
        self.schedule = Schedule(self.reactor, tally.lateness)
        host = HostClock(lambda: UNKNOWN, self.now, self.reactor.seconds, tally)
        return make_realm_service(self.own, config, self.schedule, tally, self.reactor, self.now, host=host)

    def enter(self):
        peer, mind = self.peer(), Mind()
        peer.perspective = peer.login(mind, secret=self.secret)
        self.network.advance(1, 1)
        return peer, mind

    def test_its_session_is_what_a_client_gets_and_hears_of_its_end(self):
        service = self.start()
        peer, mind = self.enter()
        self.assertEqual(peer.ask(peer.perspective, "greet"), "hello")
        self.assertEqual(mind.samples, [("own", 1, 2.5, "pushed")])
        peer.leave()
        self.assertEqual(self.own.events, [("asked", b"alice", (pb.IPerspective,)), "began", "left"])
        self.assertEqual(service.tally.logins["secret", "ok"], 1)
        self.assertEqual(list(service.tally.feeds), ["own"])

    def test_it_is_not_asked_for_those_who_prove_nothing(self):
        self.start()
        self.assertTrue(self.peer().login(Mind(), secret="wrong").check("clockd.errors.WrongCredentials"))
        self.assertEqual(self.own.events, [])

    def test_connections_are_looked_after_and_limits_hold(self):
        service = self.start(limits=Limits(login_seconds=2, stale_seconds=10, connections=1))
        self.peer()
        self.network.advance(3, 0.1)
        self.assertEqual(service.tally.closed["login_timeout"], 1)
        peer, _ = self.enter()
        self.assertTrue(self.peer().login(Mind(), secret=self.secret).check("clockd.errors.TooManyConnections"))
        peer.wire.frozen = True
        peer.network.advance(15, 0.1)
        self.assertEqual((service.tally.closed["stale"], self.own.events[-1]), (1, "left"))

    def test_calls_that_are_due_do_not_wait_for_the_reactor_while_a_connection_is_served(self):
        self.start()
        peer, _ = self.enter()
        calls = []
        self.schedule.join(1.0, peer, calls.append, list)
        self.reactor.rightNow += 2  # time goes by, and the reactor has had no turn yet
        peer.server.dataReceived(b"\x01")
        self.assertEqual(calls, [peer])

    def test_stopping_leaves_nothing(self):
        service = self.start()
        self.enter()
        stopped = service.stopService()
        self.network.flush()
        self.successResultOf(stopped)
        self.assertEqual(self.own.events[-1], "left")
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class MisconfiguredTests(ServiceCase):
    def test_an_endpoint_that_is_none_is_told_with_its_key(self):
        for nonsense in ("tcp", "tcp:x", "nonsense:1", "tcp:1:nonsense=2", ":", "tcp:1:1:1:1:1"):
            for key, sections in (
                ("server.listen", {"server": Server(listen=(nonsense,), state="")}),
                ("metrics.listen", {"metrics": Metrics(nonsense)}),
            ):
                with self.assertRaises(Misconfigured) as caught:
                    self.make(**sections)
                self.assertTrue(str(caught.exception).startswith(f"{key}: {nonsense}: "), caught.exception)

    def test_what_is_wrong_with_an_endpoint_is_told_in_plain_words(self):
        for nonsense, words in (
            ("tcp:notaport", "'notaport' is no number"),
            ("tcp:8787:interfce=1", "it has no interfce"),
            ("tcp", "the port is missing"),
            ("tcp:1:1:1:1:1", "it has too many parts"),
            ("tpc:1", "Unknown endpoint type: 'tpc'"),
        ):
            expected = f"{nonsense}: is no Twisted endpoint such as tcp:8787:interface=127.0.0.1 ({words})"
            with self.assertRaises(Misconfigured) as caught:
                self.make(server=Server(listen=(nonsense,)))
            self.assertEqual(str(caught.exception), f"server.listen: {expected}")

    def test_a_users_file_that_is_not_there_is_told(self):
        with self.assertRaisesRegex(UsersFileError, "clockd user add"):
            self.make(auth=Auth(users=str(self.users.with_name("none"))))

    def test_an_address_that_is_taken_is_told_with_its_key(self):
        taken = CannotListenError("127.0.0.1", 0, OSError(EADDRINUSE, "Address already in use"))
        for port, key in ((8787, "server.listen"), (9464, "metrics.listen")):
            self.reactor = Reactor()
            self.reactor.taken = {port: taken}
            service = self.start()
            error = self.failureResultOf(service.ready, CannotListen).value
            self.assertTrue(str(error).startswith(f"{key}: tcp:{port}:interface=127.0.0.1: Address already in use"))
            self.assertEqual(service.trouble(), "starting")
            self.successResultOf(service.stopService())
            self.assertEqual([port.stopped for port in self.reactor.ports], [1])

    def test_another_reason_not_to_listen_is_told_too(self):
        self.reactor.taken = {8787: ValueError("no such interface")}
        self.assertIn("no such interface", str(self.failureResultOf(self.start().ready, CannotListen).value))

    def test_an_address_that_is_no_address_of_this_host_is_told(self):
        there_is_none = OSError(EADDRNOTAVAIL, "Cannot assign requested address")
        self.reactor.taken = {8787: CannotListenError("10.99.99.99", 8787, there_is_none)}
        told = str(self.failureResultOf(self.start().ready, CannotListen).value)
        self.assertTrue(told.endswith(": Cannot assign requested address; this host has no such address"), told)

    def test_both_addresses_taken_is_one_error(self):
        self.reactor.taken = dict.fromkeys((8787, 9464), ValueError("taken"))
        self.assertIn("server.listen", str(self.failureResultOf(self.start().ready, CannotListen).value))


class CertificateTests(ServiceCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.chain = Chain()
        self.root, *self.files = map(str, self.chain.write(self.folder))
        self.left = 1e9  # seconds until the certificate expires

    def now(self):
        return self.expiry - self.left

    @property
    def expiry(self):
        return self.chain.server.certificate.not_valid_after_utc.timestamp()

    def listen(self, client_ca=""):
        return self.start(tls=Tls(("tcp:8788",), *self.files, client_ca=client_ca))

    def renew(self, pem=None):
        """Put a certificate of three days into the place of the other."""
        self.chain.server = Certified(HOST, issuer=self.chain.root, valid=(-1, 3))
        for path, data in zip(self.files, (pem or self.chain.server.pem, self.chain.server.key_pem()), strict=True):
            Path(path).write_bytes(data)

    def told(self, call):
        """Return what is logged meanwhile, as pairs of the level and the text."""
        with clockd_logs() as logged:
            call()
        return [(event["log_level"].name, formatEvent(event).replace(str(self.folder), "FOLDER")) for event in logged]

    def warning(self):
        moment = self.chain.server.certificate.not_valid_after_utc
        what = f"is good until {moment:%Y-%m-%d %H:%M} UTC only; put a newer one in its place, then send SIGHUP"
        return "warn", f"FOLDER/server.pem: {what}"

    def test_the_tally_knows_when_it_expires(self):
        self.assertEqual(self.listen().tally.tls_expiry, self.expiry)
        self.renew()
        self.service.reload()
        self.assertEqual(self.service.tally.tls_expiry, self.expiry)

    def test_without_tls_nothing_expires_and_nothing_is_read_again(self):
        self.assertEqual(self.told(lambda: self.make(tls=Tls((), *self.files)).reload()), [UNCHANGED])
        self.assertIsNone(self.service.tally.tls_expiry)

    def test_what_is_read_again_is_told(self):
        self.listen()
        self.assertEqual(
            self.told(self.service.reload),
            [UNCHANGED, ("info", "FOLDER/server.pem: read again, with what belongs to it")],
        )

    def test_a_broken_file_leaves_the_old_one_in_force_and_is_told(self):
        self.listen()
        expiry = self.expiry
        self.renew(pem=b"nonsense")
        told = "the certificates read before stay in force: tls.certificate: FOLDER/server.pem: is no PEM certificate"
        self.assertEqual(self.told(self.service.reload), [UNCHANGED, ("warn", told)])
        self.assertEqual(self.service.tally.tls_expiry, expiry)

    def test_one_that_expires_soon_is_warned_of_at_the_start_and_when_it_is_read_again(self):
        for self.left, soon in ((EXPIRY_SECONDS, False), (EXPIRY_SECONDS - 1, True), (0, True), (-1e9, True)):
            expected = [self.warning()] * soon
            self.assertEqual([told for told in self.told(self.listen) if told[0] == "warn"], expected)
            self.assertEqual(self.told(self.service.reload)[2:], expected)
        Path(self.files[0]).write_bytes(b"")
        self.assertEqual(self.told(self.service.reload)[2:], [self.warning()])

    def test_authorities_of_clients_that_cannot_be_read_are_told(self):
        with self.assertRaisesRegex(Misconfigured, r"^tls\.client_ca: .*/none: cannot be read: No such file"):
            self.listen(client_ca=str(self.folder / "none"))


class StopTests(ServiceCase):
    def test_stopping_closes_the_ports_and_leaves_no_delayed_call(self):
        service = self.start()
        self.reactor.advance(5)
        self.successResultOf(service.stopService())
        self.assertEqual([port.stopped for port in self.reactor.ports], [1, 1])
        self.assertEqual((self.reactor.getDelayedCalls(), service.trouble()), ([], "stopping"))

    def test_stopping_ends_every_connection(self):
        service = self.start()
        peers = [self.peer(), self.peer()]
        peers[0].perspective = peers[0].login(Mind(), secret=self.secret)
        stopped = service.stopService()
        for peer in peers:
            peer.network.flush()
        self.successResultOf(stopped)
        self.assertEqual([peer.broker.disconnected for peer in peers], [1, 1])
        tally = service.tally
        self.assertEqual((tally.closed["drain"], tally.avatars, tally.pending, tally.authenticated), (2, 0, 0, 0))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def enter(self, mind, *calls):
        peer = self.peer()
        peer.perspective = peer.login(mind, secret=self.secret)
        for call in calls:
            peer.ask(peer.perspective, *call)
        return peer

    def flush(self, *peers):
        for peer in peers:
            peer.network.flush()

    def test_stopping_tells_who_takes_notices_when_to_come_back_and_waits_until_they_have_left(self):
        service = self.start()
        minds = [Mind() for _ in range(3)]
        peers = [self.enter(mind, ("subscribe", "server")) for mind in minds]
        stock = self.enter(Mind())
        stranger = self.peer()
        stopped = service.stopService()
        self.flush(*peers, stock, stranger)
        self.assertEqual([peer.broker.disconnected for peer in (*peers, stock, stranger)], [0, 0, 0, 1, 1])
        notices = [notice for mind in minds for _, _, _, notice in mind.samples]
        self.assertEqual({notice["kind"] for notice in notices}, {"draining"})
        self.assertEqual(sorted(notice["retry_seconds"] for notice in notices), [1.0, 1.005, 1.01])
        self.assertEqual(service.trouble(), "draining")
        self.assertEqual([port.stopped for port in self.reactor.ports], [1, 0])
        for peer in peers:
            self.assertNoResult(stopped)
            peer.leave()
            self.flush(peer)
        self.successResultOf(stopped)
        self.assertEqual([port.stopped for port in self.reactor.ports], [1, 1])
        self.assertEqual((service.tally.closed["drain"], service.tally.closed["client"]), (2, 3))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_who_does_not_leave_is_closed_when_time_is_up(self):
        service = self.start(server=Server(state="", drain=5))
        peer = self.enter(Mind(), ("subscribe", "server"))
        stopped = service.stopService()
        self.network.advance(4.9, 0.1)
        self.assertNoResult(stopped)
        self.assertEqual(peer.broker.disconnected, 0)
        self.network.advance(0.2, 0.1)
        self.successResultOf(stopped)
        self.flush(peer)
        self.assertEqual((peer.broker.disconnected, service.tally.closed["drain"]), (1, 1))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_who_is_about_to_log_in_is_told_that_the_server_drains(self):
        service = self.start()
        waiting = self.enter(Mind(), ("subscribe", "server"))
        peer = self.peer()
        _, challenged = peer.ask(peer.root, "login", b"alice")
        stopped = service.stopService()
        self.flush(peer)
        self.assertEqual(peer.broker.disconnected, 0)
        failure = peer.ask(challenged, "respond", b"x" * 16, Mind())
        self.assertTrue(failure.check("clockd.errors.Draining"), failure)
        self.assertEqual(service.tally.logins["unknown", "limit"], 1)
        self.reactor.advance(1)
        self.flush(peer)
        self.assertEqual(peer.broker.disconnected, 1)
        waiting.leave()
        self.flush(waiting)
        self.successResultOf(stopped)

    def test_stopping_twice_at_a_time_is_stopping_once_and_both_hear_of_it(self):
        service = self.start()
        peer = self.enter(Mind(), ("subscribe", "server"))
        first, second = service.stopService(), service.stopService()
        peer.leave()
        self.flush(peer)
        self.successResultOf(first)
        self.successResultOf(second)

    def test_a_store_that_does_not_close_holds_up_the_stop_for_a_second_at_most(self):
        service = self.make(server=Server(state="", drain=0.5))
        service._store = SlowStore(succeed(None))
        service._store.close = Deferred
        service.startService()
        stopped = service.stopService()
        self.reactor.advance(0.99)
        self.assertNoResult(stopped)
        self.reactor.advance(0.01)
        self.successResultOf(stopped)

    def test_stopping_before_what_is_remembered_was_read_starts_nothing(self):
        service = self.make()
        opening = Deferred()
        service._store = SlowStore(opening)
        service.startService()
        self.assertEqual((self.reactor.tcpServers, service.trouble()), ([], "starting"))
        self.successResultOf(service.stopService())
        opening.callback(None)
        self.assertEqual((self.reactor.tcpServers, self.reactor.getDelayedCalls()), ([], []))

    def test_stopping_waits_for_the_ports(self):
        service = self.start()
        closing = self.reactor.ports[0].closing = Deferred()
        stopped = service.stopService()
        self.assertNoResult(stopped)
        closing.callback(None)
        self.successResultOf(stopped)

    def test_stopping_twice_is_stopping_once(self):
        service = self.start()
        self.successResultOf(service.stopService())
        self.successResultOf(service.stopService())
        self.assertEqual([port.stopped for port in self.reactor.ports], [1, 1])

    def test_stopping_what_was_not_started_is_nothing(self):
        self.successResultOf(self.make().stopService())
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_service_can_be_started_again(self):
        service = self.start()
        self.successResultOf(service.stopService())
        service.startService()
        gc.collect()
        self.assertEqual((service.trouble(), self.flushLoggedErrors()), (None, []))


class ListenerTests(SynchronousTestCase):
    def setUp(self):
        self.endpoint, self.port = Endpoint(), Port()
        self.listener = Listener("server.listen", "tcp:1", self.endpoint, None, 30.0)
        self.listener.startService()

    def test_it_tells_the_port_once_it_listens(self):
        self.assertNoResult(self.listener.listening)
        self.endpoint.listening.callback(self.port)
        self.assertIs(self.successResultOf(self.listener.listening), self.port)

    def test_stopping_before_it_listens_is_done_at_once(self):
        self.successResultOf(self.listener.stopService())

    def test_a_port_that_opens_after_the_stop_is_closed(self):
        self.listener.stopService()
        self.endpoint.listening.callback(self.port)
        self.assertEqual(self.port.stopped, 1)


class TroubleTests(ServiceCase):
    def hold_up(self, seconds):
        """Return the service after its loop was held up for so long."""
        service = self.start()
        self.reactor.advance(seconds)
        return service

    def test_pushes_that_are_late_on_average_are_trouble(self):
        service = self.hold_up(6)
        self.assertRegex(service.trouble(), r"^pushing late: by 1\.[78]\d\d s on average in the last 10 seconds$")
        self.assertIs(service.tally.ready, False)
        readiness = service.readiness()
        self.assertEqual((readiness.ready, readiness.reason, readiness.text), (False, "late", service.trouble()))
        self.assertEqual(readiness.limit_seconds, LATE_SECONDS)
        self.assertApproximates(readiness.lateness_seconds, 1.8, 0.1)

    def test_a_short_hold_up_is_none(self):
        service = self.hold_up(1)
        self.assertIsNone(service.trouble())
        self.assertIs(service.tally.ready, True)
        self.assertEqual(service.readiness(), Readiness(True, None, "ready", None, 0.045, LATE_SECONDS, __version__))

    def test_trouble_is_over_when_pushes_are_in_time_again(self):
        service = self.hold_up(6)
        for _ in range(1000):
            self.reactor.advance(0.02)
        self.assertIsNone(service.trouble())
        self.assertIs(service.tally.ready, True)

    def test_who_starts_or_stops_is_not_ready(self):
        service = self.make()
        self.assertEqual((service.readiness().reason, service.readiness().text), ("starting", "starting"))
        service.startService()
        self.assertIsNone(service.readiness().reason)
        service.stopService()
        self.assertEqual(service.readiness().reason, "stopping")

    def test_an_error_in_the_log_after_the_stop_is_not_counted(self):
        service = self.start()
        service.stopService()
        self.count_errors(service, 0)

    def test_an_error_in_the_log_is_counted(self):
        self.count_errors(self.start(), 1)

    def count_errors(self, service, counted):
        Logger().failure("a bug", Failure(ZeroDivisionError()))
        Logger().info("no bug")
        self.assertEqual(service.tally.unhandled_errors, counted)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
