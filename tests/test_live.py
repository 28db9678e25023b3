import io
import math

from doubles import EPOCH
from rich.console import Console
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.arrivals import Event, Events, Samples
from clockd.client import Standing
from clockd.errors import Kicked, NotConnected, UnknownFeed, UnknownMethod
from clockd.live import BLOCKS, KEPT, LETTERS, LEVELS, OVERDUE_SECONDS, STANDING_SECONDS, Face, Track, follow
from clockd.timekeeper import TimeInterval
from clockd.values import Reading

HOSTILE = "[bold]mallory[/]\x1b[31m\x9b2J\r\n\u202e:smile:"
ESCAPED = r"[bold]mallory[/]\x1b[31m\x9b2J\r\n\u202e:smile:"
KNOWN = TimeInterval(EPOCH + 0.2492, EPOCH + 0.2512, "synchronized", 0.0008, 0.001, EPOCH + 0.2494)
UNKNOWN = TimeInterval(-math.inf, math.inf, "unknown", None, math.inf, EPOCH)


def tick(turn, received=None, period=1.0, late=0.0):
    """Return a push of the time at its turn; it takes a millisecond."""
    stamp = EPOCH + turn * period
    return Reading("time", None, stamp, stamp, stamp + 0.001 + late if received is None else received, None, math.inf)


def value(sequence, turn=0, what=7, stamp=EPOCH):
    return Reading("load", sequence, stamp, what, EPOCH + turn, None, math.inf)


def standing(period=1.0, skipped=3, feed="time"):
    return Standing("alice", 1, {feed: period}, 100, skipped, EPOCH)


class TrackTests(SynchronousTestCase):
    def tracked(self, *readings, period=1.0):
        track = Track()
        for reading in readings:
            track.take(reading, period)
        return track

    def test_it_counts_and_keeps_the_newest(self):
        track = self.tracked(tick(0), tick(1), tick(2))
        self.assertEqual((track.pushes, track.missed, track.newest), (3, 0, tick(2)))

    def test_numbers_that_are_left_out_are_missed(self):
        self.assertEqual(self.tracked(value(5), value(6), value(9), value(10)).missed, 2)

    def test_a_number_that_comes_again_or_begins_anew_is_none_missed(self):
        self.assertEqual(self.tracked(value(5), value(5), value(1), value(2)).missed, 0)

    def test_values_that_stay_the_same_miss_no_turn(self):
        self.assertEqual(self.tracked(value(5), value(5, 1), value(5, 31), value(6, 40)).missed, 0)

    def test_turns_of_the_time_are_missed(self):
        self.assertEqual(self.tracked(tick(0), tick(1), tick(2), tick(5), tick(6)).missed, 2)

    def test_one_that_is_late_is_not_missed(self):
        for late in (0.4, 0.6, 0.99, 5):
            self.assertEqual(self.tracked(tick(0), tick(1), tick(2, late=late), tick(3, late=late), tick(4)).missed, 0)

    def test_a_clock_that_is_set_misses_nothing(self):
        for step in (-3600, -0.7, 0.7, 3600):
            server = self.tracked(*(tick(n) for n in range(3)), *(tick(n + step, EPOCH + n) for n in range(3, 6)))
            host = self.tracked(*(tick(n) for n in range(3)), *(tick(n, EPOCH + n + step) for n in range(3, 6)))
            self.assertEqual((server.missed, host.missed), (0, 0))

    def test_jitter_is_how_far_an_arrival_is_from_its_turn(self):
        track = self.tracked(tick(0), tick(1), tick(2), tick(3, late=0.25), tick(4), tick(6))
        for found, jitter in zip(track.jitter, (0, 0.25, 0.25, 0), strict=True):
            self.assertAlmostEqual(found, jitter, 5)

    def test_the_first_interval_may_be_any(self):
        track = self.tracked(tick(0.3), tick(1), tick(2))
        self.assertEqual([round(jitter, 5) for jitter in track.jitter], [0])

    def test_after_an_interruption_it_begins_anew(self):
        track = self.tracked(tick(0), tick(1), tick(2))
        track.interrupted()
        for reading in (tick(50.2), tick(51.3), tick(52.3)):
            track.take(reading, 1.0)
        self.assertEqual((track.pushes, track.missed, [round(jitter, 5) for jitter in track.jitter]), (6, 0, [0, 0]))
        track = self.tracked(value(1))
        track.interrupted()
        track.take(value(10), 1.0)
        self.assertEqual(track.missed, 0)

    def test_without_a_period_there_is_no_turn(self):
        track = self.tracked(tick(0), tick(1), tick(4), period=None)
        self.assertEqual((track.pushes, track.missed, list(track.jitter)), (3, 0, []))

    def test_as_much_is_kept_as_a_terminal_is_broad(self):
        self.assertEqual(len(self.tracked(*map(tick, range(KEPT + 10))).jitter), KEPT)


