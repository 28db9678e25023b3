import json
import os
from pathlib import Path

import msgspec
from doubles import clockd_logs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from clockd.config import (
    ClockdFeed,
    Config,
    HostFeed,
    PrometheusFeed,
    PushFeed,
    PythonFeed,
    Server,
    Tls,
    load,
    load_again,
    told_where,
)
from clockd.errors import Misconfigured
from clockd.values import MOST_FEEDS, Limits

YEAR = 31_622_400


class ConfigCase(SynchronousTestCase):
    def write(self, text):
        path = Path(self.mktemp())
        path.write_text(text, encoding="utf-8")
        return path

    def wrong(self, expected, text=None, environment=(), flags=None):
        """Check that the message is `expected`, where FILE stands for the file."""
        file = None if text is None else self.write(text)
        with self.assertRaises(Misconfigured) as caught:
            load(file, dict(environment), flags)
        self.assertEqual(str(caught.exception).replace(str(file), "FILE"), expected)


class SourcesTests(ConfigCase):
    def test_without_any_source_the_defaults_hold(self):
        self.assertEqual(load(environment={}), Config())

    def test_an_empty_file_is_the_defaults(self):
        self.assertEqual(load(self.write(""), {}), Config())

    def test_the_file_wins_over_the_defaults_key_by_key(self):
        config = load(self.write("[limits]\nmin_period = 0.5\n"), {})
        self.assertEqual(config.limits, Limits(min_period=0.5))

    def test_the_environment_wins_over_the_file_and_flags_over_both(self):
        file = self.write("[auth]\nusers = 'file'\nanonymous = true\n[metrics]\nlisten = 'file'\n")
        environment = {"CLOCKD_AUTH_USERS": "environment", "CLOCKD_METRICS_LISTEN": "environment"}
        config = load(file, environment, {("auth", "users"): "flag"})
        self.assertEqual(
            (config.auth.users, config.metrics.listen, config.auth.anonymous), ("flag", "environment", True)
        )

    def test_a_value_of_the_environment_is_toml_or_else_a_string(self):
        environment = {
            "CLOCKD_SERVER_LISTEN": '["tcp:1", "unix:a"]',
            "CLOCKD_AUTH_ANONYMOUS": "true",
            "CLOCKD_LIMITS_MIN_PERIOD": "0.25",
            "CLOCKD_AUTH_USERS": "/etc/clockd users",
            "CLOCKD_METRICS_LISTEN": '"tcp:2"',
        }
        config = load(environment=environment)
        self.assertEqual(config.server.listen, ("tcp:1", "unix:a"))
        self.assertEqual((config.auth.anonymous, config.limits.min_period), (True, 0.25))
        self.assertEqual((config.auth.users, config.metrics.listen), ("/etc/clockd users", "tcp:2"))

    def test_other_names_of_the_environment_are_left_alone(self):
        names = ("CLOCKD_PORT", "CLOCKD_SERVER", "CLOCKD_SERVER_HOST", "clockd_auth_users", "AUTH_USERS")
        self.assertEqual(load(environment=dict.fromkeys(names, "tcp://10.0.0.1:80")), Config())

    def warned(self, *names):
        with clockd_logs() as logged:
            self.assertEqual(load(environment=dict.fromkeys(names, "1")), Config())
        return [formatEvent(event) for event in logged]

    def test_a_name_that_looks_mistyped_is_warned_of(self):
        for name, key in (
            ("LIMITS_MIN_PERID", "LIMITS_MIN_PERIOD"),
            ("LIMITS_CONNECTION", "LIMITS_CONNECTIONS"),
            ("SERVER_LISTN", "SERVER_LISTEN"),
            ("AUTH_USER", "AUTH_USERS"),
            ("TLS_PRIVATEKEY", "TLS_PRIVATE_KEY"),
        ):
            expected = f"CLOCKD_{name}: is no key, and not read; did you mean CLOCKD_{key}?"
            self.assertEqual(self.warned(f"CLOCKD_{name}"), [expected])

    def test_names_that_platforms_set_are_not_warned_of(self):
        for service in ("", "SERVER_", "METRICS_", "TLS_", "AUTH_", "LIMITS_", "FEEDS_"):
            port = f"CLOCKD_{service}PORT"
            host = (
                f"CLOCKD_{service}SERVICE_HOST",
                f"CLOCKD_{service}SERVICE_PORT",
                f"CLOCKD_{service}SERVICE_PORT_PB",
            )
            self.assertEqual(
                self.warned(port, *host, *(f"{port}_8787_TCP{word}" for word in ("", "_PROTO", "_PORT", "_ADDR"))), []
            )

    def test_the_environment_of_the_process_is_read_by_default(self):
        os.environ["CLOCKD_AUTH_USERS"] = "elsewhere"
        self.addCleanup(os.environ.pop, "CLOCKD_AUTH_USERS")
        self.assertEqual(load().auth.users, "elsewhere")

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=3, unique=True),
        st.text(st.characters(codec="utf-8"), min_size=1),
        st.booleans(),
        st.floats(0.05, 86400),
        st.integers(1, 1_000_000),
    )
    def test_what_is_written_is_what_is_read(self, listen, users, anonymous, seconds, connections):
        tree = {
            "server": {"listen": listen},
            "auth": {"users": users, "anonymous": anonymous},
            "limits": {"ack_seconds": seconds, "connections_per_account": connections},
        }
        # JSON is TOML here, but for the delete character, which TOML wants escaped
        lines = (
            line
            for section, keys in tree.items()
            for line in (
                f"[{section}]",
                *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()),
            )
        )
        text = "\n".join(lines).replace("\x7f", "\\u007f")
        read = msgspec.to_builtins(load(self.write(text), {}))
        for section, keys in tree.items():
            for key, value in keys.items():
                expected = tuple(value) if key == "listen" else value
                self.assertEqual(read[section][key], expected)

    @settings(max_examples=40, deadline=None)
    @given(st.text(max_size=20))
    def test_no_text_in_the_environment_raises_anything_but_misconfigured(self, text):
        environment = dict.fromkeys(("CLOCKD_LIMITS_ACK_SECONDS", "CLOCKD_SERVER_LISTEN", "CLOCKD_AUTH_USERS"), text)
        with self.assertRaises(Misconfigured):
            load(environment=environment)


