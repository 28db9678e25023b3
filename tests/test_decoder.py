import gc
import struct
import time
import tracemalloc
from itertools import pairwise

from fuzz.oracle import WORDS, Outcome, Stock, decode, exact, expect, held
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.spread import banana
from twisted.trial.unittest import SynchronousTestCase

from clockd.decoder import DIGITS, Bounds, Decoder, Malformed
from clockd.wire import Encoder

WIDE = Bounds(bytes=banana.SIZE_LIMIT, depth=100, items=10**5)
SETPERIOD = [b"message", 3, 2, b"setperiod", 1, [b"tuple", 0.5], [b"dictionary", [b"feed", b"time"]]]
MOST = 2 ** (7 * DIGITS) - 1

atoms = st.one_of(
    st.integers(-MOST, MOST),
    st.integers(-300, 300),
    st.binary(min_size=8, max_size=8).map(lambda data: struct.unpack("!d", data)[0]),
    st.binary(max_size=40),
    st.sampled_from(list(WORDS.values())),
)
expressions = st.recursive(atoms, lambda inner: st.lists(inner, max_size=5), max_leaves=30)
types = st.sampled_from(
    [banana.LIST, banana.INT, banana.STRING, banana.NEG, banana.LONGINT, banana.LONGNEG, banana.VOCAB]
)
# numbers as no encoder writes them: empty, with zeros behind, in the wrong type
items = st.one_of(
    st.tuples(st.integers(0, 40).map(lambda n: bytes([n])), types).map(b"".join),
    st.tuples(st.binary(max_size=66).map(lambda data: bytes(b & 127 for b in data)), types).map(b"".join),
    st.tuples(st.sampled_from([b"", b"\x05"]), st.just(banana.FLOAT), st.binary(min_size=8, max_size=8)).map(b"".join),
    st.binary(max_size=9),
)
raw = st.lists(items, max_size=12).map(b"".join)
tight = st.builds(Bounds, bytes=st.integers(1, 60), depth=st.integers(0, 4), items=st.integers(0, 20))


def number(value):
    """Return a number in Banana's digits."""
    parts = []
    banana.int2b128(value, parts.append)
    return b"".join(parts)


def cut(data, places):
    """Return bytes in segments, cut at these places of them."""
    places = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[first:end] for first, end in pairwise(places)]


def in_bytes(data):
    """Return bytes in segments of one."""
    return [data[at : at + 1] for at in range(len(data))]


def made(data, bounds=WIDE):
    """Return what a decoder makes of bytes that come at once."""
    return decode([data], bounds)


class StockTests(SynchronousTestCase):
    """What stock Banana takes is taken, and comes out the same."""

    @settings(deadline=None)
    @given(st.lists(expressions, max_size=4), st.booleans(), st.lists(st.integers(0), max_size=8))
    def test_what_stock_banana_writes_is_read_in_any_segments(self, said, words, places):
        encode = Encoder(b"pb" if words else b"none").encode
        data = b"".join(map(encode, said))
        for segments in ([data], in_bytes(data), cut(data, places)):
            found, malformed = decode(segments, WIDE, words)
            self.assertEqual((exact(found), malformed), (exact(said), False))

    @settings(deadline=None)
    @given(raw, st.booleans(), st.lists(st.integers(0), max_size=8))
    @example(b"\x81\x82\x80\x85\x83\x86", True, [])
    @example(b"\0\0\0\x83\x05\0\0\x82hello", True, [])
    @example(b"\x01\x80" * 20 + b"\x80", True, [])
    @example(b"\x01\x80\x05\x81\x06", True, [])
    def test_of_any_bytes_it_makes_what_stock_banana_makes(self, data, words, places):
        stock, refused = Stock(words), False
        try:
            stock.dataReceived(data)
        except Exception:  # noqa: BLE001  # it raises many kinds
            refused = True
        for segments in ([data], in_bytes(data), cut(data, places)):
            found, malformed = decode(segments, WIDE, words)
            self.assertEqual(exact(found), exact(stock.found))
            self.assertTrue(malformed or not refused)

    @settings(deadline=None)
    @given(raw, tight, st.booleans(), st.lists(st.integers(0), max_size=8))
    def test_within_bounds_too_in_any_segments(self, data, bounds, words, places):
        expected = expect(data, bounds, words)
        for segments in ([data], in_bytes(data), cut(data, places)):
            self.assertIn(exact(decode(segments, bounds, words)), map(exact, expected))

    def test_the_kinds_of_numbers(self):
        read = made(b"\x81\x05\x81\0\x83\x05\x83\x05\x85\x05\x86" + b"\x7f" * DIGITS + b"\x85").expressions
        self.assertEqual(read, [0, 5, 0, -5, 5, -5, MOST])
        self.assertEqual({type(each) for each in read}, {int})

    def test_a_float_keeps_its_bits_and_its_number_means_nothing(self):
        for bits in (b"\xff" * 8, b"\x80" + b"\0" * 7, b"\x7f\xf0" + b"\0" * 5 + b"\x01"):
            for digits in (b"", b"\x05", b"\x7f" * DIGITS):
                (read,) = made(digits + b"\x84" + bits).expressions
                self.assertEqual(struct.pack("!d", read), bits)

    def test_a_string_is_bytes_of_its_own(self):
        (read,) = made(b"\x03\x82abc").expressions
        self.assertIs(type(read), bytes)


