import math
import struct
import sys
import tracemalloc
from decimal import Decimal
from io import BytesIO
from threading import Event, Thread

from hypothesis import assume, example, given
from hypothesis import strategies as st
from twisted.spread import banana, pb
from twisted.spread.jelly import jelly
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import InvalidValue
from clockd.feeds import LatestFeed
from clockd.values import FeedTally, Sample
from clockd.wire import (
    _SOME_REQUEST,
    _SOME_STAMP,
    MOST,
    VALUE_BYTES,
    VALUE_DEPTH,
    Encoder,
    PushTemplate,
    SampleEncoder,
    ValueEncoder,
    decode_value,
)

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
words = st.sampled_from(sorted(banana.Banana.outgoingVocabulary))
atoms = st.one_of(
    *(st.none(), st.booleans(), stamps, requests, requests.map(lambda number: -number)),
    *(st.text(max_size=20), st.binary(max_size=20), words, words.map(bytes.decode)),
)
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(atoms, inner, max_size=4),
    ),
    max_leaves=20,
)


def template(dialect, mind):
    return PushTemplate(SampleEncoder(dialect), mind)


def time(stamp):
    return Sample("time", None, stamp, stamp)


def containers(value):
    """Return a value's containers, each as often as it occurs, and how many lie in each other."""
    if type(value) not in {list, tuple, dict}:
        return [], 0
    inner = [containers(item) for item in (value.values() if type(value) is dict else value)]
    return [value, *(each for found, _ in inner for each in found)], 1 + max((depth for _, depth in inner), default=0)


def shares(value):
    """Tell whether a container occurs twice; there is only one empty tuple."""
    found, _ = containers(value)
    return len({id(each) for each in found}) < len(found)


def nested(kind, levels):
    """Return so many containers in each other."""
    value = 1
    for _ in range(levels):
        value = {"in": value} if kind is dict else kind([value])
    return value


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

    def pushed(self, dialect, mind, request, *arguments, method="notifyTime", **keywords):
        """Return what Twisted writes for `callRemote` on a mind of this id, if `request` is the number it is given."""
        broker = self.stock(dialect)
        broker.newRequestID = lambda: request
        answer = pb.RemoteReference(None, broker, mind, 0).callRemote(method, *arguments, **keywords)
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

    @given(dialects, minds, requests, st.text(max_size=64) | words.map(bytes.decode), requests, stamps, values)
    @example(b"pb", 1, 1, "load", 1, 1.7e9, (1, [2.5, {"a": None}]))
    @example(b"none", _SOME_REQUEST, _SOME_REQUEST, "list", _SOME_REQUEST, _SOME_STAMP, _SOME_STAMP)
    @example(b"pb", 1, _SOME_REQUEST, "notifySample", _SOME_REQUEST, 1.7e9, [b"notifySample", [_SOME_STAMP]])
    def test_a_sample_has_the_bytes_of_twisted_s(self, dialect, mind, request, feed, sequence, stamp, value):
        assume(not shares(value) and containers(value)[1] <= VALUE_DEPTH)
        sample = Sample(feed, sequence, stamp, value)
        arguments, method = (feed, sequence, stamp, value), "notifySample"
        expected, _ = self.pushed(dialect, mind, 0, *arguments, method=method, pbanswer=False)
        self.assertEqual(template(dialect, mind).one_way(sample), expected)
        expected, answer = self.pushed(dialect, mind, request, *arguments, method=method)
        self.assertNoResult(answer)
        self.assertEqual(template(dialect, mind).asking(request, sample), expected)