class FileTests(ConfigCase):
    def test_a_file_that_is_absent_is_told(self):
        path = Path(self.mktemp())
        with self.assertRaisesRegex(Misconfigured, f"^{path}: cannot be read: No such file"):
            load(path, {})

    def test_a_folder_is_told(self):
        path = Path(self.mktemp())
        path.mkdir()
        with self.assertRaisesRegex(Misconfigured, "cannot be read: Is a directory"):
            load(path, {})

    def test_a_file_that_is_no_toml_is_told_with_the_line(self):
        self.wrong("FILE: is no TOML: Invalid value (at line 2, column 5)", "\na = = 1\n")

    def test_a_file_that_is_no_text_is_told(self):
        path = Path(self.mktemp())
        path.write_bytes(b"\xff\xfe")
        with self.assertRaisesRegex(Misconfigured, "is no TOML: 'utf-8' codec"):
            load(path, {})


class MessagesTests(ConfigCase):
    def test_an_unknown_key_is_told_with_the_nearest_known_one(self):
        self.wrong("FILE: server.listn: no such key; did you mean listen?", "[server]\nlistn = 1\n")

    def test_an_unknown_key_that_is_near_to_none_is_told_with_all_that_there_are(self):
        self.wrong("FILE: auth.zzz: no such key; there are: users, anonymous", "[auth]\nzzz = 1\n")

    def test_an_unknown_section_is_told_with_the_nearest_known_one(self):
        self.wrong("FILE: limit: no such section; did you mean limits?", "[limit]\nmin_period = 1\n")

    def test_a_section_that_is_a_value_is_told_even_if_the_environment_has_a_key_of_it(self):
        for environment in ({}, {"CLOCKD_SERVER_LISTEN": "['tcp:1']"}):
            self.wrong("FILE: server: is to be a section, not a whole number", "server = 1\n", environment)

    def test_a_wrong_type_is_told_where_it_was_written(self):
        self.wrong("FILE: auth.anonymous: is to be true or false, not a whole number", "[auth]\nanonymous = 1\n")
        self.wrong(
            "CLOCKD_AUTH_ANONYMOUS: auth.anonymous: is to be true or false, not a text",
            environment={"CLOCKD_AUTH_ANONYMOUS": "yes"},
        )
        self.wrong(
            "command line: auth.anonymous: is to be true or false, not a whole number",
            environment={"CLOCKD_AUTH_ANONYMOUS": "yes"},
            flags={("auth", "anonymous"): 1},
        )

    def test_a_wrong_element_of_a_list_is_told_by_the_lists_key(self):
        self.wrong("FILE: server.listen: is to be a text, not a whole number", '[server]\nlisten = ["tcp:1", 2]\n')

    def test_a_ping_that_no_login_could_outlast_is_told(self):
        ping = '[avatars]\nwhen_full = "ping"\n'
        told = "limits.ack_seconds: 10 is no less than login_seconds (10): a login that waits for a ping would be late"
        self.wrong(f"FILE: {told}", f"{ping}[limits]\nack_seconds = 10\n")
        self.wrong(f"CLOCKD_LIMITS_ACK_SECONDS: {told}", ping, {"CLOCKD_LIMITS_ACK_SECONDS": "10"})
        self.assertEqual(load(self.write("[limits]\nack_seconds = 10\n"), {}).limits.ack_seconds, 10)
        self.assertEqual(load(self.write(f"{ping}[limits]\nack_seconds = 9.9\n"), {}).avatars.when_full, "ping")

    def test_a_default_period_outside_the_limits_is_told(self):
        self.wrong(
            "FILE: limits.default_period: 1 lies outside min_period (2) to max_period (86400)",
            "[limits]\nmin_period = 2\n",
        )

    def test_what_there_is_to_choose_from_is_told(self):
        self.wrong("FILE: avatars.when_full: is to be one of: reject, replace, ping", "[avatars]\nwhen_full = 'kill'\n")
        self.wrong(
            "CLOCKD_AVATARS_SHARING: avatars.sharing: is to be one of: connection, account",
            environment={"CLOCKD_AVATARS_SHARING": "all"},
        )
        self.wrong("FILE: avatars.sharing: is to be a text, not a whole number", "[avatars]\nsharing = 1\n")
        self.wrong("FILE: auth.users: is to be a text, not a date", "[auth]\nusers = 1979-05-27\n")

    def test_a_bool_is_no_number_and_a_float_no_count(self):
        self.wrong("FILE: limits.min_period: is to be a number, not true or false", "[limits]\nmin_period = true\n")
        self.wrong(
            "FILE: limits.connections_per_account: is to be a whole number, not a fraction",
            "[limits]\nconnections_per_account = 2.5\n",
        )

    def test_a_text_in_place_of_a_list_is_told_as_it_has_to_be_written(self):
        expected = 'server.listen: is to be a list, not a text; write ["tcp:8787"]'
        self.wrong(f"FILE: {expected}", '[server]\nlisten = "tcp:8787"\n')
        self.wrong(f"CLOCKD_SERVER_LISTEN: {expected}", environment={"CLOCKD_SERVER_LISTEN": "tcp:8787"})

    def test_what_is_found_wrong_later_is_told_where_it_was_written(self):
        file = self.write("[tls]\ncertificate = 'c'\n[metrics]\nlisten = 'd'\n")
        environment, flags = {"CLOCKD_SERVER_LISTEN": "a"}, {("auth", "users"): "b"}
        for words, origin in (
            ("tls.certificate: c: cannot be read", f"{file}: "),
            ("tls.private_key: : cannot be read", "defaults: "),
            ("limits.connections: 10000: too many", "defaults: "),
            ("feeds.node.load.plugin: is none", f"{file}: "),
            ("server.listen: a: is none", "CLOCKD_SERVER_LISTEN: "),
            ("auth.users: b: is none", "command line: "),
            ("users: there is no users file", ""),
            ("notes.txt: there is no users file", ""),
        ):
            with self.assertRaises(Misconfigured) as caught, told_where(file, environment, flags):
                raise Misconfigured(words)
            self.assertEqual(str(caught.exception), origin + words)
        with self.assertRaisesRegex(Misconfigured, r"^defaults: server\.listen: a$"), told_where(None, {}):
            raise Misconfigured("server.listen: a")

    def test_what_cannot_be_read_again_is_told_as_where_it_was_written(self):
        pipe, folder, broken = Path(self.mktemp()), Path(self.mktemp()), self.write("server = 1\n")
        os.mkfifo(pipe)
        folder.mkdir()
        for file in (pipe, folder, broken, self.write("="), Path("none")):
            with self.assertRaisesRegex(Misconfigured, f"^{file}: server"), told_where(file, {}):
                raise Misconfigured("server.listen: a")


