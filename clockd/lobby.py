"""Who may stay when there is not room for all.

A connection is pending until it has logged in. When all places of an address, or all there are, are taken, a pending
one goes for each that arrives: the one that has waited longest. When logged-in ones have all the places, one that
arrives is let in nevertheless, so that its login can be told why it is refused, and goes when the next arrives.

Room is made at the newcomer's address first. So whoever opens connections from one address drives out his own, and
others' only if his are fewer than `pending_per_address`.

Rules of this module: no I/O and no clock; times are seconds of one monotonic clock, handed in. What is handed back is
to be closed, and counts as gone from that moment. Nothing that is said of a connection that has gone has an effect.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from itertools import takewhile
from typing import Generic, TypeVar

from clockd.values import Limits, address_key

Connection = TypeVar("Connection", bound=Hashable)


class Lobby(Generic[Connection]):
    """The connections there are, and since when those that are pending have been there.

    An address is a host as text, or None for a Unix socket. Of those that are pending, the peers of Unix sockets count
    as one address; of those that have logged in they have no limit of their own.

    Args:
        limits: How many there may be, and for how long they may be pending.

    Attributes:
        limits: As given; a change turns nobody out at once.
        room: There may be no more connections than this, whatever the limits say; None if it is not known.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.room: int | None = None
        self._keys: dict[Connection, str | None] = {}
        self._pending: OrderedDict[Connection, float] = OrderedDict()  # when they arrived, in that order
        self._counts: dict[str | None, int] = {}
        self._pending_of: dict[str | None, OrderedDict[Connection, None]] = {}

    @property
    def most(self) -> int:
        """As many connections may be logged in at a time."""
        return self.limits.connections if self.room is None else min(self.room, self.limits.connections)

    def arrived(self, connection: Connection, address: str | None, now: float) -> list[Connection]:
        """Let a connection in, as a pending one.

        Returns:
            Those to be closed for it.
        """
        key = _key(address)
        leaving = self._make_room(key)
        while self._pending and (len(self._pending) >= self.limits.pending or len(self._keys) >= self.most):
            leaving.append(self._turn_out(self._pending))
        self._pending[connection] = now
        self._enter(connection, key)
        return leaving

    def moved(self, connection: Connection, address: str | None) -> list[Connection]:
        """Note a connection's true address; if that is another one, it is the newest there.

        Returns:
            Those to be closed for it.
        """
        key = _key(address)
        if self._keys.get(connection, key) == key:  # it has gone, or is where it was
            return []
        self._exit(connection)
        leaving = self._make_room(key)
        self._enter(connection, key)
        return leaving

    def refusal(self, connection: Connection) -> str | None:
        """Return why a pending connection cannot log in now, as a sentence, or None if it can."""
        limits, most = self.limits, self.most
        if len(self._keys) - len(self._pending) >= most:
            return f"the server has all the connections that it may have, {most}; try again later"
        key = self._keys.get(connection)
        logged_in = self._counts.get(key, 0) - len(self._pending_of.get(key, ()))
        if key is not None and 0 < limits.connections_per_address <= logged_in:
            return f"your address has all the connections that it may have, {limits.connections_per_address}"
        return None

    def logged_in(self, connection: Connection) -> None:
        """Note that a connection is no longer pending."""
        if connection in self._pending:
            del self._pending[connection]
            self._end_wait(connection, self._keys[connection])

    def left(self, connection: Connection) -> None:
        """Let a connection go; idempotent."""
        if connection in self._keys:
            self._exit(connection)
            self._pending.pop(connection, None)

    def overdue(self, now: float) -> list[Connection]:
        """Let go of those that have been pending for `login_seconds`, and return them, the oldest first."""
        seconds = self.limits.login_seconds
        late = list(takewhile(lambda connection: now - self._pending[connection] >= seconds, self._pending))
        for connection in late:
            self.left(connection)
        return late

    def _make_room(self, key: str | None) -> list[Connection]:
        leaving: list[Connection] = []
        limits = self.limits
        while (pending := self._pending_of.get(key)) and (
            len(pending) >= limits.pending_per_address
            or (key is not None and 0 < limits.connections_per_address <= self._counts[key])
        ):
            leaving.append(self._turn_out(pending))
        return leaving

    def _turn_out(self, pending: Iterable[Connection]) -> Connection:
        oldest = next(iter(pending))
        self.left(oldest)
        return oldest

    def _enter(self, connection: Connection, key: str | None) -> None:
        self._keys[connection] = key
        self._counts[key] = self._counts.get(key, 0) + 1
        if connection in self._pending:
            self._pending_of.setdefault(key, OrderedDict())[connection] = None

    def _exit(self, connection: Connection) -> None:
        key = self._keys.pop(connection)
        remaining = self._counts.pop(key) - 1
        if remaining:
            self._counts[key] = remaining
        if connection in self._pending:
            self._end_wait(connection, key)

    def _end_wait(self, connection: Connection, key: str | None) -> None:
        pending = self._pending_of[key]
        del pending[connection]
        if not pending:
            del self._pending_of[key]


def _key(address: str | None) -> str | None:
    return None if address is None else address_key(address)
