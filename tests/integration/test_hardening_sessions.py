"""What clients do that have logged in, and what it costs; `docs/security.md` has the list.

The figures passed to `attacked` are those of the how-to's design.
"""

import random
import socket

import pytest
from processes import eventually
from strangers import (
    BIG,
    CHECKING,
    HASH_ZERO,
    HONEST,
    JELLY,
    MALFORMED,
    MIND,
    NONE,
    ROOT,
    TRUE,
    Refusal,
    bomb,
    encode,
    message,
    nested,
    prefix,
    response,
    watched,
)

ACK_SECONDS, STALE_SECONDS = 0.5, 2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    with watched(folder, ack_seconds=ACK_SECONDS, stale_seconds=STALE_SECONDS) as server:
        yield server


# periods


def test_the_first_push_follows_the_answer_to_the_login(server):
    with server.attacked() as seen:
        client = server.greeted()
        client.login("mallory", server.secrets["mallory"])
        assert client.stamps == []
        client.pushed()
        client.pushed()
    assert seen.closed == {}


def test_a_period_of_nearly_nothing_is_clamped(server):
    with server.attacked(cpu=0.6 * 1.5) as seen:
        client = server.client()
        for period in (0.0099, 1e-9, 5e-324):
            assert client.call(client.perspective, b"setperiod", period) == 0.01
        assert client.listen(1.5) <= 155
    assert seen.grown["clockd_period_changes_total clamped"] == 3


def test_a_period_of_nearly_for_ever_is_clamped(server):
    with server.attacked() as seen:
        client = server.client()
        for period in (1e308, 10**100, 2**440):
            assert client.call(client.perspective, b"setperiod", period) == 86400.0
        assert client.call(client.perspective, b"setperiod", 0.05) == 0.05
        assert client.listen(0.5) > 2
    assert seen.grown["clockd_period_changes_total clamped"] == 3


NO_PERIODS = {
    "InvalidPeriod": [
        *(0, 0.0, -1, -0.5, -(10**100), float("nan"), float("inf"), float("-inf"), TRUE, [b"boolean", b"false"]),
        *(b"1", [b"unicode", b"1"], NONE, [b"list", 1], [b"tuple", 1], [b"dictionary", [1, 1]], MIND),
    ],
    "InvalidValue": [JELLY[kind] for kind in ("local root", "local", "decimal", "timedelta", "set", "instance")],
}


def test_what_is_no_period_is_refused_and_the_old_one_stays(server):
    with server.attacked(log=800 * 40) as seen:
        client = server.client()
        client.call(client.perspective, b"setperiod", 0.05)
        for name, periods in NO_PERIODS.items():
            for period in periods:
                assert client.refused(client.perspective, b"setperiod", period) == name, period
                assert client.refused(client.perspective, b"setperiod", keywords=[(b"period", period)]) == name
        assert client.listen(1) > 5
        assert client.call(client.perspective, b"setperiod", 0.02) == 0.02
    assert seen.grown["clockd_period_changes_total refused"] == 2 * len(NO_PERIODS["InvalidPeriod"])


def test_nan_stops_nobody_s_timer_under_python_o(tmp_path):
    with watched(tmp_path, environment={"PYTHONOPTIMIZE": "1"}) as server, server.attacked():
        client = server.client()
        for _ in range(3):
            assert client.refused(client.perspective, b"setperiod", float("nan")) == "InvalidPeriod"
        assert client.call(client.perspective, b"setperiod", 0.05) == 0.05
        assert client.listen(1) > 5


def test_changing_the_period_five_hundred_times_buys_no_push(server):
    with server.attacked(cpu=2.0) as seen:
        client = server.client()
        client.pushed()
        before = len(client.stamps)
        for number in range(500):
            client.call(client.perspective, b"setperiod", 60 + number % 7)
        assert len(client.stamps) - before <= 500 // 5
    assert seen.grown["clockd_period_changes_total granted"] == 500


# what a refusal tells

