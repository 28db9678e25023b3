"""What fills feeds, in a real server: the host, clockd itself, a real node exporter, and plug-ins good and bad."""

import json
import os
import shutil
import socket
import socketserver
import ssl
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from certificates import HOST, Certified, Chain
from processes import HERE, LONG_SECONDS, SECONDS, Program, Server, clockd, eventually, free_port, run

EXAMPLE = HERE.parents[1] / "examples" / "tcp_states"


class Subscriber(Program):
    """A stock client that is subscribed to feeds; see `samples.py`."""

    def __init__(self, server, feeds):
        words = [str(server.port), "alice", server.secret, json.dumps(feeds)]
        super().__init__(sys.executable, str(HERE / "samples.py"), *words)

    def pushes(self, feed):
        """Return what has come so far of a feed."""
        lists = [json.loads(line) for line in list(self.lines)]
        names = ("arrived", "feed", "sequence", "stamp", "value")
        return [SimpleNamespace(**dict(zip(names, each, strict=True))) for each in lists if each[1] == feed]

    def sample(self, feed, good=lambda _: True):
        """Wait for a sample of a feed of which something is true, and return it."""
        return eventually(lambda: next((push for push in self.pushes(feed) if good(push)), None))

    def assert_time_went_on(self, begin, end):
        """The time was pushed again and again between two moments, monotonic; it has a period of 0.1 s."""
        came = [push for push in self.pushes("time") if begin < push.arrived < end]
        assert len(came) >= int(10 * (end - begin) / 5), (begin, end, came)


def server_of(folder, feeds, **environment):
    config = folder / "clockd.toml"
    config.write_text(feeds)
    return Server(folder, "--config", str(config), environment={**os.environ, **environment})


@pytest.fixture
def serve(tmp_path):
    """Start a server with feeds; its environment may name plug-ins."""
    servers = []

    def start(feeds, **environment):
        servers.append(server_of(tmp_path, feeds, **environment))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def subscribe():
    """Start a subscriber of a server, with periods by feed."""
    subscribers = []

    def start(server, **feeds):
        subscribers.append(Subscriber(server, feeds))
        return subscribers[-1]

    yield start
    for subscriber in subscribers:
        subscriber.end()


def plugin(folder, name, source):
    """Make what an installed plug-in leaves in a folder of packages: a module, and its entry point of the same name."""
    (folder / f"{name}.py").write_text(source)
    about = folder / f"{name}-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[clockd.feeds]\n{name} = {name}:sample\n")


def python_feeds(*names, every=0.1):
    return "".join(f'[feeds.{name}]\nkind = "python"\nplugin = "{name}"\nevery = {every}\n' for name in names)


