"""The status page in a real browser, Debian's Chromium, of a real server."""

import signal
import socket
import time

import pytest
from playwright.sync_api import expect, sync_playwright
from processes import SECONDS, Server, eventually, free_port, without_coverage

TIMEOUT = SECONDS * 1000
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1100, "height": 900}


@pytest.fixture(scope="module")
def browser(need):
    path = need("chromium", "chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(browser, server):
    """Open the server's page; in the end, there must have been no error and no request to anybody else."""
    contexts, wrong = [], []

    def open_page(url=None, size=DESK, **options):
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        page.own = url or f"http://{server.metrics}/"
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "ERR_" not in message.text else None)
        page.on("request", lambda request: request.url.startswith(page.own) or wrong.append(request.url))
        page.goto(page.own)
        expect(page.locator("#state")).to_have_text("ready", timeout=TIMEOUT)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def until(page, condition):
    """Wait until an expression of JavaScript is true; the browser's own way of waiting is what the page forbids."""
    eventually(lambda: page.evaluate(condition))


def shown(page, where, text):
    expect(page.locator(where)).to_have_text(text, timeout=TIMEOUT)


def seconds_of_day(page):
    hours, minutes, seconds = page.inner_text("#clock").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def test_it_ticks_with_the_server_s_time(look):
    page = look()
    until(page, "/^\\d\\d:\\d\\d:\\d\\d\\.\\d$/.test(document.getElementById('clock').textContent)")
    seen = set()
    for _ in range(12):
        seen.add(page.inner_text("#clock"))
        page.wait_for_timeout(100)
    assert len(seen) > 5
    apart = (time.time() - seconds_of_day(page)) % 86400
    assert min(apart, 86400 - apart) < 5
    assert time.strftime("%Y-%m-", time.gmtime()) in page.inner_text("#date")


def test_a_client_that_logs_in_and_out_moves_the_counts_and_the_lines(look, server):
    page = look()
    shown(page, "#avatars", "0")
    line = page.locator("#rates path").first
    before = line.get_attribute("d")
    clients = server.subscribers(4, [0.05, 0.1])
    shown(page, "#avatars", "2")
    shown(page, "#connections", "2")
    shown(page, "#requested", "30\u00a0/s")
    expect(page.locator("#late99")).not_to_have_text("none", timeout=TIMEOUT)
    expect(page.locator("#feeds tr").first.locator("td")).to_have_text(["time", "2", "30 /s", "always new"])
    until(page, "Number(document.getElementById('achieved').firstChild.data) > 20")
    assert line.get_attribute("d") != before
    clients.result()
    shown(page, "#avatars", "0")
    other = look()  # it begins with the minutes that it has not seen
    assert other.locator("#rates path").first.get_attribute("d").count("L") >= 4
    assert "alice" not in page.content()


def test_on_a_phone_nothing_is_cut(look):
    page = look(size=PHONE)
    until(page, "document.querySelector('#feeds td') !== null")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_it_is_dark_where_the_reader_wants_it_dark(look):
    grounds = [
        look(color_scheme=scheme).evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        for scheme in ("light", "dark")
    ]
    assert min(grounds[0]) > 200
    assert max(grounds[1]) < 60


def test_who_wants_no_motion_sees_whole_seconds(look):
    page = look(reduced_motion="reduce")
    until(page, "/^\\d\\d:\\d\\d:\\d\\d$/.test(document.getElementById('clock').textContent)")


def test_without_a_mouse_all_that_can_be_used_is_reached(look):
    page = look()
    reached = []
    for _ in range(2):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent"))
    assert reached == ["metrics", "readiness"]


def test_it_says_when_the_server_stops_or_dies_and_comes_back_with_the_next(look, tmp_path):
    port = free_port()
    server = Server(tmp_path, metrics=port, environment=without_coverage())
    page = look(f"http://127.0.0.1:{port}/")
    server.end(signal.SIGKILL)
    shown(page, "#state", "lost the server")
    expect(page.locator("#trouble")).to_be_visible()
    expect(page.locator("#since")).to_contain_text("What is below is old: lost since", timeout=TIMEOUT)
    frozen = page.inner_text("#clock")
    page.wait_for_timeout(300)
    assert page.inner_text("#clock") == frozen
    server = Server(tmp_path, metrics=port, environment=without_coverage())
    shown(page, "#state", "ready")
    expect(page.locator("#trouble")).to_be_hidden()
    server.process.send_signal(signal.SIGSTOP)
    shown(page, "#state", "lost the server")
    shown(page, "#why", "The server is silent.")
    server.process.send_signal(signal.SIGCONT)
    expect(page.locator("#state")).not_to_have_text("lost the server", timeout=TIMEOUT)
    server.end()
    shown(page, "#state", "lost the server")


def test_it_can_be_turned_off(tmp_path):
    server = Server(tmp_path, environment=without_coverage() | {"CLOCKD_METRICS_PAGE": "false"})
    with pytest.raises(OSError, match="404"):
        server.get("/")
    with pytest.raises(OSError, match="404"):
        server.get("/events")
    server.stop()


def listen_to(server):
    """Return a socket on which events come."""
    host, _, port = server.metrics.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=SECONDS)
    connection.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
    return connection


def test_pages_that_are_open_keep_no_scrape_out_and_hold_no_push_up(server):
    pages = [listen_to(server) for _ in range(100)]
    clients = server.subscribers(3, [0.1] * 10)
    for _ in range(5):
        assert server.scrape()["clockd_ready"] == 1
    assert min(len(client["arrivals"]) for client in clients.result()) >= 15
    told = [page.recv(1 << 20) for page in pages]
    assert all(b"event: greeting" in data and b"event: status" in data for data in told)
    assert [b"event: displaced" in data for data in told] == [True] * 36 + [False] * 64
    for page in pages:
        page.close()
    eventually(lambda: server.scrape()["process_open_fds"] < 30)