CALLS = {
    "UnknownMethod": [
        *((name, ()) for name in (b"xyzzy", b"__class__", b"__init__", b"", b"_active", b"logout", b"account")),
        *((name, ()) for name in (b"setperiod.__call__", b"x" * 10_000, "setperiöd".encode(), 7, [b"x"], 0.5)),
        (b"perspective_setperiod", (1,)),
        (b"setperiod\x00", (1,)),
    ],
    "InvalidValue": [(b"setperiod", ()), (b"setperiod", (1, 2, 3)), (b"setperiod", (1, b"time", b"x" * 10_000))],
    "UnknownFeed": [(b"setperiod", (1, b"xyzzy")), (b"setperiod", (1, MIND)), (b"setperiod", (1, b"x" * 10_000))],
    "InvalidPeriod": [(b"setperiod", (b"xyzzy",)), (b"setperiod", (b"x" * 10_000,))],
}


def test_a_refusal_is_short_and_tells_nothing_of_the_server_and_is_not_logged(server):
    calls = [(name, *call) for name, its in CALLS.items() for call in its]
    inside = [b"Traceback (", b".py", b"0x", b"perspective_", b"clockd.realm", b"ClockAvatar", b"xyzzy", b"xxx"]
    with server.attacked(cpu=5.0, log=800 * 5 * len(calls)) as seen:
        client = server.client()
        for name, method, arguments in calls * 5:
            before = client.heard
            with pytest.raises(Refusal) as refusal:
                client.call(client.perspective, method, *arguments)
            assert refusal.value.name == name, method
            assert client.heard - before < 1000
            assert not [word for word in inside if word in encode(refusal.value.jelly)]
    assert seen.closed == {}
    assert seen.log < 1000
    assert "xyzzy" not in server.output


def test_a_refusal_is_the_same_each_time(server):
    """It tells nothing of what else the server has had to refuse, for one."""
    with server.attacked() as seen:
        said = set()
        for _ in range(3):
            with pytest.raises(Refusal) as refusal:
                server.client().call(1, b"xyzzy")
            said.add(encode(refusal.value.jelly))
    assert len(said) == 1
    assert seen.closed == {}


def test_keywords_are_names_of_parameters(server):
    keys = [1, 0.5, NONE, TRUE, b"\xff", b"", [b"unicode", b"x"], [b"tuple"], [b"list"], b"self", float("nan"), 2**400]
    with server.attacked():
        client = server.client()
        for key in (*keys, b"x" * 10_000):
            assert client.refused(client.perspective, b"setperiod", keywords=[(key, 1)]) == "InvalidValue", key
            assert client.refused(client.perspective, b"setperiod", 1, keywords=[(key, 1)]) == "InvalidValue", key
        assert client.refused(client.perspective, b"setperiod", 1, keywords=[(b"period", 1)]) == "InvalidValue"
        assert client.call(client.perspective, b"setperiod", keywords=[(b"period", 0.5)]) == 0.5


# one that is pushed to


def test_a_client_that_never_reads_is_sent_little_and_ended(server):
    with server.attacked(cpu=6, memory=22e6) as seen:
        clients = [server.client(receive_bytes=2048) for _ in range(5)]
        for client in clients:
            client.call(client.perspective, b"setperiod", 0.01)
        before, already = server.scrape()["clockd_pushes_total time"], server.ticks()
        eventually(lambda: server.scrape()["clockd_connections_closed_total stale"] >= 5)
        pushed = server.scrape()["clockd_pushes_total time"] - before - (server.ticks() - already)
    # each one interval between asks and one ack_seconds
    assert pushed <= 5 * 2 * ACK_SECONDS / 0.01 + 2 * HONEST
    assert seen.closed == {"stale": 5}


def test_a_client_that_reads_and_never_answers_is_sent_little_and_ended(server):
    with server.attacked(cpu=6) as seen:
        client = server.client()
        client.call(client.perspective, b"setperiod", 0.01)
        client.answers = False
        assert client.listen(10 * STALE_SECONDS) <= 2 * ACK_SECONDS / 0.01 + 2
        client.end()
    assert seen.closed == {"stale": 1}


