import gc
import math
import socket

from doubles import EPOCH, Network
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, execute, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseFailed
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from clockd import scrape
from clockd.certificate import ClientTLS
from clockd.errors import Misconfigured
from clockd.feeds import LatestFeed
from clockd.scrape import PAGE_BYTES, SCRAPE_SECONDS, Exporter, Scraper, endpoint_for, selector_for
from clockd.values import FeedTally
from clockd.wire import ValueEncoder

URL = "http://127.0.0.1:9100/metrics"

PAGE = b"""\
# HELP node_load1 1m load average.
# TYPE node_load1 gauge
node_load1 0.25
node_load15 0.5
# TYPE requests counter
requests{method="get",code="200"} 7 1395066363000
requests{code="500",method="get"} 1
# TYPE answer_seconds histogram
answer_seconds_bucket{le="1"} 1
answer_seconds_bucket{le="+Inf"} 2
answer_seconds_sum 3
answer_seconds_count 2
\t hours{path="C:\\\\DIR\\\\ \\"a b\\"",name="x\\ny } #"}\t1e3
empty{} NaN
"""


def selectors(*words):
    return [selector_for("feeds.node.metrics", each) for each in words]


def choose(page, words):
    return scrape.choose(page, selectors(*words))


class SelectorTests(SynchronousTestCase):
    def test_what_was_written_is_what_it_is_called(self):
        for words, called in (
            ("node_load1", "node_load1"),
            ("job:rate:5m", "job:rate:5m"),
            ("up{}", "up"),
            ('up{mode="idle", cpu="0"}', 'up{cpu="0",mode="idle"}'),
            ('up{name="x\\ny\\\\ \\"}"}', 'up{name="x\\ny\\\\ \\"}"}'),
        ):
            self.assertEqual(str(selector_for("", words)), called)

    def test_what_is_none_is_told_with_its_key(self):
        for words in (
            *("", " ", ".*", "node.load", "1a", "\xe4", "up 1", "up 1 1", "# up", "up\nup", "up 1\nup", '{"up"}'),
            *('up{a="b"', 'up{a=~"b"}', 'up{a!="b"}', "up{a=b}", "up{a}", "up{a='b'}", 'up{a="b",a="c"}', "up{,a}"),
            *(
                "up ",
                "up{a=}",
                'up{a="b",}',
                'up{a="\\t"}',
                'up{a="\n"}',
                'up{1="b"}',
                'up{a="b"} x',
                'up{a="b"}{c="d"}',
                'up{="b"}',
                '{"node.load"}',
                "{}",
                'up{__name__="up"}',
            ),
        ):
            with self.assertRaises(Misconfigured, msg=words) as caught:
                selector_for("feeds.node.metrics", words)
            told = f"feeds.node.metrics: {words}: is neither a name such as up nor one with labels such as "
            self.assertEqual(str(caught.exception), told + 'up{job="node"}')