class Client:
    """What a client is to the view."""

    def __init__(self):
        self.connected, self.trouble, self.round_trip = True, None, 0.00052
        self.interval = self.utc = KNOWN
        self.happening = Events()
        self.standings = []
        self.asked = 0

    def now(self, utc=False):
        return self.utc if utc else self.interval

    def events(self):
        return self.happening

    def status(self):
        self.asked += 1
        return self.standings.pop(0) if self.standings else Deferred()


class FaceCase(SynchronousTestCase):
    feed = "time"

    def setUp(self):
        self.file = io.StringIO()
        self.console = Console(file=self.file, width=80, height=24, force_terminal=True, color_system=None)
        self.client, self.clock = Client(), Clock()
        self.face = Face(self.console, self.clock, self.client, "alice@localhost", self.feed)

    def lines(self, columns=80, lines=24):
        """Return what would be drawn."""
        console = Console(file=io.StringIO(), width=columns, height=lines, force_terminal=False)
        self.console.size = (columns, lines)
        with console.capture() as captured:
            console.print(self.face.drawn())
        return [line.rstrip() for line in captured.get().splitlines()]

    def told(self, label):
        """Return what stands beside a label."""
        return next(line for line in self.lines() if line.startswith(label)).removeprefix(label).strip()


class TimeTests(FaceCase):
    def test_all_of_it(self):
        self.face.told(standing())
        for reading in (tick(0), tick(1), tick(2), tick(3, late=0.025), tick(6)):
            self.face.take(reading)
        self.face.happened(Event("connected", "connected to tcp:localhost:8787", EPOCH))
        self.face.happened(Event("step", "the server's clock was set by +0.5 s", EPOCH + 61))
        self.assertEqual(
            self.lines(),
            [
                "alice@localhost  time, every 1 s                                       connected",
                "",
                "2023-11-14 22:13:20.2 UTC, by the server's clock",
                "",
                "status             synchronized, says the server",
                "this host's clock  0.80 ms behind, give or take 1.00 ms",
                "error against UTC  at most 1.00 ms",
                "round trip         0.52 ms",
                "pushes             5, missed 2, conflated 3",
                "jitter             25.00 ms, at most 25.00 ms, last 3",
                "▁▆▆",
                "",
                "22:14:21  the server's clock was set by +0.5 s",
                "22:13:20  connected to tcp:localhost:8787",
            ],
        )

    def test_before_anything_is_known_it_says_so(self):
        self.client.interval = self.client.utc = UNKNOWN
        self.client.round_trip = None
        lines = self.lines()
        self.assertEqual(lines[0], "alice@localhost  time                                                  connected")
        self.assertEqual(lines[2], "waiting for the server to tell its time")
        self.assertEqual(self.told("status"), "unknown: there was no exchange yet")
        self.assertEqual([self.told(label) for label in ("this host's clock", "error against UTC")], 2 * ["not known"])
        self.assertEqual(self.told("round trip"), "-")
        self.assertEqual((self.told("pushes"), self.told("jitter")), ("0, missed 0, conflated -", "-"))

    def test_a_server_that_does_not_know_is_told_apart(self):
        self.client.interval = TimeInterval(EPOCH, EPOCH + 4, "unknown", 0.0, 2.0, EPOCH + 2)
        self.assertEqual(self.told("status"), "unknown, says the server")

    def test_a_clock_that_is_ahead_is_told(self):
        self.client.interval = TimeInterval(EPOCH, EPOCH + 4, "holdover", -90.0, 2.0, EPOCH + 92)
        self.assertEqual(self.told("this host's clock"), "90.00 s ahead, give or take 2.00 s")
        self.assertTrue(self.told("status").startswith("holdover: "))

    def test_a_time_of_no_calendar_is_a_number(self):
        self.client.interval = TimeInterval(1e300, 1e300, "unknown", 1e300, 1.0, EPOCH)
        self.assertEqual(self.lines()[2], "1e+300")

    def test_it_says_why_it_is_not_connected(self):
        self.client.connected, self.client.trouble = False, f"cannot connect: {HOSTILE}"
        lines = self.lines()
        self.assertEqual((lines[0][-13:], lines[1]), ("not connected", f"cannot connect: {ESCAPED}"))

    def test_pushes_that_stay_away_are_told_until_there_is_one(self):
        self.face.take(tick(0))
        self.clock.advance(OVERDUE_SECONDS)
        self.assertEqual(self.lines()[1], "")
        self.clock.advance(0.1)
        self.assertEqual(self.lines()[1], "no push for 2 s")
        self.face.told(standing(period=5.0))
        self.clock.advance(12.8)
        self.assertEqual(self.lines()[1], "")
        self.clock.advance(0.2)
        self.assertEqual(self.lines()[1], "no push for 15 s")
        self.face.take(tick(1))
        self.assertEqual(self.lines()[1], "")

    def test_no_line_is_longer_than_the_terminal_and_no_more_are_drawn_than_fit(self):
        self.face.told(standing())
        self.client.connected, self.client.trouble = False, 200 * "x"
        for turn in range(600):
            self.face.take(tick(turn))
            self.face.happened(Event("lost", 200 * "y", EPOCH))
            self.face.told(standing(skipped=10**9))
        for columns in (20, 40, 60, 79, 80, 120, 300):
            for lines in (1, 5, 11, 12, 20, 24, 40):
                drawn = self.lines(columns, lines)
                self.assertEqual(len(drawn), lines)
                self.assertTrue(all(len(line) <= columns for line in drawn), drawn)

    def test_all_of_the_jitter_is_told_at_60_columns(self):
        self.face.told(standing())
        for turn in range(600):
            self.face.take(tick(turn, late=0.45 * (turn % 2)))
        line = next(line for line in self.lines(60) if line.startswith("jitter"))
        self.assertTrue(line.endswith(", last 60"), line)

    def test_what_was_found_stays(self):
        def left():
            with self.console.capture() as captured:
                self.console.print(self.face.left(), end="")
            return captured.get()

        self.assertEqual(left(), "")
        self.face.take(tick(0))
        self.assertIn("missed 0", left())
        self.assertEqual(len(left().splitlines()), 6)

    def test_jitter_has_a_block_for_each_level(self):
        self.face.told(standing(period=1000.0))
        arrival = EPOCH
        for jitter in (0, 0, *(level * 1.5 for level in LEVELS), *(level * 0.9 for level in LEVELS), 300):
            arrival += 1000.0 + jitter
            self.face.take(tick(1, arrival, 1000.0))
        self.face.take(tick(1, arrival + 1000.0, 1000.0))
        blocks = f"{BLOCKS[1:]}{BLOCKS[:-1]}{BLOCKS[-1]}{BLOCKS[0]}"
        self.assertEqual(self.lines()[10], blocks)
        self.assertEqual((len(BLOCKS), len(LETTERS)), (len(LEVELS) + 1, len(LEVELS) + 1))

    def test_the_newest_jitter_is_always_in_sight(self):
        self.face.told(standing())
        for turn in range(100):
            self.face.take(tick(turn))
        self.face.take(tick(100, late=0.3))
        line = next(line for line in self.lines(40) if line.startswith(BLOCKS[0]))
        self.assertEqual(line, 39 * BLOCKS[0] + BLOCKS[-1])

    def test_a_lost_connection_and_a_step_miss_nothing(self):
        for kind, missed in (("connected", 9), ("lost", 0), ("step", 0), ("draining", 0)):
            face = self.face = Face(self.console, self.clock, self.client, "alice@localhost", self.feed)
            face.told(standing())
            for turn in (0, 1, 2):
                face.take(tick(turn))
            face.happened(Event(kind, "", EPOCH))
            for turn in (12, 13, 14):
                face.take(tick(turn))
            self.assertEqual(self.told("pushes"), f"6, missed {missed}, conflated 3")

    def test_where_there_are_no_blocks_there_are_letters(self):
        file = io.TextIOWrapper(io.BytesIO(), "ascii")
        self.face.console = Console(file=file, width=80, height=24, force_terminal=True)
        self.face.told(standing())
        for turn in range(4):
            self.face.take(tick(turn))
        self.assertEqual(self.lines()[10], LETTERS[0] * 2)

    def test_a_server_that_makes_no_sense_is_drawn_all_the_same(self):
        for stamp in (1e308, -1e308):
            self.client.interval = self.client.utc = TimeInterval(stamp, stamp, "unknown", stamp, 1e308, EPOCH)
            for period in (0.0, 5e-324, 1e12, 1.0):
                self.face.told(standing(period))
                for turn in (stamp, -stamp, 0.0, stamp, stamp):
                    self.face.take(Reading("time", None, turn, turn, EPOCH, None, math.inf))
                self.assertLessEqual(max(map(len, self.lines())), 80)
                self.assertTrue(0 < self.face.until_next <= 0.1)

    def test_what_others_chose_does_nothing_to_the_terminal(self):
        self.face.happened(Event("step", HOSTILE, EPOCH))
        self.assertEqual(self.lines()[-1], f"22:13:20  {ESCAPED}")

    def test_it_is_drawn_when_the_next_tenth_of_a_second_begins(self):
        self.assertAlmostEqual(self.face.until_next, 0.0498, 4)
        self.client.interval = UNKNOWN
        self.assertAlmostEqual(self.face.until_next, 0.1, 4)


