"""The status page: what is told to those who look, and how many may."""

import gc
import json
import math
import re
import weakref
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from clockd.hostclock import ClockState, HostClock
from clockd.page import HISTORY_SECONDS, WINDOW_SECONDS, History, StatusBoard, page_url, quantile
from clockd.site import HTTP_CONNECTIONS, REQUEST_BYTES, STREAMS, NewestStay, PageSite
from clockd.values import Readiness, Tally

EPOCH = 1_700_000_000.0


class QuantileTests(SynchronousTestCase):
    def test_of_nothing_there_is_none(self):
        self.assertIsNone(quantile(0.5, [0, 0, 0], [1.0, 2.0]))

    def test_it_lies_evenly_between_the_bounds_of_its_bucket(self):
        for share, counts, found in (
            (0.5, [4, 0, 0], 0.5),
            (0.5, [0, 4, 0], 1.5),
            (0.99, [50, 50, 0], 1.98),
            (0.5, [2, 2, 0], 1.0),
            (1.0, [1, 0, 0], 1.0),
        ):
            with self.subTest(share=share, counts=counts):
                self.assertEqual(quantile(share, counts, [1.0, 2.0]), found)

    def test_beyond_the_last_bound_nothing_is_known(self):
        self.assertEqual(quantile(0.99, [1, 0, 1], [1.0, 2.0]), "Infinity")


class HistoryTests(SynchronousTestCase):
    def setUp(self):
        self.tally = Tally()
        self.time, self.room = self.tally.feed("time"), self.tally.feed("room")
        self.history = History(self.tally)

    def test_rates_are_those_since_the_look_before(self):
        self.history.look(1.0)
        self.time.pushes, self.room.pushes = 5, 10
        self.room.skipped |= {"unchanged": 3, "buffer": 2, "stall": 4}
        self.time.requested, self.room.requested = 2.0, 6.5
        self.tally.avatars, self.tally.authenticated, self.tally.pending = 2, 3, 4
        self.history.look(3.0)
        self.assertEqual(self.last(), (3.0, 2, 7, 8.5, 7.5, 1.5, 3.0))
        self.history.look(4.0)
        self.assertEqual(self.last()[4:], (0.0, 0.0, 0.0))

    def last(self):
        moment = self.history.moments[-1]
        return tuple(getattr(moment, name) for name in moment.__struct_fields__)

    def test_five_minutes_are_kept(self):
        for second in range(1, 2 * HISTORY_SECONDS):
            self.history.look(float(second))
        self.assertEqual(len(self.history.moments), HISTORY_SECONDS)
        self.assertEqual(self.history.moments[0].at, HISTORY_SECONDS)

    def test_percentiles_are_those_of_the_last_minute(self):
        self.tally.lateness.observe(1.0, 100)
        for second in range(1, WINDOW_SECONDS + 1):
            self.history.look(float(second))
        window, lateness, answers = self.history.percentiles()
        self.assertEqual((window, lateness.count, answers.count, answers.p50), (WINDOW_SECONDS, 100, 0, None))
        self.assertEqual((lateness.p99, lateness.most), (0.995, 2.5))
        self.tally.lateness.observe(0.001, 4)
        self.history.look(WINDOW_SECONDS + 1.0)
        window, lateness, _ = self.history.percentiles()
        self.assertEqual((window, lateness.count), (WINDOW_SECONDS, 4))
        self.assertLessEqual(lateness.p99, 0.001)


class UrlTests(SynchronousTestCase):
    def test_it_is_where_a_browser_gets(self):
        for address, url in (
            (IPv4Address("TCP", "10.0.0.1", 80), "http://10.0.0.1:80/"),
            (IPv4Address("TCP", "0.0.0.0", 80), "http://127.0.0.1:80/"),
            (IPv6Address("TCP", "::", 80), "http://[::1]:80/"),
            (UNIXAddress("/run/x"), None),
        ):
            self.assertEqual(page_url(address), url)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


