import shutil
import sys
import tempfile
from pathlib import Path

from doubles import EPOCH, clockd_logs
from twisted.application.service import IService
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clockd.config import ClockdFeed, HostFeed, PrometheusFeed, PushFeed, PythonFeed
from clockd.errors import Misconfigured, NotPermitted
from clockd.feeds import LatestFeed, SampledFeed
from clockd.plugin import LoneThread, PluginSource
from clockd.scrape import Scraper
from clockd.sources import REASON_LETTERS, Reports, make_feeds
from clockd.store import MemoryStore
from clockd.values import Retained, Tally


class MakeTests(SynchronousTestCase):
    def setUp(self):
        self.reactor, self.tally, self.store = MemoryReactorClock(), Tally(), MemoryStore()
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        self.patch(sys, "path", [*sys.path, str(folder)])
        about = folder / "queue-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: queue\nVersion: 1\n")
        (about / "entry_points.txt").write_text("[clockd.feeds]\njobs = no_such_module:jobs\n")

    def now(self):
        return EPOCH + self.reactor.seconds()

    def make(self, **sections):
        self.feeds, services = make_feeds(sections, self.tally, self.store, self.reactor, self.now)
        return services

    def test_there_is_always_the_time(self):
        self.assertEqual(self.make(), [])
        self.assertEqual(self.feeds.readable("alice"), ["time"])
        self.assertEqual(self.feeds.to_read("time", "alice").latest().stamp, EPOCH)

    def test_each_kind_is_a_feed_and_what_has_to_run_for_it(self):
        for section, feed, services in (
            (PushFeed(), LatestFeed, []),
            (HostFeed(), SampledFeed, []),
            (ClockdFeed(), SampledFeed, []),
            (PrometheusFeed(url="http://127.0.0.1/", metrics=("up",)), LatestFeed, [LoneThread, Scraper]),
            (PythonFeed(plugin="jobs"), LatestFeed, [LoneThread, PluginSource]),
        ):
            made = self.make(it=section)
            self.assertEqual(list(map(type, made)), services)
            self.assertTrue(all(verifyObject(IService, service) for service in made))
            self.assertIs(type(self.feeds.to_read("it", "alice")), feed)
            self.assertEqual(self.feeds.readable("alice"), ["time", "it"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_what_is_sampled_is_sampled_once_a_period(self):
        for section in (HostFeed(every=2), ClockdFeed(every=2)):
            self.make(it=section)
            feed = self.feeds.to_read("it", "alice")
            found = []
            for _ in range(4):
                found.append(feed.latest().sequence)
                self.reactor.advance(1)
            self.assertEqual(found, [1, 1, 2, 2])

    def test_rights_are_those_of_the_section_and_only_clients_publish_is_published_to(self):
        self.make(open=PushFeed(publish=("bob",)), closed=PushFeed(read=("bob",)), host=HostFeed(read=("alice",)))
        self.assertEqual(self.feeds.readable("alice"), ["time", "open", "host"])
        self.assertEqual(self.feeds.readable("bob"), ["time", "open", "closed"])
        self.assertEqual(self.feeds.to_publish("open", "bob").name, "open")
        for feed, account in (("open", "alice"), ("closed", "bob"), ("host", "alice")):
            self.assertRaises(NotPermitted, self.feeds.to_publish, feed, account)

    def test_the_newest_sample_of_one_that_is_retained_is_there_again_and_numbers_go_on(self):
        for value, number in ((1.5, 1), ({"a": [1, b"x"]}, 2), (None, 3)):
            self.make(load=PushFeed(publish=("a",), retain=True), heat=PushFeed(publish=("a",)))
            for service in self.make(load=PushFeed(publish=("a",), retain=True), heat=PushFeed(publish=("a",))):
                service.startService()
            load, heat = (self.feeds.to_publish(name, "a") for name in ("load", "heat"))
            if number > 1:
                self.assertEqual((load.latest().sequence, load.latest().stamp), (number - 1, 1000.0 + number - 1))
            self.assertIsNone(heat.latest())
            self.assertEqual((load.publish(value, 1000.0 + number), heat.publish(value)), (number, 1))
            self.assertEqual(load.latest().value, value)

    def test_what_is_kept_but_is_no_value_is_reported_and_left_out(self):
        self.store.retain("load", Retained(7, 1.0, b"nonsense"))
        (service,) = self.make(load=PushFeed(publish=("a",), retain=True))
        with clockd_logs() as logged:
            service.startService()
        self.assertEqual([event["feed"] for event in logged], ["load"])
        self.assertIsNone(self.feeds.to_publish("load", "a").latest())
        self.assertEqual(self.tally.feeds["load"].errors, 1)

    def test_every_feed_is_counted_from_the_start(self):
        self.make(one=PushFeed(), two=HostFeed())
        self.assertEqual(list(self.tally.feeds), ["one", "two"])

    def test_a_url_that_is_none_is_told_with_its_key(self):
        with self.assertRaisesRegex(Misconfigured, r"^feeds\.node\.url: http://a:b: is no URL"):
            self.make(node=PrometheusFeed(url="http://a:b", metrics=("up",)))

    def test_a_selector_that_is_none_is_told_with_its_key(self):
        with self.assertRaisesRegex(Misconfigured, r"^feeds\.node\.metrics: up\{a=b\}: is neither"):
            self.make(node=PrometheusFeed(url="http://127.0.0.1/", metrics=("up", "up{a=b}")))

    def test_a_plugin_that_is_not_installed_is_told_with_its_key(self):
        with self.assertRaisesRegex(Misconfigured, r"^feeds\.queue\.plugin: .* jobss .*; installed: .*\bjobs\b"):
            self.make(queue=PythonFeed(plugin="jobss"))


class ReportTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.tally = Clock(), Tally()
        self.reports = Reports(self.tally, self.clock)

    def told(self, feed, *errors):
        """Report errors; return what is logged."""
        with clockd_logs() as logged:
            for error in errors:
                self.reports.report(feed, error)
        return [(event["log_level"].name, formatEvent(event)) for event in logged]

    def test_it_is_told_and_counted(self):
        told = self.told("node", ConnectionError("answers 503"))
        self.assertEqual(told, [("warn", "no new sample of node: answers 503")])
        self.assertEqual(self.tally.feeds["node"].errors, 1)

    def test_an_error_that_says_nothing_is_told_by_its_name(self):
        self.assertEqual(self.told("node", StopIteration()), [("warn", "no new sample of node: StopIteration")])

    def test_what_cannot_be_printed_is_escaped_and_what_is_too_long_is_cut(self):
        ((_, told),) = self.told("node", ValueError("\x1b[31m\nfeed\u2028" + 1000 * "x"))
        words = "\\x1b[31m\\nfeed\\u2028"
        self.assertEqual(told, "no new sample of node: " + words + (REASON_LETTERS - len(words)) * "x")

    def test_one_that_fails_often_is_told_now_and_then_and_always_counted(self):
        self.assertEqual(len(self.told("node", *map(ValueError, range(25)))), 10)
        self.assertEqual(self.tally.feeds["node"].errors, 25)
        self.clock.advance(10)
        told = self.told("node", ValueError(25))
        self.assertEqual(told, [("warn", "no new sample of node: 25 (15 more like it were left out)")])

    def test_one_that_fails_often_leaves_no_other_unheard(self):
        self.told("node", *map(ValueError, range(25)))
        self.assertEqual(len(self.told("queue", ValueError("empty"))), 1)
