import gc
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Event, current_thread, main_thread
from weakref import finalize

from doubles import EPOCH
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import Misconfigured
from clockd.feeds import LatestFeed
from clockd.plugin import LoneThread, PluginSource, find_plugin
from clockd.values import FeedTally, Published
from clockd.wire import ValueEncoder

SECONDS = 20
"""How long a thread may take for what takes a moment."""

encode = ValueEncoder(b"pb").encode


class Hand:
    """A thread whose calls the test makes by hand."""

    def __init__(self):
        self.asked = []

    def call(self, what):
        answered = Deferred()
        self.asked.append((what, answered))
        return answered

    def make(self):
        """Make the call that is asked for."""
        what, answered = self.asked.pop()
        answered.callback(what())


class Hostile(BaseException):
    """An error that can't be turned to text."""

    def __str__(self):
        raise SystemExit


class Metaclass(type):
    @property
    def __name__(cls):
        raise SystemExit


class Nameless(Exception, metaclass=Metaclass):
    """An error whose class can't tell its name."""


class SourceTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.hand, self.reports, self.loads = Clock(), Hand(), [], 0
        self.feed = LatestFeed("queue", encode, FeedTally(), self.now)
        self.plugin = lambda: {"jobs": 3}
        self.source = self.make(encode)
        self.addCleanup(self.assert_stops)

    def now(self):
        return EPOCH + self.clock.seconds()

    def make(self, check, every=2.0):
        return PluginSource(
            *(self.feed, self.load, every, self.hand.call, check, self.clock, self.now),
            lambda name, error: self.reports.append((name, str(error))),
        )

    def load(self):
        self.loads += 1
        if isinstance(self.plugin, BaseException):
            raise self.plugin
        return self.call_plugin

    def call_plugin(self):
        return self.plugin()

    def returns(self, value):
        """Have the plug-in return a value, or raise it, and let it be called."""

        def plugin():
            if isinstance(value, BaseException):
                raise value
            return value

        self.plugin = plugin
        self.hand.make()
        self.clock.advance(2)

    def assert_stops(self):
        self.source.stopService()
        self.source.stopService()
        gc.collect()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_before_the_start_nothing_is_called(self):
        self.assertEqual((self.hand.asked, self.loads), ([], 0))

    def test_what_it_returns_is_published_with_the_moment_at_which_it_did(self):
        self.source.startService()
        self.assertIsNone(self.feed.latest())
        self.clock.advance(5)
        self.hand.make()
        self.assertEqual(self.feed.latest(), Published("queue", 1, EPOCH + 5, {"jobs": 3}, encode({"jobs": 3})))

    def test_the_stamp_is_of_the_moment_of_the_return_and_not_of_the_publishing(self):
        self.source.startService()
        what, answered = self.hand.asked.pop()
        outcome = what()
        self.clock.advance(7)
        answered.callback(outcome)
        self.assertEqual(self.feed.latest().stamp, EPOCH)

    def test_it_is_called_again_so_long_after_the_end_of_the_call_before_and_never_twice_at_once(self):
        self.source.startService()
        self.clock.advance(100)
        self.assertEqual(len(self.hand.asked), 1)
        self.hand.make()
        self.clock.advance(1.9)
        self.assertEqual(self.hand.asked, [])
        self.clock.advance(0.1)
        self.assertEqual(len(self.hand.asked), 1)
        self.hand.make()
        self.assertEqual(self.loads, 1)

    def test_what_it_goes_on_to_change_is_not_changed_in_the_sample(self):
        kept = {"jobs": [1]}
        self.source.startService()
        self.returns(kept)
        kept["jobs"].append(2)
        self.assertEqual(self.feed.latest().value, {"jobs": [1]})

    def test_whatever_it_raises_is_reported_each_time_and_the_last_sample_stays(self):
        self.source.startService()
        self.returns(1)
        for error, words in (
            (ValueError("no queue"), "ValueError: no queue"),
            (ValueError("no queue"), "ValueError: no queue"),
            (SystemExit(3), "SystemExit: 3"),
            (KeyboardInterrupt(), "KeyboardInterrupt: "),
            (Hostile(), "Hostile: "),
            (Nameless(), "an error without a name"),
        ):
            self.returns(error)
            self.assertEqual(self.reports.pop(), ("queue", words))
        self.assertEqual(self.feed.latest().value, 1)
        self.returns(2)
        self.assertEqual((self.feed.latest().sequence, self.feed.latest().value, self.reports), (2, 2, []))

    def test_what_is_no_value_is_reported(self):
        cycle = []
        cycle.append(cycle)
        self.source.startService()
        for value, words in (
            (object(), "InvalidValue: a value is None, bool"),
            ({"jobs": Hand()}, "InvalidValue: a value is None, bool"),
            ([[[[[]]]]], "InvalidValue: a value has 4 levels at most"),
            (cycle, "InvalidValue: a value has 4 levels at most"),
            ("x" * 4096, "InvalidValue: a value has 4096 bytes at most"),
        ):
            self.returns(value)
            ((_, told),) = self.reports
            self.assertTrue(told.startswith(words), told)
            self.reports.clear()
        self.assertIsNone(self.feed.latest())

    def test_what_is_no_value_yet_is_told_and_nothing_is_heard_of_it(self):
        async def ask():
            raise ValueError("in vain")

        failing, late = fail(ValueError("at once")), Deferred()
        self.source.startService()
        for value, what in ((failing, "Deferred"), (late, "Deferred"), (ask(), "coroutine")):
            self.returns(value)
            told = f"InvalidValue: returned a {what}: a plug-in returns a value"
            self.assertEqual(self.reports.pop(), ("queue", told))
        late.errback(ValueError("later"))
        del failing, late, value
        gc.collect()
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(self.flushWarnings(), [])

    def test_what_changed_while_it_was_copied_into_no_value_is_reported_too(self):
        self.source = self.make(lambda _: None)
        self.source.startService()
        self.returns(object())
        ((_, told),) = self.reports
        self.assertIn("a value is None", told)

    def test_one_that_cannot_be_imported_is_reported_and_tried_again(self):
        self.plugin = ImportError("no such module")
        self.source.startService()
        self.hand.make()
        self.clock.advance(2)
        self.hand.make()
        self.assertEqual(self.reports, [("queue", "ImportError: no such module")] * 2)
        self.clock.advance(2)
        self.returns(1)
        self.assertEqual((self.loads, self.feed.latest().value), (3, 1))

    def test_one_that_does_not_return_is_reported_again_and_again_until_it_does(self):
        for every, seconds in ((0.1, 10), (10.0, 10), (12.0, 12)):
            self.source = self.make(encode, every)
            self.source.startService()
            told = []
            for number in (1, 2, 3):
                self.clock.advance(seconds - 0.01)
                self.assertEqual(self.reports, told)
                self.clock.advance(0.01)
                told.append(("queue", f"the plug-in has not returned for {number * seconds} s"))
                self.assertEqual(self.reports, told)
            self.assertEqual(len(self.hand.asked), 1)
            self.hand.make()
            self.clock.advance(every - 0.01)
            self.assertEqual(self.reports, told)
            self.source.stopService()
            self.reports.clear()
        self.assertEqual(self.feed.latest().sequence, 3)

    def test_each_call_may_take_its_time(self):
        self.source.startService()
        for _ in range(5):
            self.clock.advance(9.9)
            self.returns(1)
        self.assertEqual((self.reports, self.feed.latest().sequence), ([], 5))

    def test_of_one_that_does_not_return_nothing_is_told_after_the_stop(self):
        self.source.startService()
        self.source.stopService()
        self.clock.advance(100)
        self.assertEqual(self.reports, [])

    def test_what_it_returns_after_the_stop_is_not_published(self):
        for value in (1, ValueError("too late")):
            self.source.startService()
            what, answered = self.hand.asked.pop()
            self.plugin = lambda value=value: value
            self.source.stopService()
            answered.callback(what())
            self.assertEqual((self.feed.latest(), self.reports), (None, []))

    def test_stopped_between_two_calls_it_makes_no_more(self):
        self.source.startService()
        self.hand.make()
        self.source.stopService()
        self.clock.advance(10)
        self.assertEqual(self.hand.asked, [])

    def test_it_can_be_started_again(self):
        self.source.startService()
        self.source.stopService()
        self.hand.asked.clear()
        self.source.startService()
        self.returns(1)
        self.assertEqual(self.feed.latest().value, 1)


