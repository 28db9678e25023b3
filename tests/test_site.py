"""What comes over HTTP: what is answered, how much is read, and how many are let in."""

import json

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.test.requesthelper import DummyRequest

from clockd.site import HTTP_CONNECTIONS, REQUEST_BYTES, AlivePage, NewestStay, PageSite, ReadinessPage
from clockd.values import Readiness

READY = Readiness(True, None, "ready", None, 0.001, 0.25, "1.0")
NOT_READY = Readiness(False, "late", "pushing late: 0.300 s", "store: full", 0.3, 0.25, "1.0")


class Waiting(Resource):
    isLeaf = True

    def render_GET(self, request):
        return NOT_DONE_YET


class SiteCase(SynchronousTestCase):
    def setUp(self):
        self.readiness = READY
        self.yielded = 0
        pages = {
            "healthz": AlivePage(),
            "readyz": ReadinessPage(lambda: self.readiness),
            "waiting": Waiting(),
        }
        self.site = PageSite(pages, Clock(), self.give_way)

    def give_way(self):
        self.yielded += 1

    def get(self, path):
        request = DummyRequest([path])
        request.render(self.site.resource.getChildWithDefault(path, request))
        return request


class HealthTests(SiteCase):
    def test_a_process_that_answers_is_alive_whatever_the_trouble(self):
        for self.readiness in (READY, NOT_READY):
            request = self.get(b"healthz")
            self.assertEqual((request.responseCode, request.written), (None, [b"ok\n"]))

    def test_a_service_that_is_ready_says_so(self):
        request = self.get(b"readyz")
        (body,) = request.written
        self.assertEqual((request.responseCode, body[-1:]), (None, b"\n"))
        self.assertEqual(request.responseHeaders.getRawHeaders("content-type"), ["application/json"])
        told = {"ready": True, "reason": None, "text": "ready", "remark": None}
        told |= {"lateness_seconds": 0.001, "limit_seconds": 0.25, "version": "1.0"}
        self.assertEqual(json.loads(body), told)

    def test_one_that_is_not_says_why(self):
        self.readiness = NOT_READY
        request = self.get(b"readyz")
        self.assertEqual(request.responseCode, 503)
        told = {"ready": False, "reason": "late", "text": "pushing late: 0.300 s", "remark": "store: full"}
        told |= {"lateness_seconds": 0.3, "limit_seconds": 0.25, "version": "1.0"}
        self.assertEqual(json.loads(request.written[0]), told)

    def test_nothing_else_is_there(self):
        for path in (b"", b"metric", b"readyz.html"):
            self.assertEqual(self.get(path).responseCode, 404)
        self.flushWarnings()  # Twisted's resource for this is one that Twisted deprecates

    def test_the_site_says_nothing_to_the_log(self):
        self.assertIsNone(self.site.log(DummyRequest([b"healthz"])))
        self.assertFalse(self.site.noisy)