def test_the_host_and_the_service_itself_are_sampled_while_somebody_is_subscribed(serve, subscribe):
    server = serve('[feeds.host]\nkind = "host"\nevery = 0.1\n[feeds.pulse]\nkind = "clockd"\nevery = 0.1\n')
    time.sleep(0.3)  # three samples, if it were not for the missing subscriber
    before = server.scrape()
    assert (before["clockd_feed_updates_total host"], before["clockd_feed_updates_total pulse"]) == (0, 0)
    subscriber = subscribe(server, time=0.1, host=0.1, pulse=0.1)
    host = subscriber.sample("host", lambda push: push.sequence >= 3)
    assert host.value["memory_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert host.value["cpus"] == os.cpu_count()
    assert 0 <= host.value["cpu_percent"] <= 100
    pulse = subscriber.sample("pulse", lambda push: push.value["push_achieved_hertz"] > 6)
    assert pulse.value["avatars"] == pulse.value["connections"]["authenticated"] == 1
    assert pulse.value["push_requested_hertz"] == pytest.approx(30)
    subscriber.end()
    eventually(lambda: server.scrape()["clockd_avatars"] == 0)
    after = server.scrape()
    time.sleep(0.3)
    assert server.scrape()["clockd_feed_updates_total host"] == after["clockd_feed_updates_total host"]


def test_an_exporter_is_pushed_and_one_that_dies_and_comes_back_is_seen_to(serve, subscribe, need):
    command, port = need("prometheus-node-exporter", "prometheus-node-exporter"), free_port()
    exporter = Program(command, f"--web.listen-address=127.0.0.1:{port}")
    exporter.line("Listening on")
    server = serve(
        '[feeds.node]\nkind = "prometheus"\nevery = 0.5\n'
        f'url = "http://127.0.0.1:{port}/metrics"\n'
        """metrics = ["node_load1", 'node_cpu_seconds_total{mode="idle"}', "node_boot_time_seconds", "no_such"]\n"""
        "[limits]\nmax_silence = 0.5\n"
    )
    errors, updated = "clockd_feed_errors_total node", "clockd_feed_last_update_timestamp_seconds node"
    subscriber = subscribe(server, time=0.1, node=0.2)

    sample = subscriber.sample("node", lambda push: push.sequence >= 3)
    assert {
        'node_cpu_seconds_total{cpu="0",mode="idle"}',
        "node_load1",
        "node_boot_time_seconds",
    } <= sample.value.keys()
    names = {key.partition("{")[0] for key in sample.value}
    assert names == {"node_load1", "node_cpu_seconds_total", "node_boot_time_seconds"}
    assert all('mode="idle"' in key for key in sample.value if "cpu" in key)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert sample.value["node_boot_time_seconds"] == pytest.approx(booted, abs=60)
    assert abs(sample.stamp - time.time()) < 20
    failed = server.scrape()[errors]  # a slow machine may be later than half a second, which is an error

    exporter.end()
    died = time.monotonic()
    eventually(lambda: server.scrape()[errors] >= failed + 3)
    last = subscriber.pushes("node")[-1]
    stale = eventually(
        lambda: [p for p in subscriber.pushes("node") if p.sequence == last.sequence and p.arrived > died + 1]
    )
    stamps = {push.stamp for push in stale}
    assert stamps == {last.stamp}
    standing = server.scrape()[updated]
    assert standing == pytest.approx(last.stamp, abs=1)
    told = json.loads(server.line("refused"))
    assert (told["level"], told["feed"]) == ("warn", "node")

    exporter = Program(command, f"--web.listen-address=127.0.0.1:{port}")
    fresh = subscriber.sample("node", lambda push: push.sequence > last.sequence)
    back = time.monotonic()
    assert fresh.stamp > last.stamp
    assert fresh.value.keys() == last.value.keys()
    eventually(lambda: server.scrape()[updated] > standing)
    subscriber.assert_time_went_on(died, back)
    exporter.end()


def test_what_is_no_exporter_is_told_and_disturbs_nothing(serve, subscribe):
    server = serve(
        '[feeds.none]\nkind = "prometheus"\nevery = 0.1\nmetrics = ["a"]\nurl = "http://127.0.0.1:1/"\n'
        f'[feeds.broker]\nkind = "prometheus"\nevery = 0.3\nmetrics = ["a"]\nurl = "http://127.0.0.1:{free_port()}/"\n'
    )
    subscriber = subscribe(server, time=0.1)
    subscriber.sample("time")
    begin = time.monotonic()
    eventually(lambda: server.scrape()["clockd_feed_errors_total none"] >= 12)
    subscriber.assert_time_went_on(begin, time.monotonic())
    told = [json.loads(line) for line in server.lines if "no new sample" in line and '"feed": "none"' in line]
    assert told
    assert {line["level"] for line in told} == {"warn"}


def test_an_exporter_that_hangs_in_a_page_is_let_go(serve):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(SECONDS)
        server = serve(
            '[feeds.hung]\nkind = "prometheus"\nevery = 0.3\nmetrics = ["a"]\n'
            f'url = "http://127.0.0.1:{listening.getsockname()[1]}/"\n'
        )
        for _ in range(3):
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(SECONDS)
                request = connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\na 1")
                with suppress(ConnectionResetError):
                    assert connection.recv(1000) == b""
                assert request.startswith(b"GET / HTTP/1.1\r\n")
    told = json.loads(server.line("no answer, or no end of it, within 0.3 s"))
    assert told["feed"] == "hung"


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n"
HEAD_TOO_LONG = "the head of the answer is longer than 65536 bytes"
TOO_LONG = "the answer is longer than 8388608 bytes"
LONG_LINE = "the page has a line of more than 8192 bytes"

ENDLESS = {
    "headers": (OK, b"a:b\r\n" * 10000, HEAD_TOO_LONG),
    "long-headers": (OK, b"a: " + b"b" * 60000 + b"\r\n", HEAD_TOO_LONG),
    "folded": (OK + b"a: b\r\n", b" c\r\n" * 10000, HEAD_TOO_LONG),
    "one-line": (b"HTTP/1.1 ", b"a" * 60000, HEAD_TOO_LONG),
    "continues": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, TOO_LONG),
    "chunks": (CHUNKED + b"\r\n", b"1\r\na\r\n" * 10000, TOO_LONG),
    "extension": (CHUNKED + b"\r\n1;", b"a" * 60000, TOO_LONG),
    "trailers": (CHUNKED + b"\r\n0\r\n", b"a: b\r\n" * 10000, TOO_LONG),
    "page": (OK + b"\r\n", b"a 1\n" * 15000, TOO_LONG),
}
"""What comes first and what then comes for ever, and what is said of it."""

