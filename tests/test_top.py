import io
import json
import math
import os
import signal

from doubles import EPOCH, SECRET, Network, Timeless
from rich.console import Console
from twisted.cred.credentials import UsernamePassword
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase

from clockd.arrivals import Events
from clockd.client import ClockClient, Event, Presence
from clockd.errors import NotConnected, NotPermitted, ServerFault
from clockd.link import Way
from clockd.top import (
    BROAD,
    PATIENCE_SECONDS,
    SORTS,
    Lines,
    Look,
    Page,
    Screen,
    json_of,
    look_again,
    text_of,
    watch_connection,
)

ROW = {
    "account": "alice",
    "address": "127.0.0.1:40000",
    "periods": {"time": 1.0, "load": 0.1},
    "pushes_per_second": 11.0,
    "skipped": 3,
    "acknowledgement_seconds": 0.0015,
    "connected_since": EPOCH - 65,
}
HOSTILE = "[bold]mallory[/]\x1b[31m\x9b2J\r\n\u202e:smile:"


def presence(**kwargs):
    return Presence(**ROW | kwargs)


class Perspective(Timeless, pb.Referenceable):
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def called(self, *args):
        self.asked.append(args)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def remote_subscribe(self, feed):
        assert feed == "server"
        return 0.0

    def remote_sessions(self, limit, sort):
        return self.called(limit, sort)

    def remote_kick(self, account, reason):
        return self.called(account, reason)


class Root(pb.Root):
    """Lets everybody in."""

    def __init__(self, perspective):
        self.perspective = perspective

    def remote_login(self, name):
        return b"challenge", self

    def remote_respond(self, response, mind):
        return self.perspective


class AdministrationTests(SynchronousTestCase):
    """The two calls of the client library, of a server in memory."""

    def asked(self, method, *args, answer):
        """Return the Deferred of a call's result; the server answers it as told."""
        self.perspective = Perspective(answer)
        clock = Clock()
        factory = pb.PBServerFactory(Root(self.perspective))
        factory.noisy = False
        network = Network(factory, clock)
        credentials = UsernamePassword(b"alice", SECRET.encode())
        way = Way(network, "tcp:clock.example:8787", credentials, 10, clock, clock.seconds)
        client = ClockClient(way, lambda: EPOCH, 50e-6)

        async def program():
            async with client:
                return await getattr(client, method)(*args)

        done = Deferred.fromCoroutine(program())
        for _ in range(20):
            network.flush()
            clock.advance(0)
        return done

    def test_sessions_are_values(self):
        two = [ROW, ROW | {"acknowledgement_seconds": None, "periods": {}, "new": "key"}]
        found = self.successResultOf(self.asked("sessions", 7, "account", answer=two))
        self.assertEqual(found, [presence(), presence(acknowledgement_seconds=None, periods={})])
        self.assertEqual(self.perspective.asked, [(7, "account")])

    def test_without_a_wish_it_is_the_100_with_the_most_skipped(self):
        self.assertEqual(self.successResultOf(self.asked("sessions", answer=[])), [])
        self.assertEqual(self.perspective.asked, [(100, "skipped")])

    def test_whole_numbers_are_numbers(self):
        row = ROW | {"pushes_per_second": 11, "periods": {"time": 1}, "connected_since": 5}
        (found,) = self.successResultOf(self.asked("sessions", answer=[row]))
        self.assertEqual((found.pushes_per_second, found.periods, found.connected_since), (11.0, {"time": 1.0}, 5.0))

    def test_an_answer_that_makes_no_sense_is_the_server_s_fault(self):
        without = {key: value for key, value in ROW.items() if key != "skipped"}
        broken = (
            *({"account": None}, {"account": b"alice"}, {"address": 5}, {"periods": [1]}, {"periods": {"time": "1"}}),
            *({"periods": {1: 1.0}}, {"periods": {"time": math.nan}}, {"pushes_per_second": math.inf}),
            *({"pushes_per_second": -1.0}, {"pushes_per_second": True}, {"skipped": 1.5}, {"skipped": -1}),
            *({"acknowledgement_seconds": math.nan}, {"connected_since": None}, {"connected_since": 2**400}),
        )
        rows = [ROW | change for change in broken]
        for answer in (None, 5, "all", {}, [None], [[]], [without], *([ROW, row] for row in rows)):
            self.failureResultOf(self.asked("sessions", answer=answer), ServerFault)

    def test_kicking_answers_with_a_number(self):
        for number in (0, 3):
            self.assertEqual(self.successResultOf(self.asked("kick", "bob", "why not", answer=number)), number)
            self.assertEqual(self.perspective.asked, [("bob", "why not")])
        for answer in (None, -1, 1.0, True, "1", [1]):
            self.failureResultOf(self.asked("kick", "bob", "", answer=answer), ServerFault)

    def test_a_refusal_is_told_as_such(self):
        for call in (("sessions",), ("kick", "bob", "")):
            error = self.failureResultOf(self.asked(*call, answer=NotPermitted("not you")), NotPermitted).value
            self.assertEqual(str(error), "not you")


