from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from clockd.lobby import Lobby
from clockd.values import Limits

HERE, THERE, ELSEWHERE = "192.0.2.1", "192.0.2.2", "192.0.2.3"


class LobbyCase(SynchronousTestCase):
    def start(self, **limits):
        self.lobby = Lobby(Limits(**limits))
        self.arrivals = 0

    def arrive(self, *addresses):
        """Let connections arrive, numbered from 1; return who has to go."""
        leaving = []
        for address in addresses:
            self.arrivals += 1
            leaving += self.lobby.arrived(self.arrivals, address, float(self.arrivals))
        return leaving

    def enter(self, *addresses):
        """Let connections arrive and log in."""
        for address in addresses:
            self.assertEqual(self.arrive(address), [])
            self.assertIsNone(self.lobby.refusal(self.arrivals))
            self.lobby.logged_in(self.arrivals)


class PendingTests(LobbyCase):
    def test_one_more_than_may_be_pending_drives_out_the_oldest(self):
        self.start(pending=3)
        self.assertEqual(self.arrive(HERE, THERE, HERE), [])
        self.assertEqual(self.arrive(THERE), [1])
        self.assertEqual(self.arrive(None), [2])

    def test_those_that_have_logged_in_or_left_leave_their_places_to_others(self):
        self.start(pending=3)
        self.arrive(HERE, HERE, HERE)
        self.lobby.logged_in(1)
        self.lobby.left(2)
        self.assertEqual(self.arrive(HERE, HERE), [])
        self.assertEqual(self.arrive(HERE), [3])

    def test_the_newcomer_stays_even_where_one_may_be_pending(self):
        self.start(pending=1)
        self.assertEqual(self.arrive(HERE, HERE, THERE), [1, 2])
        self.assertEqual(self.lobby.overdue(1e9), [3])

    def test_one_more_of_an_address_drives_out_the_oldest_of_that_address(self):
        self.start(pending_per_address=2)
        self.assertEqual(self.arrive(THERE, HERE, HERE), [])
        self.assertEqual(self.arrive(HERE), [2])
        self.assertEqual(self.arrive(THERE), [])
        self.assertEqual(self.arrive(THERE), [1])

    def test_who_comes_from_an_address_that_has_all_its_places_drives_out_nobody_elses(self):
        self.start(pending=3, pending_per_address=2)
        self.assertEqual(self.arrive(THERE, HERE, HERE), [])
        self.assertEqual(self.arrive(HERE, HERE, HERE), [2, 3, 4])

    def test_peers_of_unix_sockets_are_one_address_until_they_have_logged_in(self):
        self.start(pending=6, pending_per_address=2, connections_per_address=1)
        self.enter(None, None, None)
        self.assertEqual(self.arrive(HERE, None, None), [])
        self.assertEqual(self.arrive(None), [5])

    def test_addresses_of_one_ipv6_network_are_one(self):
        self.start(pending_per_address=1)
        self.assertEqual(self.arrive("2001:db8:1:2::3", "2001:db8:1:3::3"), [])
        self.assertEqual(self.arrive("2001:db8:1:2::4"), [1])

    def test_an_ipv4_address_mapped_into_ipv6_is_that_address(self):
        self.start(pending_per_address=1)
        self.assertEqual(self.arrive(HERE, f"::ffff:{HERE}"), [1])


class FullTests(LobbyCase):
    def test_while_there_is_room_nobody_goes_and_none_is_refused(self):
        self.start(connections=3)
        self.enter(HERE, THERE)
        self.assertEqual(self.arrive(HERE), [])
        self.assertIsNone(self.lobby.refusal(3))

    def test_a_pending_one_gives_its_place_to_the_next(self):
        self.start(connections=3)
        self.enter(HERE, THERE)
        self.assertEqual(self.arrive(HERE, THERE, HERE), [3, 4])

    def test_when_all_have_logged_in_one_is_let_in_to_be_told_so_and_goes_when_the_next_arrives(self):
        self.start(connections=2)
        self.enter(HERE, THERE)
        self.assertEqual(self.arrive(ELSEWHERE), [])
        self.assertEqual(
            self.lobby.refusal(3), "the server has all the connections that it may have, 2; try again later"
        )
        self.assertEqual(self.arrive(ELSEWHERE), [3])

    def test_when_one_has_left_the_next_may_log_in(self):
        self.start(connections=2)
        self.enter(HERE, THERE)
        self.lobby.left(1)
        self.enter(ELSEWHERE)

    def test_a_full_address_lets_one_in_to_be_told_so(self):
        self.start(connections_per_address=2)
        self.enter(HERE, HERE)
        self.assertEqual(self.arrive(THERE, HERE), [])
        self.assertEqual(self.lobby.refusal(4), "your address has all the connections that it may have, 2")
        self.assertIsNone(self.lobby.refusal(3))
        self.assertEqual(self.arrive(HERE), [4])

    def test_pending_ones_of_an_address_take_its_places_too(self):
        self.start(connections_per_address=2)
        self.enter(HERE)
        self.assertEqual(self.arrive(THERE, HERE), [])
        self.assertEqual(self.arrive(HERE), [3])
        self.assertIsNone(self.lobby.refusal(4))

    def test_an_address_may_have_any_number_unless_told_otherwise(self):
        self.start()
        self.enter(*[HERE] * 1000)


