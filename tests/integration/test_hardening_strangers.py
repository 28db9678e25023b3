"""What peers do that have not logged in, and what it costs; `docs/security.md` has the list.

The figures passed to `attacked` are those of the how-to's design.
"""

import random
import socket

import pytest
from strangers import (
    BIG,
    CHECKING,
    HASH_ZERO,
    JELLY,
    MALFORMED,
    MIND,
    NONE,
    ROOT,
    WORDS,
    Gone,
    Raw,
    Refusal,
    bomb,
    encode,
    message,
    nested,
    prefix,
    response,
    watched,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with watched(tmp_path_factory.mktemp("strangers")) as server:
        yield server


def refused(seen, strangers=1):
    """Tell whether all of them were ended for what they said, and nobody else."""
    return seen.closed == {"protocol": strangers}


def login(*arguments, keywords=()):
    return message(1, ROOT, b"login", *arguments, keywords=keywords)


# Banana: how large, how deep, how many


@pytest.mark.parametrize(
    ("data", "cpu", "memory"),
    [
        (b"\x01\x80" * 500_000, 2.7, 61e6),
        (prefix(1000) + b"\x80" + (prefix(BIG) + b"\x82" + bytes(BIG)) * 60, 1.0, 36e6),
        (prefix(640 * 1024) + b"\x80" + b"\x00\x80" * 640_000, 2.7, 61e6),
    ],
    ids=["lists in lists", "strings", "empty lists"],
)
def test_an_expression_that_does_not_end_is_not_kept(server, data, cpu, memory):
    with server.attacked(cpu=cpu, memory=memory) as seen:
        stranger = server.greeted()
        stranger.send(data)
        stranger.end()
    assert refused(seen)


def test_many_unfinished_expressions_within_the_limit_hold_little(server):
    with server.attacked(memory=37e6) as seen:
        strangers = [server.greeted() for _ in range(60)]
        for stranger in strangers:
            assert stranger.send(prefix(60) + b"\x80" + prefix(900) + b"\x82" + bytes(899))
    assert seen.closed == {}


def test_one_byte_items_cost_no_more_than_their_bytes(server):
    with server.attacked(cpu=0.9) as seen:
        strangers = [server.greeted() for _ in range(10)]
        for stranger in strangers:
            stranger.send(prefix(256_000) + b"\x80" + b"\x81" * 256_000)
            stranger.end()
        naked = server.greeted()
        naked.send(b"\x81" * 256_000)
        naked.end()
    assert refused(seen, 11)


def test_few_items_fit_into_a_message_before_login(server):
    with server.attacked() as seen:
        assert server.greeted().refused(ROOT, b"login", *range(40)) == "InvalidValue"
        stranger = server.greeted()
        stranger.send(login(*range(60)))  # with those around them more than 64, and a fifth of the bytes
        assert stranger.end() == "reset"
    assert refused(seen)


def test_one_byte_segments_of_a_long_string_are_not_gathered(server):
    with server.attacked(cpu=1.0) as seen:
        stranger = server.greeted()
        stranger.send(prefix(3) + b"\x80" + prefix(BIG) + b"\x82" + bytes(500))
        for _ in range(1000):
            if not stranger.send(b"\x00"):
                break
        stranger.end()
    assert refused(seen)


def test_one_byte_segments_within_the_limit_are_taken(server):
    with server.attacked():
        stranger = server.greeted()
        for byte in login(b"alice"):
            stranger.send(bytes([byte]))
        assert stranger.answer(1)[0] == b"tuple"


@pytest.mark.parametrize("kind", [b"tuple", b"set", b"frozenset", b"list", b"dictionary"])
def test_unresolved_dereferences_before_login_are_not_decoded(server, kind):
    jelly = [kind, *[[b"dereference", 7]] * 16_000, *range(16_000)]
    if kind == b"dictionary":
        jelly = [kind, *([number, [b"dereference", 7]] for number in range(32_000))]
    with server.attacked(cpu=4.6) as seen:
        stranger = server.greeted()
        stranger.send(login(jelly))
        stranger.end()
    assert refused(seen)


@pytest.mark.parametrize("kind", [b"dictionary", b"set"])
def test_keys_that_share_a_hash_before_login_are_not_looked_up(server, kind):
    keys = [n * HASH_ZERO for n in range(8000)]
    jelly = [kind, *([key, 0] for key in keys)] if kind == b"dictionary" else [kind, *keys]
    with server.attacked(cpu=1.0) as seen:
        stranger = server.greeted()
        stranger.send(login(jelly))
        stranger.end()
    assert refused(seen)


@pytest.mark.parametrize("levels", [20, 30])
def test_a_reference_bomb_before_login_does_not_go_off(server, levels):
    with server.attacked(cpu=1.0, log=10_500_000 if levels == 20 else 50_000) as seen:
        for jelly in ([b"alice", bomb(levels)], [bomb(levels)], [[b"set", bomb(levels)]]):
            stranger = server.greeted()
            stranger.send(login(*jelly))
            stranger.end()
    assert refused(seen, 3)


@pytest.mark.parametrize("levels", [20, 500, 100_000])
def test_deep_nesting_before_login_is_refused(server, levels):
    with server.attacked(cpu=1.0, log=137_000 if levels == 500 else 50_000) as seen:
        stranger = server.greeted()
        stranger.send(login(nested(levels)))
        stranger.end()
    assert refused(seen)


@pytest.mark.parametrize(
    "data",
    [
        login(b"alice", bytes(BIG)),
        login(b"alice", keywords=[(b"surplus", bytes(BIG))]),
        login(b"alice", keywords=[(bytes(BIG), 1)]),
        message(1, ROOT, b"x" * BIG),
        message(1, b"x" * BIG, b"login", b"alice"),
        encode([b"x" * BIG]),
    ],
    ids=["argument", "keyword's value", "keyword", "method", "object", "command"],
)
def test_what_is_too_long_before_login_is_neither_logged_nor_echoed(server, data):
    with server.attacked(log=600_000) as seen:
        stranger = server.greeted()
        before = stranger.heard
        stranger.send(data)
        stranger.end()
        assert stranger.heard == before
    assert refused(seen)


# names and logins


def test_names_of_logins_are_not_kept(server):
    with server.attacked(memory=37e6) as seen:
        for _ in range(60):
            stranger = server.greeted()
            stranger.send(login(b"x" * BIG))
            stranger.end()
    assert refused(seen, 60)


def test_what_is_no_name_is_refused_before_it_is_looked_up(server):
    names = [b"x" * 65, b"", "ü".encode() * 33, b"\xff", 7, 0.5, NONE, [b"list", b"alice"], MIND]
    with server.attacked(log=1600 * 11) as seen:
        for name in (*names, [b"unicode", b"x" * 65], [b"tuple", b"alice", b"bob"]):
            assert server.greeted().refused(ROOT, b"login", name) == "InvalidValue", name
    assert seen.closed == {}


def test_a_connection_has_three_tries_and_one_open_challenge(server):
    with server.attacked(memory=37e6) as seen:
        for _ in range(60):
            stranger = server.greeted()
            challengers = [stranger.challenge(b"x" * 64)[1] for _ in range(3)]
            assert stranger.refused(ROOT, b"login", b"alice") == "NotPermitted"
            with pytest.raises((Refusal, Gone)):  # its challenge gave way to the later ones
                stranger.call(challengers[0], b"respond", bytes(16), MIND)
            stranger.end()
    assert seen.closed == {"limit": 60}


def test_a_thousand_logins_in_one_segment_are_three(server):
    with server.attacked(memory=37e6) as seen:
        stranger = server.greeted()
        stranger.send(b"".join(message(number, ROOT, b"login", b"alice") for number in range(1, 1001)))
        stranger.end()
        assert stranger.heard < 4096
    assert sum(seen.closed.values()) == 1


# what a stranger says, and reads not


def test_replies_that_nobody_reads_are_not_kept(server):
    with server.attacked(cpu=2.4, memory=2 * 4.5e6 + 10e6) as seen:
        strangers = [server.greeted(receive_bytes=2048) for _ in range(5)]
        for stranger in strangers:
            stranger.send(message(1, 7, b"", wants=1) * 20_000)
            stranger.end()
            assert stranger.heard < 32 * 1024
    assert sum(seen.closed.values()) == 5
    assert seen.closed.keys() <= {"protocol", "limit"}


def test_a_stranger_has_few_messages(server):
    kinds = [encode([b"hello"]), encode([b"didNotUnderstand", b"hello"]), encode([b"version", 6]), message(1, 7, b"x")]
    with server.attacked(cpu=2.4) as seen:
        for data in kinds:
            stranger = server.greeted()
            before = stranger.heard
            stranger.send(data * 20_000)
            stranger.end()
            assert stranger.heard - before < 32 * 1024
    assert refused(seen, len(kinds))


@pytest.mark.parametrize("deep", [False, True], ids=["", "in a list"])
def test_no_other_jelly_before_login(server, deep):
    """As name, as keyword and in place of the arguments; what is refused for its form alone may be answered."""
    with server.attacked(cpu=5.0, log=1600 * len(JELLY) * 2) as seen:
        for jelly in JELLY.values():
            inner = [b"list", 1, jelly] if deep else jelly
            for data in (login(inner), login(b"alice", keywords=[(b"surplus", inner)])):
                stranger = server.greeted()
                stranger.send(data)
                try:
                    with pytest.raises(Refusal) as refusal:
                        stranger.answer(1)
                    assert refusal.value.name == "InvalidValue"
                except Gone:
                    pass
    assert seen.closed.keys() <= {"protocol"}
    assert "<" not in "".join(line for line in server.lines if "closed" in line)


def test_the_server_s_own_objects_and_classes_are_out_of_reach_before_login(server):
    kinds = ("local root", "local", "instance", "dotted", "function", "reference", "dereference", "cached", "lcache")
    with server.attacked(log=1600 * len(kinds)) as seen:
        for kind in kinds:
            stranger = server.greeted()
            stranger.send(login(JELLY[kind]))
            assert stranger.end() == "reset"
    assert refused(seen, len(kinds))


def test_twenty_thousand_remote_references_before_login_are_not_made(server):
    with server.attacked(cpu=0.43) as seen:
        stranger = server.greeted()
        before = stranger.heard
        stranger.send(login(*([b"remote", number] for number in range(20_000))))
        stranger.end()
        assert stranger.heard == before
    assert refused(seen)


# Banana and PB: frames


def test_a_malformed_frame_ends_its_connection_with_one_short_line_at_the_most(server):
    with server.attacked(cpu=5.0, log=1000 * len(MALFORMED)) as seen:
        ends = {}
        for what, data in MALFORMED.items():
            stranger = server.greeted()
            stranger.send(data)
            ends[what] = stranger.end()
    assert ends == dict.fromkeys(MALFORMED, "reset")
    assert refused(seen, len(MALFORMED))


DIALECTS = {
    "none offered": b"elisp",
    "of no length": b"",
    "a number": 1,
    "a list": [b"pb"],
    "many": [b"pb"] * 60,
    "a word": Raw(b"\x01\x87"),
    "a call": [b"message", 1, ROOT, b"login", 1, [b"tuple", b"alice"], [b"dictionary"]],
    "HTTP": Raw(b"GET / HTTP/1.1\r\nHost: clockd\r\n\r\n"),
    "TLS": Raw(b"\x16\x03\x01\x02\x00\x01" + bytes(600)),
    "SSH": Raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
}


def test_another_dialect_or_protocol_ends_the_connection_or_waits_for_the_deadline(server):
    with server.attacked(log=1000 * len(DIALECTS)) as seen:
        for what, data in DIALECTS.items():
            stranger = server.stranger()
            stranger.hear()
            stranger.say(data)
            if what not in {"HTTP", "SSH"}:  # letters are the beginning of a number
                assert stranger.end() == "reset", what
    assert refused(seen, len(DIALECTS) - 2)


def test_the_dialect_without_vocabulary_is_served_and_has_no_words(server):
    with server.attacked() as seen:
        stranger = server.stranger()
        stranger.hear()
        stranger.say(b"none")
        assert stranger.hear() == [b"version", 6]
        stranger.login("mallory", server.secrets["mallory"])
        stranger.pushed()
        stranger.send(b"\x01\x80\x1a\x87")
        assert stranger.end() == "reset"
    assert refused(seen)


def honest_session():
    """Return what a client sends, up to an answer that fits no challenge."""
    return (
        encode(b"pb")
        + encode([Raw(prefix(WORDS.index(b"version")) + b"\x87"), 6])
        + login([b"unicode", b"alice"])
        + message(2, 1, b"respond", bytes(16), MIND)
        + message(3, 2, b"setperiod", 0.5, keywords=[(b"feed", [b"unicode", b"time"])])
        + encode([b"answer", 1, NONE])
        + encode([b"decref", 2])
    )


def test_sessions_with_some_bytes_changed_leave_nothing_behind(server):
    """Three hundred, of which a seed says how they differ from an honest one; the server must never fault."""
    chance = random.Random(20)  # the same each time
    whole = honest_session()
    with server.attacked(cpu=20, memory=CHECKING, log=300 * 700) as seen:
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(data))
                match chance.randrange(4):
                    case 0:
                        data[at] = chance.randrange(256)
                    case 1:
                        del data[at : at + chance.randint(1, 8)]
                    case 2:
                        data[at:at] = chance.randbytes(chance.randint(1, 8))
                    case 3:
                        data[at:at] = data[at : at + chance.randint(1, 30)]
            stranger = server.stranger(source="127.0.0.3")
            stranger.send(bytes(data))
            stranger.close(reset=chance.random() < 0.5)
    assert seen.grown["clockd_logins_total secret ok"] == 0


