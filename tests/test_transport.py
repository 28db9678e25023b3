"""The short way to the socket, over real sockets; the reactor turns when the test says so."""

import errno
import gc
import random
import socket
import ssl
import struct
import sys
import tempfile
import weakref
from pathlib import Path
from types import SimpleNamespace

import OpenSSL.SSL
from certificates import HOST, Chain
from doubles import Rig
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IFileDescriptorReceiver, IReactorFDSet, ITCPTransport
from twisted.internet.posixbase import _DisconnectSelectableMixin
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import Logger
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from clockd.transport import (
    BACKLOG,
    SO_PASSRIGHTS,
    TCPConnection,
    TLSFactory,
    UNIXConnection,
    is_private,
    outlet,
    prepare,
)
from clockd.values import Tally

SOME = bytes(range(256))
STREAM = random.Random(1).randbytes(1_000_003)
"""What is written is taken from it in turn, so that nothing can be lost, doubled or swapped unnoticed."""


class Turning(_DisconnectSelectableMixin, MemoryReactorClock):
    """A reactor that does what Twisted's does with sockets, once for each `turn`."""

    def turn(self):
        self.advance(0)
        for each in self.getWriters():
            self._do(each, each.doWrite, is_read=False)
        for each in self.getReaders():
            self._do(each, each.doRead, is_read=True)
        self.advance(0)

    def _do(self, selectable, do, *, is_read):
        try:
            why = do()
        except Exception as error:  # noqa: BLE001  # as Twisted does
            Logger().failure("a selectable's fault")
            why = error
        if why:
            self._disconnectSelectable(selectable, why, is_read)


class Kernel(socket.socket):
    """A socket whose kernel takes no more than `room` bytes more.

    Attributes:
        room: How many that are.
        taken: How many it has taken.
        breaks: If set, sending raises it.
    """

    room = sys.maxsize
    taken = 0
    breaks = None

    def send(self, data, *flags):
        if self.breaks:
            raise self.breaks
        if data and not self.room:
            raise BlockingIOError(errno.EWOULDBLOCK, "no room")
        sent = super().send(memoryview(data)[: self.room], *flags)
        self.room -= sent
        self.taken += sent
        return sent


class Recorder(Protocol):
    """Records what comes, and why it ended."""

    ended = None

    def __init__(self):
        self.received = b""

    def dataReceived(self, data):
        self.received += data

    def connectionLost(self, reason):
        assert self.ended is None, "it is lost only once"
        self.ended = reason.type


class Recorders(Factory):
    noisy = False

    def __init__(self):
        self.made = []

    def buildProtocol(self, address):
        self.made.append(Recorder())
        return self.made[-1]


def bound_to(host):
    """Return what a connection knows of the port that has accepted it."""
    return SimpleNamespace(getHost=lambda: IPv4Address("TCP", host, 8787), _realPortNumber=8787)


class Pair:
    """A connection on one end of a socketpair, and the socket of its peer."""

    def __init__(self, protocol, kind=TCPConnection, pair=socket.socketpair, reactor=None, host="192.0.2.1"):
        near, self.peer = pair()
        self.peer.setblocking(False)
        self.kernel = Kernel(fileno=near.detach())
        self.reactor = reactor or Turning()
        self.protocol = protocol
        peer, port = ("192.0.2.7", 40000), bound_to(host)
        self.connection = kind(self.kernel, protocol, peer, port, 0, self.reactor)
        self.connection.repstr = "a connection of a pair"
        protocol.makeConnection(self.connection)

    @property
    def unsent(self):
        return self.connection.outlet.unsent

    def arrived(self, number=2**20):
        """Return what the peer's kernel has for it, without waiting."""
        try:
            return self.peer.recv(number)
        except BlockingIOError:
            return b""

    def drain(self):
        """Let the reactor turn and the peer read until nothing is on its way; return what arrived."""
        found = b""
        for _ in range(10_000):
            self.reactor.turn()
            data = self.arrived()
            if not data and not self.unsent:
                return found
            found += data
        raise AssertionError("it does not drain")

    def close(self):
        self.peer.close()
        self.kernel.close()


def fill(transport):
    """Write until the kernel takes no more; return how many bytes that were."""
    for number in range(1, 1000):
        transport.write(bytes(65536))
        if outlet(transport).unsent:
            return number * 65536
    raise AssertionError("the kernel takes everything")