class PageTests(SynchronousTestCase):
    def lines(self, rows, columns=80, lines=24, limit=100, trouble="", sort="skipped"):
        console = Console(file=io.StringIO(), width=columns, height=lines, force_terminal=False)
        with console.capture() as captured:
            console.print(Page("root@localhost", limit, sort).of(Look(rows, EPOCH), columns, lines, trouble))
        return captured.get().splitlines()

    def test_a_connection_is_a_line(self):
        lines = self.lines([presence()])
        self.assertEqual(lines[3].split(), ["ACCOUNT", "ADDRESS", "PERIODS", "PUSH/S", "SKIPPED", "ACK", "MS", "AGE"])
        self.assertEqual(
            lines[4].split(),
            ["alice", "127.0.0.1:40000", "time", "1", "s,", "load", "0.1", "s", "11.0", "3", "1.5", "1m05s"],
        )
        self.assertEqual(len(lines), 5)

    def test_above_them_are_the_time_and_the_sums(self):
        rows = [presence(), presence(skipped=4), presence(account="bob", pushes_per_second=0.55)]
        lines = self.lines(rows)
        self.assertRegex(lines[0], r"^\d\d:\d\d:20  root@localhost  all, by skipped$")
        self.assertEqual(lines[1:3], ["3 connections, 2 accounts, 22.6 pushes/s, 10 skipped", ""])

    def test_one_is_one(self):
        self.assertEqual(self.lines([presence()])[1], "1 connection, 1 account, 11.0 pushes/s, 3 skipped")

    def test_as_many_as_were_asked_for_may_not_be_all(self):
        rows = 3 * [presence()]
        self.assertIn("the first 3, by account", self.lines(rows, limit=3, sort="account")[0])
        self.assertIn("all, by account", self.lines(rows, limit=4, sort="account")[0])

    def test_nobody_is_told_too(self):
        lines = self.lines([])
        self.assertEqual((lines[1], len(lines)), ("0 connections, 0 accounts, 0.0 pushes/s, 0 skipped", 4))

    def test_it_fits_into_a_terminal_and_says_what_is_cut(self):
        rows = [presence(account=f"account-{number:03}") for number in range(200)]
        lines = self.lines(rows)
        self.assertEqual(len(lines), 24)
        self.assertIn("account-018", lines[22])
        self.assertTrue(lines[23].startswith("… 181 more; "))
        self.assertEqual(len(self.lines(rows[:20])), 24)
        self.assertIn("account-019", self.lines(rows[:20])[23])
        self.assertTrue(self.lines(rows[:21])[23].startswith("… 2 more; "))

    def test_no_line_is_longer_than_the_terminal_is_broad(self):
        rows = [
            presence(account=64 * "a", address=64 * "b", periods={64 * "c": 1 / 3}, skipped=10**9),
            presence(account=HOSTILE, pushes_per_second=123456.7, acknowledgement_seconds=99.9),
        ]
        for columns in (20, 40, 79, 80, 132, 300):
            lines = self.lines(rows, columns, trouble=200 * "x")
            self.assertTrue(all(len(line) <= columns for line in lines), lines)
            self.assertEqual(len(lines), 6)

    def test_an_address_has_room_before_periods_do_and_numbers_are_not_cut(self):
        rows = [presence(account="operations", address="192.168.100.200:54321", skipped=1234567)]
        line = self.lines(rows)[4]
        for text in ("operations", "192.168.100.200:54321", "time 1 s", "…", "11.0", "1234567", "1.5", "1m05s"):
            self.assertIn(text, line)

    def test_names_and_addresses_of_any_length_leave_room_for_the_rest(self):
        for account, address in ((64 * "a", "127.0.0.1:40000"), ("alice", 64 * "b"), (64 * "a", 64 * "b")):
            line = self.lines([presence(account=account, address=address)])[4]
            self.assertEqual(line.split()[-4:], ["11.0", "3", "1.5", "1m05s"])
            self.assertIn(" time 1 s,", line)

    def test_a_small_terminal_shows_what_it_can(self):
        for lines in range(1, 8):
            self.assertLessEqual(len(self.lines(9 * [presence()], 30, lines)), max(lines, 5))

    def test_what_peers_chose_does_nothing_to_the_terminal(self):
        text = "\n".join(self.lines([presence(account=HOSTILE, address=HOSTILE, periods={HOSTILE: 1.0})], 400))
        self.assertEqual(text.count(r"[bold]mallory[/]\x1b[31m\x9b2J\r\n\u202e:smile:"), 3)
        self.assertTrue(all(letter.isprintable() or letter == "\n" for letter in text))

    def test_ages_have_two_units(self):
        for age, told in (
            *((0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (86399, "23h59m")),
            *((86400, "1d00h"), (1000 * 86400, "1000d00h"), (-5, "0s")),
        ):
            self.assertEqual(self.lines([presence(connected_since=EPOCH - age)])[4].split()[-1], told)

    def test_no_answer_to_a_push_is_a_dash(self):
        self.assertEqual(self.lines([presence(acknowledgement_seconds=None)])[4].split()[-2], "-")

    def test_trouble_is_told_above_the_table(self):
        self.assertEqual(self.lines([presence()], trouble="no answer")[2], "no answer")

    def test_text_is_of_any_length_and_has_no_escapes(self):
        rows = [presence(account=f"{number:064}", address=64 * "b") for number in range(200)]
        console = Console(file=io.StringIO(), width=BROAD, force_terminal=False)
        text = text_of(Page("root@localhost", 200, "skipped"), Look(rows, EPOCH), console)
        lines = text.splitlines()
        self.assertEqual((len(lines), lines[-1].split()[:2]), (204, [f"{199:064}", 64 * "b"]))
        self.assertNotIn("\x1b", text)
        self.assertEqual([line for line in lines if line != line.rstrip()], [])
        self.assertLess(max(map(len, lines)), 250)

    def test_json_is_an_object_a_line_and_ascii(self):
        lines = json_of(Look([presence(account=HOSTILE), presence(acknowledgement_seconds=None)], EPOCH)).splitlines()
        self.assertEqual([json.loads(line)["account"] for line in lines], [HOSTILE, "alice"])
        self.assertEqual(json.loads(lines[1]), {"stamp": EPOCH, **ROW, "acknowledgement_seconds": None})
        self.assertTrue(all(letter.isprintable() and letter.isascii() for line in lines for letter in line))
        self.assertEqual(json_of(Look([], EPOCH)), "")

    def test_sorted_by_all_but_the_periods(self):
        self.assertEqual({*SORTS, "periods"}, set(ROW))


class Reactor:
    """Makes calls at once."""

    def callFromThread(self, call):
        call()


class ScreenTests(SynchronousTestCase):
    def setUp(self):
        self.file = io.StringIO()
        self.console = Console(file=self.file, width=80, height=24, force_terminal=True, color_system=None)
        self.screen = Screen(self.console, Page("root@localhost", 100, "skipped"), Reactor())

    def drawn(self):
        """Return what was drawn last."""
        drawn = self.file.getvalue().rpartition("\x1b[H")[2]
        return drawn.splitlines()

    def test_all_lines_are_drawn_so_that_nothing_of_before_stays(self):
        with self.screen:
            self.screen.show(Look(30 * [presence()], EPOCH))
            self.assertIn("… 11 more", self.drawn()[23])
            self.screen.show(Look([presence()], EPOCH))
            self.assertEqual([len(line) for line in self.drawn()], 24 * [80])

    def test_before_the_first_answer_it_waits(self):
        with self.screen:
            self.assertEqual(self.drawn()[0].rstrip(), "waiting for the server")
            self.screen.miss()
            self.assertEqual(self.drawn()[0].rstrip(), "no answer from the server")

    def test_without_an_answer_the_last_look_stays_until_there_is_another(self):
        with self.screen:
            self.screen.show(Look([presence()], EPOCH))
            self.screen.miss()
            self.assertRegex(self.drawn()[2], r"^no answer from the server; it was like this at \d\d:\d\d:20 *$")
            self.assertIn("alice", self.drawn()[4])
            self.screen.show(Look([presence()], EPOCH + 1))
            self.assertEqual(self.drawn()[2].strip(), "")

    def test_it_is_drawn_anew_when_the_terminal_has_another_size(self):
        with self.screen:
            self.screen.show(Look(30 * [presence()], EPOCH))
            self.console.size = (60, 10)
            os.kill(os.getpid(), signal.SIGWINCH)
            lines = self.drawn()
            self.assertEqual(([len(line) for line in lines], lines[9][:9]), (10 * [60], "… 25 more"))


class View(Lines):
    def __init__(self):
        self.seen = []
        super().__init__(self.seen.append)

    def miss(self):
        self.seen.append("miss")


class LookAgainTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.view = Clock(), View()
        self.answers = []
        self.asked = 0

    def begin(self, every=5):
        self.done = Deferred.fromCoroutine(look_again(self.ask, self.view, every, lambda: EPOCH, self.clock))
        self.addCleanup(self.done.addErrback, lambda _: None)
        self.addCleanup(self.done.cancel)

    def ask(self):
        self.asked += 1
        return self.answers.pop(0)

    def test_it_asks_again_after_a_while(self):
        self.answers = [succeed([presence()]), succeed([])]
        self.begin()
        self.assertEqual(self.view.seen, [Look([presence()], EPOCH)])
        self.clock.advance(4.9)
        self.assertEqual(self.asked, 1)
        self.clock.advance(0.1)
        self.assertEqual(self.view.seen[1:], [Look([], EPOCH)])

    def test_a_slow_answer_is_told_while_it_is_waited_for(self):
        slow = Deferred()
        self.answers = [slow]
        self.begin()
        self.clock.advance(PATIENCE_SECONDS - 0.1)
        self.assertEqual(self.view.seen, [])
        self.clock.advance(0.1)
        self.assertEqual(self.view.seen, ["miss"])
        slow.callback([])
        self.assertEqual(self.view.seen, ["miss", Look([], EPOCH)])

    def test_a_server_that_is_away_is_asked_again(self):
        self.answers = [fail(NotConnected("the connection was lost")), succeed([])]
        self.begin()
        self.assertEqual(self.view.seen, ["miss"])
        self.clock.advance(5)
        self.assertEqual(self.view.seen, ["miss", Look([], EPOCH)])

    def test_to_look_once_is_to_ask_once(self):
        for answer, end in ((succeed([]), None), (fail(NotConnected("the connection was lost")), NotConnected)):
            self.answers, self.view.seen[:] = [answer], []
            self.begin(every=None)
            self.assertIsNone(self.successResultOf(self.done)) if end is None else self.failureResultOf(self.done, end)
            self.assertEqual(self.view.seen, [Look([], EPOCH)] if end is None else [])
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_refusal_ends_it(self):
        self.answers = [fail(NotPermitted("not you"))]
        self.begin()
        self.failureResultOf(self.done, NotPermitted)
        self.assertEqual((self.view.seen, self.clock.getDelayedCalls()), ([], []))

    def test_ended_it_leaves_nothing(self):
        for answer in (Deferred(), succeed([])):
            self.answers = [answer]
            self.begin()
            self.done.cancel()
            self.failureResultOf(self.done, CancelledError)
            self.assertEqual(self.clock.getDelayedCalls(), [])


class WatchConnectionTests(SynchronousTestCase):
    def test_it_says_when_the_server_goes_and_nothing_else(self):
        view, events = View(), Events()
        done = Deferred.fromCoroutine(watch_connection(events, view))
        for kind, seen in (("connected", 0), ("lost", 1), ("step", 1), ("draining", 2)):
            events.put(Event(kind, "words", EPOCH))
            self.assertEqual(view.seen, seen * ["miss"])
        self.assertNoResult(done)
        events.end(NotConnected("no more"))
        self.failureResultOf(done, NotConnected)