class EndpointTests(ConfigCase):
    def test_what_twisted_would_serve_with_tls_of_its_own_is_refused(self):
        for endpoint in ("tls:18789", "ssl:443", "haproxy:tls:18789"):
            told = f"{endpoint}: is not served; write tcp:PORT, and use [tls] for TLS"
            self.wrong(f"FILE: server.listen: {told}", f'[server]\nlisten = ["tcp:1", "{endpoint}"]\n')
            self.wrong(f"FILE: metrics.listen: {told}", f'[metrics]\nlisten = "{endpoint}"\n')
            files = "certificate = 'c'\nprivate_key = 'k'"
            self.wrong(f"FILE: tls.listen: {told}", f'[tls]\nlisten = ["{endpoint}"]\n{files}\n')
        self.assertEqual(load(environment={"CLOCKD_METRICS_LISTEN": "unix:tls:"}).metrics.listen, "unix:tls:")

    def test_a_port_is_one_that_there_can_be(self):
        for endpoint in (
            "tcp:65535",
            "tcp6:0",
            "haproxy:tcp:1:interface=a",
            "tcp:1:backlog=99999",
            "unix:99999",
            "tcp:a",
        ):
            self.assertEqual(load(environment={"CLOCKD_METRICS_LISTEN": endpoint}).metrics.listen, endpoint)
        for endpoint in ("tcp:65536", "tcp6:-1", "haproxy:tcp:99999:interface=a", "tcp:interface=a:port=99999"):
            self.wrong(
                f"CLOCKD_METRICS_LISTEN: metrics.listen: {endpoint}: a port is 0 to 65535, where 0 is any that is free",
                environment={"CLOCKD_METRICS_LISTEN": endpoint},
            )

    def test_no_address_is_listened_on_twice_unless_any_will_do(self):
        told = "is in server.listen already; choose another port"
        self.wrong(
            f"command line: metrics.listen: tcp:1: {told}",
            "[server]\nlisten = ['tcp:1']\n",
            flags={("metrics", "listen"): "tcp:1"},
        )
        self.wrong(f"FILE: server.listen: unix:a: {told}", "[server]\nlisten = ['unix:a', 'unix:a']\n")
        config = load(self.write("server.listen = ['tcp:0', 'tcp:0']\nmetrics.listen = 'tcp:0'\n"), {})
        self.assertEqual(config.server.listen, ("tcp:0", "tcp:0"))


