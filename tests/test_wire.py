import math
import struct
from io import BytesIO

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase

from clockd.values import Sample
from clockd.wire import _SOME_REQUEST, _SOME_STAMP, Encoder, PushTemplate, SampleEncoder

DIALECTS = (b"pb", b"none")
MARKER = struct.pack("!d", _SOME_STAMP)

dialects = st.sampled_from(DIALECTS)
minds = st.one_of(st.integers(1, 2**31 - 1), st.integers(1, 300), st.just(_SOME_REQUEST), st.just(2**31 - 2))
# any bits at all: both infinities, both zeros, subnormals and every kind of NaN
stamps = st.one_of(
    st.binary(min_size=8, max_size=8).map(lambda data: struct.unpack("!d", data)[0]),
    st.floats(1.6e9, 2.2e9),
    st.sampled_from([math.inf, -math.inf, math.nan, 0.0, -0.0, 5e-324, _SOME_STAMP]),
)
# one of each length that Banana gives a number, up to its largest; from 2**31 on they are of another type
requests = st.one_of(
    st.integers(0, 448).flatmap(lambda bits: st.integers(2**bits // 2, 2**bits - 1)),
    st.sampled_from([n for bits in (7, 14, 21, 28, 31, 32, 448) for n in (2**bits - 2, 2**bits - 1)]),
    st.sampled_from([2**bits for bits in (7, 14, 21, 28, 31, 32)]),
)


def template(dialect, mind):
    return PushTemplate(SampleEncoder(dialect), mind)


def time(stamp):
    return Sample("time", None, stamp, stamp)


class Transport(BytesIO):
    def getHost(self):
        return None

    getPeer = getHost


class StockTests(SynchronousTestCase):
    """Twisted's own broker does the same calls, and the bytes are compared."""

    def stock(self, dialect):
        broker = pb.Broker(isClient=False)
        broker.makeConnection(Transport())
        broker.currentDialect = dialect
        broker.transport = Transport()
        return broker

    def pushed(self, dialect, mind, request, stamp, **keywords):
        """Return what Twisted writes for `callRemote` on a mind of this id, if `request` is the number it is given."""
        broker = self.stock(dialect)
        broker.newRequestID = lambda: request
        answer = pb.RemoteReference(None, broker, mind, 0).callRemote("notifyTime", stamp, **keywords)
        return broker.transport.getvalue(), answer

    @given(dialects, minds, stamps)
    @example(b"pb", _SOME_REQUEST, 1.7e9)
    @example(b"none", 1, _SOME_STAMP)
    def test_a_push_that_wants_no_answer_has_the_bytes_of_twisted_s(self, dialect, mind, stamp):
        expected, answer = self.pushed(dialect, mind, 0, stamp, pbanswer=False)
        self.assertIsNone(answer)
        self.assertEqual(template(dialect, mind).one_way(time(stamp)), expected)

    @given(dialects, minds, requests, stamps)
    @example(b"pb", _SOME_REQUEST, _SOME_REQUEST, _SOME_STAMP)
    @example(b"none", _SOME_REQUEST, 1, 1.7e9)
    @example(b"pb", 1, _SOME_REQUEST, 1.7e9)
    def test_a_push_that_wants_an_answer_has_the_bytes_of_twisted_s(self, dialect, mind, request, stamp):
        expected, answer = self.pushed(dialect, mind, request, stamp)
        self.assertNoResult(answer)
        self.assertEqual(template(dialect, mind).asking(request, time(stamp)), expected)

    @given(dialects, minds, requests)
    @example(b"pb", 1, _SOME_REQUEST)
    @example(b"none", _SOME_REQUEST, _SOME_REQUEST)
    def test_the_answer_none_has_the_bytes_of_a_stock_client_s(self, dialect, mind, request):
        client = self.stock(dialect)
        client.setNameForLocal("mind", Mind())
        client.proto_message(request, "mind", b"notifyTime", 1, [b"tuple", 1.5], [b"dictionary"])
        self.assertEqual(template(dialect, mind).answer(request), client.transport.getvalue())

    @given(dialects, minds, st.lists(st.tuples(requests, stamps), min_size=2, max_size=4))
    def test_a_template_is_as_good_the_second_time(self, dialect, mind, pushes):
        used = template(dialect, mind)
        for request, stamp in pushes:
            fresh = template(dialect, mind)
            self.assertEqual(used.one_way(time(stamp)), fresh.one_way(time(stamp)))
            self.assertEqual(used.asking(request, time(stamp)), fresh.asking(request, time(stamp)))
            self.assertEqual(used.answer(request), fresh.answer(request))

    def test_a_stamp_of_any_bits_keeps_them(self):
        for dialect in DIALECTS:
            for bits in (MARKER, MARKER[::-1], b"\xff" * 8, b"\x7f\xf0" + b"\x00" * 5 + b"\x01", b"\x80" * 8):
                stamp = struct.unpack("!d", bits)[0]
                push = template(dialect, 1).one_way(time(stamp))
                self.assertIn(b"\x84" + bits, push)
                self.assertIn(b"\x84" + bits, template(dialect, 1).asking(1, time(stamp)))


class EncoderTests(SynchronousTestCase):
    def test_only_the_dialect_pb_abbreviates_words(self):
        self.assertEqual(Encoder(b"pb").encode(b"message"), b"\x1a\x87")
        self.assertEqual(Encoder(b"none").encode(b"message"), b"\x07\x82message")

    def test_an_encoder_keeps_nothing_of_what_it_encoded_before(self):
        encode = Encoder(b"pb").encode
        self.assertEqual([encode([1]), encode([1])], [b"\x01\x80\x01\x81"] * 2)


class Mind(pb.Referenceable):
    def remote_notifyTime(self, stamp):
        return None
