import tracemalloc
from ipaddress import IPv6Address, IPv6Network

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clockd.throttle import ADDRESSES_KEPT, Throttle
from clockd.values import address_key

ADDRESS_SIZE, ADDRESS_RATE = 20, 4
ACCOUNT_SIZE, ACCOUNT_RATE = 40, 8
UNFINISHED = 40
HERE, THERE = "192.0.2.1", "192.0.2.2"


class ThrottleCase(SynchronousTestCase):
    def setUp(self):
        self.throttle = Throttle()

    def guess(self, account, address, now=0.0):
        """Try once, in vain; tell whether it was checked."""
        permitted = self.throttle.permits(account, address, now)
        if permitted:
            self.throttle.failed(account, address, now)
        return permitted

    def guesses(self, account, address, now=0.0):
        """Guess until one is not checked; return how many were."""
        count = 0
        while self.guess(account, address, now):
            count += 1
            self.assertLess(count, 1000)
        return count

    def guess_from_everywhere(self, account, now=0.0):
        """Guess until no address is permitted; return how many were checked."""
        return sum(self.guesses(account, f"198.51.100.{n}", now) for n in range(100))


class AddressKeyTests(SynchronousTestCase):
    @given(st.ip_addresses(v=6), st.sampled_from(["", "%eth0"]), st.booleans())
    def test_an_ipv6_address_counts_as_its_network_however_it_is_written(self, address, scope, long):
        text = (address.exploded.upper() if long else str(address)) + scope
        if address.ipv4_mapped is None:
            self.assertEqual(address_key(text), str(IPv6Network((address, 64), strict=False)))
        else:
            self.assertEqual(address_key(text), str(address.ipv4_mapped))

    @given(st.ip_addresses(v=4), st.booleans())
    def test_an_ipv4_address_counts_as_itself_mapped_or_not(self, address, long):
        mapped = IPv6Address(f"::ffff:{address}")
        self.assertEqual(address_key(str(address)), str(address))
        self.assertEqual(address_key(mapped.exploded if long else f"::ffff:{address}"), str(address))

    def test_what_is_no_address_counts_as_itself(self):
        for text in (
            "",
            "localhost",
            ":",
            "::1::",
            "host:80",
            "::1\0",
            "::\udcff",
            "::1%",
            "%",
            "1.2.3",
            "::ffff:1.2.3",
        ):
            expected = "::/64" if text == "::1%" else text
            self.assertEqual(address_key(text), expected)


class AddressTests(ThrottleCase):
    def test_twenty_guesses_are_checked_and_then_four_a_second(self):
        self.assertEqual(self.guesses("alice", HERE, 100.0), ADDRESS_SIZE)
        self.assertFalse(self.guess("alice", HERE, 100.2499))
        self.assertTrue(self.guess("alice", HERE, 100.25))
        self.assertEqual(self.guesses("alice", HERE, 101.25), 4)

    def test_whose_name_is_guessed_makes_no_difference(self):
        checked = [n for n in range(100) if self.guess(f"account{n}", HERE)]
        self.assertEqual(len(checked), ADDRESS_SIZE)

    def test_a_held_address_is_held_for_every_account_and_no_other_address_is(self):
        self.guesses("alice", HERE)
        self.assertFalse(self.throttle.permits("bob", HERE, 0.0))
        self.assertTrue(self.throttle.permits("alice", THERE, 0.0))

    def test_no_more_than_a_full_bucket_is_saved_up(self):
        self.guesses("alice", HERE)
        self.assertEqual(self.guesses("alice", HERE, 5.0), ADDRESS_SIZE)
        self.assertEqual(self.guesses("alice", HERE, 1e6), ADDRESS_SIZE)

    def test_the_clock_may_stand_at_any_number(self):
        self.assertEqual(self.guesses("alice", HERE, -100.0), ADDRESS_SIZE)
        self.assertEqual(self.guesses("alice", HERE, -99.0), ADDRESS_RATE)

    def test_an_account_that_has_logged_in_from_there_is_held_too(self):
        self.throttle.succeeded("alice", HERE)
        self.assertEqual(self.guesses("alice", HERE), ADDRESS_SIZE)

    def test_addresses_of_one_ipv6_network_are_one(self):
        self.guesses("alice", "2001:db8:1:2::3")
        self.assertFalse(self.throttle.permits("bob", "2001:db8:1:2:ffff::4", 0.0))
        self.assertTrue(self.throttle.permits("bob", "2001:db8:1:3::3", 0.0))

    def test_an_ipv4_address_mapped_into_ipv6_is_that_address(self):
        self.guesses("alice", f"::ffff:{HERE}")
        self.assertFalse(self.throttle.permits("bob", HERE, 0.0))
        self.assertTrue(self.throttle.permits("bob", f"::ffff:{THERE}", 0.0))