# sockets


def test_a_half_closed_connection_is_gone(server):
    with server.attacked() as seen:
        stranger = server.greeted()
        stranger.socket.shutdown(socket.SHUT_WR)
        assert stranger.end() == "closed"
    assert seen.closed == {"client": 1}


def test_urgent_data_is_no_way_in(server):
    with server.attacked() as seen:
        stranger = server.greeted()
        stranger.socket.send(b"\x80", socket.MSG_OOB)  # the kernel keeps it for those who ask for it
        assert stranger.challenge(b"alice")
        for _ in range(100):
            stranger.socket.send(b"\x80", socket.MSG_OOB)  # all but the last are data
        stranger.end()
    assert refused(seen)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_five_hundred_that_come_and_go_leave_nothing(server, reset):
    with server.attacked(cpu=5, memory=25e6) as seen:
        for _ in range(500):
            server.stranger(source="127.0.0.4").close(reset=reset)
        server.alone()
    assert sum(seen.closed.values()) == 500
    assert seen.closed.keys() <= {"client", "lost", "limit"}


# proofs


def test_a_recorded_login_is_good_for_nothing(server):
    with server.attacked():
        victim = server.greeted()
        challenge, challenger = victim.challenge(b"mallory")
        recorded = response(server.secrets["mallory"], challenge)
        victim.call(challenger, b"respond", recorded, MIND)
        thief = server.greeted()
        other, challenger = thief.challenge(b"mallory")
        assert (other != challenge, len(other)) == (True, 16)
        with pytest.raises(Refusal) as refusal:
            thief.call(challenger, b"respond", recorded, MIND)
        assert refusal.value.name == "WrongCredentials"


