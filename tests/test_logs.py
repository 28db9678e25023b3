import inspect
import io
import json
import pkgutil
import re
from importlib import import_module
from types import SimpleNamespace

from twisted.logger import LogBeginner, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

import clockd
from clockd import logs

TIME = "2023-11-14T22:13:20.125Z"


def event(log_format="{name} came", **fields):
    return {
        "log_time": 1700000000.125,
        "log_level": LogLevel.warn,
        "log_namespace": "clockd.broker",
        "log_format": log_format,
        "name": "alice",
    } | fields


def failure():
    try:
        divmod(1, 0)
    except ZeroDivisionError:
        return Failure()


class TextTests(SynchronousTestCase):
    def test_a_line_is_time_level_and_message(self):
        self.assertEqual(logs.as_text(event()), f"{TIME} warn     alice came\n")

    def test_a_traceback_follows_on_its_own_lines(self):
        first, _, rest = logs.as_text(event(log_failure=failure())).partition("\n")
        self.assertEqual(first, f"{TIME} warn     alice came")
        self.assertRegex(rest, r"(?s)^Traceback.*ZeroDivisionError")

    def test_an_event_without_a_level_counts_as_info(self):
        self.assertEqual(logs.as_text(event(log_level=None)), f"{TIME} info     alice came\n")


class JsonTests(SynchronousTestCase):
    def test_a_line_is_one_object_with_the_fields_of_the_event(self):
        line = logs.as_json(event(count=3, share=0.5, sure=True, nothing=None))
        self.assertTrue(line.endswith("}\n"))
        self.assertEqual(
            json.loads(line),
            {
                "time": TIME,
                "level": "warn",
                "logger": "clockd.broker",
                "message": "alice came",
                "name": "alice",
                "count": 3,
                "share": 0.5,
                "sure": True,
                "nothing": None,
            },
        )

    def test_what_is_no_plain_value_stays_in_the_message_only(self):
        line = json.loads(logs.as_json(event("{what}", what=b"bytes")))
        self.assertEqual(line["message"], "b'bytes'")
        self.assertNotIn("what", line)

    def test_a_field_cannot_take_the_place_of_what_every_line_has(self):
        line = json.loads(logs.as_json(event(time="noon", level="none", logger="me", message="forged")))
        self.assertEqual(
            [line[key] for key in ("time", "level", "logger", "message")], [TIME, "warn", "clockd.broker", "alice came"]
        )

    def test_a_line_break_in_a_message_does_not_break_the_line(self):
        line = logs.as_json(event(name="a\nb"))
        self.assertEqual((line.count("\n"), json.loads(line)["message"]), (1, "a\nb came"))

    def test_a_traceback_is_a_field(self):
        line = json.loads(logs.as_json(event(log_failure=failure())))
        self.assertRegex(line["traceback"], r"(?s)^Traceback.*ZeroDivisionError")
        self.assertNotIn("traceback", json.loads(logs.as_json(event())))

    def test_an_event_without_a_logger_has_a_dash(self):
        bare = {key: value for key, value in event().items() if key != "log_namespace"}
        self.assertEqual(json.loads(logs.as_json(bare))["logger"], "-")


class CountingTests(SynchronousTestCase):
    def test_failures_and_critical_events_are_counted_and_no_others(self):
        counted = []
        publisher = LogPublisher(logs.count_errors(lambda: counted.append(1)))
        log = Logger(observer=publisher)
        for level in ("debug", "info", "warn", "error"):
            getattr(log, level)("no failure")
        self.assertEqual(len(counted), 0)
        log.critical("no failure")
        self.assertEqual(len(counted), 1)
        log.failure("a failure", failure(), level=LogLevel.warn)
        self.assertEqual(len(counted), 2)

    def test_an_event_of_old_code_without_a_level_is_not_counted(self):
        counted = []
        logs.count_errors(lambda: counted.append(1))({"message": ("hello",), "isError": 0})
        self.assertEqual(counted, [])