def test_clients_that_never_answered_and_vanish_are_no_event(server):
    with server.attacked(cpu=2.99, memory=30e6, log=50_000) as seen:
        clients = [server.client() for _ in range(16)]
        for client in clients:
            client.call(client.perspective, b"setperiod", 0.01)
            client.answers = False
        for client in clients:
            client.pushed()
            client.close(reset=True)
        server.alone()
    assert seen.closed == {"lost": 16}
    assert seen.log == 0


def asked(client):
    """Wait for a push that wants an answer and return its number."""
    while True:
        match client.hear():
            case [b"message", number, 1, b"notifyTime", 1, *_]:
                return number


def failure(text):
    state = [[b"type", b"builtins.ValueError"], [b"value", text], [b"traceback", text], [b"parents", [b"list"]]]
    return [b"twisted.spread.pb.CopyableFailure", [b"dictionary", *state]]


def test_the_third_error_in_a_row_ends_a_client_and_its_text_is_not_logged(server):
    text = b"xyzzy\x1b[31m\r\n2026 forged" * 300
    with server.attacked(log=205_000) as seen:
        client = server.client()
        client.call(client.perspective, b"setperiod", 0.01)
        client.answers = False
        for _ in range(3):
            client.say([b"error", asked(client), failure(text)])
        assert client.end() == "reset"
    assert seen.closed == {"protocol": 1}
    assert seen.log < 1000
    assert "forged" not in server.output


def test_one_error_of_a_client_ends_nothing(server):
    with server.attacked() as seen:
        client = server.client()
        client.call(client.perspective, b"setperiod", 0.01)
        client.answers = False
        for answer in (b"error", b"error", b"answer", b"error"):
            client.say([answer, asked(client), NONE])
        client.answers = True
        assert client.listen(0.3) > 5
    assert seen.closed == {}


def test_an_error_of_two_hundred_kilobytes_ends_its_client(server):
    with server.attacked(memory=30e6, log=205_000) as seen:
        client = server.client()
        client.answers = False
        client.say([b"error", asked(client), failure(b"x" * 200_000)])
        client.end()
    assert seen.closed == {"protocol": 1}
    assert seen.log < 1000


def test_forbidden_jelly_in_an_answer_is_not_looked_at(server):
    with server.attacked(log=1300 * 4) as seen:
        client = server.client()
        client.call(client.perspective, b"setperiod", 0.01)
        client.answers = False
        for jelly in (JELLY["instance"], JELLY["local root"], JELLY["unhashable key"], bomb(6)):
            client.say([b"answer", asked(client), jelly])
        client.answers = True
        assert client.listen(0.3) > 5
    assert seen.closed == {}


def test_an_answer_to_no_question_ends_its_client(server):
    numbers = [0, -1, 2, 10**50, b"1", [1], float("nan")]
    with server.attacked(log=1300 * (len(numbers) + 1)) as seen:
        for number in numbers:
            client = server.client()
            client.pushed()
            client.say([b"answer", number, NONE])
            assert client.end() == "reset"
        client = server.client()
        client.answers = False
        number = asked(client)
        client.say([b"answer", number, NONE], [b"answer", number, NONE])
        assert client.end() == "reset"
    assert seen.closed == {"protocol": len(numbers) + 1}


# expressions


def test_an_expression_over_the_limit_ends_its_client(server):
    with server.attacked(cpu=2.7, memory=61e6) as seen:
        for data in (
            b"\x01\x80" * 500_000,
            b"\x02\x80\x00\x81" * 250_000,
            message(1, 99, b"x", *([0] * 2112)),
            prefix(640_000) + b"\x82" + bytes(BIG),
            b"\x02\x80" + (prefix(16_000) + b"\x82" + bytes(16_000)) * 2,
        ):
            client = server.client()
            client.send(data)
            client.end()
    assert seen.closed == {"protocol": 5}


def test_an_unfinished_expression_of_a_client_within_the_limit_holds_little(server):
    with server.attacked(memory=37e6) as seen:
        clients = [server.client() for _ in range(16)]
        for client in clients:
            client.send(prefix(2000) + b"\x80" + b"\x00\x80" * 1900 + prefix(12_000) + b"\x82" + bytes(11_999))
    assert seen.closed == {}


