"""What a running server takes over of a configuration that has changed."""

import gc
import os
from functools import partial
from threading import active_count

from doubles import Mind, clockd_logs
from test_service import UNCHANGED, ServiceCase
from twisted.logger import formatEvent

from clockd.config import Auth, Avatars, Config, HostFeed, Metrics, PushFeed, Server, load
from clockd.errors import Misconfigured
from clockd.service import ClockService, make_service, read_again
from clockd.users import add_account, remove_account
from clockd.values import Limits, Remembered


class ReloadTests(ServiceCase):
    def reload(self, **sections):
        """Have the server read another configuration; returns what is logged, as pairs of the level and the text."""
        sections.setdefault("auth", Auth(users=str(self.users)))
        sections.setdefault("server", Server(state=""))
        self.config = Config(**sections)
        with clockd_logs() as logged:
            self.service.reload()
        return [(event["log_level"].name, formatEvent(event)) for event in logged]

    def enter(self):
        peer = self.peer()
        peer.perspective = peer.login(Mind(), secret=self.secret)
        return peer

    def test_that_nothing_has_changed_is_told_each_time(self):
        self.start()
        self.assertEqual((self.reload(), self.reload()), ([UNCHANGED], [UNCHANGED]))

    def test_limits_are_in_force_at_once(self):
        self.start(limits=Limits(connections_per_account=2))
        peer = self.enter()
        self.assertEqual(peer.ask(peer.perspective, "setperiod", 0.01), 0.01)
        limits = Limits(connections_per_account=1, min_period=0.5, default_period=3, message_bytes=2000)
        told = self.reload(limits=limits)
        keys = "limits.connections_per_account, limits.default_period, limits.message_bytes, limits.min_period"
        self.assertEqual(told, [("info", f"in force from now on: {keys}")])
        self.assertTrue(self.peer().login(Mind(), secret=self.secret).check("clockd.errors.TooManyConnections"))
        self.assertEqual(peer.ask(peer.perspective, "setperiod", 0.01), 0.5)
        peer.leave()
        peer.network.flush()
        other = self.enter()
        self.assertEqual(other.ask(other.perspective, "status")["periods"], {"time": 3.0})
        other.ask(other.perspective, "setperiod", b"x" * 3000)
        other.network.flush()
        self.assertEqual((other.broker.disconnected, self.service.tally.closed["protocol"]), (1, 1))

    def test_the_rate_of_publishing_is_too(self):
        everybody = {"load": PushFeed(publish=("*",))}
        self.start(feeds=everybody)
        peer = self.enter()
        self.reload(feeds=everybody, limits=Limits(publishes_per_second=1))
        self.assertEqual(peer.ask(peer.perspective, "publish", "load", 1), 1)
        self.assertTrue(peer.ask(peer.perspective, "publish", "load", 1).check("clockd.errors.TooManyPublishes"))

    def test_max_silence_is_too(self):
        everybody = {"load": PushFeed(publish=("*",))}
        self.start(feeds=everybody)
        peer = self.enter()
        peer.ask(peer.perspective, "publish", "load", 1)
        peer.ask(peer.perspective, "subscribe", "load", 1)
        self.reload(feeds=everybody, limits=Limits(max_silence=2))
        peer.network.advance(4, 1)
        self.assertEqual(self.service.tally.feeds["load"].pushes, 3)

    def test_when_full_is_too(self):
        self.start(limits=Limits(connections_per_account=1))
        first = self.enter()
        told = self.reload(limits=Limits(connections_per_account=1), avatars=Avatars(when_full="replace"))
        self.assertEqual(told, [("info", "in force from now on: avatars.when_full")])
        self.enter()
        first.network.flush()
        self.assertEqual((first.broker.disconnected, self.service.tally.closed["replaced"]), (1, 1))

    def test_what_needs_a_restart_is_named_each_time_and_stays_as_it_was(self):
        self.start(feeds={"a": PushFeed(), "b": HostFeed()})
        for _ in range(2):
            told = self.reload(
                server=Server(listen=("tcp:1",), state=""),
                metrics=Metrics("tcp:2"),
                avatars=Avatars(sharing="account"),
                feeds={"a": PushFeed(publish=("*",)), "c": HostFeed()},
            )
            keys = "avatars.sharing, feeds.a, feeds.b, feeds.c, metrics.listen, server.listen"
            self.assertEqual(told, [("warn", f"changed, but in force only after a restart: {keys}")])
        peer = self.enter()
        self.assertTrue(peer.ask(peer.perspective, "publish", "a", 1).check("clockd.errors.NotPermitted"))
        self.assertEqual(self.reload(feeds={"a": PushFeed(), "b": HostFeed()}), [UNCHANGED])

    def test_a_configuration_that_is_broken_leaves_the_one_before_in_force_and_is_told(self):
        self.start(limits=Limits(min_period=0.5))

        def broken():
            raise Misconfigured("FILE: limits.min_period: is wrong")

        self.service._reload._read = broken
        told = "the configuration read before stays in force: FILE: limits.min_period: is wrong"
        with clockd_logs() as logged:
            self.service.reload()
        self.assertEqual([(e["log_level"].name, formatEvent(e)) for e in logged], [("warn", told)])
        peer = self.enter()
        self.assertEqual(peer.ask(peer.perspective, "setperiod", 0.1), 0.5)

    def serve_file(self, text):
        """Serve what a file says, that can be written anew; returns the file."""
        kept = os.environ.pop("CLOCKD_SERVER_STATE")
        self.addCleanup(os.environ.__setitem__, "CLOCKD_SERVER_STATE", kept)
        file = self.users.with_name("clockd.toml")
        file.write_text(text)
        read = partial(read_again, file, None, self.reactor, self.now)
        self.service = make_service(load(file), self.reactor, self.now, read)
        self.service.startService()
        self.addCleanup(self.service.stopService)
        return file

    def test_what_could_not_be_served_is_refused_as_a_whole(self):
        users, folder = f'auth.users = "{self.users}"', self.users.parent
        none, notes, state = folder / "none", folder / "notes", 'server.state = ""'
        notes.write_text("mine")
        file = self.serve_file(f"{users}\n{state}")
        for lines, wrong in (
            (
                (users, state, 'server.listen = ["tcp:1", "tcp:nonsense"]'),
                f"{file}: server.listen: tcp:nonsense: is no ",
            ),
            ((users, state, 'metrics.listen = "nonsense"'), f"{file}: metrics.listen: nonsense: is no "),
            (
                (users, state, 'tls.listen = ["tcp:1"]', f"tls.certificate = '{none}'", f"tls.private_key = '{none}'"),
                f"{file}: tls.certificate: {none}: cannot be read",
            ),
            ((f'auth.users = "{none}"', state), f"{none}: there is no users file"),
            ((users, state, 'feeds.a = {kind = "python", plugin = "none"}'), f"{file}: feeds.a.plugin: there is no "),
            ((users, f'server.state = "{notes}"'), f"{file}: server.state: {notes}: is no database of SQLite;"),
            ((users, f'server.state = "{file}"'), f"{file}: server.state: {file}: is no database of SQLite;"),
            (
                (users, f'server.state = "{self.users}"'),
                f"{file}: server.state: {self.users}: is no database of SQLite;",
            ),
            ((users, f'server.state = "{none}/b"'), f"{file}: server.state: {none}/b: No such file or directory;"),
        ):
            file.write_text("\n".join([*lines, "limits.min_period = 0.25"]))
            with clockd_logs() as logged:
                self.service.reload()
            ((level, told),) = [(event["log_level"].name, formatEvent(event)) for event in logged]
            expected = f"the configuration read before stays in force: {wrong}"
            self.assertEqual((level, told[: len(expected)]), ("warn", expected))
            self.assertEqual(self.service._reload._limits.min_period, Limits().min_period)
        self.assertEqual(notes.read_text(), "mine")

    def test_to_see_whether_it_could_be_served_starts_nothing_and_leaves_nothing(self):
        users, folder = f'auth.users = "{self.users}"', self.users.parent
        file = self.serve_file(users + '\nserver.state = ""')
        feeds = [
            f"feeds.{kind} = {{kind = '{kind}'{more}}}"
            for kind, more in (
                ("push", ", retain = true"),
                ("host", ""),
                ("clockd", ""),
                ("prometheus", ", url = 'http://localhost:1/', metrics = ['a']"),
            )
        ]
        listen = f"server.listen = ['tcp:1', 'unix:{folder}/socket']"
        file.write_text("\n".join([users, f"server.state = '{folder}/state'", listen, *feeds]))
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)

        def traces():
            services = [each for each in gc.get_objects() if isinstance(each, ClockService)]
            return len(services), len(self.reactor.getDelayedCalls()), active_count(), sorted(folder.iterdir())

        before = traces()
        with clockd_logs() as logged:
            self.service.reload()
        keys = "feeds.clockd, feeds.host, feeds.prometheus, feeds.push, server.listen, server.state"
        self.assertEqual(
            [formatEvent(event) for event in logged], [f"changed, but in force only after a restart: {keys}"]
        )
        self.assertEqual(traces(), before)

    def test_an_account_that_is_no_more_is_sent_away(self):
        self.start()
        peer = self.enter()
        remove_account(self.users, "alice")
        self.reload()
        peer.network.flush()
        self.assertEqual((peer.broker.disconnected, self.service.tally.closed["kicked"]), (1, 1))

    def test_of_an_account_that_is_no_more_nothing_is_remembered(self):
        self.start(avatars=Avatars(sharing="account"))
        store = self.service._store
        bob = add_account(self.users, "bob")
        store.remember("gone", Remembered(logins=1))
        peer = self.enter()
        peer.ask(peer.perspective, "setperiod", 5)
        other = self.peer()
        other.perspective = other.login(Mind(), name=b"bob", secret=bob)
        self.assertEqual(store.account("alice").subscriptions, {"time": (5.0, 0.0)})
        remove_account(self.users, "alice")
        self.reactor.advance(1)
        peer.network.flush()
        self.assertEqual((peer.broker.disconnected, other.broker.disconnected), (1, 0))
        self.assertEqual(store.account("alice"), Remembered())
        self.assertEqual((store.account("bob").logins, store.account("gone").logins), (1, 1))
        self.secret = add_account(self.users, "alice")
        peer = self.enter()
        self.assertEqual(peer.ask(peer.perspective, "status")["periods"], {"time": 1.0})

    def test_where_there_are_fewer_descriptors_than_connections_a_reload_does_not_make_more(self):
        self.start()
        self.service.make_room(65)
        self.reload(limits=Limits(connections=500))
        first = self.enter()
        refused = self.peer().login(Mind(), secret=self.secret)
        self.assertTrue(refused.check("clockd.errors.TooManyConnections"), refused)
        self.assertEqual(first.broker.disconnected, 0)