class BeginningTests(SynchronousTestCase):
    def setUp(self):
        self.stream, self.publisher, self.warnings = io.StringIO(), LogPublisher(), SimpleNamespace(showwarning=None)
        self.stdio = SimpleNamespace(stdout=io.StringIO(), stderr=io.StringIO())
        # Twisted's beginner is global and begins once a process
        beginner = LogBeginner(self.publisher, io.StringIO(), self.stdio, self.warnings)
        self.patch(logs, "globalLogBeginner", beginner)

    def levels(self, namespace):
        log = Logger(namespace, observer=self.publisher)
        for level in ("debug", "info", "warn", "error", "critical"):
            getattr(log, level)("said")
        return [line.split()[1] for line in self.stream.getvalue().splitlines()]

    def test_ours_are_written_from_info_on(self):
        logs.begin_logging("text", self.stream)
        self.assertEqual(self.levels("clockd.broker"), ["info", "warn", "error", "critical"])

    def test_ours_are_written_from_the_level_given_on(self):
        logs.begin_logging("text", self.stream, "debug")
        self.assertEqual(self.levels("clockd.broker"), ["debug", "info", "warn", "error", "critical"])

    def test_ours_can_be_fewer(self):
        logs.begin_logging("text", self.stream, "error")
        self.assertEqual(self.levels("clockd"), ["error", "critical"])

    def test_others_are_written_from_warn_on_whatever_the_level(self):
        logs.begin_logging("text", self.stream, "debug")
        self.assertEqual(self.levels("twisted.internet"), ["warn", "error", "critical"])

    def test_a_name_that_only_begins_like_ours_is_anothers(self):
        logs.begin_logging("text", self.stream, "debug")
        self.assertEqual(self.levels("clockdwork"), ["warn", "error", "critical"])

    def test_json_is_written_one_object_a_line(self):
        logs.begin_logging("json", self.stream)
        Logger("clockd", observer=self.publisher).info("{n} here", n=2)
        line = json.loads(self.stream.getvalue())
        self.assertEqual((line["message"], line["n"], line["level"]), ("2 here", 2, "info"))
        self.assertIsNotNone(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]))

    def test_what_was_logged_before_is_written_too(self):
        Logger("clockd", observer=self.publisher).info("early")
        logs.begin_logging("text", self.stream)
        self.assertIn("early", self.stream.getvalue())

    def test_standard_output_stays_what_it_was(self):
        before = self.stdio.stdout, self.stdio.stderr
        logs.begin_logging("text", self.stream)
        self.assertEqual((self.stdio.stdout, self.stdio.stderr), before)


def is_ours(name):
    return name.split(".")[0] == "clockd"


class NamespaceTests(SynchronousTestCase):
    """Who writes under which name; a plain logger takes that of the class of ours that inherits it."""

    def test_a_logger_of_twisted_s_keeps_its_namespace_in_a_class_of_ours(self):
        class Foreign:
            _log = logs.TwistedLogger("twisted.somewhere")

        class Ours(Foreign):
            pass

        self.assertEqual([o._log.namespace for o in (Foreign, Ours, Ours())], ["twisted.somewhere"] * 3)

    def test_what_twisted_says_in_a_class_that_is_derived_from_its_own_is_not_said_by_us(self):
        classes = {
            each
            for module in pkgutil.iter_modules(clockd.__path__, "clockd.")
            for _, each in inspect.getmembers(import_module(module.name), inspect.isclass)
            if is_ours(each.__module__)
        }
        inherited = [
            (each, name)
            for each in classes
            for base in each.__mro__
            if not is_ours(base.__module__)
            for name, value in vars(base).items()
            if isinstance(value, Logger)
        ]
        self.assertTrue(inherited, "nothing is looked at")
        self.assertEqual([(each, name) for each, name in inherited if is_ours(getattr(each, name).namespace)], [])


class FiniteNumberTests(SynchronousTestCase):
    def test_a_number_that_json_does_not_have_leaves_the_line_json(self):
        for number in (float("nan"), float("inf")):
            line = logs.as_json({"log_time": 0.0, "log_level": LogLevel.info, "log_format": "{n}", "n": number})
            with self.subTest(number=number):
                self.assertNotIn("NaN", line)
                self.assertNotIn("Infinity", line)
                json.loads(line)


class QuotaTests(SynchronousTestCase):
    def setUp(self):
        self.now = 1000.0
        self.quota = logs.Quota(lambda: self.now)

    def take(self, times, kind="protocol"):
        return [self.quota.take(kind) for _ in range(times)]

    def test_ten_lines_are_written_in_ten_seconds_and_no_more(self):
        self.assertEqual(self.take(5), [""] * 5)
        self.now += 9.9
        self.assertEqual(self.take(7), [""] * 5 + [None] * 2)

    def test_the_next_line_tells_how_many_were_left_out(self):
        self.take(10 + 37)
        self.now += 10.0
        self.assertEqual(self.take(2), [" (37 more like it were left out)", ""])

    def test_where_none_was_left_out_nothing_is_told(self):
        self.take(10)
        self.now += 10.0
        self.assertEqual(self.take(1), [""])

    def test_one_kind_takes_nothing_from_another(self):
        self.take(100)
        self.assertEqual(self.take(1, "refused"), [""])

    def test_lines_are_let_through_again_however_long_the_flood_lasts(self):
        written = 0
        for _ in range(1000):
            self.now += 0.1
            written += self.quota.take("protocol") is not None
        self.assertEqual(written, 100)
