from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import NotConnected, UnknownMethod
from clockd.link import Link, Way


class Socket(FileDescriptor):
    def __init__(self, done):
        super().__init__(reactor=object())
        self.done = done

    def doWrite(self):
        self.done.append("write")


class Broker:
    disconnected = 0
    arrived = 7.0

    def __init__(self, transport):
        self.transport = transport

    def notifyOnDisconnect(self, notifier):
        pass


class Perspective:
    def __init__(self, done):
        self.done = done
        self.answer = Deferred()

    def callRemote(self, method, *arguments):
        self.done.append((method, *arguments))
        return self.answer


class ExchangeTests(SynchronousTestCase):
    """What comes before a question leaves, and when its answer had arrived; the rest is in `test_client.py`."""

    def setUp(self):
        self.clock = Clock()
        self.done = []
        self.perspective = Perspective(self.done)

    def stamp(self):
        self.done.append("stamp")
        return 5.0

    def exchange(self, transport):
        way = Way(None, "tcp:clock.example:8787", None, 10, self.clock, self.clock.seconds)
        self.link = Link(way, Broker(transport), None)
        self.link.perspective = self.perspective
        asked = Deferred.fromCoroutine(self.link.exchange(self.stamp))
        self.addCleanup(lambda: asked.addErrback(lambda failure: failure.trap(CancelledError)))
        return asked

    def test_a_question_is_stamped_last_before_a_socket_writes_it(self):
        self.exchange(Socket(self.done))
        self.assertEqual(self.done, ["stamp", ("exchange", 5.0), "stamp", "write"])

    def test_a_socket_that_closes_writes_by_itself(self):
        socket = Socket(self.done)
        socket.disconnecting = True
        self.exchange(socket)
        self.assertEqual(self.done, ["stamp", ("exchange", 5.0)])

    def test_on_another_transport_it_is_stamped_before_the_call(self):
        self.exchange(object())
        self.assertEqual(self.done, ["stamp", ("exchange", 5.0)])

    def test_an_answer_comes_with_the_moment_at_which_its_bytes_arrived(self):
        asked = self.exchange(object())
        self.assertNoResult(asked)
        self.link.broker.arrived = 8.5
        self.perspective.answer.callback("an answer")
        self.link.broker.arrived = 9.5
        self.assertEqual(self.successResultOf(asked), ("an answer", 8.5))

    def test_no_answer_and_an_error_are_told(self):
        asked = self.exchange(object())
        self.clock.advance(10)
        self.failureResultOf(asked, NotConnected)
        self.perspective.answer = Deferred()
        asked = self.exchange(object())
        self.perspective.answer.errback(UnknownMethod("no such method"))
        self.failureResultOf(asked, UnknownMethod)
