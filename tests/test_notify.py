"""What a supervisor is told, over a socket of the test's own."""

import socket
import tempfile
import uuid
from pathlib import Path

from doubles import Mind
from test_service import ServiceCase
from twisted.application.service import Service
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import CannotListen
from clockd.notify import STATUS_SECONDS, Supervisor, supervisor_of
from clockd.service import make_service


class Ear:
    """A socket for datagrams, and what has come to it."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name)
        self.socket.setblocking(False)

    def heard(self):
        """Return the next datagram; None if there is none."""
        try:
            return self.socket.recv(4096)
        except BlockingIOError:
            return None

    def close(self):
        self.socket.close()


class SupervisorTests(SynchronousTestCase):
    def setUp(self):
        self.path = str(Path(tempfile.mkdtemp(dir=".")) / "socket")

    def listen(self, name):
        ear = Ear(name)
        self.addCleanup(ear.close)
        return ear

    def start(self, name=None, watchdog=None):
        supervisor = Supervisor(name or self.path, watchdog)
        supervisor.startService()
        self.addCleanup(supervisor.stopService)
        return supervisor

    def test_words_go_to_a_path_in_one_datagram(self):
        ear, supervisor = self.listen(self.path), self.start()
        supervisor.tell("READY=1", "STATUS=serving")
        self.assertEqual((ear.heard(), ear.heard()), (b"READY=1\nSTATUS=serving", None))

    def test_a_name_behind_an_at_sign_is_abstract(self):
        name = f"clockd-test-{uuid.uuid4().hex}"
        ear = self.listen(f"\0{name}")
        self.start(f"@{name}").tell("READY=1")
        self.assertEqual(ear.heard(), b"READY=1")

    def test_a_sign_of_life_is_given_if_one_is_wanted(self):
        ear = self.listen(self.path)
        self.start(watchdog=30.0).live("well")
        self.assertEqual(ear.heard(), b"WATCHDOG=1\nSTATUS=well")
        self.start(watchdog=None).live("well")
        self.assertEqual(ear.heard(), b"STATUS=well")

    def test_signs_of_life_are_due_twice_as_often_as_they_are_wanted(self):
        self.assertEqual((self.start(watchdog=30.0).seconds, self.start().seconds), (15.0, STATUS_SECONDS))

    def test_a_socket_that_is_not_there_or_gone_is_nobody_s_trouble(self):
        supervisor = self.start()
        supervisor.tell("READY=1")
        ear = self.listen(self.path)
        ear.close()
        supervisor.tell("READY=1")
        Path(self.path).unlink()
        supervisor.tell("READY=1")
        self.start("/" + "x" * 200).tell("READY=1")

    def test_a_supervisor_that_does_not_listen_holds_nothing_up(self):
        ear, supervisor = self.listen(self.path), self.start()
        for _ in range(10_000):  # more than the kernel keeps for it
            supervisor.tell("WATCHDOG=1")
        self.assertEqual(ear.heard(), b"WATCHDOG=1")

    def test_nothing_is_said_before_the_start_and_after_the_stop_which_may_come_twice(self):
        ear, supervisor = self.listen(self.path), Supervisor(self.path, None)
        supervisor.tell("READY=1")
        supervisor.startService()
        supervisor.stopService()
        supervisor.stopService()
        supervisor.tell("READY=1")
        self.assertIsNone(ear.heard())


class EnvironmentTests(SynchronousTestCase):
    def seconds(self, **environment):
        """Return how often a supervisor wants signs of life; None if it wants none."""
        supervisor = supervisor_of({"NOTIFY_SOCKET": "/run/systemd/notify", **environment}, 17)
        return None if supervisor.seconds == STATUS_SECONDS else supervisor.seconds

    def test_without_a_socket_there_is_none(self):
        for environment in ({}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000000"}):
            self.assertIsNone(supervisor_of(environment, 17))

    def test_it_says_within_how_many_microseconds(self):
        self.assertEqual(self.seconds(WATCHDOG_USEC="3000000"), 1.5)
        self.assertEqual(self.seconds(WATCHDOG_USEC="3000000", WATCHDOG_PID="17"), 1.5)

    def test_signs_of_life_of_another_process_are_none_of_ours(self):
        self.assertIsNone(self.seconds(WATCHDOG_USEC="3000000", WATCHDOG_PID="18"))

    def test_what_is_no_time_is_passed_over(self):
        for nonsense in ("", "0", "000", "-1", "1.5", "soon", str(2**64 - 1), "9" * 5000):
            self.assertIsNone(self.seconds(WATCHDOG_USEC=nonsense), nonsense)


class Told(Service):
    """A supervisor that keeps what it is told."""

    seconds = 15.0

    def __init__(self):
        self.words = []

    def tell(self, *words):
        self.words += words

    def live(self, status):
        self.words.append(status)

    def new(self):
        words, self.words = self.words, []
        return words


class ServiceTests(ServiceCase):
    fault = None

    def make(self, **sections):
        super().make(**sections)
        self.told = Told()
        again = (self.now, self.read_again, self.reactor.seconds, self.told)
        self.service = make_service(self.config, self.reactor, *again)
        return self.service

    def read_again(self):
        self.told.words.append("read")
        if self.fault is not None:
            raise self.fault
        return self.config

    def serve(self):
        service = self.start()
        self.told.new()
        return service

    def test_it_is_told_when_all_ports_are_open_and_how_it_is_ever_after(self):
        self.start()
        self.assertEqual(self.told.new(), ["starting: 0 avatars, 0 pushes/s", "READY=1", "STATUS=serving"])
        peer = self.peer()
        peer.perspective = peer.login(Mind(), secret=self.secret)
        peer.ask(peer.perspective, "setperiod", 0.1)
        self.network.advance(14.9, 0.1)
        self.assertEqual(self.told.new(), [])
        self.network.advance(0.2, 0.1)
        self.assertEqual(self.told.new(), ["serving: 1 avatars, 10 pushes/s"])
        self.assertTrue(self.told.running)

    def test_it_is_not_told_so_when_a_port_is_taken(self):
        self.reactor.taken = {8787: OSError("taken")}
        service = self.start()
        self.failureResultOf(service.ready, CannotListen)
        service.reload()
        self.assertEqual(self.told.new(), ["starting: 0 avatars, 0 pushes/s", "read"])

    def test_it_is_told_of_a_reload_from_its_beginning_to_its_end(self):
        self.serve().reload()
        self.assertEqual(self.told.new(), ["RELOADING=1", "read", "READY=1"])

    def test_a_reload_ends_even_if_it_fails(self):
        service = self.serve()
        self.fault = ZeroDivisionError()
        self.assertRaises(ZeroDivisionError, service.reload)
        self.assertEqual(self.told.new(), ["RELOADING=1", "read", "READY=1"])

    def test_it_is_told_that_the_service_stops_before_anybody_has_left(self):
        service = self.serve()
        peer = self.peer()
        peer.perspective = peer.login(Mind(), secret=self.secret)
        stopped = service.stopService()
        self.assertEqual(self.told.new(), ["STOPPING=1", "STATUS=draining"])
        self.network.flush()
        self.successResultOf(stopped)
        service.reload()
        self.assertEqual((self.told.new(), self.told.running), (["read"], 0))
