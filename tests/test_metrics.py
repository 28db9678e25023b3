"""What Prometheus scrapes, read back with Prometheus's own parsers."""

import math
import re

from doubles import Rig, Sink
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.spread import pb
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.test.requesthelper import DummyRequest

from clockd import __version__
from clockd.feeds import UNKNOWN
from clockd.metrics import METRICS, MetricsPage, TallyCollector
from clockd.values import CLOSE_REASONS, LOGIN_METHODS, LOGIN_RESULTS, PERIOD_RESULTS, SKIP_REASONS, Limits, Tally


class MetricsCase(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.tally = Tally()
        self.tally.feed("time")
        self.collector = TallyCollector(self.tally, self.clock)
        self.yielded = 0
        self.page = self.make_page(lambda call: succeed(call()))

    def make_page(self, in_thread):
        return MetricsPage(self.collector, in_thread, self.give_way)

    def give_way(self):
        self.yielded += 1

    def get(self, **headers):
        request = DummyRequest([b"metrics"])
        request.requestHeaders = Headers({name.encode(): [value.encode()] for name, value in headers.items()})
        request.render(self.page)
        return request

    def scrape(self, accept=None):
        """Return all samples of a scrape: a number by name and labels."""
        request = self.get(**({} if accept is None else {"accept": accept}))
        text = b"".join(request.written).decode()
        parse = openmetrics.text_string_to_metric_families if "# EOF" in text else text_string_to_metric_families
        families = list(parse(text))
        self.kinds = {family.name: family.type for family in families}
        self.content_type = request.responseHeaders.getRawHeaders("content-type")[0]
        return {(s.name, *sorted(s.labels.items())): s.value for family in families for s in family.samples}

    def labelled(self, name, samples=None):
        """Return the label values of a metric."""
        return {tuple(v for _, v in key[1:]): n for key, n in (samples or self.scrape()).items() if key[0] == name}


class CountedCollector(TallyCollector):
    read = 0

    def collect(self):
        self.read += 1
        return super().collect()


class ScrapeTests(MetricsCase):
    def test_the_text_format_is_the_default(self):
        self.assertEqual(self.scrape()["clockd_avatars",], 0)
        self.assertTrue(self.content_type.startswith("text/plain"), self.content_type)

    def test_what_takes_a_while_is_waited_for_and_the_tally_is_read_after_it(self):
        waiting = []
        self.page = self.make_page(lambda call: waiting.append((Deferred(), call)) or waiting[0][0])
        request = self.get()
        self.assertEqual((request.written, request.finished), ([], 0))
        self.tally.avatars = 3
        ((done, call),) = waiting
        done.callback(call())
        self.assertEqual(request.finished, 1)
        page = b"".join(request.written)
        self.assertIn(b"\nclockd_avatars 3.0\n", page)
        self.assertIn(b"\nprocess_open_fds ", page)
        self.assertEqual(request.responseHeaders.getRawHeaders("content-length"), [str(len(page))])

    def test_of_a_clock_that_nothing_is_known_of_the_bound_is_infinite(self):
        found = self.scrape()
        self.assertEqual(found["clockd_clock_error_bound_seconds",], math.inf)
        self.assertEqual((found["clockd_clock_synchronized",], found["clockd_clock_steps_total",]), (0, 0))
        for name in ("offset", "error_bound"):
            self.assertEqual(found[f"clockd_subscriber_{name}_seconds_count",], 0)

    def test_the_host_s_clock_and_those_of_clients_are_shown(self):
        self.tally.clock_bound, self.tally.clock_synchronized, self.tally.clock_steps = 0.25, True, 3
        self.tally.subscriber_offset.observe(0.5, 2)
        self.tally.subscriber_bound.observe(0.125)
        for accept in (None, "application/openmetrics-text"):
            found = self.scrape(accept)
            self.assertEqual(found["clockd_clock_error_bound_seconds",], 0.25)
            self.assertEqual((found["clockd_clock_synchronized",], found["clockd_clock_steps_total",]), (1, 3))
            self.assertEqual(found["clockd_subscriber_offset_seconds_sum",], 1.0)
            self.assertEqual(found["clockd_subscriber_offset_seconds_bucket", ("le", "0.5")], 2)
            self.assertEqual(found["clockd_subscriber_error_bound_seconds_sum",], 0.125)
            self.assertEqual(found["clockd_subscriber_error_bound_seconds_bucket", ("le", "0.1")], 0)

    def test_who_leaves_meanwhile_gets_nothing(self):
        done = Deferred()
        self.page = self.make_page(lambda _: done)
        request = self.get()
        request.processingFailed(Failure(ConnectionDone()))
        done.callback([])
        self.assertEqual((request.written, request.finished), ([], 0))

    def test_who_asks_while_others_wait_shares_their_collection_and_gets_its_own_format(self):
        jobs = []
        self.page = self.make_page(lambda call: jobs.append((Deferred(), call)) or jobs[-1][0])
        requests = [self.get(accept=accept) for accept in ("", "application/openmetrics-text", "")]
        self.assertEqual(len(jobs), 1)
        self.tally.avatars = 3
        done, call = jobs[0]
        done.callback(call())
        self.assertEqual(self.yielded, 3)
        for request, is_openmetrics in zip(requests, (False, True, False), strict=True):
            page = b"".join(request.written)
            self.assertEqual((request.finished, page.endswith(b"# EOF\n")), (1, is_openmetrics))
            self.assertIn(b"\nclockd_avatars 3.0\n", page)
            self.assertIn(b"\nprocess_open_fds ", page)
        self.assertIs(requests[0].written[0], requests[2].written[0], "a format is encoded once")
        self.get()
        self.assertEqual(len(jobs), 2)

    def test_who_leaves_costs_nothing_more_and_who_stays_is_answered(self):
        jobs = []
        self.collector = CountedCollector(self.tally, self.clock)
        self.page = self.make_page(lambda _: jobs.append(Deferred()) or jobs[-1])
        registered = self.collector.read  # a registry reads what is put into it
        for _ in range(100):
            self.get().processingFailed(Failure(ConnectionDone()))
        self.assertEqual(len(jobs), 1)
        jobs[0].callback([])
        self.assertEqual((self.collector.read - registered, self.yielded), (0, 0))
        left, stays = self.get(), self.get()
        left.processingFailed(Failure(ConnectionDone()))
        jobs[1].callback([])
        self.assertEqual((left.finished, stays.finished, len(jobs)), (0, 1, 2))
        self.assertEqual(self.collector.read - registered, 1)

    def test_a_collection_that_fails_is_told_to_those_who_wait_and_the_next_is_another(self):
        jobs = []
        self.page = self.make_page(lambda _: jobs.append(Deferred()) or jobs[-1])
        ends = [self.get().notifyFinish() for _ in range(2)]
        jobs[0].errback(Failure(OSError("no /proc")))
        for end in ends:
            self.failureResultOf(end, OSError)
        request = self.get()
        jobs[1].callback([])
        self.assertEqual(request.finished, 1)

    def test_openmetrics_is_there_for_who_accepts_it(self):
        samples = self.scrape("application/openmetrics-text; version=1.0.0, text/plain;q=0.5")
        self.assertEqual(samples["clockd_connections_opened_total",], 0)
        self.assertTrue(self.content_type.startswith("application/openmetrics-text"), self.content_type)

    def test_both_formats_say_the_same(self):
        openmetrics, text = self.scrape("application/openmetrics-text"), self.scrape()
        ours = {key for key in openmetrics if key[0].startswith("clockd_") and not key[0].endswith("_created")}
        self.assertEqual({key: text[key] for key in ours}, {key: openmetrics[key] for key in ours})

    def test_an_accept_header_of_nonsense_gets_some_format(self):
        for nonsense in ("version=1", "version=", "version=1.0.0.0", "version=99.0.0"):
            for kind in ("application/openmetrics-text", "text/plain"):
                self.assertEqual(self.scrape(f"{kind}; {nonsense}")["clockd_avatars",], 0)
        for accept in ("", ",", ";", "text/plain; escaping=nonsense", "=", "*/*;q=x"):
            self.assertEqual(self.scrape(accept)["clockd_avatars",], 0)

    def test_an_accept_header_with_a_version_of_letters_gets_some_format(self):
        for nonsense in ("x", ".", "x.y", "1.x"):
            for kind in ("application/openmetrics-text", "text/plain"):
                self.assertEqual(self.scrape(f"{kind}; version={nonsense}")["clockd_avatars",], 0)

    def test_every_label_value_is_there_from_the_start(self):
        samples = self.scrape()
        for name, labels in {
            "clockd_connections": {("pending",), ("authenticated",)},
            "clockd_connections_closed_total": {(reason,) for reason in CLOSE_REASONS},
            "clockd_logins_total": {(method, result) for method in LOGIN_METHODS for result in LOGIN_RESULTS},
            "clockd_period_changes_total": {(result,) for result in PERIOD_RESULTS},
            "clockd_pushes_skipped_total": {("time", reason) for reason in SKIP_REASONS},
        }.items():
            self.assertEqual(self.labelled(name, samples), dict.fromkeys(labels, 0), name)
        for name in ("subscriptions", "push_requested_hertz", "push_achieved_hertz", "pushes_total"):
            self.assertEqual(self.labelled(f"clockd_{name}", samples), {("time",): 0}, name)

    def test_every_metric_has_its_kind(self):
        self.scrape()
        for kind, names in {
            "gauge": "avatars connections subscriptions push_requested_hertz push_achieved_hertz build_info",
            "counter": "connections_opened connections_closed logins pushes pushes_skipped period_changes "
            "unhandled_errors",
            "histogram": "push_lateness_seconds push_acknowledgement_seconds",
        }.items():
            for name in names.split():
                self.assertEqual(self.kinds[f"clockd_{name}"], kind, name)
        self.assertIn("process_open_fds", self.kinds)
        self.assertIn("python_gc_objects_collected", self.kinds)

    def test_without_tls_there_is_no_expiry_and_with_it_there_is_the_moment(self):
        name = "clockd_tls_certificate_expiry_timestamp_seconds"
        self.assertEqual(self.labelled(name), {})
        self.assertEqual(self.kinds[name], "gauge")
        self.tally.tls_expiry = 1_795_384_276.0
        self.assertEqual(self.labelled(name), {(): 1_795_384_276.0})

    def test_the_build_is_told(self):
        (labels,) = (dict(key[1:]) for key in self.scrape() if key[0] == "clockd_build_info")
        self.assertEqual((labels["version"], set(labels)), (__version__, {"version", "twisted", "python"}))

    def test_what_was_counted_is_what_is_read(self):
        tally = self.tally
        tally.avatars, tally.pending, tally.authenticated, tally.opened, tally.unhandled_errors = 1, 2, 3, 4, 5
        tally.ready, tally.connections_limit = True, 11
        tally.closed["stale"], tally.logins["secret", "ok"], tally.periods["clamped"] = 6, 7, 8
        tally.feeds["time"].skipped["stall"], tally.feeds["time"].pushes = 9, 10
        tally.feeds["time"].subscribed(0.25)
        samples = self.scrape()
        for expected, key in (
            (1, ("clockd_ready",)),
            (11, ("clockd_connections_limit",)),
            (1, ("clockd_avatars",)),
            (2, ("clockd_connections", ("state", "pending"))),
            (3, ("clockd_connections", ("state", "authenticated"))),
            (4, ("clockd_connections_opened_total",)),
            (5, ("clockd_unhandled_errors_total",)),
            (6, ("clockd_connections_closed_total", ("reason", "stale"))),
            (7, ("clockd_logins_total", ("method", "secret"), ("result", "ok"))),
            (8, ("clockd_period_changes_total", ("result", "clamped"))),
            (9, ("clockd_pushes_skipped_total", ("feed", "time"), ("reason", "stall"))),
            (10, ("clockd_pushes_total", ("feed", "time"))),
            (1, ("clockd_subscriptions", ("feed", "time"))),
            (4, ("clockd_push_requested_hertz", ("feed", "time"))),
        ):
            self.assertEqual(samples[key], expected, key)

    def test_a_histogram_s_buckets_are_cumulative_and_end_at_infinity(self):
        for seconds in (0.00005, 0.0001, 0.004, 100):
            self.tally.lateness.observe(seconds)
        samples = self.scrape()
        buckets = {k: n for (k,), n in self.labelled("clockd_push_lateness_seconds_bucket", samples).items()}
        self.assertEqual([buckets[bound] for bound in ("0.0001", "0.003", "0.005", "2.5", "+Inf")], [2, 2, 3, 3, 4])
        self.assertEqual(samples["clockd_push_lateness_seconds_count",], 4)
        self.assertAlmostEqual(samples["clockd_push_lateness_seconds_sum",], 100.00415)

    def test_what_clients_do_makes_no_label(self):
        rig = Rig(Limits(connections_per_account=1))
        collector = TallyCollector(rig.tally, rig.clock)
        before = sum(len(family.samples) for family in collector.collect())
        for account in (b"alice", b"bob"):
            _, avatar, _ = rig.realm.requestAvatar(account, Sink(), pb.IPerspective)
            avatar.begin()
        self.assertEqual(sum(len(family.samples) for family in collector.collect()), before)

    def test_units_are_told_where_there_are_some(self):
        page = b"".join(self.get(accept="application/openmetrics-text").written).decode()
        told = dict(re.findall(r"^# UNIT (clockd_\w+) (\w+)$", page, re.MULTILINE))
        self.assertEqual(told["clockd_push_lateness_seconds"], "seconds")
        self.assertEqual(told["clockd_push_bytes"], "bytes")
        self.assertEqual(told["clockd_push_requested_hertz"], "hertz")
        self.assertEqual({name.rpartition("_")[2] for name in told}, {"seconds", "bytes", "hertz"})
        self.assertNotIn("clockd_avatars", told)

    def test_all_that_is_told_is_said_with_a_help_text(self):
        page = b"".join(self.get().written).decode()
        self.assertEqual(
            set(re.findall(r"^# HELP (clockd_\w+) \S+ ", page, re.MULTILINE)), {entry.name for entry in METRICS}
        )

    def test_there_are_never_more_than_2000_series(self):
        def series():
            self.collector.remember()
            for _ in range(2):
                self.clock.advance(1)
            samples = self.scrape(), self.scrape("application/openmetrics-text")
            return max(map(len, samples))

        quiet = series()
        self.assertLess(quiet, 300)
        for number in range(300):
            feed = self.tally.feed(f"feed-{number}")
            feed.updated, feed.errors = 1.0, 1
            feed.skipped = dict.fromkeys(feed.skipped, 1)
        self.tally.feed(UNKNOWN).errors = 1
        self.tally.tls_expiry = 1.0
        for histogram in (self.tally.lateness, self.tally.acknowledgement, self.tally.lag):
            for bound in histogram.bounds:
                histogram.observe(bound * 2)
        self.assertLess(series(), 2000)


class FeedMetricsTests(MetricsCase):
    PER_FEED = (
        *("subscriptions", "push_requested_hertz", "push_achieved_hertz", "pushes_total", "push_bytes_total"),
        *("pushes_skipped_total", "feed_updates_total", "feed_errors_total", "feed_last_update_timestamp_seconds"),
    )

    def feeds(self, number):
        """Count so many feeds beside the time; what is counted of each is its number, or a multiple."""
        for index in range(1, number + 1):
            counts = self.tally.feed(f"n{index}")
            counts.pushes, counts.bytes, counts.subscriptions, counts.requested = index, 2 * index, 3 * index, 0.5
            counts.skipped["unchanged"], counts.updates, counts.errors = 4 * index, 5 * index, 6 * index
            counts.updated = 1000.0 * index

    def of(self, name, samples):
        return {labels[0]: value for labels, value in self.labelled(f"clockd_{name}", samples).items()}

    def test_every_family_is_there_from_the_start_and_has_its_kind(self):
        self.scrape()
        for name in self.PER_FEED:
            kind = "counter" if name.endswith("_total") else "gauge"
            self.assertEqual(self.kinds[f"clockd_{name.removesuffix('_total')}"], kind, name)

    def test_every_feed_is_there_from_the_start_but_for_the_moment_of_an_update_that_was_not(self):
        self.tally.feed("load")
        samples = self.scrape()
        self.assertEqual(self.of("feed_updates_total", samples), {"load": 0})  # nobody publishes the time
        self.assertEqual(self.of("feed_errors_total", samples), {"time": 0, "load": 0, "(unknown)": 0})
        self.assertEqual(self.of("feed_last_update_timestamp_seconds", samples), {})
        self.assertEqual(self.of("pushes_total", samples), {"time": 0, "load": 0})
        skipped = self.labelled("clockd_pushes_skipped_total", samples)
        self.assertEqual(skipped, {(feed, reason): 0 for feed in ("time", "load") for reason in SKIP_REASONS})

    def test_what_was_counted_for_a_feed_is_what_is_read(self):
        self.feeds(1)
        samples = self.scrape()
        for name, value in zip(self.PER_FEED, (3, 0.5, 0, 1, 2, 0, 5, 6, 1000), strict=True):
            if name != "pushes_skipped_total":
                self.assertEqual(self.of(name, samples)["n1"], value, name)
        self.assertEqual(samples["clockd_pushes_skipped_total", ("feed", "n1"), ("reason", "unchanged")], 4)

    def test_32_feeds_have_labels_and_there_is_no_other(self):
        self.feeds(31)
        self.tally.feed(UNKNOWN).errors = 7
        labels = {"time", *(f"n{index}" for index in range(1, 32))}
        samples = self.scrape()
        self.assertEqual(set(self.of("pushes_total", samples)), labels)
        self.assertEqual(set(self.of("feed_errors_total", samples)), labels | {UNKNOWN})
        self.assertEqual(self.of("feed_errors_total", samples)[UNKNOWN], 7)

    def test_with_one_more_the_rest_share_a_label_as_their_sum(self):
        for number in (32, 40, 255):
            self.feeds(number)
            samples = self.scrape()
            labels = {"time", *(f"n{index}" for index in range(1, 32)), "other"}
            rest = range(32, number + 1)
            for name, value in (
                *(("subscriptions", 3 * sum(rest)), ("push_requested_hertz", 0.5 * len(rest))),
                *(("pushes_total", sum(rest)), ("push_bytes_total", 2 * sum(rest))),
                *(("feed_updates_total", 5 * sum(rest)), ("feed_errors_total", 6 * sum(rest))),
                ("feed_last_update_timestamp_seconds", 1000 * number),
            ):
                found = self.of(name, samples)
                errors, of_published = name == "feed_errors_total", name in {"feed_updates_total", self.PER_FEED[-1]}
                self.assertEqual(
                    set(found), (labels | ({UNKNOWN} if errors else set())) - ({"time"} if of_published else set())
                )
                self.assertEqual(found["other"], value, name)
            self.assertEqual(
                samples["clockd_pushes_skipped_total", ("feed", "other"), ("reason", "unchanged")], 4 * sum(rest)
            )

    def test_of_those_that_share_a_label_the_latest_update_counts_and_none_if_there_was_none(self):
        self.feeds(40)
        for index in range(33, 41):
            self.tally.feeds[f"n{index}"].updated = None
        self.assertEqual(self.of("feed_last_update_timestamp_seconds", self.scrape())["other"], 32_000)
        self.tally.feeds["n35"].updated, self.tally.feeds["n40"].updated = 99_000, 2000
        self.assertEqual(self.of("feed_last_update_timestamp_seconds", self.scrape())["other"], 99_000)
        self.tally.feeds["n35"].updated = self.tally.feeds["n40"].updated = None
        self.tally.feeds["n32"].updated = None
        self.assertNotIn("other", self.of("feed_last_update_timestamp_seconds", self.scrape()))

    def test_the_achieved_rate_of_those_that_share_a_label_is_their_sum(self):
        self.feeds(40)
        self.collector.remember()
        for index in (1, 32, 40):
            self.tally.feeds[f"n{index}"].pushes += 10
        self.clock.advance(5)
        rates = self.of("push_achieved_hertz", self.scrape())
        self.assertEqual(
            (rates["n1"], rates["n2"], rates["other"]), ((10 + 1) / 5, 2 / 5, (20 + sum(range(32, 41))) / 5)
        )


class RateTests(MetricsCase):
    def rate(self):
        return self.scrape()["clockd_push_achieved_hertz", ("feed", "time")]

    def push(self, pushes, seconds):
        for _ in range(seconds):
            self.tally.feeds["time"].pushes += pushes
            self.clock.advance(1)
            self.collector.remember()

    def test_the_achieved_rate_is_0_before_any_time_has_passed(self):
        self.tally.feeds["time"].pushes += 5
        self.assertEqual(self.rate(), 0)

    def test_the_achieved_rate_is_the_mean_since_the_start_at_first(self):
        self.push(8, 2)
        self.assertEqual(self.rate(), 8)

    def test_the_achieved_rate_is_the_mean_of_ten_seconds(self):
        self.push(100, 30)
        self.push(0, 9)
        self.assertEqual(self.rate(), 10)
        self.push(0, 1)
        self.assertEqual(self.rate(), 0)

    def test_what_came_since_the_last_second_counts(self):
        self.push(0, 20)
        self.tally.feeds["time"].pushes += 21
        self.clock.advance(0.5)
        self.assertEqual(self.rate(), 2)

    def test_a_feed_that_was_not_there_yet_counts_from_0(self):
        self.clock.advance(2)
        self.tally.feed("new").pushes = 4
        self.assertEqual(self.scrape()["clockd_push_achieved_hertz", ("feed", "new")], 2)