def refused_in_the_end(client, number):
    """Tell whether that request was answered with an error, as were those before it."""
    with pytest.raises(Refusal):
        client.answer(number)
    return True


def test_one_byte_items_of_a_client_cost_no_more_than_their_bytes(server):
    data = b"".join(message(number, 99, b"x", *([0] * 2000)) for number in range(1, 129))  # 256,000 items
    with server.attacked(cpu=3 * 0.9) as seen:
        client = server.client()
        client.send(data)
        assert refused_in_the_end(client, 1)
        assert all(client.hear()[0] == b"error" for _ in range(127))
    assert seen.closed == {}


def test_one_byte_segments_of_a_client_cost_no_more_than_their_bytes(server):
    with server.attacked(cpu=4000 * 0.00014 * 2) as seen:
        client = server.client()
        client.send(prefix(3) + b"\x80" + prefix(16_000) + b"\x82" + bytes(11_000))
        for _ in range(4000):
            assert client.send(b"\x00")
    assert seen.closed == {}


def test_dereferences_of_a_client_are_refused(server):
    with server.attacked(cpu=4.6) as seen:
        client = server.client()
        for kind in (b"tuple", b"list", b"set", b"dictionary"):
            jelly = [kind, *[[b"dereference", 7]] * 400, *range(600)]
            if kind == b"dictionary":
                jelly = [kind, *([number, [b"dereference", 7]] for number in range(300))]
            for _ in range(5):
                assert client.refused(client.perspective, b"setperiod", jelly) == "InvalidValue"
    assert seen.closed == {}


def test_keys_of_a_client_that_share_a_hash_cost_little(server):
    kinds = [
        [number * HASH_ZERO for number in range(5, 400)],
        [[b"tuple", number * HASH_ZERO] for number in range(250)],
        [[b"remote", number * HASH_ZERO] for number in range(1, 250)],
    ]
    with server.attacked(cpu=5.0) as seen:
        client = server.client()
        for keys in kinds:
            jelly = [b"dictionary", *([key, 0] for key in keys)]
            for _ in range(10):
                assert client.refused(client.perspective, b"setperiod", jelly) == "InvalidValue"
        jelly = [b"dictionary", *([key * 1.0, 0] for key in kinds[0])]  # floats cannot all share one
        assert client.refused(client.perspective, b"setperiod", jelly) == "InvalidPeriod"
    assert seen.closed == {}


def test_a_reference_bomb_of_a_client_does_not_go_off(server):
    """As deep as a client may go; more of it is in a list, side by side."""
    flat = [[b"reference", 1, [b"tuple", b"x", b"x"]]]
    flat += [[b"reference", n, [b"tuple", [b"dereference", n - 1], [b"dereference", n - 1]]] for n in range(2, 31)]
    with server.attacked(cpu=1.0, log=10_500_000) as seen:
        client = server.client()
        for jelly in (bomb(5), [b"list", *flat], [b"set", [b"list", *flat]]):
            assert client.refused(client.perspective, b"setperiod", jelly) == "InvalidValue"
            assert client.refused(client.perspective, b"setperiod", 1, b"time", jelly) == "InvalidValue"
        client.send(message(1, client.perspective, b"setperiod", bomb(30)))
        client.end()
    assert seen.closed == {"protocol": 1}
    assert seen.log < 1000


def test_nesting_of_a_client_within_the_limit_is_refused_and_beyond_it_ends(server):
    with server.attacked(cpu=1.0, log=137_000) as seen:
        client = server.client()
        assert client.refused(client.perspective, b"setperiod", nested(12)) == "InvalidPeriod"
        client.send(message(1, client.perspective, b"setperiod", nested(500)))
        client.end()
    assert seen.closed == {"protocol": 1}
    assert seen.log < 1000


def test_no_other_jelly_of_a_client_is_decoded(server):
    with server.attacked(log=1600 * len(JELLY)) as seen:
        client = server.client()
        for what, jelly in JELLY.items():
            for place in (jelly, [b"list", 1, [b"dictionary", [1, jelly]]]):
                assert client.refused(client.perspective, b"setperiod", place) == "InvalidValue", what
        assert client.call(client.perspective, b"setperiod", 1) == 1.0
    assert seen.closed == {}
    assert seen.log < 1000