class AccountTests(ThrottleCase):
    def test_forty_guesses_from_all_addresses_are_checked_and_then_eight_a_second(self):
        self.assertEqual(self.guess_from_everywhere("alice", 100.0), ACCOUNT_SIZE)
        self.assertEqual(self.guess_from_everywhere("alice", 100.1249), 0)
        self.assertEqual(self.guess_from_everywhere("alice", 100.125), 1)
        self.assertEqual(self.guess_from_everywhere("alice", 101.125), 8)

    def test_a_held_account_is_held_from_every_address_and_no_other_account_is(self):
        self.guess_from_everywhere("alice")
        self.assertFalse(self.throttle.permits("alice", HERE, 0.0))
        self.assertTrue(self.throttle.permits("bob", HERE, 0.0))

    def test_one_address_alone_does_not_empty_it(self):
        for step in range(1000):
            self.guess("alice", HERE, step / 8)
        self.assertTrue(self.throttle.permits("alice", THERE, 1000 / 8))


class OwnerTests(ThrottleCase):
    def test_a_thousand_clients_of_one_address_come_back_at_once(self):
        self.assertTrue(all(self.throttle.permits(f"account{n}", HERE, 0.0) for n in range(1000)))
        for n in range(1000):
            self.throttle.succeeded(f"account{n}", HERE)
        self.assertEqual(self.guesses("alice", HERE), ADDRESS_SIZE)

    def test_a_thousand_clients_of_one_account_do_too(self):
        self.assertTrue(all(self.throttle.permits("alice", HERE, 0.0) for _ in range(1000)))
        self.assertEqual(self.guess_from_everywhere("alice"), ACCOUNT_SIZE)

    def test_an_address_it_has_logged_in_from_before_stays_open_while_others_guess(self):
        self.throttle.succeeded("alice", HERE)
        self.guess_from_everywhere("alice")
        self.assertTrue(self.throttle.permits("alice", HERE, 0.0))
        self.assertFalse(self.throttle.permits("alice", THERE, 0.0))

    def test_what_fails_at_such_an_address_does_not_keep_the_owner_out_elsewhere(self):
        own = [f"203.0.113.{n}" for n in range(4)]
        for address in own:
            self.throttle.succeeded("alice", address)
            self.assertEqual(self.guesses("alice", address), ADDRESS_SIZE)
        self.assertEqual(self.guess_from_everywhere("alice"), ACCOUNT_SIZE)

    def test_an_address_known_of_one_account_is_strange_to_another(self):
        self.throttle.succeeded("bob", HERE)
        self.guess_from_everywhere("alice")
        self.assertFalse(self.throttle.permits("alice", HERE, 0.0))

    def test_the_ipv6_network_and_not_the_address_is_remembered(self):
        self.throttle.succeeded("alice", "2001:db8:1:2::3")
        self.guess_from_everywhere("alice")
        self.assertTrue(self.throttle.permits("alice", "2001:db8:1:2::4", 0.0))
        self.assertFalse(self.throttle.permits("alice", "2001:db8:1:3::3", 0.0))

    def test_sixteen_addresses_are_remembered_and_the_one_not_used_for_longest_goes_first(self):
        own = [f"203.0.113.{n}" for n in range(ADDRESSES_KEPT)]
        for address in (*own, own[0], own[0], HERE):
            self.throttle.succeeded("alice", address)
        self.guess_from_everywhere("alice")
        permitted = [address for address in (*own, HERE) if self.throttle.permits("alice", address, 0.0)]
        self.assertEqual(permitted, [own[0], *own[2:], HERE])


class UnixSocketTests(ThrottleCase):
    def test_who_guesses_there_is_held_as_at_an_address(self):
        self.assertEqual(self.guesses("alice", None), ADDRESS_SIZE)
        self.assertEqual(self.guesses("alice", None, 1.0), ADDRESS_RATE)

    def test_that_holds_no_other_account(self):
        self.guesses("alice", None)
        self.assertTrue(self.throttle.permits("bob", None, 0.0))

    def test_an_account_that_has_logged_in_there_stays_open_while_others_guess_elsewhere(self):
        self.throttle.succeeded("alice", None)
        self.guess_from_everywhere("alice")
        self.assertTrue(self.throttle.permits("alice", None, 0.0))

    def test_what_is_guessed_there_counts_for_the_account(self):
        self.guesses("alice", None)
        self.assertEqual(self.guess_from_everywhere("alice"), ACCOUNT_SIZE - ADDRESS_SIZE)