class BoardCase(SynchronousTestCase):
    def setUp(self):
        self.clock, self.tally = Clock(), Tally()
        self.tally.feed("time")
        self.readiness = Readiness(True, None, "ready", None, 0.001, 0.25, "1.0")
        self.kernel = ClockState("unknown", math.inf, None)
        now = lambda: EPOCH + self.clock.seconds()  # noqa: E731
        self.host = HostClock(lambda: self.kernel, now, self.clock.seconds, self.tally)
        self.yielded = 0
        self.board = StatusBoard(self.tally, self.host, lambda: self.readiness, self.clock, now, self.give_way)
        self.factory = NewestStay(PageSite(self.board.pages, self.clock, self.give_way))
        self.factory.doStart()
        self.board.startService()
        self.connections = []

    def give_way(self):
        self.yielded += 1

    def connect(self, kind=StringTransportWithDisconnection):
        connection, transport = self.factory.buildProtocol(None), kind()
        transport.protocol = connection
        connection.makeConnection(transport)
        self.connections.append(connection)
        return connection, transport

    def ask(self, path, method=b"GET", **kind):
        connection, transport = self.connect(**kind)
        connection.dataReceived(b"%s %s HTTP/1.1\r\nHost: a\r\n\r\n" % (method, path))
        return transport

    def events(self, transport):
        """Return the events that a transport got, and forget them: pairs of a name and what it tells."""
        written = transport.value()
        transport.clear()
        return [
            (name.decode(), json.loads(data))
            for name, data in re.findall(rb"event: (\w+)\ndata: ([^\n]*)\n\n", written)
        ]

    def tearDown(self):
        for connection in self.connections:
            if connection.transport.connected:
                connection.connectionLost(Failure(ConnectionLost()))


class PageTests(BoardCase):
    def page(self):
        head, _, body = self.ask(b"/").value().partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        return lines[0], dict(line.split(": ", 1) for line in lines[1:]), body

    def test_it_may_run_its_own_script_and_style_and_nothing_else(self):
        status, headers, body = self.page()
        self.assertEqual((status, headers["Content-Type"]), ("HTTP/1.1 200 OK", "text/html; charset=utf-8"))
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        for tag in ("script", "style"):
            (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), body, re.DOTALL)
            self.assertEqual(policy[f"{tag}-src"], f"'sha256-{b64encode(sha256(text).digest()).decode()}'")
        self.assertEqual((policy["default-src"], policy["connect-src"]), ("'none'", "'self'"))

    def test_it_asks_for_nothing_elsewhere(self):
        body = self.page()[2].decode()
        tags = Tags()
        tags.feed(body)
        for tag, attributes in tags.found:
            self.assertNotIn("style", attributes)
            self.assertFalse([name for name in attributes if name.startswith("on")])
            for name in ("src", "href"):
                self.assertNotIn("//", attributes.get(name) or "", tag)
        self.assertEqual(set(re.findall(r"https?://[^\"'\s]+", body)), {"http://www.w3.org/2000/svg"})

    def test_head_gets_no_body(self):
        answer = self.ask(b"/", b"HEAD").value()
        self.assertTrue(answer.startswith(b"HTTP/1.1 200"))
        self.assertTrue(answer.endswith(b"\r\n\r\n"))