PAGES = {
    "terms": (b"a{" + b"b=," * 2**21 + b"} 1\n", LONG_LINE),
    "quotes": (b'a{b="' + b'\\"' * 2**21 + b'"} 1\n', LONG_LINE),
    "many": (b"".join(b'a{b="%d"} 1\n' % number for number in range(2**18)), "more than 1000 samples"),
    "others": (b"b 1\n" * 2**20, "the page has none of the metrics a"),
    "blanks": (b" " * 2**22, "the page has none of the metrics a"),
}


class Hostile(socketserver.ThreadingTCPServer):
    """Answers whoever connects with some bytes, and then with others again and again."""

    daemon_threads = True

    class RequestHandlerClass(socketserver.BaseRequestHandler):
        def handle(self):
            with suppress(OSError):
                self.request.recv(1000)
                self.request.sendall(self.server.first)
                while self.server.then:
                    self.request.sendall(self.server.then)

    def __init__(self, first, then=b""):
        super().__init__(("127.0.0.1", 0), self.RequestHandlerClass)
        self.first, self.then = first, then
        self.thread = Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    def server_close(self):
        self.shutdown()
        self.thread.join(SECONDS)
        super().server_close()


@contextmanager
def a_small_exporter(context=None):
    """Run an exporter of one metric, `a`, with a context of TLS or without; gives its port."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"a 1\n")

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            server.handle_error = lambda *_: None  # a client that takes it for another
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join(SECONDS)


def test_hostile_exporters_are_told_and_disturb_nothing(serve, subscribe):
    told = {name: words for name, (*_, words) in (ENDLESS | PAGES).items()}
    with ExitStack() as stack:
        servers = {name: Hostile(first, then) for name, (first, then, _) in ENDLESS.items()}
        servers |= {name: Hostile(OK + b"\r\n" + page) for name, (page, _) in PAGES.items()}
        for each in servers.values():
            stack.callback(each.server_close)
        section = '[feeds.{}]\nkind = "prometheus"\nevery = {}\nmetrics = ["a"]\nurl = "http://127.0.0.1:{}/"\n'
        # one that takes the machine longer is an error of another kind
        server = serve("".join(section.format(name, 5.0, each.server_address[1]) for name, each in servers.items()))
        subscriber = subscribe(server, time=0.1)
        subscriber.sample("time")
        begin = time.monotonic()
        for name, words in told.items():
            line = json.loads(server.line(f"no new sample of {name}: {words}"))
            assert (line["level"], line["feed"]) == ("warn", name)
        subscriber.assert_time_went_on(begin, time.monotonic())


def test_over_tls_an_exporter_has_to_prove_its_name(serve, subscribe, tmp_path):
    chain = Chain()
    chain.server = Certified(HOST, issuer=chain.between, hosts=[HOST])
    root, certificate, key = chain.write(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with a_small_exporter(context) as port:
        section = '[feeds.{}]\nkind = "prometheus"\nevery = 0.2\nmetrics = ["a"]\nurl = "https://{}:{}/"\n'
        server = serve(
            section.format("name", HOST, port) + section.format("address", "127.0.0.1", port),
            SSL_CERT_FILE=str(root),
        )
        assert subscribe(server, name=0.1).sample("name").value == {"a": 1.0}
        eventually(lambda: server.scrape()["clockd_feed_updates_total name"] >= 3)
        server.line("no new sample of address: the server's certificate is for 'localhost', not for '127.0.0.1'")


DEAD_NAMES = """
import socket, time
whole = socket.getaddrinfo

def getaddrinfo(host, *args, **kwargs):
    if str(host).startswith("dead"):
        open({log!r}, "a").write(f"{{host}}\\n")
        time.sleep(600)
    return whole(host, *args, **kwargs)