def test_an_unknown_name_is_answered_as_a_wrong_secret_is(server):
    said = []
    with server.attacked(cpu=20, memory=CHECKING):
        for name in (b"mallory", b"nobody", [b"unicode", b"mallory"], [b"unicode", "nöbody".encode()]):
            stranger = server.greeted()
            challenge, challenger = stranger.challenge(name)
            with pytest.raises(Refusal) as refusal:
                stranger.call(challenger, b"respond", bytes(16), MIND)
            said.append((type(challenge), len(challenge), str(refusal.value)))
    assert len(set(said)) == 1


def test_a_challenge_is_answered_once(server):
    with server.attacked() as seen:
        stranger = server.greeted()
        challenger, right = server.proof(stranger)
        names = [stranger.refused(challenger, b"respond", attempt, MIND) for attempt in (bytes(16), *[right] * 19)]
    assert names == ["WrongCredentials", *["NotPermitted"] * 19]
    assert seen.grown["clockd_logins_total secret ok"] == 0


def test_a_login_with_what_is_no_mind_is_refused(server):
    minds = [NONE, 7, b"x", 0.5, [b"list"], [b"dictionary"], [b"tuple", MIND], [b"list", MIND]]
    minds += [[b"remote", number] for number in (0, -1, 2**31, 2**61 - 1, 2**400)]
    forbidden = [JELLY[kind] for kind in ("local root", "local", "copied failure", "remote by name", "cached", "copy")]
    with server.attacked(log=450 * (len(minds) + len(forbidden))) as seen:
        for mind in (*minds, *forbidden):
            stranger = server.greeted()
            challenger, right = server.proof(stranger)
            stranger.send(message(9, challenger, b"respond", right, mind))
            with pytest.raises(Gone if mind in forbidden else Refusal) as refusal:
                stranger.answer(9)
            assert mind in forbidden or refusal.value.name == "InvalidValue", mind
    assert refused(seen, len(forbidden))
    assert seen.grown["clockd_logins_total secret ok"] == 0