class StreamTests(BoardCase):
    def test_who_comes_hears_of_the_last_minutes_and_of_now(self):
        self.tally.avatars = 3
        for _ in range(3):
            self.clock.advance(1)
            self.board.look()
        transport = self.ask(b"/events")
        head = transport.value().partition(b"\r\n\r\n")[0].lower()
        self.assertIn(b"content-type: text/event-stream", head)
        self.assertIn(b"cache-control: no-store", head)
        (first, greeting), (second, status) = self.events(transport)
        self.assertEqual((first, second), ("greeting", "status"))
        self.assertEqual([moment[:2] for moment in greeting["history"]], [[0, 0], [1, 3], [2, 3], [3, 3]])
        self.assertEqual((status["stamp"], status["uptime"], status["moment"][1]), (EPOCH + 3, 3, 3))
        self.assertEqual(status["readiness"]["ready"], True)
        self.assertEqual((status["status"], status["bound"]), ("unknown", "Infinity"))

    def test_all_are_told_once_a_second_and_give_way_to_each_other(self):
        transports = [self.ask(b"/events") for _ in range(3)]
        for transport in transports:
            self.events(transport)
        self.clock.advance(1)
        self.kernel = ClockState("synchronized", 0.25, 37)
        self.host.attend()
        self.tally.feed("room").updated = EPOCH
        self.readiness = Readiness(False, "late", "pushing late", None, 0.3, 0.25, "1.0")
        self.yielded = 0
        self.board.look()
        for transport in transports:
            ((name, status),) = self.events(transport)
            self.assertEqual((name, status["bound"], status["status"]), ("status", 0.25, "synchronized"))
            self.assertEqual([(feed["name"], feed["age"]) for feed in status["feeds"]], [("time", None), ("room", 1)])
            self.assertEqual(status["readiness"]["reason"], "late")
        self.assertEqual(self.yielded, 3)

    def test_head_gets_no_stream(self):
        transport = self.ask(b"/events", b"HEAD")
        self.assertIn(b"text/event-stream", transport.value())
        self.assertFalse(transport.connected)
        self.assertEqual(self.board.looking, 0)

    def test_one_that_leaves_is_forgotten(self):
        transport = self.ask(b"/events")
        self.assertEqual(self.board.looking, 1)
        transport.loseConnection()
        self.assertEqual(self.board.looking, 0)
        self.board.look()

    def test_of_one_that_has_ended_nothing_is_left_for_the_collector(self):
        gc.disable()
        self.addCleanup(gc.enable)
        for end in (lambda transport: transport.loseConnection(), lambda _: self.board.stopService()):
            transport = self.ask(b"/events")
            (stream,) = map(weakref.ref, self.board.pages["events"]._streams)
            end(transport)
            transport.producer = transport.protocol = None  # as a real one does
            self.connections.clear()
            self.assertIsNone(stream())

    def test_one_that_does_not_read_is_let_go(self):
        transport = self.ask(b"/events")
        transport.producer.pauseProducing()
        self.assertFalse(transport.connected)
        self.assertEqual(self.board.looking, 0)

    def test_for_one_too_many_the_oldest_goes_and_is_told_why(self):
        transports = [self.ask(b"/events") for _ in range(STREAMS)]
        self.events(transports[0])
        transports.append(self.ask(b"/events"))
        self.assertEqual(self.events(transports[0]), [("displaced", STREAMS)])
        self.assertEqual([transport.connected for transport in transports], [False] + STREAMS * [True])
        self.assertEqual(self.board.looking, STREAMS)

    def test_streams_keep_no_other_out_and_no_other_keeps_streams_out(self):
        streams = [self.ask(b"/events") for _ in range(STREAMS)]
        waiting = [self.connect()[1] for _ in range(2 * HTTP_CONNECTIONS)]
        self.assertEqual(sum(transport.connected for transport in waiting), HTTP_CONNECTIONS)
        self.assertTrue(all(transport.connected for transport in streams))
        self.assertTrue(self.ask(b"/").value().startswith(b"HTTP/1.1 200"))

    def test_within_a_stream_a_peer_may_not_say_much(self):
        transport = self.ask(b"/events")
        transport.clear()
        self.connections[-1].dataReceived(bytes(REQUEST_BYTES))
        self.assertEqual((transport.value(), transport.connected), (b"", False))

    def test_the_end_is_told_to_all_and_the_connections_closed(self):
        transports = [self.ask(b"/events", kind=StringTransport) for _ in range(STREAMS)]  # they take a while to close
        for transport in transports:
            self.events(transport)
        self.board.stopService()
        for transport in transports:
            self.assertEqual(self.events(transport), [("stopped", EPOCH)])
            self.assertEqual((transport.disconnecting, transport.disconnected), (True, False))  # closed, not aborted
        self.assertEqual(self.board.looking, 0)

    def test_a_stream_has_no_time_limit(self):
        transport = self.ask(b"/events")
        for _ in range(600):
            self.clock.advance(1)
            self.board.look()
        self.assertTrue(transport.connected)
        self.assertEqual(len(self.events(transport)), 602)

    def test_nothing_is_encoded_while_nobody_looks(self):
        self.readiness = None
        self.board.look()
