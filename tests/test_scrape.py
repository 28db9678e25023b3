import gc
import math
import socket

from doubles import EPOCH, Network
from OpenSSL import SSL
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from twisted.internet.defer import CancelledError, Deferred, execute, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from clockd import __version__, scrape
from clockd.certificate import ClientTLS
from clockd.errors import Misconfigured
from clockd.feeds import LatestFeed
from clockd.scrape import (
    ANSWER_BYTES,
    HEAD_BYTES,
    LINE_BYTES,
    MOST_SAMPLES,
    SCRAPE_SECONDS,
    Answer,
    Exporter,
    Scraper,
    exporter_for,
    page_of,
    selector_for,
)
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
        for line in (
            *(b"a x", b'a{b="c} 1', b"a{b} 1", b"a{b=c} 1", b"a 1_0", b'a{b="c",b="d"} 1', b"a \xff", b"a 0x10"),
            *(
                b"a{ 1",
                b'a{b="} 1',
                b'a{__name__="b"} 1',
                b'a{b="c"}',
                b'a{b="c" d="e"} 1',
                b'a{b="\xff"} 1',
            ),
        ):
            with self.assertRaises(ValueError, msg=line) as caught:
                choose(b"b 1\n" + line + b"\nb 1", ["a"])
            told = "the page has a line that is not in Prometheus' text format: "
            self.assertEqual(str(caught.exception), told + line.decode(errors="backslashreplace"))

    def test_lines_of_others_are_not_looked_at(self):
        self.assertEqual(choose(b"b{ x\n# TYPE\n\xff\na 1\r\nb", ["a"]), {"a": 1.0})

    def test_a_line_may_have_blanks_a_moment_and_a_comma_too_many(self):
        for line in (
            'a{b="c",}1',
            '\ta {b = "c" , } 1',
            'a{b="c"} 1 1395066363000',
            'a{ b="c"}\t1\t-5',
            'a{b="c"} 1 # {d="e"} 5',
        ):
            self.assertEqual(choose(line.encode(), ["a"]), {'a{b="c"}': 1.0}, line)

    def test_a_number_of_many_digits_is_one(self):
        self.assertEqual(choose(b"a " + 400 * b"9", ["a"]), {"a": math.inf})
        self.assertEqual(choose(b"a -" + 400 * b"9", ["a"]), {"a": -math.inf})

    def test_labels_are_read_as_prometheus_own_library_writes_them(self):
        registry = CollectorRegistry()
        gauge = Gauge("a", "", ["b", "c"], registry=registry)
        texts = ["", "\\", "\n", '"', '\\"', "\\n", "},{", "\u2028 \x0b\r", "\U0001f600\xe9", ' a="b",', '\\\\\n"x']
        for number, text in enumerate(texts):
            gauge.labels(text, texts[-1 - number]).set(number)
        page = generate_latest(registry)
        found = choose(page, ["a"])
        self.assertEqual(len(found), len(texts))
        self.assertEqual(choose(page, [r'a{b="\n"}']), {'a{b="\\n",c="\U0001f600\xe9"}': 2.0})

    def test_a_line_may_be_as_long_as_it_may_and_no_longer(self):
        longest = b'a{b="' + b"c" * (LINE_BYTES - 10) + b'"} 1\n'
        self.assertEqual(len(longest), LINE_BYTES)
        self.assertEqual(list(choose(longest, ["a"]).values()), [1.0])
        with self.assertRaisesRegex(ValueError, f'^the page has a line of more than {LINE_BYTES} bytes: a{{b="ccc'):
            choose(b"b 1\n" + longest.replace(b"} 1", b"}  1"), ["a"])
        for others in (b"b" + longest, b" " * 2 * LINE_BYTES + b"a 1"):
            with self.assertRaisesRegex(ValueError, "none of the metrics"):
                choose(others, ["a"])

    def test_a_line_costs_no_more_than_its_bytes(self):
        for line in (b"a{" + b"b=," * 2**20 + b"} 1", b'a{b="' + b'\\"' * 2**20 + b'"} 1', b"a" + b" " * 2**20):
            with self.assertRaisesRegex(ValueError, "^the page has a line of more"):
                choose(line, ["a"])

    def test_more_samples_than_any_value_has_are_an_error(self):
        page = b"".join(b'a{b="%d"} 1\n' % number for number in range(MOST_SAMPLES + 1))
        self.assertEqual(len(choose(page[: page.rindex(b"a")], ["a"])), MOST_SAMPLES)
        with self.assertRaisesRegex(ValueError, f"^more than {MOST_SAMPLES} samples: choose fewer metrics$"):
            choose(page, ["a"])
        self.assertEqual(len(choose(page, ['a{b="7"}'])), 1)