class BoundsTests(ConfigCase):
    def limits(self, key, value):
        text = f"[limits]\n{key} = {value}\n"
        return getattr(load(self.write(text), {}).limits, key)

    def test_each_limit_takes_its_outermost_values_and_none_beyond(self):
        for key, inside, outside in (
            ("connections", (1, 1_000_000), (0, 1_000_001)),
            ("connections_per_account", (1, 1_000_000), (0, 1_000_001)),
            ("connections_per_address", (0, 1_000_000), (-1, 1_000_001)),
            ("pending", (1, 1_000_000), (0, 1_000_001)),
            ("pending_per_address", (1, 1_000_000), (0, 1_000_001)),
            ("login_seconds", (0.05, 86400), (0.049, 86400.1, "nan", "inf")),
            ("message_bytes", (1024, 655_360), (1023, 655_361)),
            ("ack_seconds", (0.05, 86400), (0.049, 86400.1, "nan", "inf")),
            ("stale_seconds", (0.05, 86400), (0.049, 86400.1, "nan", "inf")),
            ("max_silence", (0.001, 30, YEAR), (0, 0.0009, 5e-324, -1.0, YEAR + 1, "nan", "inf")),
            ("subscriptions", (1, 64, 256), (0, 257, 1.5)),
            ("publishes_per_second", (1, 1_000_000), (0, 1_000_001, 0.5)),
            ("buffer_bytes", (4096, 65536, 1_073_741_824), (4095, 1_073_741_825, -1, 0, 4096.5, "true", "nan")),
            ("min_period", (0.001, 1.0), (0, 0.0009, 5e-324, -1.0, "nan")),
            ("max_period", (1.0, YEAR), (YEAR + 1, "inf", "nan", "1" + 400 * "0")),
            ("default_period", (0.01, 86400), (0, 0.009, 86400.1, "nan")),
        ):
            for value in inside:
                self.assertEqual(self.limits(key, value), value)
            for value in outside:
                with self.assertRaisesRegex(Misconfigured, rf": limits\.{key}: "):
                    self.limits(key, value)

    def test_the_shortest_and_the_longest_default_period_is_a_year_at_most(self):
        text = f"[limits]\ndefault_period = {{0}}\nmin_period = {{0}}\nmax_period = {YEAR}\n"
        self.assertEqual(load(self.write(text.format(YEAR)), {}).limits, Limits(YEAR, YEAR, YEAR))
        self.wrong("FILE: limits.default_period: is to be a number of at most 31622400", text.format(YEAR + 1))

    def test_what_is_no_regular_file_is_not_read_again(self):
        file = self.write("[limits]\nmin_period = 2\ndefault_period = 2\n")
        self.assertEqual(load_again(file), load(file))
        pipe = file.with_name("pipe")
        os.mkfifo(pipe)
        for path in (pipe, file.parent, file.with_name("none")):
            with self.assertRaisesRegex(Misconfigured, "cannot be read again"):
                load_again(path)
        self.assertEqual(load_again(None), load(None))

    def test_one_address_to_listen_on_is_enough_and_none_is_too_few(self):
        self.assertEqual(load(environment={"CLOCKD_SERVER_LISTEN": '["x"]'}).server, Server(("x",)))
        self.wrong("FILE: server.listen: is to be a list that is not empty", "[server]\nlisten = []\n")

    def test_no_text_may_be_empty(self):
        for section, key, empty in (("server", "listen", '[""]'), ("auth", "users", '""'), ("metrics", "listen", '""')):
            self.wrong(f"FILE: {section}.{key}: is to be a text that is not empty", f"[{section}]\n{key} = {empty}\n")