class ValueTests(SynchronousTestCase):
    def setUp(self):
        self.encode = ValueEncoder(b"pb").encode

    def refused(self, value, words, most=VALUE_BYTES):
        with self.assertRaisesRegex(InvalidValue, words):
            self.encode(value, most)

    @given(dialects, values)
    @example(b"pb", [()])
    @example(b"none", {None: {True: {1.5: {"a": b"b"}}}})
    def test_it_encodes_as_jelly_and_banana_do(self, dialect, value):
        assume(not shares(value) and containers(value)[1] <= VALUE_DEPTH)
        self.assertEqual(ValueEncoder(dialect).encode(value, 10**9), Encoder(dialect).encode(jelly(value)))

    def test_every_number_of_digits_of_an_int_is_banana_s(self):
        numbers = {sign * (2**bits + more) for bits in range(448) for more in (-1, 0, 1) for sign in (-1, 1)}
        for dialect in DIALECTS:
            encode, banana_s = ValueEncoder(dialect).encode, Encoder(dialect).encode
            for number in numbers | {MOST, -MOST, 0}:
                self.assertEqual(encode(number), banana_s(number))

    def test_a_container_that_occurs_twice_is_written_out_twice(self):
        inner = [1, (2,), {"a": 3}]
        for value, copied in (
            ([inner, inner], [[1, (2,), {"a": 3}], [1, (2,), {"a": 3}]]),
            ({"a": inner, "b": (inner,)}, {"a": [1, (2,), {"a": 3}], "b": ([1, (2,), {"a": 3}],)}),
        ):
            self.assertEqual(self.encode(value), b"".join(self.written_out(copied)))
            self.assertIn(b"dereference", repr(jelly(value)).encode())

    def written_out(self, value):
        """Yield the bytes of a value whose containers are all encoded apart."""
        encode, kind = Encoder(b"pb").encode, type(value)
        if kind not in {list, tuple, dict}:
            yield encode(jelly(value))
            return
        yield bytes([len(value) + 1]) + banana.LIST + encode(kind.__name__.replace("dict", "dictionary").encode())
        for item in value.items() if kind is dict else value:
            if kind is dict:
                yield b"\x02" + banana.LIST + encode(jelly(item[0]))
            yield from self.written_out(item[1] if kind is dict else item)

    def test_it_may_have_4096_bytes_and_no_more(self):
        for longest in (
            b"x" * 4093,
            "x" * 4082,
            [0] * 2044 + [128],
            (b"x" * 4089,),
            {1: b"x" * 4085},
            {b"x" * 4085: 1},
        ):
            encoded = Encoder(b"pb").encode(jelly(longest))
            self.assertEqual((len(encoded), self.encode(longest)), (4096, encoded))
        for longer in (b"x" * 4094, "x" * 4083, "ä" * 2042, [0] * 2046, (b"x" * 4090,), {1: b"x" * 4086}):
            self.refused(longer, "^a value has 4096 bytes at most, encoded$")

    def test_what_is_much_too_long_is_refused_before_it_is_encoded(self):
        self.refused("\ud800" * (8 * VALUE_BYTES + 1), "^a value has 4096 bytes at most, encoded$")
        for value in (bytes(2**24), [bytes(2**24)], {bytes(2**24): 1}):
            tracemalloc.start()
            self.addCleanup(tracemalloc.stop)
            self.refused(value, "^a value has 4096 bytes at most, encoded$")
            self.assertLess(tracemalloc.get_traced_memory()[1], 2**20)

    def test_another_bound_holds_where_one_is_named(self):
        self.assertEqual(len(self.encode(b"x" * 8, 10)), 10)
        self.refused(b"x" * 9, "^a value has 10 bytes at most, encoded$", 10)

    def test_four_containers_may_lie_in_each_other_and_no_more(self):
        for kind in (list, tuple, dict):
            encoded = Encoder(b"pb").encode(jelly(nested(kind, 4)))
            self.assertEqual(self.encode(nested(kind, 4)), encoded)
            self.refused(nested(kind, 5), "^a value has 4 levels at most$")
        self.encode([{"a": ([],)}])
        self.refused([{"a": ([()],)}], "4 levels")

    def test_one_that_holds_itself_is_too_deep(self):
        value = []
        value.append(value)
        self.refused(value, "4 levels")

    def test_an_int_is_one_that_banana_takes(self):
        for beyond in (MOST + 1, -MOST - 1, 10**4000, -(10**4000)):
            for value in (beyond, [beyond], {"a": beyond}, {beyond: 1}):
                self.refused(value, r"^an int of a value is within 2\*\*448 of 0$")

    def test_text_is_such_as_utf_8_has(self):
        for value in ("\ud800", ["a\udfff"], {"\udc80": 1}):
            self.refused(value, "cannot be written as UTF-8")

    def test_nothing_else_is_a_value(self):
        subclasses = [type("Own", (kind,), {})() for kind in (int, float, str, bytes, list, tuple, dict)]
        strange = (object(), object, len, 1j, Decimal(1), {1}, frozenset(), bytearray(b"a"), range(2), iter([]))
        for value in (*strange, *subclasses, pb.RemoteReference(None, None, 1, 0)):
            for holder in (value, [value], (1, value), {"a": value}):
                self.refused(holder, "^a value is None, bool, int, float, str, bytes, or lists, tuples and dicts of")

    def test_a_key_is_no_container(self):
        for key in (1, 1.5, None, True, "a", b"a"):
            self.assertEqual(self.encode({key: 1}), Encoder(b"pb").encode(jelly({key: 1})))
        for key in ((), (1,), frozenset(), object()):
            self.refused({key: 1}, "^a value is None")

    def test_one_that_would_never_end_ends_early(self):
        for kind in (list, tuple):
            bomb = 1
            for _ in range(4):
                bomb = kind([bomb]) * 100_000  # 10**20 numbers, if written out
            self.refused(bomb, "4096 bytes")
        bomb = dict.fromkeys(range(1000), dict.fromkeys(range(1000), dict.fromkeys(range(1000), [1] * 1000)))
        self.refused(bomb, "4096 bytes")

    def test_one_that_another_thread_changes_meanwhile_is_whole_or_refused(self):
        value, enough = [[1] * 100, dict.fromkeys(range(50))], Event()

        def change():
            while not enough.is_set():
                value[0].append(1)
                value[1][50] = 1
                value[0].pop()
                del value[1][50]

        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)
        thread = Thread(target=change)
        thread.start()
        try:
            for _ in range(500):
                self.assert_whole(value)
        finally:
            enough.set()
            thread.join()

    def assert_whole(self, value):
        try:
            encoded = self.encode(value)
        except InvalidValue:
            return
        reader = banana.Banana()
        reader.connectionMade()
        reader.currentDialect, found = b"pb", []
        reader.callExpressionReceived = found.append
        reader.dataReceived(encoded)
        self.assertEqual((len(found), reader.buffer), (1, b""))