class ExporterForTests(SynchronousTestCase):
    def test_what_is_no_url_is_told_with_its_key(self):
        for url in (
            *("http://", "http:///metrics", "http://:9100/", "http://a:x/", "http://a:0/", "http://a:65536/"),
            *("http://alice:secret@a/", "http://a b/", "http://a/ b", "http://a/\n", "http://[::1/", "http://\xe4/"),
            *("ftp://a/", "a:9100", "http://a..b/", "http://::1/", "http://a/#b", "http://a#b", "http://a:/"),
            *(
                f"{scheme}://{host}"
                for scheme in ("http", "https")
                for host in ("[::::]/", "[:]", "[1.2.3.4]/", "a" * 64)
            ),
            *("", "a", "HTTP://a", " http://a", "http://a/\x00"),
        ):
            with self.assertRaises(Misconfigured) as caught:
                exporter_for("feeds.node.url", url, MemoryReactorClock(), None)
            told = "is no URL such as http://localhost:9100/metrics, without a name, a password or a #"
            self.assertEqual(str(caught.exception), f"feeds.node.url: {url}: {told}")

    def connect(self, url, found=None):
        """Connect to where a URL leads; the name is looked up at once, or found there."""
        self.reactor, self.connected = MemoryReactorClock(), []

        def in_thread(what):
            return execute(what) if found is None else succeed([(*each[:1], None, 0, "", each[1]) for each in found])

        exporter = exporter_for("", url, self.reactor, in_thread)
        Deferred.fromCoroutine(exporter.answer()).addBoth(self.connected.append)
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
        host = ".".join(["a" * 60] * 5)  # which is refused before a name server is asked
        self.connect(f"http://{host}/")
        self.assertIn(f"{host} is not found: [Errno", self.connected[0].getErrorMessage())

    def test_who_does_not_wait_any_more_hears_nothing_of_a_name(self):
        asked = Deferred()
        reactor = MemoryReactorClock()
        answer = Deferred.fromCoroutine(exporter_for("", URL, reactor, lambda _: asked).answer())
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        asked.callback([(socket.AF_INET, None, 0, "", ("127.0.0.1", 9100))])
        self.assertEqual(reactor.tcpClients, [])

    def test_what_is_sent_is_a_request_for_one_page(self):
        for url, line, host in (
            (URL, "GET /metrics HTTP/1.1", "127.0.0.1:9100"),
            ("http://a", "GET / HTTP/1.1", "a"),
            ("http://a?b=c", "GET /?b=c HTTP/1.1", "a"),
            ("http://[::1]:00080/%zz/?x", "GET /%zz/?x HTTP/1.1", "[::1]:00080"),
        ):
            self.connect(url, [(socket.AF_INET, ("127.0.0.1", 80))])
            ((_, _, factory, *_),) = self.reactor.tcpClients
            transport = StringTransport()
            factory.buildProtocol(None).makeConnection(transport)
            first, *headers, end, rest = transport.value().decode().split("\r\n")
            self.assertEqual((first, end, rest), (line, "", ""))
            self.assertEqual(
                sorted(headers),
                [
                    "Accept-Encoding: identity",
                    "Accept: text/plain;version=0.0.4",
                    "Connection: close",
                    f"Host: {host}",
                    f"User-Agent: clockd/{__version__}",
                ],
            )

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


class Server(Protocol):
    """Sends what the test writes; `got` is what it was sent."""

    def __init__(self):
        self.got = b""

    def dataReceived(self, data):
        self.got += data