class TlsTests(ConfigCase):
    def test_without_an_address_to_listen_on_no_file_is_needed(self):
        for text in ("", "[tls]\n", "[tls]\nlisten = []\n", "[tls]\ncertificate = 'a'\n", "[tls]\nprivate_key = 'a'\n"):
            self.assertEqual(load(self.write(text), {}).tls.listen, ())

    def test_by_default_it_listens_nowhere(self):
        self.assertEqual(Tls(), Tls(listen=(), certificate="", private_key="", client_ca=""))

    def test_with_an_address_both_files_are(self):
        addresses = "[tls]\nlisten = ['tcp:8788', 'haproxy:tcp:8789']\n"
        needed = "is needed to listen with TLS: name a PEM file"
        self.wrong(f"FILE: tls.certificate: {needed}", addresses)
        self.wrong(f"FILE: tls.certificate: {needed}", addresses + "private_key = 'k'\n")
        self.wrong(f"FILE: tls.private_key: {needed}", addresses + "certificate = 'c'\n")
        self.wrong(f"FILE: tls.private_key: {needed}", addresses + "certificate = 'c'\nprivate_key = ''\n")
        config = load(self.write(addresses + "certificate = 'c'\nprivate_key = 'k'\n"), {})
        self.assertEqual(config.tls, Tls(("tcp:8788", "haproxy:tcp:8789"), "c", "k"))

    def test_what_the_environment_lacks_is_told(self):
        self.wrong(
            "defaults: tls.certificate: is needed to listen with TLS: name a PEM file",
            environment={"CLOCKD_TLS_LISTEN": '["tcp:8788"]', "CLOCKD_TLS_PRIVATE_KEY": "k"},
        )

    def test_it_can_be_written_in_the_environment(self):
        environment = {"LISTEN": '["tcp:8788"]', "CERTIFICATE": "/etc/c.pem", "PRIVATE_KEY": "/etc/k.pem"}
        environment["CLIENT_CA"] = "/etc/ca.pem"
        config = load(environment={f"CLOCKD_TLS_{key}": value for key, value in environment.items()})
        self.assertEqual(config.tls, Tls(("tcp:8788",), "/etc/c.pem", "/etc/k.pem", "/etc/ca.pem"))

    def test_what_is_wrong_in_it_is_told(self):
        for text, expected in (
            ("listen = ['']", "FILE: tls.listen: is to be a text that is not empty"),
            ("listen = 'tcp:1'", 'FILE: tls.listen: is to be a list, not a text; write ["tcp:1"]'),
            ("listen = [1]", "FILE: tls.listen: is to be a text, not a whole number"),
            ("certificate = 1", "FILE: tls.certificate: is to be a text, not a whole number"),
            ("client_ca = true", "FILE: tls.client_ca: is to be a text, not true or false"),
            ("private_key = ['a']", "FILE: tls.private_key: is to be a text, not a list"),
            ("key = 'a'", "FILE: tls.key: no such key; there are: listen, certificate, private_key, client_ca"),
            ("private_kye = 'a'", "FILE: tls.private_kye: no such key; did you mean private_key?"),
        ):
            self.wrong(expected, f"[tls]\n{text}\n")