def test_remote_references_of_a_client_cost_it_more_than_the_server(server):
    with server.attacked(cpu=5 * 0.43) as seen:
        client = server.client()
        sent = 0
        for _ in range(30):
            data = message(10**6, client.perspective, b"setperiod", *([b"remote", number] for number in range(2, 650)))
            sent += len(data)
            client.send(data)
            assert refused_in_the_end(client, 10**6)
        assert client.heard < sent
    assert seen.closed == {}


def test_a_malformed_frame_ends_a_client_too(server):
    with server.attacked(cpu=5.0, log=700 * len(MALFORMED)) as seen:
        ends = {}
        for what, data in MALFORMED.items():
            client = server.client()
            client.send(data)
            ends[what] = client.end()
    assert ends == dict.fromkeys(MALFORMED, "reset")
    assert seen.closed == {"protocol": len(MALFORMED)}


# many calls


def test_ten_thousand_refusals_leave_nothing(server):
    with server.attacked(cpu=5 * 5, memory=25e6) as seen:
        client = server.client()
        for _ in range(20):
            client.send(b"".join(message(i, client.perspective, b"setperiod", b"x") for i in range(1, 501)))
            assert all(refused_in_the_end(client, i) for i in range(1, 501))
    assert seen.closed == {}


def test_periods_that_nobody_else_has_leave_nothing(server):
    chance = random.Random(1)  # the same each time
    with server.attacked(cpu=5 * 5, memory=25e6) as seen:
        client = server.client()
        for _ in range(20):
            periods = [3600 + chance.random() for _ in range(500)]
            client.send(b"".join(message(i, client.perspective, b"setperiod", p) for i, p in enumerate(periods)))
            assert client.answer(499) == periods[-1]
        client.call(client.perspective, b"setperiod", 0.05)
        client.pushed()
    assert seen.closed == {}
    assert seen.grown["clockd_push_requested_hertz time"] < 21


def test_numbers_of_requests_come_back_as_they_were(server):
    with server.attacked() as seen:
        client = server.client()
        for number in (0, -1, 2**31, -(2**31) - 1, 2**448 - 1, 1 - 2**448):
            client.send(message(number, client.perspective, b"setperiod", 1))
            assert client.answer(number) == 1.0
            client.send(message(number, client.perspective, b"x"))
            assert refused_in_the_end(client, number)
    assert seen.closed == {}


def test_calls_that_want_no_answer_get_none(server):
    with server.attacked(cpu=5 * 3) as seen:
        client = server.client()
        client.send(message(1, 99, b"x", wants=0) * 5000 + message(2, client.perspective, b"x", wants=0) * 5000)
        before = client.heard
        assert client.call(client.perspective, b"setperiod", 1) == 1.0
        assert client.heard - before < 2000
    assert seen.closed == {}
    assert seen.log < 1000


def test_unknown_commands_of_a_client_that_does_not_read_end_it(server):
    with server.attacked(cpu=5 * 3, memory=30e6) as seen:
        client = server.client(receive_bytes=2048)
        for _ in range(200):
            if not client.send(encode([b"x" * 200]) * 500):
                break
        client.end()
    assert sum(seen.closed.values()) == 1
    assert seen.closed.keys() <= {"limit", "protocol", "stale"}
    assert seen.log < 1000


# sessions


def test_a_connection_has_one_session(server):
    with server.attacked() as seen:
        client = server.client()
        for _ in range(150):
            assert client.refused(ROOT, b"login", b"mallory") == "NotPermitted"
            assert client.refused(ROOT, b"loginAnonymous", [b"remote", 2]) == "NotPermitted"
        assert server.scrape()["clockd_avatars"] == HONEST + 1
    assert seen.grown["clockd_logins_total secret ok"] == 1
    assert seen.closed == {}


def test_an_account_has_sixteen_connections(server):
    with server.attacked() as seen:
        clients = [server.client() for _ in range(16)]
        for _ in range(44):
            stranger = server.greeted()
            challenger, right = server.proof(stranger)
            assert stranger.refused(challenger, b"respond", right, MIND) == "TooManyConnections"
        clients[0].close()
        eventually(lambda: server.scrape()["clockd_connections authenticated"] == HONEST + 15)
        server.client().pushed()
    assert seen.grown["clockd_logins_total secret ok"] == 17
    assert seen.grown["clockd_logins_total secret limit"] == 44