class ManyNamesTests(ThrottleCase):
    def test_no_number_of_other_names_gives_one_its_tokens_back(self):
        self.guess_from_everywhere("alice")
        self.guesses("bob", HERE)
        for n in range(20_000):
            self.throttle.failed(f"name{n}", f"2001:db8:{n:x}::1", 0.0)
        self.assertFalse(self.throttle.permits("alice", THERE, 0.0))
        self.assertFalse(self.throttle.permits("carol", HERE, 0.0))

    def test_names_that_were_never_tried_are_seldom_held(self):
        early = [n for n in range(500) if self.guesses(f"name{n}", f"2001:db8:{n:x}::1") < ADDRESS_SIZE - 2]
        self.assertLess(len(early), 5)  # one in 25 runs is expected
        for n in range(250):
            for _ in range(ACCOUNT_SIZE):
                self.throttle.failed(f"name{n}", "192.0.2.255", 0.0)
        self.assertFalse(self.throttle.permits("name1", HERE, 0.0))
        addresses = [n for n in range(4000) if not self.throttle.permits("alice", f"2001:db9:{n:x}::1", 0.0)]
        accounts = [n for n in range(4000) if not self.throttle.permits(f"account{n}", HERE, 0.0)]
        self.assertLess(len(addresses), 25)  # 1 is expected
        self.assertLess(len(accounts), 25)

    def test_names_that_fail_leave_nothing_in_memory(self):
        self.throttle.failed("name", HERE, 0.0)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for n in range(5000):
            self.guess(f"name{n}", f"2001:db8:{n:x}::1")
        after, _ = tracemalloc.get_traced_memory()
        self.assertLess(after - before, 50_000)


def most(times, rate):
    """Return the largest number of `times` that any window holds, beyond what flows in during the window."""
    excess, least = 0, 0.0
    for index, moment in enumerate(times):
        least = min(least, index - rate * moment) if index else -rate * moment
        excess = max(excess, index + 1 - rate * moment - least)
    return excess


class AnyCourseOfEventsTests(SynchronousTestCase):
    """Times are multiples of 1/64 s, so that nothing is rounded."""

    @given(
        st.integers(1, UNFINISHED),
        st.lists(
            st.tuples(
                st.one_of(st.integers(0, 16), st.integers(0, 640)),
                st.integers(1, 64),
                st.lists(st.integers(0, 5), min_size=1, max_size=6),
                st.sampled_from(["alice", "bob"]),
                st.integers(0, UNFINISHED),
                st.booleans(),
            ),
            max_size=60,
        ),
    )
    def test_no_window_has_more_guesses_than_the_bounds_say_and_the_owner_gets_in(self, unfinished, volleys):
        throttle, now = Throttle(), 0.0
        checking, by_address, by_account = [], {}, {}
        throttle.succeeded("alice", HERE)
        for steps, tries, addresses, account, results, owner_comes in volleys:
            now += steps / 64
            for n in range(tries):
                address = f"198.51.100.{addresses[n % len(addresses)]}"
                if len(checking) < unfinished and throttle.permits(account, address, now):
                    checking.append((account, address))
                    by_address.setdefault(address, []).append(now)
                    by_account.setdefault(account, []).append(now)
            for attempt in checking[:results]:
                throttle.failed(*attempt, now)
            del checking[:results]
            self.assertTrue(throttle.permits("alice", HERE, now))
            if owner_comes:
                throttle.succeeded("alice", HERE)
        for times in by_address.values():
            self.assertLess(most(times, ADDRESS_RATE), ADDRESS_SIZE + unfinished)
        for times in by_account.values():
            self.assertLess(most(times, ACCOUNT_RATE), ACCOUNT_SIZE + unfinished)

    def test_the_bounds_keep_a_guesser_under_ten_and_twenty_a_second(self):
        for unfinished, seconds in ((UNFINISHED, 10), (1, 4)):
            self.assertLess(ADDRESS_SIZE + unfinished - 1 + ADDRESS_RATE * seconds, 10 * seconds)
            self.assertLess(ACCOUNT_SIZE + unfinished - 1 + ACCOUNT_RATE * seconds, 20 * seconds)

    def test_a_guesser_who_never_rests_gets_all_that_the_bounds_leave_him(self):
        throttle, times = Throttle(), []
        for step in range(64 * 60):
            checking = []
            while len(checking) < UNFINISHED and throttle.permits("alice", HERE, step / 64):
                checking.append(step / 64)
            for moment in checking:
                throttle.failed("alice", HERE, moment)
            times += checking
        self.assertEqual(most(times, ADDRESS_RATE), ADDRESS_SIZE + UNFINISHED - 1)
