"""The server's own clock, as clients of bytes see it: exchanges, steps, and what they tell of theirs."""

import math
import time

import pytest
from processes import Server, eventually, steppable
from strangers import NONE, Stranger, message

from clockd.hostclock import kernel_clock

NAN = float("nan")


class Aware(Stranger):
    """A client that hears notices, and knows its clock.

    Args:
        server: Where `alice` logs in.
        tells: Returns what a push that asks for it is answered with.

    Attributes:
        order: All that was pushed, in its order: a stamp, or the seconds of a notice of a step, in a list of its own.
    """

    def __init__(self, server, tells=lambda: NONE):
        super().__init__(server.port, "127.0.0.1")
        self.tells = tells
        self.answers = False  # it does so itself
        self.order = []
        self.negotiate().login("alice", server.secret)

    def take_notices(self, period):
        self.call(self.perspective, b"subscribe", [b"unicode", b"server"])
        self.call(self.perspective, b"setperiod", period)
        return self

    def exchange(self):
        """Return the stamp before, both of the server's, the stamp after, the bound and the status."""
        asked = time.time()
        kind, stamp, received, transmitted, bound, status = self.call(self.perspective, b"exchange", asked)
        answered = time.time()
        assert (kind, stamp, status[0]) == (b"tuple", asked, b"unicode")
        return asked, received, transmitted, answered, bound, status[1].decode()

    def _take(self, expression):
        match expression:
            case [b"message", number, 1, b"notifyTime", wants, [b"tuple", stamp], _]:
                self.order.append(stamp)
                if wants:
                    self.say([b"answer", number, self.tells()])
            case [b"message", _, 1, b"notifySample", 0, [b"tuple", [_, b"server"], _, _, [_, *items]], _]:
                notice = {key[1].decode(): value for key, value in items}
                if notice["kind"] == [b"unicode", b"clock_step"]:
                    self.order.append([notice["step_seconds"]])
        super()._take(expression)


def total(server, name):
    """Return how many observations a histogram has, and their sum."""
    page = server.scrape()
    return page[f"{name}_count"], page[f"{name}_sum"]


def test_an_exchange_lies_between_its_client_s_two_moments_on_one_host(server):
    client = Aware(server)
    for _ in range(50):
        asked, received, transmitted, answered, *_ = client.exchange()
        assert asked <= received <= transmitted <= answered
    client.close()


def test_the_kernel_is_believed_and_what_it_does_not_say_is_no_bound(server):
    client = Aware(server)
    *_, bound, status = client.exchange()
    page = server.scrape()
    client.close()
    assert status == kernel_clock()().status
    assert math.isfinite(bound) == (status == "synchronized")
    assert page["clockd_clock_synchronized"] == (status == "synchronized")
    assert math.isfinite(page["clockd_clock_error_bound_seconds"]) == (status == "synchronized")
    assert page["clockd_clock_steps_total"] == 0


def test_what_is_no_stamp_is_refused(server):
    client = Aware(server)
    for stamp in (NAN, math.inf, [b"boolean", b"true"], NONE, [b"unicode", b"1.5"], [b"list", 1.5]):
        assert client.refused(client.perspective, b"exchange", stamp) == "InvalidValue"
    client.exchange()
    client.close()


def test_who_tells_of_its_clock_is_counted_and_nonsense_is_passed_over(server):
    names = ("clockd_subscriber_offset_seconds", "clockd_subscriber_error_bound_seconds")
    for tells, counted in (
        (lambda: [b"tuple", time.time() + 2, 0.25], (1, 2.0, 1, 0.25)),
        (lambda: [b"tuple", time.time() - 2, math.inf], (1, 2.0, 0, 0.0)),
        *(
            (lambda pair=pair: [b"tuple", *pair], (0, 0.0, 0, 0.0))
            for pair in ((NAN, 0.5), (1.5, NAN), (1, 2), (-1.5,))
        ),
        (lambda: [b"tuple", 1e308, 1e308], (1, 366 * 86400.0, 1, 366 * 86400.0)),
    ):
        answered = server.scrape()["clockd_push_acknowledgement_seconds_count"]
        before = [number for name in names for number in total(server, name)]
        client = Aware(server, tells)
        client.pushed()
        eventually(lambda: server.scrape()["clockd_push_acknowledgement_seconds_count"] > answered)  # noqa: B023
        after = [number for name in names for number in total(server, name)]
        client.close()
        assert [number - old for number, old in zip(after, before, strict=True)] == pytest.approx(counted, abs=0.2)


def test_an_exchange_that_comes_a_byte_at_a_time_came_with_its_last(server):
    client = Aware(server)
    client.pushed()
    data = message(99, client.perspective, b"exchange", 1.5)
    for byte in data[:-1]:
        client.send(bytes([byte]))
    last = time.time()
    client.send(data[-1:])
    assert client.answer(99)[2] >= last
    client.close()


@pytest.mark.parametrize("sharing", ["connection", "account"])
def test_a_step_is_told_before_the_first_push_after_it(tmp_path, sharing):
    environment, step = steppable(tmp_path)
    server = Server(tmp_path, environment=environment | {"CLOCKD_AVATARS_SHARING": sharing})
    period = 0.05
    clients = [Aware(server).take_notices(period) for _ in range(2)]
    deaf = Aware(server)
    deaf.call(deaf.perspective, b"setperiod", period)
    seldom = Aware(server).take_notices(period if sharing == "account" else 10.0)
    ahead, steps = 0.0, (3600.0, -7200.0, 60.0)
    for count, seconds in enumerate(steps, 1):
        ahead += seconds
        for client in clients:
            client.pushed()
            del client.order[:]
        step(ahead)
        for client in (*clients, seldom):
            while not [True for each in client.order if isinstance(each, list)]:
                client._take(client.hear())
        for client in clients:
            client.pushed()
            at = next(at for at, each in enumerate(client.order) if isinstance(each, list))
            assert client.order[at][0] == pytest.approx(seconds, abs=0.02)
            middle = time.time() + ahead - seconds / 2  # as far from what was before as from what is
            assert all((stamp < middle) == (seconds > 0) for stamp in client.order[:at])
            assert all((stamp > middle) == (seconds > 0) for stamp in client.order[at + 1 :])
        del seldom.order[:]
        asked, received, transmitted, answered, *_ = deaf.exchange()
        assert asked <= received - ahead + 0.01
        assert transmitted - ahead - 0.01 <= answered
        assert server.scrape()["clockd_clock_steps_total"] == count
    assert [each for each in deaf.order if isinstance(each, list)] == []
    for client in (*clients, deaf, seldom):
        client.close()
    server.assert_empty()
    assert sum("was stepped by" in line for line in server.lines) == len(steps)
    server.stop()
