import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clockd.window import ERRORS_IN_A_ROW, PUSHES_BETWEEN_ASKS, AckWindow, Verdict

ACK, STALE = 1.0, 30.0
SEND, ASK, HOLD = Verdict.SEND, Verdict.ASK, Verdict.HOLD


class AskingTests(SynchronousTestCase):
    def setUp(self):
        self.window = AckWindow(ACK, STALE, 0.0)

    def asked_and_answered(self, pushes):
        self.window.admit(0.0)
        self.window.answered(0.0)
        self.assertEqual([self.window.admit(0.5) for _ in range(pushes)], [SEND] * pushes)

    def test_the_first_push_asks(self):
        self.assertIs(self.window.admit(0.0), ASK)

    def test_a_push_while_an_ask_is_open_is_sent_until_the_answer_is_overdue(self):
        self.window.admit(0.0)
        self.assertIs(self.window.admit(0.999), SEND)
        self.assertIs(self.window.admit(1.0), HOLD)
        self.assertIs(self.window.admit(500.0), HOLD)

    def test_an_answer_opens_the_window_again(self):
        self.window.admit(0.0)
        self.window.admit(2.0)
        self.window.answered(2.0)
        self.assertIs(self.window.admit(2.0), SEND)

    def test_eight_pushes_and_ack_seconds_later_it_asks_again(self):
        self.asked_and_answered(PUSHES_BETWEEN_ASKS)
        self.assertIs(self.window.admit(1.0), ASK)

    def test_seven_pushes_are_too_few(self):
        self.asked_and_answered(PUSHES_BETWEEN_ASKS - 1)
        self.assertIs(self.window.admit(1.0), SEND)

    def test_eight_pushes_just_before_ack_seconds_are_too_early(self):
        self.asked_and_answered(PUSHES_BETWEEN_ASKS)
        self.assertIs(self.window.admit(0.999), SEND)

    def test_pushes_sent_while_the_ask_was_open_count(self):
        self.window.admit(0.0)
        for _ in range(PUSHES_BETWEEN_ASKS):
            self.window.admit(0.5)
        self.window.answered(0.75)
        self.assertIs(self.window.admit(1.0), ASK)

    def test_an_ask_begins_the_count_of_pushes_anew(self):
        self.asked_and_answered(PUSHES_BETWEEN_ASKS)
        self.window.admit(1.0)
        self.window.answered(1.0)
        self.assertIs(self.window.admit(2.0), SEND)

    def test_a_third_of_stale_seconds_alone_is_enough(self):
        self.asked_and_answered(0)
        self.assertIs(self.window.admit(9.99), SEND)
        self.assertIs(self.window.admit(10.0), ASK)


class OwingTests(SynchronousTestCase):
    def test_feeds_held_back_are_told_once_in_the_order_they_were_first_held(self):
        window = AckWindow(ACK, STALE, 0.0)
        for feed in ("time", "load", "time"):
            window.owe(feed)
        self.assertEqual(list(window.owed), ["time", "load"])
        self.assertEqual(window.settle(), ["time", "load"])
        self.assertEqual((window.settle(), window.owed), ([], {}))


class AnswersTests(SynchronousTestCase):
    def setUp(self):
        self.window = AckWindow(ACK, STALE, 0.0)

    def test_the_time_from_ask_to_answer_is_told(self):
        self.window.admit(3.0)
        self.assertEqual(self.window.answered(3.25), 0.25)

    def test_an_answer_to_nothing_took_no_time(self):
        self.assertEqual(self.window.answered(3.25), 0.0)

    def test_the_third_error_in_a_row_is_told_and_not_the_second(self):
        self.assertEqual([self.window.erred(error=True) for _ in range(ERRORS_IN_A_ROW)], [False, False, True])

    def test_an_answer_between_errors_resets_them(self):
        answers = [self.window.erred(error) for error in (True, True, False, True, True)]
        self.assertEqual(answers, [False] * 5)