def tcp_pair():
    """Return two connected sockets of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as `ClockBroker` has it
        return near, peer


class PairCase(SynchronousTestCase):
    def pair(self, *args, **kwargs):
        pair = Pair(Recorder(), *args, **kwargs)
        self.addCleanup(pair.close)
        return pair


class SendingTests(PairCase):
    def test_what_is_written_is_with_the_peer_before_the_reactor_turns(self):
        for kind, sockets in ((TCPConnection, tcp_pair), (UNIXConnection, socket.socketpair)):
            pair = self.pair(kind, sockets)
            for write, argument in (
                (pair.connection.write, SOME),
                (pair.connection.outlet.write, SOME),
                (pair.connection.writeSequence, [SOME[:100], b"", SOME[100:]]),
                (pair.connection.writeSequence, iter([SOME])),
            ):
                write(argument)
                self.assertEqual(pair.arrived(), SOME)
                self.assertEqual((pair.unsent, pair.reactor.writers), (0, set()))

    def test_writing_nothing_sends_nothing_and_leaves_nothing_waiting(self):
        pair = self.pair()
        pair.connection.write(b"")
        pair.connection.writeSequence([])
        self.assertEqual((pair.arrived(), pair.unsent, pair.reactor.writers), (b"", 0, set()))

    def test_what_the_kernel_does_not_take_waits_for_the_reactor(self):
        for room, left in ((0, 256), (1, 255), (255, 1)):
            pair = self.pair()
            pair.kernel.room = room
            pair.connection.write(SOME)
            self.assertEqual((pair.unsent, pair.arrived()), (left, SOME[:room]))
            pair.reactor.turn()
            self.assertEqual((pair.unsent, pair.arrived()), (left, b""))
            pair.kernel.room = sys.maxsize
            pair.reactor.turn()
            self.assertEqual((pair.unsent, pair.arrived()), (0, SOME[room:]))
            self.assertEqual(pair.reactor.writers, set())

    def test_a_full_kernel_takes_no_more_until_the_peer_reads(self):
        for kind in (tcp_pair, socket.socketpair):
            pair = self.pair(pair=kind)
            fill(pair.connection)
            before = pair.unsent
            pair.connection.write(bytes(65536))
            self.assertEqual(pair.unsent, before + 65536)
            written = pair.kernel.taken + pair.unsent
            self.assertEqual(len(pair.drain()), written)
            self.assertEqual(pair.unsent, 0)

    def test_nothing_overtakes_what_is_waiting(self):
        pair = self.pair()
        pair.kernel.room = 10
        pair.connection.write(SOME)
        pair.kernel.room = sys.maxsize
        pair.connection.write(b"behind")
        self.assertEqual((pair.arrived(), pair.unsent), (SOME[:10], 252))
        self.assertEqual(pair.drain(), SOME[10:] + b"behind")
        pair.connection.write(b"at once again")
        self.assertEqual(pair.arrived(), b"at once again")

    @settings(deadline=None)
    @given(
        st.sampled_from([TCPConnection, UNIXConnection]),
        st.lists(
            st.one_of(
                st.tuples(
                    st.sampled_from(["write", "outlet"]), st.one_of(st.integers(0, 300), st.integers(0, 300_000))
                ),
                st.tuples(st.just("sequence"), st.integers(0, 3000)),
                st.tuples(st.just("room"), st.one_of(st.just(0), st.integers(0, 500), st.integers(0, 400_000))),
                st.tuples(st.just("read"), st.one_of(st.integers(1, 500), st.integers(1, 400_000))),
                st.tuples(st.just("turn"), st.just(0)),
            ),
            max_size=30,
        ),
    )
    def test_the_bytes_that_arrive_are_those_written_however_the_kernel_takes_them(self, kind, events):
        pair = Pair(Recorder(), kind)
        connection, written, arrived = pair.connection, 0, b""
        try:
            for event, number in events:
                data = STREAM[written : written + number]
                if event == "write":
                    connection.write(data)
                    written += len(data)
                elif event == "outlet":
                    connection.outlet.write(data)
                    written += len(data)
                elif event == "sequence":
                    connection.writeSequence([data[: number // 3], data[number // 3 :]])
                    written += len(data)
                elif event == "room":
                    pair.kernel.room = number
                elif event == "read":
                    arrived += pair.arrived(number)
                else:
                    pair.reactor.turn()
                self.assertEqual(pair.unsent, written - pair.kernel.taken)
                self.assertEqual(connection in pair.reactor.writers, pair.unsent > 0)
            pair.kernel.room = sys.maxsize
            arrived += pair.drain()
            self.assertEqual((arrived == STREAM[:written], len(arrived)), (True, written))
            self.assertEqual((pair.unsent, pair.reactor.writers), (0, set()))
        finally:
            pair.close()

    def test_what_comes_from_the_peer_comes_as_ever(self):
        pair = self.pair()
        pair.peer.send(SOME)
        pair.reactor.turn()
        self.assertEqual(pair.protocol.received, SOME)

    def test_descriptors_that_are_passed_over_a_unix_socket_are_not_taken(self):
        @implementer(IFileDescriptorReceiver)
        class Receiver(Recorder):
            def fileDescriptorReceived(self, descriptor):
                raise AssertionError("it is taken")

        pair = Pair(Receiver(), UNIXConnection)
        self.addCleanup(pair.close)
        socket.send_fds(pair.peer, [SOME], [pair.peer.fileno()])
        pair.reactor.turn()
        self.assertEqual((pair.protocol.received, self.flushLoggedErrors()), (SOME, []))


class RealReactorTests(SynchronousTestCase):
    """Twisted's own reactor finds what waits; it turns when the test says so, and is never installed."""

    def setUp(self):
        self.reactor = EPollReactor()
        self.addCleanup(self.reactor._poller.close)
        self.addCleanup(self.reactor.waker.connectionLost, None)

    def test_what_waits_is_sent_when_the_peer_has_read(self):
        for sockets in (tcp_pair, socket.socketpair):
            pair = Pair(Recorder(), pair=sockets, reactor=self.reactor)
            self.addCleanup(pair.close)
            written, arrived = fill(pair.connection), 0
            for _ in range(10_000):
                arrived += len(pair.arrived())
                self.reactor.doIteration(0)
                if arrived == written:
                    break
            self.assertEqual((pair.unsent, self.reactor.getWriters()), (0, []))
            pair.connection.loseConnection()
            self.reactor.doIteration(0)
            self.assertIs(pair.protocol.ended, ConnectionDone)

    def test_a_peer_that_has_gone_is_noticed(self):
        pair = Pair(Recorder(), reactor=self.reactor)
        self.addCleanup(pair.close)
        pair.peer.close()
        pair.connection.write(SOME)
        self.assertIsNone(pair.protocol.ended)
        self.reactor.doIteration(0)
        self.assertTrue(issubclass(pair.protocol.ended, (ConnectionLost, ConnectionDone)))
        pair.connection.write(SOME)

    def ended(self, writes, *, reset):
        """Return how a connection ends whose peer left before so many writes."""
        pair = Pair(Recorder(), pair=tcp_pair, reactor=self.reactor)
        self.addCleanup(pair.close)
        if reset:
            pair.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair.peer.close()
        for _ in range(writes):
            pair.connection.write(SOME)
        self.reactor.doIteration(0)
        return pair.protocol.ended

    def test_a_peer_that_reset_its_connection_is_lost_whoever_is_told_first(self):
        for writes in range(3):
            self.assertIs(self.ended(writes, reset=True), ConnectionLost)

    def test_a_peer_that_left_in_order_was_not_lost_whatever_was_written_since(self):
        for writes in range(3):
            self.assertIs(self.ended(writes, reset=False), ConnectionDone)