class ChooseTests(SynchronousTestCase):
    def test_a_name_without_labels_is_the_key(self):
        self.assertEqual(choose(PAGE, ["node_load1"]), {"node_load1": 0.25})

    def test_every_value_is_a_float(self):
        found = choose(PAGE, ["requests", "answer_seconds_count"])
        self.assertEqual(set(map(type, found.values())), {float})

    def test_labels_are_sorted_and_written_as_in_the_text_format(self):
        self.assertEqual(
            choose(PAGE, ["requests", "hours"]),
            {
                'requests{code="200",method="get"}': 7.0,
                'requests{code="500",method="get"}': 1.0,
                'hours{name="x\\ny } #",path="C:\\\\DIR\\\\ \\"a b\\""}': 1000.0,
            },
        )

    def test_a_key_is_what_can_be_found_again_on_a_page(self):
        (key,) = choose(PAGE, ["hours"])
        self.assertEqual(choose(f"{key} 2".encode(), ["hours"]), {key: 2.0})

    def test_samples_of_a_histogram_are_chosen_by_their_own_names(self):
        self.assertEqual(choose(PAGE, ["answer_seconds_sum"]), {"answer_seconds_sum": 3.0})
        self.assertRaises(ValueError, choose, PAGE, ["answer_seconds"])

    def test_a_counter_has_the_name_that_it_has_on_the_page(self):
        self.assertEqual(len(choose(PAGE, ["requests"])), 2)
        self.assertRaises(ValueError, choose, PAGE, ["requests_total"])

    def test_a_name_is_neither_the_begin_of_another_nor_the_end(self):
        for name in ("node_load", "load1", "ode_load"):
            self.assertRaises(ValueError, choose, PAGE, [name])

    def test_labels_choose_those_that_have_them_all_and_others_maybe(self):
        for words, codes in (
            ('requests{method="get"}', {"200", "500"}),
            ('requests{code="200"}', {"200"}),
            ('requests{method="get",code="500"}', {"500"}),
        ):
            keys = {f'requests{{code="{code}",method="get"}}' for code in codes}
            self.assertEqual(set(choose(PAGE, [words])), keys)
        self.assertEqual(set(choose(PAGE, ['requests{code="500"}', "node_load1"])), {*keys, "node_load1"})
        self.assertEqual(set(choose(PAGE, ['requests{code="500"}', 'requests{code="500",method="get"}'])), keys)

    def test_a_label_that_is_not_there_or_is_another_chooses_nothing(self):
        for words in ('requests{code="20"}', 'requests{path="/"}', 'requests{code="200",path="/"}'):
            with self.assertRaises(ValueError) as caught:
                choose(PAGE, [words])
            self.assertEqual(str(caught.exception), f"the page has none of the metrics {words}")

    def test_a_label_is_compared_as_it_is_meant_and_not_as_it_is_written(self):
        self.assertEqual(set(choose(PAGE, ['hours{name="x\\ny } #"}']).values()), {1000.0})

    def test_nan_and_infinity_stay_what_they_are(self):
        (value,) = choose(PAGE, ["empty"]).values()
        self.assertTrue(math.isnan(value))
        self.assertEqual(choose(b"a +Inf\nb -Inf\n", ["a", "b"]), {"a": math.inf, "b": -math.inf})

    def test_what_the_page_does_not_have_is_left_out(self):
        self.assertEqual(choose(PAGE, ["node_load1", "node_load5"]), {"node_load1": 0.25})

    def test_none_of_them_is_an_error(self):
        for page in (PAGE, b"", b"<html></html>", b"# TYPE a gauge\n"):
            with self.assertRaisesRegex(ValueError, r"^the page has none of the metrics a, b$"):
                choose(page, ["a", "b"])

    def test_a_chosen_line_that_makes_no_sense_is_an_error(self):
        for line in (b"a", b"a x", b'a{b="c} 1', b"a{b} 1", b"a{b=c} 1", b"a 1_0", b'a{b="c",b="d"} 1', b"a \xff"):
            with self.assertRaisesRegex(ValueError, r"^the page (is not in Prometheus' text format|has none)"):
                choose(line + b"\n", ["a"])
        with self.assertRaisesRegex(ValueError, "text format: OverflowError"):
            choose(b"a " + 400 * b"9", ["a"])

    def test_lines_of_others_are_not_looked_at(self):
        self.assertEqual(choose(b"b{ x\n# TYPE\na 1\r\nb", ["a"]), {"a": 1.0})