class Reactor:
    """Keeps what threads want called in the reactor's thread."""

    def __init__(self):
        self.wanted = Queue()

    def callFromThread(self, call, *args):
        self.wanted.put((call, args))

    def turn(self):
        """Make one such call, and wait for it if there is none yet."""
        call, args = self.wanted.get(timeout=SECONDS)
        call(*args)


class LoneThreadTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = Reactor()
        self.thread = LoneThread("a plug-in", self.reactor)
        self.thread.startService()
        self.addCleanup(self.thread.stopService)

    def test_calls_are_made_in_one_thread_that_does_not_keep_the_process(self):
        calls = [self.thread.call(current_thread) for _ in range(2)]
        self.reactor.turn()
        self.reactor.turn()
        one, other = map(self.successResultOf, calls)
        self.assertIs(one, other)
        self.assertIsNot(one, main_thread())
        self.assertEqual((one.daemon, one.name), (True, "a plug-in"))

    def test_stopping_does_not_wait_and_the_thread_ends_with_its_call(self):
        begun, go_on = Event(), Event()

        def slow():
            begun.set()
            return go_on.wait(SECONDS)

        self.thread.call(slow)
        self.assertTrue(begun.wait(SECONDS))
        self.thread.stopService()
        thread = self.thread._thread
        self.assertTrue(thread.is_alive())
        go_on.set()
        thread.join(SECONDS)
        self.assertFalse(thread.is_alive())

    def test_started_again_it_makes_no_call_before_the_end_of_the_one_in_hand(self):
        begun, go_on, order = Event(), Event(), []

        def slow():
            begun.set()
            go_on.wait(SECONDS)
            order.append("first")

        self.thread.call(slow)
        self.assertTrue(begun.wait(SECONDS))
        self.thread.stopService()
        self.thread.startService()
        self.thread.call(lambda: order.append("second"))
        go_on.set()
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(order, ["first", "second"])

    def test_what_was_cancelled_before_it_began_is_not_called(self):
        begun, go_on, calls = Event(), Event(), []

        def slow():
            begun.set()
            go_on.wait(SECONDS)

        self.thread.call(slow)
        self.assertTrue(begun.wait(SECONDS))
        cancelled = self.thread.call(lambda: calls.append("cancelled"))
        cancelled.addErrback(lambda _: None)
        cancelled.cancel()
        self.thread.call(lambda: calls.append("other"))
        go_on.set()
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(calls, ["other"])

    def test_what_a_call_raises_is_told_and_the_next_is_made(self):
        for error in (ValueError("no"), SystemExit(3)):

            def bad(error=error):
                raise error

            answers = self.thread.call(bad), self.thread.call(lambda: 1)
            self.reactor.turn()
            self.reactor.turn()
            self.assertIs(self.failureResultOf(answers[0]).value, error)
            self.assertEqual(self.successResultOf(answers[1]), 1)

    def test_nothing_of_a_call_is_kept_while_the_thread_waits_for_the_next(self):
        for made in (len, float):  # of which the second raises

            def call(made=made):
                page, gone = frozenset({1, 2}), Event()
                self.thread.call(partial(made, page)).addErrback(lambda _: None)
                self.reactor.turn()
                finalize(page, gone.set)
                return gone

            self.assertTrue(call().wait(SECONDS))

    def test_what_was_cancelled_while_it_was_called_is_heard_of_no_more(self):
        begun, go_on = Event(), Event()

        def slow():
            begun.set()
            go_on.wait(SECONDS)
            raise ValueError

        answer = self.thread.call(slow)
        self.assertTrue(begun.wait(SECONDS))
        told = []
        answer.addErrback(told.append)
        answer.cancel()
        go_on.set()
        self.reactor.turn()
        self.assertEqual(len(told), 1)


class FindTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.patch(sys, "path", [str(self.folder)])  # whatever is installed beside clockd

    def install(self, distribution, text):
        """Have a distribution there, of which there is nothing but what it says of itself."""
        folder = self.folder / f"{distribution}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(text)

    def test_one_is_found_by_its_name_and_not_imported(self):
        self.install("one", "[clockd.feeds]\nqueue = no_such_module:sample\n")
        self.assertEqual(find_plugin("feeds.q.plugin", "queue").value, "no_such_module:sample")

    def test_one_that_is_not_installed_is_told_with_its_key_and_those_that_are(self):
        self.install("one", "[clockd.feeds]\nqueue = no_such_module:sample\njobs = no_such_module:jobs\n")
        self.install("two", "[console_scripts]\nqueues = no_such_module:main\n")
        with self.assertRaisesRegex(
            Misconfigured,
            r"^feeds\.q\.plugin: there is no entry point queues in the group clockd\.feeds; installed: jobs, queue$",
        ):
            find_plugin("feeds.q.plugin", "queues")

    def test_where_there_are_none_that_is_told(self):
        with self.assertRaisesRegex(Misconfigured, r"installed: none$"):
            find_plugin("feeds.q.plugin", "queue")