class ProbingTests(SynchronousTestCase):
    def setUp(self):
        self.window = AckWindow(ACK, STALE, 100.0)

    def test_a_connection_never_asked_is_probed_half_of_stale_seconds_after_it_was_heard_of(self):
        self.assertFalse(self.window.probe(114.99))
        self.assertTrue(self.window.probe(115.0))

    def test_one_that_was_asked_is_probed_half_of_stale_seconds_after_the_ask(self):
        self.window.admit(110.0)
        self.window.answered(112.0)
        self.assertFalse(self.window.probe(124.99))
        self.assertTrue(self.window.probe(125.0))

    def test_none_is_probed_while_an_ask_is_open(self):
        self.window.admit(100.0)
        self.assertFalse(self.window.probe(120.0))

    def test_a_probe_does_not_take_the_place_of_the_ask_of_a_push(self):
        self.window.admit(100.0)
        self.window.answered(100.0)
        self.assertTrue(self.window.probe(115.0))
        self.window.answered(115.0)
        self.assertIs(self.window.admit(120.0), ASK)

    def test_a_probe_is_an_ask_that_is_open(self):
        self.window.probe(115.0)
        self.assertFalse(self.window.probe(140.0))
        self.assertIs(self.window.admit(115.5), SEND)
        self.assertIs(self.window.admit(116.0), HOLD)
        self.assertEqual(self.window.answered(117.0), 2.0)


class StalenessTests(SynchronousTestCase):
    def setUp(self):
        self.window = AckWindow(ACK, STALE, 100.0)

    def test_one_that_owes_nothing_is_never_stale(self):
        self.assertFalse(self.window.stale(1e9))

    def test_one_that_owes_an_answer_is_stale_after_stale_seconds_of_silence(self):
        self.window.admit(100.0)
        self.assertFalse(self.window.stale(129.99))
        self.assertTrue(self.window.stale(130.0))

    def test_the_silence_before_a_probe_counts(self):
        self.window.probe(115.0)
        self.assertFalse(self.window.stale(129.99))
        self.assertTrue(self.window.stale(130.0))

    def test_one_asked_late_has_half_of_stale_seconds_to_answer(self):
        self.window.admit(1000.0)
        self.assertFalse(self.window.stale(1014.99))
        self.assertTrue(self.window.stale(1015.0))

    def test_an_answer_ends_the_silence(self):
        self.window.admit(100.0)
        self.window.answered(129.0)
        self.assertFalse(self.window.stale(131.0))
        self.window.admit(131.0)
        self.assertFalse(self.window.stale(158.99))
        self.assertTrue(self.window.stale(159.0))


class AnyCourseOfEventsTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.sampled_from(["push", "probe", "answer"]), st.integers(0, 2048)), max_size=80))
    def test_one_ask_at_most_is_open_and_a_push_is_held_exactly_when_its_answer_is_overdue(self, events):
        window, now, opened = AckWindow(ACK, STALE, 0.0), 0.0, None
        for event, steps in events:
            now += steps / 128
            if event == "answer":
                self.assertEqual(window.answered(now), 0.0 if opened is None else now - opened)
                opened = None
                continue
            overdue = opened is not None and now - opened >= ACK
            if event == "push":
                verdict = window.admit(now)
                self.assertEqual(verdict is HOLD, overdue)
                asked = verdict is ASK
            else:
                asked = window.probe(now)
            if asked:
                self.assertIsNone(opened)
                opened = now
            self.assertLessEqual(window.stale(now), opened is not None)

    @given(st.lists(st.integers(1, 512), max_size=200))
    def test_a_client_that_has_stopped_gets_no_more_than_the_pushes_of_one_ack_seconds(self, steps):
        window, now, sent = AckWindow(ACK, STALE, 0.0), 0.0, []
        window.admit(now)
        for step in steps:
            now += step / 128
            if window.admit(now) is SEND:
                sent.append(now)
        self.assertTrue(all(moment < ACK for moment in sent))


class Rules:
    """The rules of the module's docstring, written down as they stand there."""

    def __init__(self, ack, stale, now):
        self.ack, self.stale = ack, stale
        self.open = None  # since when an ask is open
        self.last_push = self.last_question = None  # the last push that asked; that, or the last probe
        self.heard = now
        self.pushes = 0  # since the last that asked

    def admit(self, now):
        self.pushes += 1
        if self.open is not None:
            return HOLD if now - self.open >= self.ack else SEND
        if self.last_push is not None:
            passed = now - self.last_push
            eight_pushes_and_ack_seconds = self.pushes > 8 and passed >= self.ack
            if not (eight_pushes_and_ack_seconds or passed >= self.stale / 3):
                return SEND
        self.pushes = 0
        self.open = self.last_push = self.last_question = now
        return ASK

    def probe(self, now):
        since = self.heard if self.last_question is None else self.last_question
        if self.open is not None or now - since < self.stale / 2:
            return False
        self.open = self.last_question = now
        return True

    def answered(self, now):
        asked, self.open, self.heard = self.open, None, now
        return 0.0 if asked is None else now - asked