class MovedTests(LobbyCase):
    def test_it_counts_where_it_has_come_to_and_no_longer_where_it_was(self):
        self.start(pending_per_address=1)
        self.arrive(HERE)
        self.assertEqual(self.lobby.moved(1, THERE), [])
        self.assertEqual(self.arrive(HERE), [])
        self.assertEqual(self.arrive(THERE), [1])

    def test_the_oldest_at_the_new_address_makes_room_for_it(self):
        self.start(pending_per_address=2)
        self.arrive(None, HERE, HERE)
        self.assertEqual(self.lobby.moved(1, HERE), [2])
        self.assertEqual(self.arrive(HERE), [3])

    def test_it_does_not_make_room_for_itself(self):
        self.start(pending_per_address=1)
        self.arrive(HERE)
        self.assertEqual(self.lobby.moved(1, HERE), [])

    def test_one_that_has_not_moved_keeps_its_turn_at_its_address(self):
        self.start(pending_per_address=2)
        self.arrive(HERE, HERE)
        self.assertEqual(self.lobby.moved(1, HERE), [])
        self.assertEqual(self.arrive(HERE), [1])

    def test_it_keeps_its_turn_among_all(self):
        self.start(pending=2)
        self.arrive(None, None)
        self.lobby.moved(1, HERE)
        self.assertEqual(self.arrive(None), [1])

    def test_it_takes_a_place_of_the_address_once_it_has_logged_in(self):
        self.start(connections_per_address=1)
        self.arrive(None)
        self.lobby.moved(1, HERE)
        self.lobby.logged_in(1)
        self.arrive(HERE)
        self.assertIsNotNone(self.lobby.refusal(2))

    def test_one_that_has_logged_in_takes_its_place_along_and_makes_room_for_nobody(self):
        self.start(pending_per_address=1, connections_per_address=2)
        self.enter(HERE)
        self.assertEqual(self.lobby.moved(1, THERE), [])
        self.assertEqual(self.arrive(THERE, HERE), [])
        self.assertEqual(self.arrive(THERE), [2])
        self.lobby.left(1)
        self.assertEqual(self.arrive(THERE), [4])


class LoginTimeTests(LobbyCase):
    def test_those_that_have_had_login_seconds_are_let_go_of(self):
        self.start(login_seconds=10)
        self.arrive(HERE, THERE, HERE)
        self.assertEqual(self.lobby.overdue(10.9), [])
        self.assertEqual(self.lobby.overdue(12.0), [1, 2])
        self.assertEqual(self.lobby.overdue(12.0), [])

    def test_who_has_logged_in_or_left_is_not_overdue(self):
        self.start(login_seconds=10)
        self.arrive(HERE, HERE, HERE)
        self.lobby.logged_in(1)
        self.lobby.left(3)
        self.assertEqual(self.lobby.overdue(1e9), [2])

    def test_a_new_address_gives_no_more_time(self):
        self.start(login_seconds=10)
        self.arrive(None, None)
        self.lobby.moved(1, HERE)
        self.assertEqual(self.lobby.overdue(11.0), [1])


class GoneTests(LobbyCase):
    def test_nothing_said_of_one_that_has_gone_has_an_effect(self):
        self.start(pending=2, connections=2, connections_per_address=1)
        self.arrive(HERE, THERE)
        self.assertEqual(self.arrive(ELSEWHERE), [1])
        self.assertEqual(self.lobby.moved(1, HERE), [])
        self.lobby.logged_in(1)
        self.lobby.left(1)
        self.lobby.left(1)
        self.assertIsNone(self.lobby.refusal(1))
        self.assertEqual(self.lobby.overdue(1e9), [2, 3])


class NewLimitsTests(LobbyCase):
    def test_limits_that_are_replaced_hold_from_the_next_arrival_on(self):
        self.start()
        self.arrive(*[HERE] * 5)
        self.lobby.limits = Limits(pending=3)
        self.assertEqual(self.arrive(THERE), [1, 2, 3])

    def test_no_session_ends_because_there_may_be_fewer(self):
        self.start()
        self.enter(*[HERE] * 5)
        self.lobby.limits = Limits(connections=3, connections_per_address=2)
        self.assertEqual(self.arrive(HERE), [])
        self.assertIn("3", self.lobby.refusal(6))


