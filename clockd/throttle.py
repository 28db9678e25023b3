"""Who may try to log in now: token buckets that slow guessing and lock no owner out.

A failed attempt takes a token from the bucket of its address and one from that of its account; where either is empty
no attempt is checked. An attempt from an address from which the account has logged in before neither asks nor takes
from the account's bucket, so whoever guesses from elsewhere does not keep the owner out. A success takes nothing, and
neither does an attempt that is being checked: a thousand clients behind one address come back at once.

So attempts that are being checked when the last token goes may all fail. They leave a debt, and nothing passes before
it is paid. In any `t` seconds no more guesses are checked than the bucket holds, and `t` times its rate, and as many as
are being checked at a time, less one. While that are 40 at most, an address has less than 10 a second over 10 s, and
an account less than 20 from addresses that are strange to it. Where each is checked at once, 4 s are enough.

Who guesses from one address does not empty an account's bucket, but two addresses do. Then an owner who comes from a
new address has to try again until he meets a token, and after a restart every address is new.

A bucket is kept in two places of a table, which its name's hash chooses, and is as full as the fuller of them says.
Names that share a place can make a bucket emptier than it is, never fuller. So memory is fixed but for the addresses
that are kept of each account that has logged in; nothing is ever pushed out; a name that is no account's leaves nothing
behind and is treated as any other; and no number of addresses or names gets anybody more guesses. What it costs: a name
is held without a fault of its own if both its places are empty. Where 2000 attempts fail in a second, as evenly as can
be, that happens to one address in 4000 and one account in 17,000. Nobody can choose whom it hits, because Python's
hashes of text differ from process to process.

Rules of this module: no I/O and no clock; times are seconds of one monotonic clock, handed in.
"""

import math
from array import array

from clockd.values import address_key

PLACES = 2**15
"""As many places a table has for the first hash, and as many for the second: 512 KiB in all."""

ADDRESSES_KEPT = 16
"""So many addresses are remembered of an account, those from which it logged in last."""


class Buckets:
    """Token buckets by name.

    Args:
        size: Tokens that a full bucket holds.
        rate: Tokens a second that flow back into it.
    """

    def __init__(self, size: int, rate: float) -> None:
        self._step = 1 / rate
        self._longest = (size - 1) / rate  # a bucket that is full again after this holds one token
        self._full = array("d", [-math.inf]) * (2 * PLACES)  # when the bucket in each place is full again

    def has_token(self, name: str, now: float) -> bool:
        """Tell whether a token is left."""
        first, second = _places(name)
        return min(self._full[first], self._full[second]) - now <= self._longest

    def take_token(self, name: str, now: float) -> None:
        """Take a token; one that is not there is owed."""
        for place in _places(name):
            self._full[place] = max(self._full[place], now) + self._step


class Throttle:
    """What is known of failed attempts, and of the addresses from which accounts have logged in.

    The name of an account may be any, whether there is such an account or not. An address is a host as text, or None
    for a Unix socket. There each account has an address of its own, because all that is known of such a peer is the
    name it claims.
    """

    def __init__(self) -> None:
        self._addresses = Buckets(20, 4.0)
        self._accounts = Buckets(40, 8.0)
        self._known: dict[str, tuple[str, ...]] = {}  # by account, the one of the last login is the last

    def permits(self, account: str, address: str | None, now: float) -> bool:
        """Tell whether an attempt may be checked; it takes nothing, so it need not be followed by a result."""
        key = _key(account, address)
        return self._addresses.has_token(key, now) and (
            key in self._known.get(account, ()) or self._accounts.has_token(account, now)
        )

    def failed(self, account: str, address: str | None, now: float) -> None:
        """Note that an attempt has failed."""
        key = _key(account, address)
        self._addresses.take_token(key, now)
        if key not in self._known.get(account, ()):
            self._accounts.take_token(account, now)

    def succeeded(self, account: str, address: str | None) -> None:
        """Note that the account, which exists, has logged in."""
        key = _key(account, address)
        others = (other for other in self._known.get(account, ()) if other != key)
        self._known[account] = (*others, key)[-ADDRESSES_KEPT:]


def _key(account: str, address: str | None) -> str:
    return f"unix:{account}" if address is None else address_key(address)


def _places(name: str) -> tuple[int, int]:
    bits = hash(name)
    return bits % PLACES, PLACES + (bits >> 16) % PLACES