class RulesTests(SynchronousTestCase):
    """Times are whole seconds, so that no rounding stands between the two and the moments that decide are met often."""

    @settings(max_examples=500)
    @given(
        st.integers(1, 40),
        st.integers(1, 12),
        st.lists(
            st.tuples(
                st.sampled_from(["push", "push", "push", "probe", "answer"]),
                st.one_of(st.integers(0, 4), st.sampled_from(["ack", "third", "half"])),
                st.integers(-1, 1),
            ),
            max_size=60,
        ),
    )
    def test_whatever_happens_it_does_what_the_rules_say(self, ack, sixth, events):
        moments = {"ack": ack, "third": 2 * sixth, "half": 3 * sixth}
        now = 100
        window, rules = AckWindow(ack, 6 * sixth, now), Rules(ack, 6 * sixth, now)
        for event, step, more in events:
            now += max(0, moments.get(step, step) + more)
            name = {"push": "admit", "probe": "probe", "answer": "answered"}[event]
            self.assertEqual(getattr(window, name)(now), getattr(rules, name)(now))

    def test_in_every_short_course_of_events_it_does(self):
        events = list(itertools.product(["admit", "probe", "answered"], [0, 1, 2, 3]))
        for ack, course in itertools.product([1, 2, 3], itertools.product(events, repeat=4)):
            now = 0
            window, rules = AckWindow(ack, 6, now), Rules(ack, 6, now)
            for name, step in course:
                now += step
                verdict, expected = getattr(window, name)(now), getattr(rules, name)(now)
                if verdict != expected:
                    self.fail(f"ack_seconds {ack}, stale_seconds 6, {course}: {verdict} and not {expected}")

    @given(st.integers(1, 12), st.integers(1, 12), st.lists(st.integers(0, 3), min_size=30, max_size=200))
    def test_with_answers_that_come_at_once_it_does_too(self, ack, sixth, steps):
        now = 0
        window, rules = AckWindow(ack, 6 * sixth, now), Rules(ack, 6 * sixth, now)
        for step in steps:
            now += step
            verdict = window.admit(now)
            self.assertEqual(verdict, rules.admit(now))
            if verdict is ASK:
                window.answered(now)
                rules.answered(now)

    def test_a_probe_that_was_answered_puts_no_ask_off(self):
        window = AckWindow(ACK, STALE, 0.0)
        window.admit(0.0)
        window.answered(0.0)
        self.assertTrue(window.probe(15.0))
        window.answered(15.25)
        self.assertIs(window.admit(15.5), ASK)

    def test_the_first_push_asks_though_a_probe_came_before_it(self):
        window = AckWindow(ACK, STALE, 0.0)
        self.assertTrue(window.probe(15.0))
        window.answered(15.25)
        self.assertIs(window.admit(15.5), ASK)


class SlowAnswersTests(SynchronousTestCase):
    """`ack_seconds` may be longer than a third of `stale_seconds`, or even than all of it."""

    def setUp(self):
        self.window = AckWindow(8.0, 12.0, 0.0)

    def test_an_ask_is_overdue_after_ack_seconds_and_not_after_a_third_of_stale_seconds(self):
        self.window.admit(0.0)
        verdicts = [self.window.admit(now) for now in (3.75, 4.0, 7.75, 8.0)]
        self.assertEqual(verdicts, [SEND, SEND, SEND, HOLD])

    def test_a_third_of_stale_seconds_is_enough_for_the_next_ask(self):
        self.window.admit(0.0)
        self.window.answered(1.0)
        self.assertEqual([self.window.admit(now) for now in (3.75, 4.0)], [SEND, ASK])

    def test_eight_pushes_do_not_make_it_sooner(self):
        self.window.admit(0.0)
        self.window.answered(0.0)
        self.assertEqual([self.window.admit(3.75) for _ in range(20)], [SEND] * 20)

    def test_an_ask_answered_late_is_followed_by_the_next_at_once(self):
        self.window.admit(0.0)
        self.window.answered(6.0)
        self.assertIs(self.window.admit(6.0), ASK)

    def test_where_an_ask_is_overdue_only_when_all_is_stale_pushes_go_on_until_then(self):
        window = AckWindow(60.0, 12.0, 0.0)
        window.admit(0.0)
        self.assertEqual([window.admit(float(now)) for now in (11, 12, 59, 60)], [SEND, SEND, SEND, HOLD])
        self.assertTrue(window.stale(12.0))