class ValueTests(FaceCase):
    feed = "load"

    def test_a_value_is_shown_with_its_number_and_stamp(self):
        self.face.told(standing(0.5, feed="load"))
        self.face.take(value(7, what={"celsius": 21.5, "who": HOSTILE}))
        lines = self.lines(160)
        self.assertIn("load, every 0.5 s", lines[0])
        shown = r'{"celsius": 21.5, "who": "[bold]mallory[/]\u001b[31m\u009b2J\r\n\u202e:smile:"}'
        self.assertEqual(lines[11:14], ["", "sample 7, of 2023-11-14T22:13:20.000000Z", shown])

    def test_without_one_it_says_so_and_nothing_is_overdue(self):
        self.clock.advance(100)
        self.assertEqual((self.lines()[1], self.lines()[12]), ("", "no sample yet"))

    def test_a_long_value_is_wrapped_and_cut(self):
        self.face.take(value(7, what=" ".join(["漢字漢字 word"] * 200)))
        self.face.happened(Event("lost", "lost", EPOCH))
        lines = self.lines(60, 24)
        self.assertEqual((lines[20], lines[22]), ("…", "22:13:20  lost"))
        self.assertTrue(all(line.strip() for line in lines[13:20]))

    def test_a_stamp_of_no_calendar_is_a_number(self):
        self.face.take(value(7, stamp=1e300))
        self.assertIn("sample 7, of 1e+300", self.lines())