class EndpointTests(SynchronousTestCase):
    def test_what_is_no_url_is_told_with_its_key(self):
        for url in (
            *("http://", "http:///metrics", "http://:9100/", "http://a:x/", "http://a:0/", "http://a:65536/"),
            *("http://alice:secret@a/", "http://a b/", "http://a/ b", "http://a/\n", "http://[::1/", "http://\xe4/"),
            *("ftp://a/", "a:9100", "http://a..b/", "http://::1/", "http://a/#b\x00", "http://a:/"),
        ):
            with self.assertRaises(Misconfigured) as caught:
                endpoint_for("feeds.node.url", url, MemoryReactorClock(), None)
            self.assertTrue(str(caught.exception).startswith(f"feeds.node.url: {url}: is no URL such as http"))

    def connect(self, url, found=None):
        """Connect to where a URL leads; the name is looked up at once, or found there."""
        self.reactor, self.connected = MemoryReactorClock(), []

        def in_thread(what):
            return execute(what) if found is None else succeed([(*each[:1], None, 0, "", each[1]) for each in found])

        endpoint = endpoint_for("", url, self.reactor, in_thread)
        endpoint.connect(Factory.forProtocol(Protocol)).addBoth(self.connected.append)
        self.reactor.advance(0)

    def test_it_leads_to_the_host_and_the_port(self):
        for url, host, port in (
            (URL, "127.0.0.1", 9100),
            ("http://127.0.0.1", "127.0.0.1", 80),
            ("http://[::1]:9100/metrics?collect=cpu", "::1", 9100),
        ):
            self.connect(url)
            ((*where, _, _, _),) = self.reactor.tcpClients
            self.assertEqual(where, [host, port])

    def test_of_several_addresses_each_is_tried_in_turn_and_none_is_waited_for(self):
        addresses = [("2001:db8::1", 9100, 0, 0), ("192.0.2.1", 9100)]
        self.connect("http://node_exporter:9100/", zip((socket.AF_INET6, socket.AF_INET), addresses, strict=True))
        self.reactor.advance(1)
        self.assertEqual([client[:2] for client in self.reactor.tcpClients], [each[:2] for each in addresses])

    def test_a_name_that_leads_nowhere_is_told(self):
        # both are refused before a name server is asked
        for host, why in ((".".join(["a" * 60] * 5), "[Errno"), ("a" * 64, "encoding with 'idna' codec failed")):
            self.connect(f"http://{host}/")
            self.assertIn(f"{host} is not found: {why}", self.connected[0].getErrorMessage())

    def test_who_does_not_wait_any_more_hears_nothing_of_a_name(self):
        asked = Deferred()
        reactor = MemoryReactorClock()
        connecting = endpoint_for("", URL, reactor, lambda _: asked).connect(Factory.forProtocol(Protocol))
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        asked.callback([(socket.AF_INET, None, 0, "", ("127.0.0.1", 9100))])
        self.assertEqual(reactor.tcpClients, [])

    def test_tls_is_that_of_our_own_client_and_for_this_host(self):
        self.connect("https://clock.example.org/metrics", [(socket.AF_INET, ("192.0.2.1", 443))])
        ((_, port, factory, *_),) = self.reactor.tcpClients
        protocol = factory.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        connection = protocol._wrappedProtocol.getHandle()
        ours = ClientTLS("clock.example.org").clientConnectionForTLS(None)
        self.assertEqual((port, connection.get_cipher_list()), (443, ours.get_cipher_list()))
        self.assertIn(b"clock.example.org", transport.value())


class Page(Resource):
    """What an exporter answers.

    Attributes:
        code, body: Of the answer.
        parts: If true, the test writes the body itself, with the requests in `asked`.
    """

    isLeaf = True
    code, body, parts = 200, PAGE, False

    def __init__(self):
        super().__init__()
        self.asked = []

    def render_GET(self, request):
        self.asked.append(request)
        request.setResponseCode(self.code)
        return NOT_DONE_YET if self.parts else self.body


class ExporterTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.page = Clock(), Page()
        site = Site(self.page, reactor=self.clock)
        site.noisy = False
        self.network = Network(site, self.clock)
        self.exporter = Exporter(URL, self.network, self.clock)
        self.addCleanup(self.assert_closes)

    def assert_closes(self):
        closed = self.exporter.close()
        self.network.flush()
        self.successResultOf(closed)
        for wire in self.network.wires:
            self.assertTrue(wire.clientIO.reported, wire)
        self.clock.advance(SCRAPE_SECONDS * 100)  # the server's own time-outs
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def ask(self):
        """Ask for the page; returns what comes, in a list."""
        came = []
        self.asked = Deferred.fromCoroutine(self.exporter.page())
        self.asked.addBoth(came.append)
        self.network.flush()
        return came

    def test_the_page_comes(self):
        self.assertEqual(self.ask(), [PAGE])
        (request,) = self.page.asked
        self.assertEqual((request.uri, request.getHeader("host")), (b"/metrics", "127.0.0.1:9100"))
        self.assertEqual(request.getHeader("accept"), "text/plain;version=0.0.4")
        self.assertTrue(request.getHeader("user-agent").startswith("clockd/"))

    def test_the_connection_is_kept_for_the_next(self):
        self.assertEqual([self.ask() for _ in range(3)], [[PAGE]] * 3)
        self.assertEqual(len(self.network.wires), 1)

    def test_a_connection_that_was_closed_meanwhile_is_made_again(self):
        self.ask()
        self.network.wires[0].serverIO.loseConnection()
        self.network.flush()
        self.assertEqual((self.ask(), len(self.network.wires)), ([PAGE], 2))

    def test_closing_waits_for_no_peer(self):
        self.ask()
        (wire,) = self.network.wires
        wire.frozen = True
        closed = self.exporter.close()
        self.network.flush()
        self.successResultOf(closed)
        wire.frozen = False

    def test_another_answer_than_200_is_an_error(self):
        for self.page.code, phrase in ((404, "Not Found"), (302, "Found"), (204, "No Content"), (500, "Internal")):
            self.page.body = b""
            ((failure,),) = [self.ask()]
            self.assertTrue(failure.getErrorMessage().startswith(f"{URL} answers {self.page.code} {phrase}"), failure)

    def test_a_page_may_be_as_long_as_it_may(self):
        self.page.body = b"x" * PAGE_BYTES
        self.assertEqual(self.ask(), [self.page.body])

    def test_one_that_is_longer_ends_the_connection(self):
        self.page.parts = True
        came = self.ask()
        (request,) = self.page.asked
        request.write(b"x" * PAGE_BYTES)
        self.network.flush()
        self.assertEqual(came, [])
        request.write(b"x" * 100)
        self.network.flush()
        self.assertEqual(came[0].getErrorMessage(), f"the page is longer than {PAGE_BYTES} bytes")
        self.assertTrue(self.network.wires[0].clientIO.aborted)

    def test_a_page_that_breaks_off_is_an_error(self):
        self.page.parts = True
        came = self.ask()
        self.page.asked[0].setHeader("content-length", "100")
        self.page.asked[0].write(b"node_load1 1")
        self.network.flush()
        self.network.wires[0].cut()
        self.network.flush()
        self.assertEqual(len(came), 1)
        self.assertTrue(came[0].check(ResponseFailed))

    def test_a_page_may_end_with_the_connection(self):
        self.page.parts = True
        came = self.ask()
        transport = self.network.wires[0].serverIO
        transport.write(b"HTTP/1.0 200 OK\r\n\r\nnode_load1 1\n")
        transport.loseConnection()
        self.network.flush()
        self.assertEqual(came, [b"node_load1 1\n"])

    def test_to_cancel_ends_the_connection_whatever_it_waits_for(self):
        self.page.parts = True
        for begin in (lambda: None, lambda: self.page.asked[-1].write(b"node_load1")):
            came = self.ask()
            begin()
            self.network.flush()
            self.asked.cancel()
            self.network.flush()
            self.assertEqual(len(came), 1)
            self.assertTrue(self.network.wires[-1].clientIO.reported)
        self.page.parts = False
        self.assertEqual((self.ask(), len(self.network.wires)), ([PAGE], 3))


class Source:
    """Pages that the test gives by hand, through `asked`."""

    def __init__(self):
        self.asked = []
        self.cancelled = self.closed = 0

    async def page(self):
        self.asked.append(Deferred(self.cancel))
        return await self.asked[-1]

    def cancel(self, _):
        self.cancelled += 1

    def close(self):
        self.closed += 1
        self.closing = Deferred()
        return self.closing


class ScraperTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.source, self.reports, self.calls = Clock(), Source(), [], None
        self.feed = LatestFeed("node", ValueEncoder(b"pb").encode, FeedTally(), self.now)
        self.scraper = self.make(15.0)

    def now(self):
        return EPOCH + self.clock.seconds()

    def make(self, every, metrics=("node_load1",)):
        return Scraper(
            *(self.feed, self.source, selectors(*metrics), every, self.in_thread, self.clock, self.now),
            lambda name, error: self.reports.append((name, str(error))),
        )

    def in_thread(self, call):
        answered = Deferred()
        if self.calls is not None:
            self.calls.append(answered)
            return answered
        try:
            answered.callback(call())
        except ValueError:
            answered.errback()
        return answered

    def start(self, **options):
        self.scraper = self.make(**options) if options else self.scraper
        self.scraper.startService()
        self.addCleanup(self.assert_stops)

    def assert_stops(self):
        self.scraper.stopService()
        gc.collect()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def comes(self, page=PAGE):
        """Have the page that is asked for come, or an error."""
        (asked,) = self.source.asked
        self.source.asked.clear()
        asked.errback(page) if isinstance(page, Exception) else asked.callback(page)

    def test_it_scrapes_at_its_start_and_then_once_a_period(self):
        self.assertEqual(self.source.asked, [])
        self.start()
        for sequence in (1, 2, 3):
            self.comes()
            self.assertEqual((self.feed.latest().value, self.feed.latest().sequence), ({"node_load1": 0.25}, sequence))
            self.clock.advance(14.9)
            self.assertEqual(self.source.asked, [])
            self.clock.advance(0.1)
        self.assertEqual(self.reports, [])

    def test_the_stamp_is_the_moment_at_which_the_page_had_come(self):
        self.calls = []
        self.start()
        self.clock.advance(2)
        self.comes()
        self.clock.advance(3)
        self.calls.pop().callback({"node_load1": 1.0})
        self.assertEqual(self.feed.latest().stamp, EPOCH + 2)

    def test_one_that_fails_is_reported_and_the_last_sample_stays(self):
        self.start()
        self.comes()
        before = self.feed.latest()
        for error, words in (
            (Refused(), "Connection was refused by other side."),
            (ConnectionError("answers 503"), "answers 503"),
            (ResponseFailed([Failure(ResponseFailed([Failure(ConnectionLost("cut"))]))]), str(ConnectionLost("cut"))),
            (SSL.Error([("", "", "unknown ca")]), "unknown ca; does it listen there with TLS, and for this client?"),
            (b"", "the page has none of the metrics node_load1"),
        ):
            self.clock.advance(15)
            self.comes(error)
            self.assertEqual(self.reports.pop(), ("node", words))
        self.assertIs(self.feed.latest(), before)
        self.clock.advance(15)
        self.comes()
        self.assertEqual((self.feed.latest().sequence, self.feed.latest().stamp), (2, EPOCH + 90))

    def test_what_is_too_large_for_a_value_is_reported_with_the_way_out(self):
        self.start()
        self.comes("".join(f'node_load1{{n="{n}"}} 1\n' for n in range(400)).encode())
        told = "a value has 4096 bytes at most, encoded: choose fewer metrics"
        self.assertEqual((self.reports, self.feed.latest()), ([("node", told)], None))

    def test_it_waits_ten_seconds_or_a_period_and_no_longer(self):
        for every, seconds in ((15.0, SCRAPE_SECONDS), (10.5, SCRAPE_SECONDS), (2.0, 2.0)):
            self.start(every=every)
            self.clock.advance(seconds - 0.1)
            self.assertEqual((self.source.cancelled, self.reports), (0, []))
            self.clock.advance(0.1)
            self.assertEqual(self.source.cancelled, 1)
            self.assertEqual(self.reports, [("node", f"no answer, or no end of it, within {seconds:g} s")])
            self.assert_stops()
            self.source, self.reports[:] = Source(), []

    def test_one_that_has_come_is_no_longer_waited_for(self):
        self.calls = []
        self.start()
        self.comes()
        self.clock.advance(14)
        self.assertEqual((self.calls[0].called, self.reports), (0, []))

    def test_there_is_one_scrape_at_a_time(self):
        self.calls = []
        self.start()
        self.comes()
        self.clock.advance(100)
        self.assertEqual(self.source.asked, [])

    def test_stopping_ends_the_scrape_in_hand_and_says_nothing_of_it(self):
        self.start()
        stopped = self.scraper.stopService()
        self.assertEqual((self.source.cancelled, self.source.closed, self.reports), (1, 1, []))
        self.assertNoResult(stopped)
        self.source.closing.callback(None)
        self.successResultOf(stopped)

    def test_what_a_thread_finds_out_after_the_stop_is_not_published(self):
        self.calls = []
        self.start()
        self.comes()
        self.scraper.stopService()
        self.calls[0].callback({"node_load1": 1.0})
        self.assertEqual((self.feed.latest(), self.reports), (None, []))

    def test_stopping_twice_or_before_the_start_is_nothing(self):
        self.successResultOf(self.scraper.stopService())
        self.start()
        self.scraper.stopService()
        self.successResultOf(self.scraper.stopService())
        self.assertEqual(self.source.closed, 1)

    def test_it_can_be_started_again(self):
        self.start()
        self.scraper.stopService()
        self.source.asked.clear()
        self.start()
        self.comes()
        self.assertEqual(self.feed.latest().sequence, 1)