class RuleTests(SynchronousTestCase):
    """What is malformed is known as such at the first byte that makes it so."""

    def assert_breaks(self, data, rule, bounds=WIDE):
        """Check that the last byte of all breaks a rule, whether bytes come one by one or together."""
        self.assertEqual(decode(in_bytes(data[:-1]), bounds), Outcome([], malformed=False))
        for segments in (in_bytes(data), [data], [data + b"more"]):
            self.assertEqual(decode(segments, bounds), Outcome([], malformed=True))
        decoder = Decoder(bounds)
        decoder.vocabulary = WORDS
        decoder.feed(data)
        error = self.assertRaises(Malformed, next, decoder)
        self.assertEqual(str(error), rule)

    def test_types_that_banana_does_not_have(self):
        for byte in range(0x88, 0x100):
            self.assert_breaks(bytes([5, byte]), "an item of an unknown type")

    def test_words_that_the_vocabulary_does_not_have(self):
        for index in (0, 32, 127, MOST):
            self.assert_breaks(number(index) + b"\x87", "a word that is not in the vocabulary")

    def test_no_word_is_known_before_there_is_a_vocabulary(self):
        decoder = Decoder(WIDE)
        decoder.feed(b"\x01\x87")
        self.assertRaises(Malformed, next, decoder)

    def test_a_number_has_up_to_64_digits(self):
        self.assertEqual(made(b"\0" * DIGITS + b"\x81"), Outcome([0], malformed=False))
        self.assert_breaks(b"\0" * (DIGITS + 1), "a number of more than 64 digits")

    def test_an_expression_has_as_many_bytes_as_are_allowed_and_one_more_is_too_many(self):
        for expression in (b"x" * 50, [b"x" * 30, 1, [2]], 2**400, [1.0, 2.0], [[]] * 9, SETPERIOD):
            data = Encoder(b"pb").encode(expression)
            for segments in (
                [data * 3],
                in_bytes(data * 3),
                *([data[:at], data[at:] + data * 2] for at in range(len(data))),
            ):
                exactly = Bounds(bytes=len(data), depth=9, items=99)
                self.assertEqual(decode(segments, exactly), Outcome([expression] * 3, malformed=False))
                less = Bounds(bytes=len(data) - 1, depth=9, items=99)
                self.assertEqual(decode(segments, less), Outcome([], malformed=True))

    def test_a_string_that_will_have_too_many_bytes_is_refused_at_its_header(self):
        bounds = Bounds(bytes=100, depth=9, items=99)
        rule = "an expression of too many bytes"
        self.assertEqual(made(number(98) + b"\x82", bounds), Outcome([], malformed=False))
        self.assert_breaks(number(99) + b"\x82", rule, bounds)
        self.assert_breaks(number(MOST) + b"\x82", rule, bounds)
        self.assertEqual(made(b"\x02\x80\x05\x81" + number(94) + b"\x82", bounds), Outcome([], malformed=False))
        self.assert_breaks(b"\x02\x80\x05\x81" + number(95) + b"\x82", rule, bounds)

    def test_so_is_a_float(self):
        self.assert_breaks(b"\x84", "an expression of too many bytes", Bounds(bytes=8, depth=1, items=1))

    def test_a_list_that_will_have_too_many_bytes_is_refused_at_its_header(self):
        bounds = Bounds(bytes=100, depth=9, items=1000)
        self.assertEqual(made(number(98) + b"\x80", bounds), Outcome([], malformed=False))
        self.assert_breaks(number(99) + b"\x80", "an expression of too many bytes", bounds)

    def test_what_cannot_end_in_time_is_refused_when_the_last_byte_allowed_is_there(self):
        self.assert_breaks(b"\0" * 10, "an expression of too many bytes", Bounds(bytes=10, depth=9, items=99))
        self.assert_breaks(b"\x05\x80" + b"\x81" * 4 + b"\x05", "an expression of too many bytes", Bounds(7, 9, 99))

    def test_a_list_that_will_have_too_many_items_is_refused_at_its_header(self):
        bounds = Bounds(bytes=10**6, depth=9, items=50)
        self.assertEqual(made(number(50) + b"\x80", bounds), Outcome([], malformed=False))
        self.assert_breaks(number(51) + b"\x80", "lists of too many items", bounds)
        self.assert_breaks(number(MOST) + b"\x80", "lists of too many items", bounds)

    def test_the_items_of_all_its_lists_count_together(self):
        bounds = Bounds(bytes=10**6, depth=9, items=50)
        self.assertEqual(made(b"\x02\x80\x18\x80" + b"\x81" * 24 + b"\x18\x80", bounds), Outcome([], malformed=False))
        self.assert_breaks(b"\x02\x80\x18\x80" + b"\x81" * 24 + b"\x19\x80", "lists of too many items", bounds)

    def test_each_expression_has_a_count_of_its_own(self):
        fifty = number(50) + b"\x80" + b"\x81" * 50
        bounds = Bounds(bytes=52, depth=1, items=50)
        self.assertEqual(made(fifty * 20, bounds), Outcome([[0] * 50] * 20, malformed=False))

    def test_lists_lie_as_deep_as_is_allowed_and_no_deeper(self):
        bounds = Bounds(bytes=10**6, depth=3, items=50)
        self.assertEqual(made(b"\x01\x80\x01\x80\x80", bounds), Outcome([[[[]]]], malformed=False))
        rule = "lists too deep in each other"
        self.assert_breaks(b"\x01\x80\x01\x80\x01\x80\x80", rule, bounds)
        self.assert_breaks(b"\x80", rule, Bounds(bytes=9, depth=0, items=0))

    def test_a_list_beside_others_is_not_deeper(self):
        self.assertEqual(
            made(b"\x03\x80\x80\x80\x80", Bounds(9, depth=2, items=3)), Outcome([[[], [], []]], malformed=False)
        )

    def test_what_is_whole_comes_out_before_what_is_malformed(self):
        self.assertEqual(made(b"\x05\x81\x01\x80\x06\x81\x88"), Outcome([5, [6]], malformed=True))

    def test_a_rule_says_nothing_of_what_came(self):
        decoder = Decoder(WIDE)
        decoder.feed(b"\x06\x82secret\x7f\x99")
        next(decoder)
        self.assertEqual(str(self.assertRaises(Malformed, next, decoder)), "an item of an unknown type")

    def test_a_decoder_that_is_broken_stays_so(self):
        decoder = Decoder(WIDE)
        decoder.feed(b"\x88\x05\x81")
        self.assertRaises(Malformed, next, decoder)
        self.assertRaises(Malformed, next, decoder)
        self.assertRaises(Malformed, decoder.feed, b"\x05\x81")
        self.assertRaises(Malformed, list, decoder)
        self.assertFalse(decoder.clean)

    def test_so_it_is_when_it_is_allowed_more(self):
        decoder = Decoder(Bounds(bytes=9, depth=0, items=0))
        decoder.feed(b"\x80")
        self.assertRaises(Malformed, next, decoder)
        decoder.bounds = WIDE
        self.assertRaises(Malformed, next, decoder)