class FeedsTests(ConfigCase):
    def feeds(self, text):
        return load(self.write(text), {}).feeds

    def refused(self, name, kind, line, expected):
        """Check what is said of a feed of this kind with one more line."""
        needed = {"prometheus": 'url = "http://a/b"\nmetrics = ["a"]\n', "python": 'plugin = "a"\n'}.get(kind, "")
        key = line.partition(" ")[0]
        needed = "".join(each for each in needed.splitlines(keepends=True) if not each.startswith(f"{key} "))
        self.wrong(f"FILE: feeds.{expected}", f'[feeds.{name}]\nkind = "{kind}"\n{needed}{line}\n')

    def test_without_any_there_are_none(self):
        self.assertEqual(self.feeds(""), {})
        self.assertEqual(self.feeds("[feeds]\n"), {})

    def test_each_kind_has_its_options_with_defaults_and_those_that_are_written(self):
        for kind, written, bare, full in (
            ("push", {"publish": ["a", "*"]}, PushFeed(), PushFeed(read=("b",), publish=("a", "*"))),
            ("host", {"every": 0.5}, HostFeed(), HostFeed(read=("b",), every=0.5)),
            ("clockd", {"every": 2}, ClockdFeed(), ClockdFeed(read=("b",), every=2.0)),
            ("python", {"every": 2}, PythonFeed(plugin="p"), PythonFeed(plugin="p", read=("b",), every=2.0)),
            (
                "prometheus",
                {"every": 2},
                PrometheusFeed(url="http://a:1/b", metrics=("m", "n")),
                PrometheusFeed(url="http://a:1/b", metrics=("m", "n"), read=("b",), every=2.0),
            ),
        ):
            needed = {"python": {"plugin": "p"}, "prometheus": {"url": "http://a:1/b", "metrics": ["m", "n"]}}
            for options, expected in ((needed.get(kind, {}), bare), (needed.get(kind, {}) | written, full)):
                section = {"kind": kind} | options | ({"read": ["b"]} if expected is full else {})
                lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
                self.assertEqual(self.feeds(f"[feeds.load]\n{lines}"), {"load": expected}, kind)

    def test_everybody_may_read_and_nobody_publish_unless_it_is_written(self):
        feed = PushFeed()
        self.assertEqual((feed.read, feed.publish), (("*",), ()))
        self.assertEqual([HostFeed().every, ClockdFeed().every, PythonFeed(plugin="p").every], [1.0] * 3)
        self.assertEqual(PrometheusFeed(url="http://a", metrics=("m",)).every, 15.0)
        none = self.feeds('[feeds.load]\nkind = "push"\nread = []\npublish = []\n')["load"]
        self.assertEqual((none.read, none.publish), ((), ()))

    def test_a_name_is_one_that_a_feed_may_have(self):
        for name in ("a", "0", "load-1.x_y", "a" * 64, "-", "times", "servers"):
            self.assertEqual(list(self.feeds(f'[feeds."{name}"]\nkind = "push"\n')), [name])
        for name in ("", "A", "ä", "a b", "a/b", "a" * 65, "a\\n", "time", "server", "other"):
            shown = name.replace("\\n", "\n")
            self.wrong(
                f"FILE: feeds.{shown}: is no name for a feed: take 1 to 64 of a to z, 0 to 9, dot, dash and "
                "underscore, but not time, server or other",
                f'[feeds."{name}"]\nkind = "push"\n',
            )

    def test_a_kind_is_needed_and_one_that_there_is(self):
        expected = "FILE: feeds.load.kind: is needed, one of: push, host, clockd, prometheus, python"
        for line in ("", 'kind = "pull"', "kind = 1", 'kind = ["push"]', 'kind = "PUSH"', 'kind = ""'):
            self.wrong(expected, f"[feeds.load]\n{line}\n")
        for value in ("1", '"push"', "[]", "true"):
            self.wrong(expected, f"[feeds]\nload = {value}\n")
        self.wrong("FILE: feeds.a.kind: is needed, one of: push, host, clockd, prometheus, python", "[feeds.a.b]\n")
        self.wrong(f"{expected}; did you mean push?", '[feeds.load]\nkind = "pushh"\n')

    def test_a_key_that_a_kind_does_not_have_is_told_with_those_it_has(self):
        for kind, key, known in (
            ("push", "every", "read, publish, retain"),
            ("push", "url", "read, publish, retain"),
            ("host", "publish", "read, every"),
            ("clockd", "publish", "read, every"),
            ("prometheus", "publish", "read, url, metrics, every"),
            ("python", "metrics", "read, plugin, every"),
        ):
            self.refused("load", kind, f"{key} = 1", f"load.{key}: no such key; there are: {known}")

    def test_a_key_that_is_needed_and_absent_is_told(self):
        for kind, lines, key in (
            ("prometheus", 'metrics = ["a"]', "url"),
            ("prometheus", 'url = "http://a"', "metrics"),
            ("python", "", "plugin"),
        ):
            self.wrong(f"FILE: feeds.a.b.{key}: is needed", f'[feeds."a.b"]\nkind = "{kind}"\n{lines}\n')

    def test_a_value_that_is_wrong_is_told_with_the_feed_and_the_key(self):
        for kind, line, expected in (
            ("push", "read = 1", "load.read: is to be a list, not a whole number"),
            ("push", 'read = "alice"', 'load.read: is to be a list, not a text; write ["alice"]'),
            ("push", 'read = ["a", ""]', "load.read: is to be a text that is not empty"),
            ("push", "publish = [1]", "load.publish: is to be a text, not a whole number"),
            ("host", "every = 0", "load.every: is to be a number of at least 0.001"),
            ("host", "every = nan", "load.every: is to be a number of at least 0.001"),
            ("host", "every = true", "load.every: is to be a number, not true or false"),
            ("clockd", "every = -1", "load.every: is to be a number of at least 0.001"),
            ("clockd", f"every = {YEAR + 1}", "load.every: is to be a number of at most 31622400"),
            ("python", "every = inf", "load.every: is to be a number of at most 31622400"),
            ("python", 'every = "1"', "load.every: is to be a number, not a text"),
            ("python", 'plugin = ""', "load.plugin: is to be a text that is not empty"),
            ("prometheus", "metrics = []", "load.metrics: is to be a list that is not empty"),
            ("prometheus", 'metrics = [""]', "load.metrics: is to be a text that is not empty"),
            ("prometheus", "url = 1", "load.url: is to be a text, not a whole number"),
        ):
            self.refused("load", kind, line, expected)

    def test_255_beside_the_time_are_taken_and_no_more(self):
        def text(number):
            return "".join(f'[feeds.n{i}]\nkind = "push"\n' for i in range(number))

        self.assertEqual(len(self.feeds(text(MOST_FEEDS - 1))), 255)
        self.wrong("FILE: feeds: there are 256, and 255 at most can be served", text(MOST_FEEDS))

    def test_feeds_that_are_no_section_are_told(self):
        for value, kind in (("1", "a whole number"), ("[]", "a list"), ('"a"', "a text")):
            self.wrong(f"FILE: feeds: is to be a section, not {kind}", f"feeds = {value}\n")

    def test_they_are_read_from_the_file_alone(self):
        environment = dict.fromkeys(("CLOCKD_FEEDS", "CLOCKD_FEEDS_LOAD", "CLOCKD_FEEDS_LOAD_KIND"), "push")
        self.assertEqual(load(environment=environment).feeds, {})


class StrangeFileTests(SynchronousTestCase):
    def wrong(self, text, environment=()):
        path = Path(self.mktemp())
        path.write_text(text)
        with self.assertRaises(Misconfigured) as caught:
            load(path, dict(environment))
        return str(caught.exception).replace(str(path), "FILE")

    def test_an_unknown_section_that_is_near_to_none_is_told_with_all_that_there_are(self):
        self.assertEqual(
            self.wrong("[zzz]\n"),
            "FILE: zzz: no such section; there are: server, tls, auth, limits, avatars, metrics, feeds",
        )

    def test_a_number_of_more_digits_than_python_reads_is_told(self):
        self.assertIn("is no TOML", self.wrong(f"[limits]\nmax_period = {5000 * '1'}\n"))

    def test_lists_nested_too_deep_are_told(self):
        self.assertIn("is no TOML", self.wrong(f"a = {5000 * '['}\n"))

    def test_an_environment_that_tomllib_chokes_on_is_a_string(self):
        for text in (5000 * "1", 5000 * "["):
            self.assertEqual(load(environment={"CLOCKD_AUTH_USERS": text}).auth.users, text)