class Rules:
    """The rules, written down as plainly as can be; `came` is in the order in which each came to its address."""

    def __init__(self, limits):
        self.limits = limits
        self.since = {}  # of pending ones, in order of arrival
        self.came = []

    def at(self, address, *, pending):
        here = [each for each, at in self.came if at == address]
        return [each for each in here if each in self.since] if pending else here

    def go(self, connection):
        self.since.pop(connection, None)
        self.came = [(each, at) for each, at in self.came if each != connection]

    def make_room(self, address):
        leaving, limits = [], self.limits
        while self.at(address, pending=True):
            crowded = len(self.at(address, pending=True)) >= limits.pending_per_address
            most = 0 if address is None else limits.connections_per_address
            full = most > 0 and len(self.at(address, pending=False)) >= most
            if not crowded and not full:
                break
            leaving.append(self.at(address, pending=True)[0])
            self.go(leaving[-1])
        return leaving

    def arrived(self, connection, address, now):
        leaving = self.make_room(address)
        while self.since and (len(self.since) >= self.limits.pending or len(self.came) >= self.limits.connections):
            leaving.append(next(iter(self.since)))
            self.go(leaving[-1])
        self.since[connection] = now
        self.came.append((connection, address))
        return leaving

    def moved(self, connection, address):
        before = dict(self.came).get(connection, address)
        if before == address:
            return []
        self.came.remove((connection, before))
        leaving = self.make_room(address)
        self.came.append((connection, address))
        return leaving

    def refused(self, connection):
        address, most = dict(self.came).get(connection), self.limits.connections_per_address
        here = len(self.at(address, pending=False)) - len(self.at(address, pending=True))
        server_full = len(self.came) - len(self.since) >= self.limits.connections
        return server_full or (address is not None and most > 0 and here >= most)

    def overdue(self, now):
        late = [each for each, since in self.since.items() if now - since >= self.limits.login_seconds]
        for each in late:
            self.go(each)
        return late


ADDRESSES = st.sampled_from([HERE, HERE, THERE, ELSEWHERE, None])
LIMITS = st.builds(
    Limits,
    connections=st.integers(1, 12),
    connections_per_address=st.integers(0, 4),
    pending=st.integers(1, 8),
    pending_per_address=st.integers(1, 4),
    login_seconds=st.integers(1, 10),
)


class LobbyMachine(RuleBasedStateMachine):
    """Whatever happens the lobby does what the rules say; connections are numbers, and old ones are named too."""

    def __init__(self):
        super().__init__()
        self.lobby, self.rules = Lobby(Limits()), Rules(Limits())
        self.now = 0
        self.arrivals = 0
        self.replaced = False

    @precondition(lambda self: not self.arrivals)
    @rule(limits=LIMITS)
    def begin(self, limits):
        self.lobby.limits = self.rules.limits = limits

    @precondition(lambda self: self.arrivals)
    @rule(limits=LIMITS, rarely=st.integers(0, 9))
    def replace(self, limits, rarely):
        if rarely == 0:
            self.replaced = True
            self.begin(limits)

    @rule(addresses=st.lists(ADDRESSES, min_size=1, max_size=6), seconds=st.integers(0, 3))
    def arrive(self, addresses, seconds):
        self.now += seconds
        for address in addresses:
            self.arrivals += 1
            mapped = f"::ffff:{address}" if address is not None and self.arrivals % 2 else address
            leaving = self.lobby.arrived(self.arrivals, mapped, self.now)
            assert self.arrivals not in leaving
            assert leaving == self.rules.arrived(self.arrivals, address, self.now)

    @rule(back=st.integers(0, 15), address=ADDRESSES)
    def move(self, back, address):
        connection = self.arrivals - back
        leaving = self.lobby.moved(connection, address)
        assert connection not in leaving
        assert leaving == self.rules.moved(connection, address)

    @rule(back=st.integers(0, 15))
    def log_in(self, back):
        if self.lobby.refusal(self.arrivals - back) is None:
            self.lobby.logged_in(self.arrivals - back)
            self.rules.since.pop(self.arrivals - back, None)

    @rule(back=st.integers(0, 15))
    def leave(self, back):
        self.lobby.left(self.arrivals - back)
        self.rules.go(self.arrivals - back)

    @rule(seconds=st.integers(0, 10))
    def wait(self, seconds):
        self.now += seconds
        assert self.lobby.overdue(self.now) == self.rules.overdue(self.now)

    @invariant()
    def the_same_are_refused(self):
        for connection in range(max(0, self.arrivals - 15), self.arrivals + 1):
            assert (self.lobby.refusal(connection) is not None) == self.rules.refused(connection)

    @invariant()
    def there_are_no_more_than_there_may_be(self):
        limits = self.lobby.limits
        if not self.replaced:
            assert len(self.rules.since) <= limits.pending
            assert len(self.rules.came) <= limits.connections + 1
            assert len(self.rules.came) - len(self.rules.since) <= limits.connections

    def teardown(self):
        for connection in range(self.arrivals + 1):
            self.lobby.left(connection)
        assert [kept for kept in vars(self.lobby).values() if kept != self.lobby.limits and kept] == []


class RulesTests(LobbyMachine.TestCase):
    settings = settings(max_examples=100, stateful_step_count=40)