class EndingTests(PairCase):
    def test_a_peer_that_has_gone_is_noticed_by_twisted_and_not_by_who_writes(self):
        def reset(peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()

        for kind, leave in ((socket.socketpair, socket.socket.close), (tcp_pair, reset)):
            for waiting in (0, 10):
                pair = self.pair(pair=kind)
                pair.kernel.room = sys.maxsize if not waiting else 1
                pair.connection.write(bytes(1 + waiting))
                pair.kernel.room = sys.maxsize
                leave(pair.peer)
                for _ in range(3):
                    pair.connection.write(SOME)
                self.assertIsNone(pair.protocol.ended)
                pair.reactor.turn()
                self.assertIs(pair.protocol.ended, ConnectionLost)
                pair.connection.write(SOME)
                pair.connection.writeSequence([SOME])
                pair.connection.outlet.write(SOME)
                self.assertEqual((pair.reactor.writers, pair.reactor.readers), (set(), set()))

    def test_no_error_of_the_kernel_is_raised_where_one_writes(self):
        for number in (errno.EPIPE, errno.ECONNRESET, errno.ENOBUFS, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EAGAIN):
            pair = self.pair()
            pair.kernel.breaks = OSError(number, "broken")
            pair.connection.write(SOME)
            self.assertEqual(pair.unsent, 256)
            self.assertIsNone(pair.protocol.ended)
            pair.reactor.turn()
            passes = number in (errno.ENOBUFS, errno.EAGAIN)
            self.assertIs(pair.protocol.ended, None if passes else ConnectionLost)

    def test_what_is_written_before_the_connection_is_closed_arrives_before_it_ends(self):
        for room in (0, 10, sys.maxsize):
            pair = self.pair()
            pair.kernel.room = room
            pair.connection.write(SOME)
            pair.connection.loseConnection()
            pair.connection.write(b"late")
            pair.connection.writeSequence([b"later"])
            pair.kernel.room = sys.maxsize
            self.assertEqual(pair.drain()[:256], SOME)
            self.assertIs(pair.protocol.ended, ConnectionDone)
            self.assertEqual(pair.unsent, 0)

    def test_once_it_is_closing_twisted_alone_sends(self):
        pair = self.pair()
        pair.connection.loseConnection()
        for data in (b"", SOME):
            pair.connection.write(data)
        self.assertEqual((pair.arrived(), pair.unsent), (b"", 256))
        self.assertEqual(pair.drain(), SOME)
        self.assertIs(pair.protocol.ended, ConnectionDone)

    def test_after_the_end_writing_does_nothing(self):
        for end in ("loseConnection", "abortConnection"):
            for room in (0, sys.maxsize):
                pair = self.pair()
                pair.kernel.room = room
                pair.connection.write(SOME)
                getattr(pair.connection, end)()
                pair.kernel.room = sys.maxsize
                pair.reactor.turn()
                self.assertIs(pair.protocol.ended, ConnectionDone if end == "loseConnection" else ConnectionAborted)
                taken = pair.kernel.taken
                pair.connection.write(SOME)
                pair.connection.writeSequence([SOME])
                pair.connection.outlet.write(SOME)
                pair.reactor.turn()
                self.assertEqual((pair.kernel.taken, pair.reactor.writers), (taken, set()))

    def test_after_a_peer_has_left_in_order_writing_does_nothing(self):
        pair = self.pair()
        pair.peer.close()
        pair.reactor.turn()
        self.assertIs(pair.protocol.ended, ConnectionDone)
        pair.connection.write(SOME)
        pair.connection.writeSequence([SOME])
        pair.connection.outlet.write(SOME)
        self.assertEqual((pair.kernel.taken, pair.unsent, pair.reactor.writers), (0, 0, set()))

    def test_after_an_abort_nothing_that_waited_is_sent_any_more(self):
        pair = self.pair()
        pair.kernel.room = 0
        pair.connection.write(SOME)
        pair.connection.abortConnection()
        pair.kernel.room = sys.maxsize
        pair.connection.write(SOME)
        pair.reactor.turn()
        self.assertEqual((pair.arrived(), pair.kernel.taken), (b"", 0))

    def test_what_is_unsent_is_counted_in_a_tally_until_it_is_sent_or_lost(self):
        tally, first, second = Tally(), self.pair(), self.pair()
        first.connection.outlet.count_in(tally)
        fill(first.connection)
        self.assertEqual(tally.unsent, first.unsent)
        fill(second.connection)
        second.connection.outlet.count_in(tally)
        self.assertEqual(tally.unsent, first.unsent + second.unsent)
        first.connection.abortConnection()
        first.reactor.turn()
        self.assertEqual(tally.unsent, second.unsent)
        second.drain()
        self.assertEqual(tally.unsent, 0)

    def test_what_is_unsent_on_a_broker_s_connection_is_in_the_tally(self):
        rig = Rig()
        pair = Pair(rig.factory.buildProtocol(None), pair=tcp_pair)
        self.addCleanup(pair.close)
        pair.kernel.room = 0
        pair.connection.write(SOME)
        self.assertEqual(rig.tally.unsent, 256)
        pair.connection.abortConnection()
        pair.reactor.turn()
        self.assertEqual((rig.tally.unsent, rig.factory.connections), (0, set()))

    def test_after_an_abort_nothing_new_is_sent_either(self):
        pair = self.pair()
        pair.connection.abortConnection()
        for data in (b"", SOME, b"", SOME):
            pair.connection.write(data)
            pair.connection.outlet.write(data)
        self.assertEqual(pair.kernel.taken, 0)
        pair.reactor.turn()
        self.assertIs(pair.protocol.ended, ConnectionAborted)

    def test_a_connection_is_lost_once_though_twisted_says_it_twice(self):
        class Faulty(Recorder):
            def dataReceived(self, data):
                self.transport.abortConnection()
                raise ZeroDivisionError

        pair = Pair(Faulty())
        self.addCleanup(pair.close)
        pair.peer.send(SOME)
        pair.reactor.turn()
        pair.reactor.turn()
        self.assertIs(pair.protocol.ended, ZeroDivisionError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_one_that_is_lost_is_freed_without_the_collector_though_its_outlet_is_held(self):
        gc.disable()
        self.addCleanup(gc.enable)
        for waiting in (False, True):
            pair = self.pair()
            pair.kernel.room = 0 if waiting else sys.maxsize
            out, freed = pair.connection.outlet, [weakref.ref(pair.connection), weakref.ref(pair.kernel)]
            out.write(SOME)
            pair.connection.abortConnection()
            pair.reactor.turn()
            pair.connection = pair.protocol.transport = None
            pair.kernel = Kernel()
            self.assertEqual([each() for each in freed], [None, None])
            out.write(SOME)

    def test_a_write_with_its_writing_half_closed_is_nothing(self):
        pair = self.pair()
        pair.connection.loseWriteConnection()
        pair.reactor.turn()
        pair.connection.write(SOME)
        pair.reactor.turn()
        self.assertEqual((pair.arrived(), pair.unsent, pair.protocol.ended), (b"", 0, None))

    def test_a_producer_is_paused_and_resumed_as_ever(self):
        pair, calls = self.pair(), []
        producer = SimpleNamespace(
            pauseProducing=lambda: calls.append("pause"),
            resumeProducing=lambda: calls.append("resume") or pair.connection.write(b"more"),
            stopProducing=lambda: calls.append("stop"),
        )
        pair.connection.registerProducer(producer, streaming=True)
        pair.connection.write(SOME)
        pair.kernel.room = 0
        pair.connection.write(bytes(2**17))
        self.assertEqual(calls, ["pause"])
        pair.kernel.room = sys.maxsize
        self.assertEqual(len(pair.drain()), 256 + 2**17 + 4)
        self.assertEqual((calls, pair.unsent), (["pause", "resume"], 0))


class PortCase(SynchronousTestCase):
    def setUp(self):
        self.reactor = Turning()
        self.assertTrue(verifyObject(IReactorFDSet, self.reactor))
        self.factory = Recorders()

    def listen(self, port):
        port.startListening()
        self.addCleanup(self.stop, port)
        return port

    def stop(self, port):
        port.stopListening()
        for connection in [each for each in self.reactor.getReaders() if isinstance(each, tcp.Connection)]:
            connection.abortConnection()
        self.reactor.turn()

    def tcp_port(self, factory=None):
        return self.listen(tcp.Port(0, factory or self.factory, interface="127.0.0.1", reactor=self.reactor))

    def unix_port(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return self.listen(unix.Port(str(Path(folder.name) / "socket"), self.factory, reactor=self.reactor))

    def connect(self, port):
        """Connect to it, and return the socket."""
        peer = socket.socket(port.addressFamily)
        self.addCleanup(peer.close)
        peer.connect(port.socket.getsockname())
        peer.setblocking(False)
        self.reactor.turn()
        return peer


class PortTests(PortCase):
    def test_the_connections_of_a_tcp_port_prepare(self):
        port = self.tcp_port()
        prepare(port, 30.0)
        peer = self.connect(port)
        (protocol,) = self.factory.made
        self.assertIs(type(protocol.transport), TCPConnection)
        self.assertEqual(protocol.transport.getPeer(), IPv4Address("TCP", *peer.getsockname()))
        self.assertEqual(protocol.transport.getHost(), port.getHost())
        protocol.transport.write(SOME)
        self.assertEqual((peer.recv(1000), self.reactor.writers), (SOME, set()))

    def test_the_connections_of_a_unix_port_prepare(self):
        port = self.unix_port()
        prepare(port, 30.0)
        peer = self.connect(port)
        (protocol,) = self.factory.made
        self.assertIs(type(protocol.transport), UNIXConnection)
        self.assertIsInstance(protocol.transport, unix.Server)
        self.assertEqual(
            (protocol.transport.getPeer(), protocol.transport.getHost()), (UNIXAddress(None), port.getHost())
        )
        protocol.transport.write(SOME)
        self.assertEqual((peer.recv(1000), self.reactor.writers), (SOME, set()))

    def test_nobody_passes_descriptors_to_a_unix_port_where_the_kernel_can_forbid_it(self):
        port = self.unix_port()
        try:
            port.socket.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
        except OSError as error:
            raise SkipTest("the kernel cannot") from error
        prepare(port, 30.0)
        peer = self.connect(port)
        self.assertRaises(PermissionError, socket.send_fds, peer, [b"x"], [peer.fileno()])
        peer.send(SOME)
        self.reactor.turn()
        self.assertEqual(self.factory.made[0].received, SOME)

    def test_a_kernel_that_cannot_forbid_to_pass_descriptors_is_good_enough(self):
        def setsockopt(*_):
            raise OSError(errno.ENOPROTOOPT, "no such option")

        port = unix.Port("nowhere", self.factory, reactor=self.reactor)
        port.socket = SimpleNamespace(listen=lambda _: None, setsockopt=setsockopt)
        prepare(port, 30.0)
        self.assertIs(port.transport, UNIXConnection)

    def test_a_connection_over_tcp_gives_up_a_peer_that_is_lost_and_holds_no_small_segment_back(self):
        for lost_seconds, keepalive, user_timeout in ((30.0, 8, 30_000), (0.05, 1, 50), (86400.0, 8192, 86_400_000)):
            port = self.tcp_port()
            prepare(port, lost_seconds)
            self.connect(port)
            sock = self.factory.made[-1].transport.socket
            self.addCleanup(sock.close)
            self.assertTrue(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            names = ("TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            options = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
            self.assertEqual(options, [1, keepalive, keepalive, 3, user_timeout])

    def test_a_connection_made_before_goes_on_as_it_was(self):
        port = self.tcp_port()
        peer = self.connect(port)
        prepare(port, 30.0)
        (protocol,) = self.factory.made
        self.assertIs(type(protocol.transport), tcp.Server)
        protocol.transport.write(SOME)
        self.reactor.turn()
        self.assertEqual(peer.recv(1000), SOME)

    def test_other_ports_of_the_same_kind_are_left_alone(self):
        prepare(self.tcp_port(), 30.0)
        prepare(self.unix_port(), 30.0)
        self.assertEqual((self.tcp_port().transport, self.unix_port().transport), (tcp.Server, unix.Server))

    def test_a_port_of_an_unknown_kind_is_left_alone(self):
        port = SimpleNamespace(transport="its own", socket=None)
        prepare(port, 30.0)
        self.assertEqual(vars(port), {"transport": "its own", "socket": None})

    def test_more_connections_than_twisted_s_50_may_wait_to_be_accepted(self):
        for port in (self.tcp_port(), self.unix_port()):
            prepare(port, 30.0)
            for _ in range(100):
                peer = socket.socket(port.addressFamily)
                self.addCleanup(peer.close)
                peer.settimeout(0.5)  # the kernel makes it wait where there is no room
                peer.connect(port.socket.getsockname())
            self.assertEqual(self.factory.made, [])

    def test_a_port_on_which_still_more_may_wait_keeps_its_number(self):
        for backlog, told in ((50, BACKLOG), (BACKLOG - 1, BACKLOG), (BACKLOG + 1, BACKLOG + 1)):
            port = tcp.Port(0, self.factory, backlog, reactor=self.reactor)
            listened = []
            port.socket = SimpleNamespace(listen=listened.append, setsockopt=lambda *_: None)
            prepare(port, 30.0)
            self.assertEqual(listened, [told])

    def test_what_a_connection_is_made_with_is_what_twisted_makes_its_own_with(self):
        for port, theirs, ours in (
            (self.tcp_port(), tcp.Server, TCPConnection),
            (self.unix_port(), unix.Server, UNIXConnection),
        ):
            self.assertIs(port.transport, theirs)
            made = []
            port.transport = lambda *args, ours=ours, made=made: made.append(args) or ours(*args)
            self.connect(port)
            ((near, protocol, _, server, number, reactor),) = made
            self.assertIsInstance(near, socket.socket)
            self.assertIs(protocol, self.factory.made[-1])
            self.assertEqual((server, number, reactor), (port, 0, self.reactor))


class OutletTests(SynchronousTestCase):
    def test_it_is_the_connection_s_own_where_nothing_is_wrapped(self):
        for kind in (TCPConnection, UNIXConnection):
            pair = Pair(Recorder(), kind)
            self.addCleanup(pair.close)
            self.assertIs(outlet(pair.connection), pair.connection.outlet)

    def test_through_all_that_is_wrapped_around_it_the_lowest_tells_what_is_unsent(self):
        class Inner(Recorder):
            found = None

            def connectionMade(self):
                self.found = outlet(self.transport)

        options = Chain().options()
        inner = Factory.forProtocol(Inner)
        for factory in (
            TLSFactory(options, inner, Turning(), id),
            HAProxyWrappingFactory(inner),
            HAProxyWrappingFactory(TLSFactory(options, inner, Turning(), id)),
            WrappingFactory(WrappingFactory(inner)),
        ):
            protocol = factory.buildProtocol(None)
            pair = Pair(protocol)
            self.addCleanup(pair.close)
            while isinstance(protocol, ProtocolWrapper):
                protocol = protocol.wrappedProtocol
            self.assertEqual(protocol.found.unsent, 0)  # known as soon as the connection is made
            self.assertEqual(outlet(protocol.transport).write, protocol.transport.write)
            tally = Tally()
            protocol.found.count_in(tally)
            pair.kernel.room = 100
            pair.connection.write(SOME)
            self.assertEqual((protocol.found.unsent, outlet(protocol.transport).unsent, tally.unsent), (156, 156, 156))

    def test_what_is_written_to_it_goes_through_what_is_wrapped_around(self):
        class Doubled(ProtocolWrapper):
            def write(self, data):
                super().write(data * 2)

        factory = WrappingFactory(Factory.forProtocol(Recorder))
        factory.protocol = Doubled
        protocol = factory.buildProtocol(None)
        pair = Pair(protocol)
        self.addCleanup(pair.close)
        outlet(protocol.wrappedProtocol.transport).write(b"tick")
        self.assertEqual(pair.arrived(), b"ticktick")

    def test_of_a_transport_that_does_not_say_nothing_is_unsent_and_it_takes_what_is_written(self):
        pair = Pair(Recorder(), tcp.Server)
        self.addCleanup(pair.close)
        wrapped = StringTransport()
        wrapper = WrappingFactory(Factory.forProtocol(Recorder)).buildProtocol(None)
        wrapper.makeConnection(wrapped)
        transport = StringTransport()
        for out in map(outlet, (transport, wrapper.wrappedProtocol.transport, pair.connection)):
            out.count_in(Tally())
            out.write(SOME)
            self.assertEqual(out.unsent, 0)
        pair.reactor.turn()
        self.assertEqual((transport.value(), wrapped.value(), pair.arrived()), (SOME, SOME, SOME))


class PrivateTests(PortCase):
    """Where nobody can listen in; it is told as soon as a connection is made."""

    def setUp(self):
        super().setUp()
        self.told = []
        told = self.told

        class Telling(Recorder):
            def connectionMade(self):
                told.append(is_private(self.transport))

        self.factory = Factory.forProtocol(Telling)
        self.factory.noisy = False

    def tls(self, factory):
        return TLSFactory(Chain().options(), factory, self.reactor, id)

    def accept(self, factory, interface):
        """Have a connection made over loopback to a port that is bound to an interface; return the peer's socket."""
        port = self.listen(tcp.Port(0, factory, interface=interface, reactor=self.reactor))
        prepare(port, 30.0)
        peer = socket.create_connection(("127.0.0.1", port.getHost().port))
        self.addCleanup(peer.close)
        self.reactor.turn()
        return peer

    def test_over_tcp_it_is_where_the_port_is_bound_to_loopback_and_not_where_the_peer_comes_from_there(self):
        for interface in ("127.0.0.1", ""):
            self.accept(self.factory, interface)
        self.assertEqual(self.told, [True, False])

    def test_every_loopback_address_is_one_and_no_other_is(self):
        for host, private in (
            ("127.0.0.1", True),
            ("127.8.8.8", True),
            ("::1", True),
            ("0.0.0.0", False),
            ("::", False),
            ("192.0.2.1", False),
            ("fe80::1%eth0", False),
            ("::ffff:192.0.2.1", False),
        ):
            pair = Pair(self.factory.buildProtocol(None), host=host)
            self.addCleanup(pair.close)
            self.assertEqual(self.told.pop(), private, host)

    def test_over_a_unix_socket_it_is(self):
        port = self.unix_port()
        prepare(port, 30.0)
        self.connect(port)
        self.assertEqual(self.told, [True])

    def test_over_tls_it_is(self):
        self.accept(self.tls(self.factory), "")
        self.assertEqual(self.told, [True])

    def test_behind_a_proxy_header_it_is_not_whatever_that_says(self):
        peer = self.accept(HAProxyWrappingFactory(self.factory), "127.0.0.1")
        self.assertEqual(self.told, [False])
        peer.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nx")
        self.reactor.turn()
        (wrapper,) = [each.protocol for each in self.reactor.getReaders() if isinstance(each, tcp.Server)]
        self.assertEqual(wrapper.wrappedProtocol.received, b"x")
        self.assertIs(is_private(wrapper.wrappedProtocol.transport), False)

    def test_behind_a_proxy_header_it_is_where_tls_begins_after_the_header_and_not_where_it_began_before(self):
        self.accept(HAProxyWrappingFactory(self.tls(self.factory)), "")
        self.accept(self.tls(HAProxyWrappingFactory(self.factory)), "127.0.0.1")
        self.assertEqual(self.told, [True, False])

    def test_behind_a_proxy_header_on_a_unix_socket_it_is_not(self):
        self.factory = HAProxyWrappingFactory(self.factory)
        self.connect(self.unix_port())
        self.assertEqual(self.told, [False])

    def test_of_a_transport_of_an_unknown_kind_it_is_not_known(self):
        self.assertIs(is_private(StringTransport()), False)


class TLSTests(PortCase):
    def setUp(self):
        super().setUp()
        self.chain = Chain()
        self.clock = Turning()
        self.port = self.tls_port(self.factory)

    def tls_port(self, factory):
        port = self.tcp_port(TLSFactory(self.chain.options(), factory, self.clock, id))
        prepare(port, 30.0)
        return port

    def enter(self):
        """Make a connection, with its handshake; return the peer's socket, its TLS and the server's protocol."""
        peer = self.connect(self.port)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.outgoing = outgoing
        tls = ssl.create_default_context(cadata=self.chain.root.pem.decode()).wrap_bio(
            incoming, outgoing, server_hostname=HOST
        )
        for _ in range(10):
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                peer.sendall(outgoing.read())
                self.reactor.turn()
                incoming.write(peer.recv(2**16))
            else:
                peer.sendall(outgoing.read())
                self.reactor.turn()
                return peer, tls, incoming, self.factory.made[-1]
        raise AssertionError("no handshake")

    def test_a_small_write_is_with_the_peer_before_the_reactor_turns(self):
        peer, tls, incoming, protocol = self.enter()
        protocol.transport.setTcpNoDelay(True)
        incoming.write(received(peer))
        with self.assertRaises(ssl.SSLWantReadError):  # what came behind the handshake are tickets
            tls.read(1000)
        for data in (SOME, b"x", SOME):
            protocol.transport.write(data)
            incoming.write(peer.recv(2**16))
            self.assertEqual(tls.read(1000), data)
        self.assertEqual((self.clock.getDelayedCalls(), self.reactor.getDelayedCalls()), ([], []))
        self.assertEqual(self.reactor.writers, set())

    def test_what_the_kernel_has_not_taken_is_known_below_it(self):
        peer, tls, incoming, protocol = self.enter()
        connection = outlet(protocol.transport)
        written = fill(protocol.transport)
        before = connection.unsent
        protocol.transport.write(SOME)
        self.assertGreater(connection.unsent, before + 256)  # a record has a head and a seal
        self.assertLess(connection.unsent, before + 256 + 64)
        arrived = b""
        for _ in range(10_000):
            self.reactor.turn()
            incoming.write(received(peer))
            try:
                while True:
                    arrived += tls.read(2**16)
            except ssl.SSLWantReadError:
                if len(arrived) >= written + 256:
                    break
        self.assertEqual((connection.unsent, arrived), (0, bytes(written) + SOME))

    def slow(self):
        """Have each piece take 0.6 ms, so that two of them are a turn; return the sizes of what was taken since."""
        taken = []

        def took(_):
            taken.append(len(self.factory.made[-1].received))
            self.clock.rightNow += 0.0006

        self.factory.made[-1].transport.factory.took = took
        return taken

    def send(self, peer, tls, data):
        """Send in records of 1 kB, as one segment."""
        for at in range(0, len(data), 1000):
            tls.write(data[at : at + 1000])
        outgoing = self.outgoing.read()
        peer.sendall(outgoing)
        return outgoing

    def test_what_a_peer_sends_is_taken_in_turns_and_all_of_it_in_its_order(self):
        peer, tls, _, protocol = self.enter()
        self.clock.rightNow = 0.0
        taken = self.slow()
        data = bytes(range(250)) * 80
        sent = self.send(peer, tls, data)
        self.reactor.turn()
        self.assertEqual(len(taken), 2)
        self.assertNotIn(protocol.transport.transport, self.reactor.readers)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(0)  # turn after turn
        self.assertEqual((len(taken), self.clock.getDelayedCalls()), (-(-len(sent) // 2048), []))
        self.assertIn(protocol.transport.transport, self.reactor.readers)
        self.assertEqual(protocol.received, data)

    def test_while_the_protocol_above_is_told_nothing_what_waits_goes_on_waiting(self):
        peer, tls, _, protocol = self.enter()
        self.clock.rightNow = 0.0
        taken = self.slow()
        data = bytes(range(250)) * 80
        self.send(peer, tls, data)
        self.reactor.turn()
        protocol.transport.pauseProducing()
        for _ in range(3):
            self.clock.advance(0)
        self.assertEqual(len(taken), 2)
        self.assertNotIn(protocol.transport.transport, self.reactor.readers)
        protocol.transport.resumeProducing()
        while self.clock.getDelayedCalls():
            self.clock.advance(0)
        self.assertEqual(protocol.received, data)
        self.assertIn(protocol.transport.transport, self.reactor.readers)

    def test_one_that_pauses_while_it_is_told_something_is_told_the_rest_later(self):
        peer, tls, _, protocol = self.enter()
        protocol.transport.factory.took = lambda _: protocol.transport.pauseProducing()
        data = bytes(range(250)) * 40
        self.send(peer, tls, data)
        self.reactor.turn()
        self.assertLess(len(protocol.received), 2048)
        for _ in range(10):
            protocol.transport.resumeProducing()
            self.clock.advance(0)
        self.assertEqual(protocol.received, data)

    def test_of_a_connection_that_has_ended_nothing_more_is_taken(self):
        for end in ("abortConnection", "cut"):
            peer, tls, _, protocol = self.enter()
            self.clock.rightNow = 0.0
            taken = self.slow()
            self.send(peer, tls, bytes(20_000))
            self.reactor.turn()
            if end == "abortConnection":
                protocol.transport.abortConnection()
            else:
                protocol.transport.transport.connectionLost(Failure(ConnectionLost()))
            self.reactor.turn()
            self.clock.advance(0)
            self.assertEqual((len(taken), self.clock.getDelayedCalls()), (2, []))

    def test_a_handshake_has_its_turns_too(self):
        pieces = []
        self.port = self.tcp_port(TLSFactory(self.chain.options(), self.factory, self.clock, pieces.append))
        prepare(self.port, 30.0)
        self.enter()
        self.assertGreaterEqual(len(pieces), 2)

    def test_writing_before_the_handshake_waits_for_it(self):
        self.port = self.tls_port(Early(self.factory))
        peer, tls, incoming, _ = self.enter()
        incoming.write(received(peer))
        self.assertEqual(tls.read(1000), b"welcome")

    def test_writing_after_the_end_raises_nothing(self):
        peer, _, _, protocol = self.enter()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        for _ in range(3):
            protocol.transport.write(SOME)
        self.reactor.turn()
        self.assertIs(protocol.ended, ConnectionLost)
        protocol.transport.write(SOME)

    def test_a_connection_that_is_ended_raises_nothing_where_one_still_writes(self):
        for end in ("loseConnection", "abortConnection"):
            _, _, _, protocol = self.enter()
            getattr(protocol.transport, end)()
            protocol.transport.write(SOME)
            self.reactor.turn()
            protocol.transport.write(SOME)

    def test_one_that_breaks_is_freed_without_the_collector(self):
        gc.disable()
        self.addCleanup(gc.enable)
        for broken in (b"no TLS at all", b"\x17\x03\x03\x00\x20" + bytes(32)):
            peer, _, _, protocol = self.enter()
            freed = weakref.ref(protocol.transport)
            peer.sendall(broken)
            for _ in range(3):
                self.reactor.turn()
            self.assertTrue(issubclass(protocol.ended, (ConnectionLost, OpenSSL.SSL.Error)), protocol.ended)
            del protocol
            self.factory.made.clear()
            self.assertIsNone(freed())

    def test_a_handshake_that_fails_is_freed_without_the_collector(self):
        gc.disable()
        self.addCleanup(gc.enable)
        peer = self.connect(self.port)
        protocol = self.factory.made.pop()
        freed = weakref.ref(protocol.transport)
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        for _ in range(3):
            self.reactor.turn()
        self.assertIs(protocol.ended, OpenSSL.SSL.Error)
        del protocol
        self.assertIsNone(freed())

    def test_the_kernel_can_be_told_through_it_to_hold_nothing_back(self):
        *_, protocol = self.enter()
        self.assertTrue(ITCPTransport.providedBy(protocol.transport))  # the broker asks this
        protocol.transport.setTcpNoDelay(True)
        self.assertTrue(protocol.transport.getTcpNoDelay())


class Early(Factory):
    """Its protocols write as soon as they are made, as a Perspective Broker does."""

    noisy = False

    def __init__(self, factory):
        self.factory = factory

    def buildProtocol(self, address):
        protocol = self.factory.buildProtocol(address)
        protocol.connectionMade = lambda: protocol.transport.write(b"welcome")
        return protocol


def received(peer):
    """Return what a socket has, without waiting."""
    found = b""
    try:
        while data := peer.recv(2**20):
            found += data
    except BlockingIOError:
        pass
    return found


class ProxiedTests(PortCase):
    """Behind a PROXY header, as an endpoint `haproxy:` makes it."""

    def setUp(self):
        super().setUp()
        self.inner = self.factory
        self.factory = HAProxyWrappingFactory(self.inner)

    def test_a_header_that_twisted_s_parser_chokes_on_ends_the_connection(self):
        port = self.tcp_port()
        prepare(port, 30.0)
        for header in (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 x 2\r\n",
            b"PROXY TCP4 \xff 192.0.2.2 1 2\r\n",
            b"PROXY TCP6 2001:db8::1 \xff 1 2\r\n",
            b"PROXY nonsense\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ):
            peer = self.connect(port)
            peer.send(header)
            self.reactor.turn()
            self.reactor.turn()
            self.assertTrue(self.inner.made[-1].ended, header)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_what_follows_a_good_one_reaches_the_protocol_and_its_errors_come_through(self):
        port = self.tcp_port()
        prepare(port, 30.0)
        peer = self.connect(port)
        peer.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + SOME)
        self.reactor.turn()
        (protocol,) = self.inner.made
        self.assertEqual(protocol.received, SOME)

        def faulty(_):
            raise ValueError

        protocol.dataReceived = faulty
        self.assertRaises(ValueError, protocol.transport.dataReceived, SOME)