class TakingTests(SynchronousTestCase):
    """Expressions are taken one at a time, and things may change in between."""

    def setUp(self):
        self.decoder = Decoder(WIDE)

    def test_taking_may_stop_and_go_on(self):
        self.decoder.feed(b"\x01\x81\x02\x81\x03\x81")
        self.assertEqual(next(self.decoder), 1)
        self.assertEqual((self.decoder.pending, self.decoder.clean), (4, False))
        self.decoder.feed(b"\x04")
        self.assertEqual([n for n, _ in zip(self.decoder, "ab", strict=False)], [2, 3])
        self.decoder.feed(b"\x81")
        self.assertEqual(list(self.decoder), [4])
        self.assertEqual((self.decoder.pending, self.decoder.clean), (0, True))

    def test_there_is_nothing_to_take_at_first_and_in_the_end(self):
        for _ in range(2):
            self.assertEqual(list(self.decoder), [])
            self.assertEqual((self.decoder.pending, self.decoder.clean), (0, True))
            self.decoder.feed(b"")
            self.decoder.feed(b"\x05\x81")
            self.assertEqual(list(self.decoder), [5])

    def test_it_is_clean_when_nothing_of_an_expression_is_held(self):
        data = Encoder(b"pb").encode([1, [b"string", 1.5], 300])
        self.decoder.vocabulary = WORDS
        for byte in in_bytes(data[:-1]):
            self.decoder.feed(byte)
            self.assertFalse(self.decoder.clean)
            self.assertEqual(list(self.decoder), [])
            self.assertFalse(self.decoder.clean)
        self.decoder.feed(data[-1:])
        self.assertFalse(self.decoder.clean)
        next(self.decoder)
        self.assertTrue(self.decoder.clean)

    def test_a_vocabulary_holds_from_the_next_expression_on(self):
        self.decoder.feed(b"\x02\x82pb\x01\x80\x01\x87")
        self.assertEqual(next(self.decoder), b"pb")
        self.decoder.vocabulary = WORDS
        self.assertEqual(next(self.decoder), [b"None"])

    def test_bounds_hold_from_the_next_expression_on(self):
        self.decoder.bounds = Bounds(bytes=4, depth=0, items=0)
        self.decoder.feed(b"\x02\x82pb\x02\x80\x80\x03\x82abc\x80")
        self.assertEqual(next(self.decoder), b"pb")
        self.decoder.bounds = Bounds(bytes=9, depth=2, items=2)
        self.assertEqual(next(self.decoder), [[], b"abc"])
        self.decoder.bounds = Bounds(bytes=1, depth=0, items=0)
        self.assertRaises(Malformed, next, self.decoder)

    def test_they_hold_for_one_that_has_come_in_part_too(self):
        self.decoder.bounds = Bounds(bytes=9, depth=1, items=2)
        self.decoder.feed(b"\x02\x80\x05")
        self.assertEqual(list(self.decoder), [])
        self.decoder.bounds = Bounds(bytes=60, depth=2, items=52)
        self.decoder.feed(b"\x81" + number(50) + b"\x80" + b"\x81" * 50)
        self.assertEqual(next(self.decoder), [5, [0] * 50])
        self.decoder.feed(b"\x02\x80\x05")
        self.assertEqual(list(self.decoder), [])
        self.decoder.bounds = Bounds(bytes=2, depth=2, items=52)
        self.decoder.feed(b"\x81")
        self.assertRaises(Malformed, next, self.decoder)

    def test_two_decoders_share_nothing(self):
        other = Decoder(WIDE)
        self.decoder.feed(b"\x02\x80\x05")
        other.feed(b"\x81")
        self.assertEqual((list(self.decoder), list(other)), ([], [0]))