class ConnectionTests(SiteCase):
    """What a connection gets for the bytes that it sends."""

    def connect(self):
        connection, transport = self.site.buildProtocol(None), StringTransport()
        connection.makeConnection(transport)
        self.addCleanup(connection.connectionLost, Failure(ConnectionDone()))
        return connection, transport

    def send(self, data):
        """Return what one that sends this gets: the headers, by their names, and what follows them."""
        connection, transport = self.connect()
        connection.dataReceived(data)
        self.assertTrue(transport.disconnecting)
        head, _, body = transport.value().partition(b"\r\n\r\n")
        self.status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        headers.pop("Date", None)
        return headers, body

    def test_head_gets_the_headers_that_get_gets_and_no_body(self):
        for path in (b"healthz", b"readyz"):
            for self.readiness in (READY, NOT_READY):
                expected, body = self.send(b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
                status = self.status
                self.assertEqual(expected["Content-Length"], str(len(body)))
                with self.subTest(path=path), capturedLogs() as events:
                    headers, body = self.send(b"HEAD /%s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
                    self.assertEqual((self.status, body, headers.keys()), (status, b"", expected.keys()))
                    self.assertEqual(headers["Content-Type"], expected["Content-Type"])
                    self.assertEqual([e for e in events if e["log_namespace"].startswith("clockd")], [])

    def test_a_connection_gets_one_answer_and_is_closed(self):
        one = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
        for data in (one, one * 20, one + b"\r\n" * 2000, one.replace(b"1.1", b"1.0")):
            headers, body = self.send(data)
            self.assertEqual((self.status.split()[1], headers["Connection"], body), ("200", "close", b"ok\n"))

    def test_what_comes_after_the_answer_is_not_looked_at(self):
        connection, transport = self.connect()
        for _ in range(2):
            connection.dataReceived(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual((transport.value().count(b"HTTP/1.1"), self.yielded), (1, 1))

    def test_a_request_with_a_body_is_refused(self):
        for line in (b"Content-Length: 1", b"Content-Length: 90000000", b"Transfer-Encoding: chunked"):
            for more in (b"", b"Expect: 100-continue\r\n"):
                headers, body = self.send(b"POST /healthz HTTP/1.1\r\n%s\r\n%s\r\n1\r\na\r\n" % (line, more))
                self.assertEqual((self.status.split()[1], headers["Connection"], body), ("413", "close", b""))
        self.send(b"POST /healthz HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        self.assertIn("405", self.status)
        self.flushWarnings()  # see test_nothing_else_is_there

    def test_a_request_may_have_so_many_bytes(self):
        request = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: %s\r\n\r\n"
        longest = REQUEST_BYTES - len(request % b"")
        self.send(request % bytes(longest).replace(b"\0", b"x"))
        self.assertIn("200", self.status)
        self.send(request % bytes(longest + 1).replace(b"\0", b"x"))
        self.assertIn("413", self.status)

    def test_it_counts_what_it_got_in_pieces(self):
        connection, transport = self.connect()
        connection.dataReceived(b"GET /healthz HTTP/1.1\r\nX: ")
        for _ in range(2 * REQUEST_BYTES):
            connection.dataReceived(b"x")
        self.assertEqual(transport.value().count(b"HTTP/1.1 413"), 1)
        self.assertTrue(transport.disconnecting)

    def test_who_sends_more_while_waiting_for_an_answer_is_refused(self):
        connection, transport = self.connect()
        connection.dataReceived(b"GET /waiting HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertFalse(transport.disconnecting)
        connection.dataReceived(bytes(REQUEST_BYTES))
        self.assertTrue(transport.disconnecting)

    def test_others_have_their_turn_after_each_piece(self):
        connection, _ = self.connect()
        for byte in b"GET /healthz HTTP/1.1\r\n\r":
            connection.dataReceived(bytes([byte]))
        self.assertEqual(self.yielded, 24)


class CrowdTests(SynchronousTestCase):
    def setUp(self):
        self.factory = NewestStay(Factory.forProtocol(Protocol))
        self.transports = []

    def arrive(self):
        protocol = self.factory.buildProtocol(None)
        self.transports.append(StringTransport())
        protocol.makeConnection(self.transports[-1])
        return protocol

    def aborted(self):
        return [number for number, transport in enumerate(self.transports) if transport.disconnected]

    def test_when_there_is_one_too_many_the_oldest_goes(self):
        protocols = [self.arrive() for _ in range(HTTP_CONNECTIONS)]
        self.assertEqual(self.aborted(), [])
        self.arrive()
        self.arrive()
        self.assertEqual(self.aborted(), [0, 1])
        protocols[0].connectionLost(Failure(ConnectionAborted()))
        self.arrive()
        self.assertEqual(self.aborted(), [0, 1, 2])

    def test_one_that_has_left_makes_room(self):
        protocols = [self.arrive() for _ in range(HTTP_CONNECTIONS)]
        protocols[5].connectionLost(Failure(ConnectionDone()))
        self.arrive()
        self.assertEqual(self.aborted(), [])