class ExporterTests(SynchronousTestCase):
    HEAD = b"HTTP/1.1 200 OK\r\n\r\n"

    def setUp(self):
        self.clock = Clock()
        factory = Factory.forProtocol(Server)
        factory.noisy = False
        self.network = Network(factory, self.clock)
        self.exporter = Exporter(self.network, b"GET /")
        self.addCleanup(self.assert_closed)

    def assert_closed(self):
        self.assertEqual([wire for wire in self.network.wires if not wire.clientIO.reported], [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def ask(self):
        """Ask; returns what comes, in a list."""
        came = []
        self.asked = Deferred.fromCoroutine(self.exporter.answer())
        self.asked.addBoth(came.append)
        self.network.flush()
        return came

    def comes(self, *parts, ends=None):
        """Have these bytes come to who has asked, and the connection end well, or be cut; returns what came of it."""
        came = self.ask()
        there = self.network.wires[-1].serverIO
        for part in parts:
            there.write(part)
            self.network.flush()
        if ends == "well":
            there.loseConnection()
        elif ends == "cut":
            self.network.wires[-1].cut()
        self.network.flush()
        (found,) = came
        return found.getErrorMessage() if isinstance(found, Failure) else (bytes(found.data), found.whole)

    def test_the_request_is_sent_and_the_answer_comes(self):
        self.assertEqual(self.comes(self.HEAD + PAGE, ends="well"), (self.HEAD + PAGE, True))
        self.assertEqual(self.network.wires[0].server.got, b"GET /")

    def test_an_answer_that_says_how_long_it_is_is_not_waited_for_any_longer(self):
        for head in (
            *(b"Content-Length: 4\r\n\r\n", b"a: b\r\ncontent-length:4 \r\nc: d\r\n\r\n"),
            *(b"CONTENT-LENGTH:\t0004\r\n\r\n", b"a: b\nContent-Length: 4\n\n"),
        ):
            answer = b"HTTP/1.1 200 OK\r\n" + head
            for parts in ([answer, b"a ", b"1\n"], [answer + b"a 1\n"], [bytes([byte]) for byte in answer + b"a 1\n"]):
                self.assertEqual(self.comes(*parts), (answer + b"a 1\n", True))

    def test_one_in_chunks_is(self):
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        parts = [head, b"1\r\na", b"\r\n0\r\n\r\n"]
        self.assertEqual(self.comes(*parts, ends="well"), (b"".join(parts), True))

    def test_one_whose_connection_is_cut_may_not_be_whole(self):
        self.assertEqual(self.comes(self.HEAD + b"a 1", ends="cut"), (self.HEAD + b"a 1", False))

    def test_no_answer_is_an_error(self):
        self.assertEqual(self.comes(ends="well"), "the exporter has ended the connection without an answer")
        self.assertEqual(self.comes(ends="cut"), str(ConnectionLost()))
        self.network.down = Refused()
        ((failure,),) = [self.ask()]
        failure.trap(Refused)

    def test_one_may_be_as_long_as_it_may_and_no_longer(self):
        longest = self.HEAD + b"x" * (ANSWER_BYTES - len(self.HEAD))
        self.assertEqual(self.comes(longest, ends="well"), (longest, True))
        for parts in ([longest, b"x"], [longest + b"x", b"x"]):
            self.assertEqual(self.comes(*parts), f"the answer is longer than {ANSWER_BYTES} bytes")
            self.assertTrue(self.network.wires[-1].clientIO.aborted)

    def test_so_may_its_head(self):
        head = self.HEAD[:-4] + b"\r\na: "
        head += b"x" * (HEAD_BYTES - len(head) - 4) + b"\r\n\r\n"
        self.assertEqual(self.comes(head, b"a 1", ends="well"), (head + b"a 1", True))
        for parts in ([b"x" + head], [head[:-4] + b"xx", b"xx", b"x"], [b"a:b\r\n" * 20000]):
            self.assertEqual(self.comes(*parts), f"the head of the answer is longer than {HEAD_BYTES} bytes")
            self.assertTrue(self.network.wires[-1].clientIO.aborted)

    def test_what_comes_after_it_is_not_kept(self):
        came = self.ask()
        asking = self.network.wires[0].client
        asking.dataReceived(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na 1")
        asking.dataReceived(b"x" * 100)
        self.network.flush()
        ((answer,),) = [came]
        self.assertEqual(bytes(answer.data[-3:]), b"a 1")

    def test_to_cancel_ends_the_connection_whatever_it_waits_for(self):
        for part in (b"", b"HTTP/1.1 2", self.HEAD + b"a"):
            came = self.ask()
            self.network.wires[-1].serverIO.write(part)
            self.network.flush()
            self.asked.cancel()
            self.network.flush()
            self.assertEqual(len(came), 1)
            self.assertTrue(self.network.wires[-1].clientIO.reported)
        self.network.delays = True
        came = self.ask()
        self.asked.cancel()
        self.assertEqual((len(came), len(self.network.wires)), (1, 3))


class PageTests(SynchronousTestCase):
    def page(self, head, body=b"", whole=True):
        return page_of(Answer(bytearray(head + b"\r\n\r\n" + body), whole))

    def test_it_is_what_is_behind_the_head(self):
        for head, body in (
            (b"HTTP/1.1 200 OK", b"a 1"),
            (b"HTTP/1.0 200 OK\r\na: b", b"a 1"),
            (b"HTTP/1.1 200", b"a 1"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3", b"a 1zzz"),
            (b"HTTP/1.1 200 OK\r\nContent-Encoding: Identity", b"a 1"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"1\r\na\r\n2;b=c\r\n 1\r\n0\r\n\r\n"),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", b"a 1"),
        ):
            self.assertEqual(self.page(head, body), b"a 1")

    def test_one_that_ends_itself_is_whole_also_when_the_connection_was_cut(self):
        self.assertEqual(self.page(b"HTTP/1.1 200 OK\r\nContent-Length: 3", b"a 1", whole=False), b"a 1")
        chunks = b"3\r\na 1\r\n0\r\n\r\n"
        self.assertEqual(self.page(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", chunks, whole=False), b"a 1")

    def test_one_that_breaks_off_is_an_error(self):
        for head, body, whole in (
            (b"HTTP/1.1 200 OK", b"a 1", False),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 4", b"a 1", True),
            (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30, b"a 1", True),
            *(
                (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", body, True)
                for body in (b"", b"3\r\na 1", b"3\r\na 1\r\n", b"4\r\na 1", b"zz\r\na 1", b"f" * 16 + b"\r\na 1")
            ),
        ):
            with self.assertRaisesRegex(ValueError, "^the page breaks off(, or its chunks make no sense)?$"):
                self.page(head, body, whole)

    def test_another_status_than_200_is_an_error(self):
        for code, phrase in (
            (404, b"Not Found"),
            (302, b"Found"),
            (204, b"No Content"),
            (500, b"Internal"),
            (103, b""),
        ):
            with self.assertRaises(ConnectionError) as caught:
                self.page(b"HTTP/1.1 %d %s" % (code, phrase))
            self.assertEqual(str(caught.exception).strip(), f"the exporter answers {code} {phrase.decode()}".strip())

    def test_what_is_no_http_is_told_in_words(self):
        for head, told in (
            (b"a 1\n", "a 1"),
            (b"HTTP/1.1", "HTTP/1.1"),
            (b"HTTP/1.1 abc OK", "HTTP/1.1 abc OK"),
            (b"HTTP/1.1 -200 OK", "HTTP/1.1 -200 OK"),
            (b"HTTP/9.9 200 OK", "HTTP/9.9"),
            (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 101, "got more than 100 headers"),
            (b"\x00" * 70000, "got more than 65536 bytes when reading status line"),
        ):
            with self.assertRaises(ValueError) as caught:
                self.page(head)
            self.assertEqual(str(caught.exception), f"the answer is no HTTP: {told}")

    def test_strange_lines_of_a_head_do_no_harm(self):
        for line in (b"no colon here", b"\0: \0", b": x", b" folded", b"Content-Length: -5", b"Content-Length: zz"):
            self.assertEqual(self.page(b"HTTP/1.1 200 OK\r\n" + line, b"a 1")[-3:], b"a 1")

    def test_a_page_that_is_encoded_is_an_error(self):
        with self.assertRaisesRegex(ValueError, "^the page is encoded, gzip, which was not asked for$"):
            self.page(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip", b"\x1f\x8b")


class Source:
    """Answers that the test gives by hand, through `asked`."""

    def __init__(self):
        self.asked = []
        self.cancelled = 0

    async def answer(self):
        self.asked.append(Deferred(self.cancel))
        return await self.asked[-1]

    def cancel(self, _):
        self.cancelled += 1


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
        if isinstance(page, Exception):
            asked.errback(page)
        else:
            asked.callback(Answer(bytearray(b"HTTP/1.1 200 OK\r\n\r\n" + page), True))

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
            (SSL.Error([("", "", "unknown ca")]), "unknown ca; does it listen there with TLS, and for this client?"),
            (b"", "the page has none of the metrics node_load1"),
        ):
            self.clock.advance(15)
            self.comes(error)
            self.assertEqual(self.reports.pop(), ("node", words))
        self.assertIs(self.feed.latest(), before)
        self.clock.advance(15)
        self.comes()
        self.assertEqual((self.feed.latest().sequence, self.feed.latest().stamp), (2, EPOCH + 75))

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
        self.scraper.stopService()
        self.assertEqual((self.source.cancelled, self.reports), (1, []))

    def test_what_a_thread_finds_out_after_the_stop_is_not_published(self):
        self.calls = []
        self.start()
        self.comes()
        self.scraper.stopService()
        self.calls[0].callback({"node_load1": 1.0})
        self.assertEqual((self.feed.latest(), self.reports), (None, []))

    def test_stopping_twice_or_before_the_start_is_nothing(self):
        self.scraper.stopService()
        self.start()
        self.scraper.stopService()
        self.scraper.stopService()
        self.assertEqual(self.source.cancelled, 1)

    def test_it_can_be_started_again(self):
        self.start()
        self.scraper.stopService()
        self.source.asked.clear()
        self.start()
        self.comes()
        self.assertEqual(self.feed.latest().sequence, 1)