class CostTests(SynchronousTestCase):
    """Cost and memory grow with the number of bytes, whatever they are and however they are cut."""

    def assert_linear(self, make, size, segment):
        """Check that 64 times as many bytes take no more than five times 64 times as long."""
        gc.disable()  # it looks at lists that are kept, and they are more and more
        self.addCleanup(gc.enable)

        def seconds(data):
            segments = [data[at : at + segment] for at in range(0, len(data), segment)]
            bounds = Bounds(bytes=10**8, depth=10**7, items=10**8)
            begun = time.process_time()
            decode_unchecked(segments, bounds)
            return time.process_time() - begun

        few, many = make(size), make(64 * size)
        self.assertLess(seconds(many), 5 * 64 * min(seconds(few) for _ in range(5)))

    def test_a_string_in_segments_of_a_byte(self):
        self.assert_linear(lambda size: number(size) + b"\x82" + b"x" * size, 8192, 1)

    def test_items_of_a_byte_at_once(self):
        self.assert_linear(lambda size: number(size) + b"\x80" + b"\x81" * size, 8192, 2**30)

    def test_items_of_a_byte_in_segments_of_a_byte(self):
        self.assert_linear(lambda size: number(size) + b"\x80" + b"\x81" * size, 2048, 1)

    def test_strings_at_once(self):
        self.assert_linear(lambda size: number(size // 4) + b"\x80" + b"\x02\x82ab" * (size // 4), 8192, 2**30)

    def test_floats_at_once(self):
        self.assert_linear(lambda size: number(size // 9) + b"\x80" + b"\x84abcdefgh" * (size // 9), 8192, 2**30)

    def test_expressions_of_a_byte_at_once(self):
        self.assert_linear(lambda size: b"\x81" * size, 4096, 2**30)

    def test_the_longest_numbers_in_segments_of_a_byte(self):
        self.assert_linear(lambda size: (b"\x7f" * DIGITS + b"\x85") * (size // 65), 2048, 1)

    def test_lists_in_each_other_at_once(self):
        self.assert_linear(lambda size: b"\x01\x80" * (size // 2), 4096, 2**30)

    def test_what_is_held_of_an_unfinished_expression_is_a_few_times_its_bounds(self):
        bounds = Bounds(bytes=16384, depth=16, items=2048)
        small = number(2048) + b"\x80"
        worst = {
            "one-digit": small + b"\x05\x81" * 2047,
            "longest numbers": small + (b"\x7f" * DIGITS + b"\x85") * 240,
            "floats": small + b"\x84abcdefgh" * 1800,
            "empty lists": small + b"\x80" * 2047,
            "short strings": small + b"\x06\x82abcdef" * 2040,
            "one string": number(16380) + b"\x82" + b"x" * 16379,
            "digits": small + b"\0" * DIGITS,
        }
        for name, data in worst.items():
            for segment in (1, 1000, len(data)):
                segments = [data[at : at + segment] for at in range(0, len(data), segment)]
                tracemalloc.start()
                decoder = decode_unchecked(segments, bounds)
                now, _ = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                self.assertFalse(decoder.clean)
                self.assertLess(now, 5 * (bounds.bytes + 64 * bounds.items), name)

    def test_announcing_makes_nothing(self):
        decoder = Decoder(Bounds(bytes=10**9, depth=10, items=10**9))
        tracemalloc.start()
        decoder.feed(number(10**8) + b"\x80" + number(10**8) + b"\x82")
        self.assertEqual(list(decoder), [])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        self.assertLess(peak, 10_000)
        self.assertLess(held(decoder), 1000)


def decode_unchecked(segments, bounds):
    """Return a decoder that has been fed these segments, and taken out of."""
    decoder = Decoder(bounds)
    for segment in segments:
        decoder.feed(segment)
        for _ in decoder:
            pass
    return decoder