socket.getaddrinfo = getaddrinfo
"""


@pytest.fixture
def exporter():
    """A small exporter; returns its port."""
    with a_small_exporter() as port:
        yield port


def test_a_dead_name_server_harms_none_but_the_feeds_that_need_it(tmp_path, exporter):
    log = tmp_path / "looked-up"
    (tmp_path / "sitecustomize.py").write_text(DEAD_NAMES.format(log=str(log)))
    section = '[feeds.{}]\nkind = "prometheus"\nevery = 0.2\nmetrics = ["a"]\nurl = "http://{}:{}/"\n'
    dead = [f"dead{n}" for n in range(16)]  # more than the reactor has threads
    feeds = [section.format(name, name, 9) for name in dead]
    for name, host in (("address", "127.0.0.1"), ("name", "localhost")):
        feeds.append(section.format(name, host, exporter))
    server = server_of(tmp_path, "".join(feeds), PYTHONPATH=str(tmp_path))
    eventually(lambda: min(server.scrape()[f"clockd_feed_errors_total {name}"] for name in dead) >= 3)
    before = server.scrape()
    for name in ("address", "name"):
        counted = f"clockd_feed_updates_total {name}"
        eventually(lambda counted=counted: server.scrape()[counted] >= before[counted] + 3)
    server.stop()
    assert sorted(log.read_text().split()) == sorted(dead), "a name was looked up again while that went on"


def test_the_example_is_installed_and_pushed(serve, subscribe, tmp_path):
    source, packages = tmp_path / "source", tmp_path / "packages"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [str(Path(sys.base_prefix) / "bin" / "python3"), "-m", "pip", "--python", sys.executable, "install"]
    done = run(
        *(*pip, "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"),
        *("--target", str(packages), str(source)),
        seconds=LONG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    server = serve('[feeds.tcp]\nkind = "python"\nplugin = "tcp_states"\nevery = 0.1\n', PYTHONPATH=str(packages))
    sample = subscribe(server, tcp=0.1).sample("tcp", lambda push: push.sequence >= 2)
    assert sample.value.keys() == {"established", "time_wait", "close_wait", "listen", "other"}
    assert sample.value["listen"] >= 2


def test_a_plugin_that_is_not_installed_is_told_before_anything_starts(tmp_path):
    plugin(tmp_path, "sleeper", "import time\ntime.sleep(60)\n")
    config = tmp_path / "clockd.toml"
    users = tmp_path / "users"
    clockd("user", "add", "--users", str(users), "alice")
    environment = {"PYTHONPATH": str(tmp_path), "CLOCKD_AUTH_USERS": str(users)}
    config.write_text(python_feeds("absent"))
    told = "feeds.absent.plugin: there is no entry point absent in the group clockd.feeds; installed: sleeper"
    for command in ("check", "serve"):
        done = clockd(command, "--config", str(config), environment=environment)
        assert (done.returncode, done.stdout) == (2, "")
        assert told in done.stderr
        assert "Traceback" not in done.stderr
    config.write_text(python_feeds("sleeper"))
    done = clockd("check", "--config", str(config), environment=environment)
    assert done.returncode == 0, done.stderr


BAD = {
    "raises": (
        "def sample():\n    raise ValueError('no queue\\x1b[31m\\nhere')\n",
        "ValueError: no queue\\x1b[31m\\nhere",
    ),
    "leaves": ("import sys\ndef sample():\n    sys.exit(3)\n", "SystemExit: 3"),
    "unimportable": ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    "leaves_at_import": ("raise SystemExit\n", "SystemExit: "),
    "absent": ("other = 1\n", "AttributeError"),
    "no_callable": ("sample = 1\n", "TypeError: 'int' object is not callable"),
    "instance": ("class Queue: pass\nsample = Queue\n", "InvalidValue: a value is None, bool, int"),
    "cycle": ("def sample():\n    a = []\n    a.append(a)\n    return a\n", "InvalidValue: a value has 4 levels"),
    "nameless": (
        "class M(type):\n    __name__ = property(exit)\nclass E(Exception, metaclass=M): pass\ndef sample(): raise E\n",
        "an error without a name",
    ),
    "coroutine": ("async def sample():\n    return 1\n", "InvalidValue: returned a coroutine"),
    "deferred": (
        "from twisted.internet.defer import fail\ndef sample():\n    return fail(ValueError('no queue'))\n",
        "InvalidValue: returned a Deferred",
    ),
    "large": ("def sample():\n    return 'x' * 5000\n", "InvalidValue: a value has 4096 bytes"),
}


def test_bad_plugins_are_told_each_time_and_disturb_nothing(serve, subscribe, tmp_path):
    for name, (source, _) in BAD.items():
        plugin(tmp_path, name, source)
    plugin(tmp_path, "good", "n = 0\ndef sample():\n    global n\n    n += 1\n    return n\n")
    server = serve(python_feeds(*BAD, "good"), PYTHONPATH=str(tmp_path))
    subscriber = subscribe(server, time=0.1, good=0.1, **dict.fromkeys(BAD, 0.1))
    subscriber.sample("time")
    begin = time.monotonic()
    for name, (_, words) in BAD.items():
        eventually(lambda name=name: server.scrape()[f"clockd_feed_errors_total {name}"] >= 10)
        lines = [json.loads(line) for line in server.lines if f'"feed": "{name}"' in line]
        assert {line["level"] for line in lines} == {"warn"}
        assert all(line["error"].startswith(words) for line in lines), lines
    assert subscriber.sample("good", lambda push: push.value >= 3).sequence >= 3
    subscriber.assert_time_went_on(begin, time.monotonic())
    assert [subscriber.pushes(name) for name in BAD] == [[]] * len(BAD)


SLEEPS = """
import time
time.sleep(2)