class FollowTests(FaceCase):
    def setUp(self):
        super().setUp()
        self.samples = Samples("time", self.begin, lambda _: None, None)
        self.refusal = None

    async def begin(self, samples):
        if self.refusal is not None:
            raise self.refusal

    def start(self):
        self.done = Deferred.fromCoroutine(follow(self.client, self.samples, self.face, self.clock))
        self.addCleanup(self.done.addErrback, lambda _: None)
        self.addCleanup(self.done.cancel)

    def drawn(self):
        """Return what was drawn last."""
        return [line.rstrip() for line in self.file.getvalue().rpartition("\x1b[H")[2].splitlines()]

    def assert_over(self):
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.file.getvalue().endswith("\x1b[?25h\x1b[?1049l"))

    def test_what_comes_is_drawn_within_a_tenth_of_a_second(self):
        self.client.standings = [succeed(standing())]
        self.start()
        self.samples.put(tick(0))
        self.client.happening.put(Event("lost", "lost", EPOCH))
        self.client.interval = TimeInterval(EPOCH + 9, EPOCH + 9, "synchronized", 0.0, 0.0, EPOCH + 9)
        self.clock.advance(0.1)
        drawn = self.drawn()
        self.assertEqual((drawn[2], drawn[12]), ("2023-11-14 22:13:29.0 UTC, by the server's clock", "22:13:20  lost"))
        self.assertIn("every 1 s", drawn[0])
        self.assertTrue(drawn[8].endswith(" 1, missed 0, conflated 3"))

    def test_the_server_is_asked_again_also_while_it_is_away(self):
        self.client.standings = [fail(NotConnected("away")), succeed(standing()), succeed(standing(skipped=4))]
        self.start()
        for asked in (1, 2, 3):
            self.assertEqual(self.client.asked, asked)
            self.clock.advance(STANDING_SECONDS)
        self.assertIn("conflated 4", self.drawn()[8])

    def test_a_server_that_has_no_such_call_is_asked_once(self):
        self.client.standings = [fail(UnknownMethod("no such method"))]
        self.start()
        self.clock.advance(STANDING_SECONDS)
        self.assertEqual(self.client.asked, 1)
        self.assertNoResult(self.done)

    def test_what_ends_it_is_raised_and_the_terminal_given_back(self):
        self.refusal = UnknownFeed("there is no such feed")
        self.start()
        self.failureResultOf(self.done, UnknownFeed)
        self.assert_over()

    def test_who_is_sent_away_is_told(self):
        self.start()
        error = Kicked("asks for too much")
        self.samples.end(error)
        self.client.happening.end(error)
        self.assertIs(self.failureResultOf(self.done, Kicked).value, error)
        self.assert_over()

    def test_ended_it_leaves_nothing(self):
        self.start()
        self.clock.advance(1)
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.assert_over()