def decref(client):
    client.say([b"decref", client.perspective])
    assert client.end() == "closed"


def decref_twice(client):
    client.say([b"decref", client.perspective], [b"decref", client.perspective])
    client.end()


def decref_another(client):
    client.say([b"decref", client.perspective + 1])
    client.end()


def call_after_decref(client):
    client.say([b"decref", client.perspective])
    client.send(message(7, client.perspective, b"setperiod", 1))
    client.end()


def close(client):
    client.close()


def reset(client):
    client.close(reset=True)


def half_close(client):
    client.socket.shutdown(socket.SHUT_WR)
    assert client.end() == "closed"


WAYS = {
    decref: {"client"},
    decref_twice: {"client", "protocol"},
    decref_another: {"protocol"},
    call_after_decref: {"client"},
    close: {"client", "lost"},
    reset: {"lost"},
    half_close: {"client"},
}


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_to_leave_logs_out_once(server, way):
    """All connections that the account may have, twice: no place is lost, and none is given back twice."""
    with server.attacked(cpu=5) as seen:
        for _ in range(2):
            clients = [server.client() for _ in range(16)]
            assert server.scrape()["clockd_avatars"] == HONEST + 16
            for client in clients:
                way(client)
            server.alone()
        clients = [server.client() for _ in range(16)]
        stranger = server.greeted()
        challenger, right = server.proof(stranger)
        assert stranger.refused(challenger, b"respond", right, MIND) == "TooManyConnections"
    assert sum(seen.closed.values()) == 32
    assert seen.closed.keys() <= WAYS[way]


def test_those_who_leave_while_their_password_is_checked_leave_nothing_behind(server):
    server.add_password_account("carol", "correct horse battery staple")
    with server.attacked(cpu=5 * 15, memory=CHECKING, log=1400 * 16) as seen:
        for number in range(16):  # all the places that the account has
            stranger = server.greeted()
            challenger, right = server.proof(stranger, "carol")
            stranger.send(message(9, challenger, b"respond", right, MIND))
            if number % 3 == 2:
                stranger.say([b"decref", challenger])
            stranger.close(reset=bool(number % 2))
        server.alone()
        eventually(lambda: server.output.count("left while logging in") == 16)
        server.client("carol").pushed()
    assert sum(seen.closed.values()) == 16
    assert seen.closed.keys() <= {"client", "lost"}


def test_the_server_s_own_objects_are_no_arguments(server):
    with server.attacked() as seen:
        client = server.client()
        for target in (client.perspective, client.perspective + 1, 1, b"root"):
            assert client.refused(client.perspective, b"setperiod", [b"local", target]) == "InvalidValue"
            assert client.refused(client.perspective, b"setperiod", 1, [b"local", target]) == "InvalidValue"
    assert seen.closed == {}


def test_a_login_and_what_follows_it_may_come_in_one_segment(server):
    with server.attacked() as seen:
        clients = [server.greeted() for _ in range(16)]
        for client in clients:
            client.send(message(1, ROOT, b"login", b"mallory"))
        for client in clients:
            [_, challenge, [_, challenger]] = client.answer(1)
            client.send(
                message(2, challenger, b"respond", response(server.secrets["mallory"], challenge), MIND)
                + message(3, challenger + 1, b"setperiod", 0.05)
                + encode([b"decref", challenger])
            )
        for client in clients:
            assert client.answer(2) == [b"remote", 2]
            assert client.answer(3) == 0.05
            client.pushed()
    assert seen.closed == {}


def test_logins_that_are_left_at_once_leave_nothing(server):
    with server.attacked(cpu=5 * 1.5, memory=25e6) as seen:
        for _ in range(100):
            server.client().close(reset=True)
        server.alone()
    assert seen.grown["clockd_logins_total secret ok"] == 100
    assert seen.closed.keys() <= {"client", "lost"}