def sample():
    begin = time.monotonic()
    time.sleep(2)
    return [begin, time.monotonic()]
"""


def test_a_plugin_that_sleeps_holds_up_nobody(serve, subscribe, tmp_path):
    plugin(tmp_path, "sleeps", SLEEPS)
    server = serve(python_feeds("sleeps"), PYTHONPATH=str(tmp_path))
    assert server.scrape()["clockd_feed_updates_total sleeps"] == 0, "it has waited for the plug-in"
    subscriber = subscribe(server, time=0.1, sleeps=0.1)
    subscriber.sample("time")
    for sample in (subscriber.sample("sleeps"), subscriber.sample("sleeps", lambda push: push.sequence == 2)):
        subscriber.assert_time_went_on(max(sample.value[0], subscriber.pushes("time")[0].arrived), sample.value[1])
    first, second = (subscriber.sample("sleeps", lambda push, n=n: push.sequence == n).value for n in (1, 2))
    assert first[1] <= second[0], "it was called twice at once"


HANGS = """
import time
calls = 0

def sample():
    global calls
    calls += 1
    open({log!r}, "a").write("called\\n")
    if calls > 1:
        time.sleep(600)
    return calls
"""


def test_a_plugin_that_never_returns_is_told_and_not_called_again(serve, subscribe, tmp_path):
    log = tmp_path / "calls"
    plugin(tmp_path, "hangs", HANGS.format(log=str(log)))
    plugin(tmp_path, "hangs_at_import", "import time\ntime.sleep(600)\n")
    server = serve(python_feeds("hangs", "hangs_at_import") + "[limits]\nmax_silence = 0.5\n", PYTHONPATH=str(tmp_path))
    subscriber = subscribe(server, time=0.1, hangs=0.1, hangs_at_import=0.1)
    subscriber.sample("time")
    begin = time.monotonic()
    for name in ("hangs", "hangs_at_import"):
        told = json.loads(server.line(f"no new sample of {name}: the plug-in has not returned for 10 s"))
        assert (told["level"], told["feed"]) == ("warn", name)
        assert server.scrape()[f"clockd_feed_errors_total {name}"] >= 1
    pushes = subscriber.pushes("hangs")
    assert len(pushes) >= 4, "it was not pushed again after the silence"
    assert len({(push.sequence, push.stamp, push.value) for push in pushes}) == 1
    assert subscriber.pushes("hangs_at_import") == []
    assert log.read_text() == "called\n" * 2
    subscriber.assert_time_went_on(begin, time.monotonic())


def test_stopping_does_not_wait_for_a_plugin(tmp_path):
    begun = tmp_path / "begun"
    plugin(
        tmp_path, "sleeps", f"import time\ndef sample():\n    open({str(begun)!r}, 'w').close()\n    time.sleep(600)\n"
    )
    server = server_of(tmp_path, python_feeds("sleeps"), PYTHONPATH=str(tmp_path))
    eventually(begun.exists)
    server.stop()
