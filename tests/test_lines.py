import json
import math

from doubles import EPOCH
from twisted.trial.unittest import SynchronousTestCase

from clockd.lines import amount, json_of, line_of, value_of, way_of
from clockd.values import Reading

HOSTILE = "\x1b[31m\x9b2J\r\n\u202e\U000e0001"


def reading(value=EPOCH, sequence=None, stamp=EPOCH, received=EPOCH + 0.00125, offset=None, bound=math.inf):
    return Reading("time" if sequence is None else "load", sequence, stamp, value, received, offset, bound)


class LineTests(SynchronousTestCase):
    def test_a_tick_has_its_stamp_and_how_old_it_was(self):
        self.assertEqual(line_of(reading()), "2023-11-14T22:13:20.000000Z  arrived +1.25 ms later by this host's clock")
        self.assertIn("  arrived -500.00 ms later", line_of(reading(received=EPOCH - 0.5)))

    def test_where_the_offset_is_known_it_is_taken_off(self):
        line = line_of(reading(received=EPOCH + 5, offset=-4.99, bound=0.0125))
        self.assertEqual(line, "2023-11-14T22:13:20.000000Z  arrived +10.00 ms later, give or take 12.50 ms")

    def test_a_stamp_of_no_calendar_is_a_number(self):
        for stamp in (1e300, -1e15):
            self.assertTrue(line_of(reading(1, 7, stamp)).startswith(f"{stamp!r}     7  1"))

    def test_a_value_has_its_number_and_is_json(self):
        line = line_of(reading({"celsius": 21.5, "open": [False, None, "ä"]}, 7))
        self.assertEqual(line, '2023-11-14T22:13:20.000000Z     7  {"celsius": 21.5, "open": [false, null, "ä"]}')

    def test_floats_are_rounded_for_people(self):
        for value, said in (
            *((1 / 3, "0.333333"), (99999.96, "100000.0"), (123456.7, "123457.0"), (1e300, "1e+300")),
            *((math.nan, '"NaN"'), (math.inf, '"Infinity"'), (-math.inf, '"-Infinity"'), (10**20, "1" + 20 * "0")),
        ):
            self.assertEqual(value_of(reading(value, 1)), said)

    def test_what_others_chose_does_nothing_to_a_terminal(self):
        said = value_of(reading({HOSTILE: HOSTILE}, 1))
        self.assertTrue(said.isprintable())
        self.assertEqual(json.loads(said), {HOSTILE: HOSTILE})

    def test_a_value_is_wrapped_where_it_is_told(self):
        value = {f"key-{number}": number for number in range(20)}
        lines = line_of(reading(value, 7), 40).splitlines()
        self.assertGreater(len(lines), 5)
        self.assertTrue(all(len(line) <= 40 for line in lines))
        self.assertTrue(all(line.startswith("    ") for line in lines[1:]))
        self.assertEqual("".join("".join(lines).split()), "".join(line_of(reading(value, 7)).split()))


class JsonTests(SynchronousTestCase):
    def test_an_object_has_all_of_a_sample(self):
        self.assertEqual(
            json.loads(json_of(reading([0.1, 1 / 3], 7, EPOCH, EPOCH + 0.25), None)),
            {"feed": "load", "sequence": 7, "stamp": EPOCH, "value": [0.1, 1 / 3], "age": 0.25}
            | dict.fromkeys(("offset", "bound", "round_trip")),
        )

    def test_an_object_has_how_right_it_is(self):
        found = json.loads(json_of(reading(received=EPOCH + 5, offset=-4.75, bound=0.125), 0.25))
        self.assertEqual([found[key] for key in ("age", "offset", "bound", "round_trip")], [0.25, -4.75, 0.125, 0.25])

    def test_what_json_has_not_is_put_otherwise(self):
        value = {b"k": b"\xff\x00", 1: (1, 2), None: math.nan, 2.5: [-math.inf, math.inf]}
        self.assertEqual(
            json.loads(json_of(reading(value, 1), None))["value"],
            {"aw==": {"base64": "/wA="}, "1": [1, 2], "null": "NaN", "2.5": ["-Infinity", "Infinity"]},
        )

    def test_it_is_ascii(self):
        self.assertTrue(json_of(reading(HOSTILE, 1), None).isascii())
        self.assertTrue(json_of(reading(HOSTILE, 1), None).isprintable())


class AmountTests(SynchronousTestCase):
    def test_a_time_has_a_unit_that_suits_it(self):
        for seconds, said in (
            (0, "0.00 ms"),
            (0.0001234, "0.12 ms"),
            (-0.5, "-500.00 ms"),
            (1, "1.00 s"),
            (-3600, "-3600.00 s"),
        ):
            self.assertEqual(amount(seconds), said)
        self.assertEqual((amount(0.5, "+"), amount(-0.5, "+"), amount(2, "+")), ("+500.00 ms", "-500.00 ms", "+2.00 s"))

    def test_a_clock_that_lacks_something_is_behind(self):
        self.assertEqual((way_of(0.5), way_of(-2)), ("500.00 ms behind", "2.00 s ahead"))