def test_a_fat_mind_is_carried_back_to_nobody(server):
    with server.attacked(memory=34e6) as seen:
        for size in (65, 900, BIG):
            stranger = server.greeted()
            challenger, right = server.proof(stranger)
            with pytest.raises((Refusal, Gone)):
                stranger.call(challenger, b"respond", right, [b"remote", b"x" * size])
            assert stranger.heard < 2000
    assert seen.grown["clockd_logins_total secret ok"] == 0


def test_a_login_behind_a_login_changes_nothing(server):
    """A second call of the root while the first is in hand, all in one segment."""
    with server.attacked() as seen:
        stranger = server.greeted()
        challenger, right = server.proof(stranger)
        stranger.send(
            message(11, challenger, b"respond", right, MIND)
            + message(12, ROOT, b"login", b"alice")
            + message(13, challenger, b"respond", right, [b"remote", 2])
            + message(14, ROOT, b"loginAnonymous", [b"remote", 3])
        )
        assert stranger.answer(11)[0] == b"remote"
        for number in (12, 13, 14):
            with pytest.raises(Refusal) as refusal:
                stranger.answer(number)
            assert refusal.value.name == "NotPermitted"
        stranger.pushed()
    assert seen.grown["clockd_logins_total secret ok"] == 1


def test_letting_go_of_what_is_not_held_ends_the_connection(server):
    with server.attacked() as seen:
        for target in (2, 3, b"roots"):
            stranger = server.greeted()
            challenger, right = server.proof(stranger)
            stranger.send(message(11, challenger, b"respond", right, MIND) + encode([b"decref", target]))
            stranger.end()
    assert sum(seen.closed.values()) == 3