class DecodingTests(SynchronousTestCase):
    def setUp(self):
        self.encode = ValueEncoder(b"pb").encode

    def refused(self, encoded):
        with self.assertRaisesRegex(InvalidValue, "^the bytes are those of no value$"):
            decode_value(encoded)

    @given(values)
    @example([(), {}, [], {None: (True, False, b"", "")}])
    @example({1: [b"list", b"None", "unicode"], -(2**40): (math.inf, -0.0)})
    @example([[1], [1]])
    def test_every_value_that_is_encoded_comes_back_as_it_was(self, value):
        assume(containers(value)[1] <= VALUE_DEPTH)
        encoded = self.encode(value)
        decoded = decode_value(encoded)
        self.assertEqual(repr(decoded), repr(value))  # it tells types and signs apart, and takes NaN for NaN
        self.assertEqual(self.encode(decoded), encoded)

    def test_the_longest_and_the_deepest_come_back(self):
        for value in (b"x" * 4093, "x" * 4082, [0] * 2044 + [128], MOST, -MOST, *(nested(k, 4) for k in (list, dict))):
            self.assertEqual(decode_value(self.encode(value)), value)

    @given(st.binary(max_size=100))
    @example(b"")
    def test_any_bytes_are_a_value_s_or_refused(self, encoded):
        try:
            value = decode_value(encoded)
        except InvalidValue:
            return
        self.assertEqual(self.encode(value), encoded)

    @given(values, st.data())
    def test_a_part_of_a_value_and_one_with_more_behind_it_are_refused(self, value, data):
        assume(containers(value)[1] <= VALUE_DEPTH)
        encoded = self.encode(value)
        self.refused(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
        self.refused(encoded + encoded)
        self.refused(encoded + b"\x80")

    def test_what_is_no_value_is_refused(self):
        encode = Encoder(b"pb").encode
        for jelly_ in (
            [b"remote", 1],
            [b"local", b"root"],
            [b"set", 1],
            [b"datetime", b"2026 1 1 0 0 0 0"],
            [b"decimal", 1, 1],
            [b"module", b"os"],
            [b"os.system", [b"dictionary"]],
            [b"reference", 1, [b"list"]],
            [b"dereference", 1],
            [b"boolean", b"perhaps"],
            [b"unicode", b"\xff"],
            [b"dictionary", [[b"list"], 1]],
            [b"dictionary", [1, 2], [1, 3]],
            [b"None", 1],
            [1, 2],
            [],
        ):
            for value in (jelly_, [b"list", jelly_]):
                self.refused(encode(value))

    def test_one_that_is_too_deep_or_too_long_is_refused(self):
        encode = Encoder(b"pb").encode
        for value in (nested(list, 5), nested(dict, 5), b"x" * 4094):
            self.refused(encode(jelly(value)))
        for encoded in (65 * b"\x01" + banana.LONGINT, 2047 * b"\x01\x80" + b"\x01\x81", 10**6 * b"\x01\x80"):
            self.refused(encoded)


class SampleTests(SynchronousTestCase):
    def test_the_sample_asked_for_last_is_kept_and_each_feed_s_apart(self):
        encoder = SampleEncoder(b"pb")
        one, other = Sample("a", 1, 1.5, [1]), Sample("b", 1, 1.5, [1])
        seen = [encoder.arguments(sample) for sample in (one, other, one, other)]
        self.assertIs(seen[0], seen[2])
        self.assertIs(seen[1], seen[3])
        self.assertNotEqual(seen[0], seen[1])

    def test_the_next_sample_of_a_feed_has_its_own_bytes_whatever_equals_what(self):
        encoder = SampleEncoder(b"pb")
        for sample in (Sample("a", 1, 1.5, 1), Sample("a", 1, 1.5, True), Sample("a", 1, 1.5, 1.0)):
            self.assertEqual(encoder.arguments(sample), SampleEncoder(b"pb").arguments(sample))
            self.assertIn(Encoder(b"pb").encode(jelly(sample.value)), encoder.arguments(sample))

    def test_the_longest_value_may_be_longer_in_another_dialect(self):
        longest = max(banana.Banana.outgoingVocabulary, key=len)
        value = [longest] * 2045
        self.assertGreater(len(ValueEncoder(b"pb").encode(value)), VALUE_BYTES - 2)
        with self.assertRaises(InvalidValue):
            ValueEncoder(b"none").encode(value)
        arguments = SampleEncoder(b"none").arguments(Sample("a", 1, 1.5, value))
        self.assertIn(Encoder(b"none").encode(jelly(value)), arguments)

    def test_what_was_published_is_what_is_sent_even_if_it_was_changed_since(self):
        value = [1]
        feed = LatestFeed("load", ValueEncoder(b"pb").encode, FeedTally(), lambda: 1.5)
        feed.publish(value)
        value.append(object())
        self.assertEqual(
            template(b"pb", 1).one_way(feed.latest()), template(b"pb", 1).one_way(Sample("load", 1, 1.5, [1]))
        )

    @given(dialects, values)
    def test_what_was_published_has_the_bytes_of_any_other_sample(self, dialect, value):
        feed = LatestFeed("load", ValueEncoder(b"pb").encode, FeedTally(), lambda: 1.5)
        try:
            feed.publish(value)
        except InvalidValue:
            return
        self.assertEqual(
            template(dialect, 1).one_way(feed.latest()), template(dialect, 1).one_way(Sample("load", 1, 1.5, value))
        )

    def test_a_stamp_is_sent_as_a_float(self):
        self.assertEqual(
            template(b"pb", 1).one_way(Sample("a", 1, 2, 3)), template(b"pb", 1).one_way(Sample("a", 1, 2.0, 3))
        )


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
