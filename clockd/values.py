"""What crosses between modules: samples, accounts, limits and the tally.

Rules of this module: values are frozen, with two exceptions: the tally, which is counted in place by the reactor's
thread and read by `metrics`, and the limits, which a reload changes in place.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from socket import AF_INET6, inet_ntoa, inet_ntop, inet_pton
from typing import Annotated, Literal, TypeGuard

from msgspec import Meta, Struct

MAX_SECONDS = 366 * 86400.0
"""The longest time that any setting in seconds may name: a year."""

MIN_SECONDS = 0.001
"""The shortest: what is due more often is never done in time."""

Seconds = Annotated[float, Meta(ge=MIN_SECONDS, le=MAX_SECONDS)]

EVERYBODY = "*"
"""Stands for all accounts."""

NAME_BYTES = 64
"""Longest account name, in bytes of UTF-8."""

FEED_NAME = re.compile(r"[a-z0-9_.-]{1,64}")
NOTICES = "server"
"""The name under which notices come; no feed's."""

OTHER = "other"
"""Under this name the metrics gather feeds that have no labels of their own; no feed's."""

MOST_FEEDS = 256
"""Feeds a server may have."""

ServerStatus = Literal["synchronized", "unsynchronized", "unknown"]
"""What a server says of its own clock."""

SERVER_DRIFT = 500e-6
"""How fast a server's own error may grow, in seconds a second: the kernel assumes it (`MAXFREQ` in Linux's timex.h)."""

_MAPPED = bytes(10) + b"\xff\xff"
"""How an IPv4 address mapped into IPv6 begins (RFC 4291, 2.5.5.2)."""


class Sample(Struct, frozen=True, gc=False):
    """One value of a feed.

    Attributes:
        feed: The feed's name.
        sequence: Number of the sample in its feed, from 1; None for the feed `time`, where every reading is new.
        stamp: When the value was true, Unix seconds UTC.
        value: The value; for the feed `time` the stamp itself.
    """

    feed: str
    sequence: int | None
    stamp: float
    value: object


class Published(Sample, frozen=True, gc=False):
    """A sample of a feed whose values may stay the same.

    Attributes:
        encoded: The value's bytes in the dialect `pb`, from when it was published; values are the same if these are.
    """

    encoded: bytes


class Reading(Sample, frozen=True, gc=False):
    """A sample as a client received it.

    Attributes:
        received: When it arrived, Unix seconds by the client's own clock.
        offset: What the server's clock less the client's own is likely to have been then, in seconds; None while that
            is not known.
        bound: The true offset differs by no more, in seconds; inf while that is not known.
    """

    received: float
    offset: float | None
    bound: float

    @property
    def age(self) -> float:
        """Seconds from stamp to arrival, by the server's clock; by the client's own while the offset is not known."""
        return self.received + (self.offset or 0.0) - self.stamp


class Account(Struct, frozen=True):
    """One line of the users file.

    Attributes:
        name: What the client logs in as.
        kind: How it proves itself.
        verifier: For a secret account `md5(secret)`, 16 bytes, as PB's challenge needs it; for a password account the
            argon2id hash of the response to its salt.
        salt: For a password account what it is asked at each login, 16 bytes.
        role: What it may do beside what every account may; an `admin` sees and closes connections.
    """

    name: str
    kind: Literal["secret", "password"]
    verifier: bytes
    salt: bytes = b""
    role: Literal["", "admin"] = ""


class Remembered(Struct, frozen=True, gc=False):
    """What is kept of an account when its connections have ended.

    Attributes:
        subscriptions: By feed name, `time` among them: period in seconds, and deadband; not to be changed.
        logins: How often it has logged in.
        pushes: Pushes that were written to its connections.
        first_seen: When it logged in first, Unix seconds UTC; None if it never has.
        last_seen: When it was here last, Unix seconds UTC.
    """

    subscriptions: dict[str, tuple[Seconds, Annotated[float, Meta(ge=0)]]] = {}
    logins: int = 0
    pushes: int = 0
    first_seen: float | None = None
    last_seen: float | None = None


class Retained(Struct, frozen=True, gc=False):
    """What is kept of a feed: its newest sample.

    Attributes:
        sequence: Number of the sample in its feed, from 1.
        stamp: When the value was true, Unix seconds UTC.
        encoded: The value's bytes in the dialect `pb`.
    """

    sequence: int
    stamp: float
    encoded: bytes


class Rights(Struct, frozen=True):
    """Who may do what with a feed; names of accounts, or `*` for all.

    Attributes:
        read: Who may subscribe to it.
        publish: Who may publish to it.
    """

    read: tuple[str, ...] = (EVERYBODY,)
    publish: tuple[str, ...] = ()


class Limits(Struct, forbid_unknown_fields=True):
    """What a peer may ask for; the section `[limits]` of the configuration.

    All parts of a server share one, whose values may change while it runs; a connection keeps what it was made with.

    Attributes:
        default_period: Seconds between pushes after login, within `min_period`..`max_period`.
        min_period: Shortest period granted, in seconds.
        max_period: Longest period granted, in seconds.
        max_silence: A value that stays the same is pushed again after so many seconds.
        connections: Connections that may be logged in at a time, 1 or more.
        connections_per_account: Connections an account may have at a time, 1 or more; not for `anonymous`.
        connections_per_address: Connections an address may have at a time; 0 for any number.
        pending: Connections that may be waiting to log in; the oldest goes for one more.
        pending_per_address: As many of one address.
        login_seconds: Time to log in, from the moment a connection is accepted, 0.05 to 86400 s.
        message_bytes: Longest message that is taken of a client, 1024 to 655360.
        subscriptions: Feeds that a connection may be subscribed to at a time, `time` among them.
        publishes_per_second: Samples that an account may publish, and as many at a time.
        buffer_bytes: Unsent bytes of a connection over which pushes are skipped; twice as many end it.
        ack_seconds: An answer asked for is overdue after this long, 0.05 to 86400 s.
        stale_seconds: No sign of life for this long ends the connection, 0.05 to 86400 s.
    """

    default_period: Seconds = 1.0
    min_period: Seconds = 0.01
    max_period: Seconds = 86400.0
    max_silence: Seconds = 30.0
    connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 10000
    connections_per_account: Annotated[int, Meta(ge=1, le=1_000_000)] = 16
    connections_per_address: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    pending: Annotated[int, Meta(ge=1, le=1_000_000)] = 128
    pending_per_address: Annotated[int, Meta(ge=1, le=1_000_000)] = 64
    login_seconds: Annotated[float, Meta(ge=0.05, le=86400)] = 10.0
    message_bytes: Annotated[int, Meta(ge=1024, le=655_360)] = 16384
    subscriptions: Annotated[int, Meta(ge=1, le=MOST_FEEDS)] = 64
    publishes_per_second: Annotated[int, Meta(ge=1, le=1_000_000)] = 10000
    buffer_bytes: Annotated[int, Meta(ge=4096, le=1_073_741_824)] = 65536
    ack_seconds: Annotated[float, Meta(ge=0.05, le=86400)] = 1.0
    stale_seconds: Annotated[float, Meta(ge=0.05, le=86400)] = 30.0

    def __post_init__(self) -> None:
        if not self.min_period <= self.default_period <= self.max_period:
            raise ValueError(
                f"default_period: {self.default_period:g} lies outside min_period ({self.min_period:g}) "
                f"to max_period ({self.max_period:g})"
            )


class Histogram:
    """Counts of observations by upper bound, as Prometheus wants them.

    Attributes:
        bounds: Upper bounds in seconds, ascending, without infinity.
        counts: Observations in each bucket, one more than there are bounds.
        total: Sum of all observations, in seconds.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count one observation, or several that are equal."""
        self.counts[bisect_left(self.bounds, seconds)] += times
        self.total += times * seconds


LATENESS_BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
)
_UP_TO_A_SECOND = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
ACKNOWLEDGEMENT_BOUNDS = (*_UP_TO_A_SECOND, 5.0)
CLOCK_BOUNDS = (*_UP_TO_A_SECOND, 10.0, 60.0, 3600.0)

SKIP_REASONS = {
    "unacknowledged": "an answer is overdue: `limits.ack_seconds`",
    "buffer": "more than `limits.buffer_bytes` wait to be sent to the client",
    "unchanged": "there is no value yet, or it is the one that was pushed last, or within the client's deadband of it",
    "stall": "the server was held up past the moment of the next push",
}
"""Why a push that was due was not written, and what that means; as all of these, closed sets that are labels, too."""

CONNECTION_STATES = {"pending": "not logged in", "authenticated": "logged in"}

CLOSE_REASONS = {
    "client": "the client closed it, or dropped its avatar",
    "lost": "it broke: the client died, or the network did; a client of our library that was not let in; over TLS "
    "also a client that just ended",
    "stale": "it owed an answer, and was silent for `limits.stale_seconds`",
    "login_timeout": "it had not logged in after `limits.login_seconds`",
    "kicked": "its account was removed from the users file, or `clockd kick` closed it",
    "replaced": "the oldest connection of its account, closed for a new one",
    "drain": "the server stopped",
    "protocol": "bytes that are not PB; an answer to no question; three pushes in a row raised, but for samples that "
    "other programs of its account have subscribed to",
    "limit": "three failed logins; a place that a newcomer took before it had logged in; or unsent bytes: more than "
    "4096 before login, than twice `limits.buffer_bytes` after it",
}

LOGIN_METHODS = {
    "secret": "the name of an account that has a secret",
    "password": "an account with a password",
    "anonymous": "without proof",
    "certificate": "by a client's certificate",
    "unknown": "a name that is not in the users file, or that was not looked up: `throttled`, or for want of room; "
    "never with `ok`",
}

LOGIN_RESULTS = {
    "ok": "logged in",
    "denied": "the name and the secret do not fit; the certificate proves no account",
    "limit": "the account, the address or the server had all the connections that it may have, or the server stopped",
    "throttled": "too many logins with that name or from that address have failed, or too many passwords wait to be "
    "checked",
    "timeout": "not decided within `limits.login_seconds`",
    "error": "the server failed, and its log says why",
}

PERIOD_RESULTS = {
    "granted": "the period that was asked for",
    "clamped": "`limits.min_period` or `limits.max_period` instead",
    "refused": "no period, or with `setperiod` a feed that is not subscribed; the old one stays",
}


class Readiness(Struct, frozen=True):
    """Whether a server does what it is there for.

    Attributes:
        ready: Whether it takes clients, and pushes in time.
        reason: Why not: `starting`, `draining`, `stopping` or `late`; None if it is ready.
        text: The same in words.
        remark: What the operator should look after though it is ready; None if nothing.
        lateness_seconds: How late it has been with pushes lately.
        limit_seconds: Later than that, and it is not ready.
        version: Of clockd.
    """

    ready: bool
    reason: str | None
    text: str
    remark: str | None
    lateness_seconds: float
    limit_seconds: float
    version: str


class FeedTally:
    """What is counted for one feed.

    Attributes:
        pushes: Pushes written.
        bytes: Bytes of them, before TLS.
        skipped: Ticks that wrote nothing, by reason.
        subscriptions: Running subscriptions.
        requested: Sum of 1/period over them, in hertz.
        updates: Samples that were published.
        errors: Samples that could not be had, or taken.
        updated: When the last one was published, Unix seconds; None before the first.
    """

    __slots__ = ("bytes", "errors", "pushes", "requested", "skipped", "subscriptions", "updated", "updates")

    def __init__(self) -> None:
        self.pushes = 0
        self.bytes = 0
        self.skipped = dict.fromkeys(SKIP_REASONS, 0)
        self.subscriptions = 0
        self.requested = 0.0
        self.updates = 0
        self.errors = 0
        self.updated: float | None = None

    @classmethod
    def sum(cls, others: Iterable["FeedTally"]) -> "FeedTally":
        """Return the counts of several feeds together."""
        found = cls()
        for other in others:
            for name in ("bytes", "errors", "pushes", "requested", "subscriptions", "updates"):
                setattr(found, name, getattr(found, name) + getattr(other, name))
            for reason, count in other.skipped.items():
                found.skipped[reason] += count
            if other.updated is not None:
                found.updated = max(other.updated, found.updated or other.updated)
        return found

    def subscribed(self, period: float) -> None:
        """Count a subscription that begins."""
        self.subscriptions += 1
        self.requested += 1 / period

    def unsubscribed(self, period: float) -> None:
        """Count a subscription that ends; the last one takes the rounding errors with it."""
        self.subscriptions -= 1
        self.requested = self.requested - 1 / period if self.subscriptions else 0.0


class Tally:
    """What the service has done so far, as plain numbers; the core counts and does not know who reads.

    Attributes:
        ready: Whether the service listens, and pushes in time.
        feeds: By feed name.
        avatars: Avatars whose timer runs.
        pending: Connections not logged in.
        authenticated: Connections logged in.
        connections_limit: As many may be logged in at a time.
        unsent: Bytes that the kernel has not taken yet, over all connections.
        opened: Connections accepted.
        closed: Connections ended, by reason.
        logins: Logins, by (method, result).
        periods: Calls of `setperiod`, by result.
        lateness: Seconds from due time to write.
        acknowledgement: Seconds from a push that asks to its answer.
        lag: Seconds for which the reactor was busy, each time it was.
        store_up: Whether what is remembered is written, too.
        store_errors: Reads and writes of the store that failed.
        unhandled_errors: Errors that reached Twisted's log; each is a bug.
        tls_expiry: When the server's certificate expires, Unix seconds; None without TLS.
        clock_bound: The error of the host's wall clock is no larger, in seconds; infinite while that is not known.
        clock_synchronized: Whether something keeps it right.
        clock_steps: How often it was stepped.
        subscriber_offset: How far the clocks of clients are off that tell it, in seconds.
        subscriber_bound: How well these know the server's clock, in seconds, where they know it at all.
    """

    def __init__(self) -> None:
        self.ready = False
        self.feeds: dict[str, FeedTally] = {}
        self.avatars = 0
        self.pending = 0
        self.authenticated = 0
        self.connections_limit = 0
        self.unsent = 0
        self.opened = 0
        self.closed = dict.fromkeys(CLOSE_REASONS, 0)
        self.logins = {(method, result): 0 for method in LOGIN_METHODS for result in LOGIN_RESULTS}
        self.periods = dict.fromkeys(PERIOD_RESULTS, 0)
        self.lateness = Histogram(LATENESS_BOUNDS)
        self.acknowledgement = Histogram(ACKNOWLEDGEMENT_BOUNDS)
        self.lag = Histogram(LATENESS_BOUNDS)
        self.store_up = True
        self.store_errors = 0
        self.unhandled_errors = 0
        self.tls_expiry: float | None = None
        self.clock_bound = math.inf
        self.clock_synchronized = False
        self.clock_steps = 0
        self.subscriber_offset = Histogram(CLOCK_BOUNDS)
        self.subscriber_bound = Histogram(CLOCK_BOUNDS)

    def feed(self, name: str) -> FeedTally:
        """Return the counts of one feed, made at first use."""
        return self.feeds.setdefault(name, FeedTally())


def is_period(period: object) -> TypeGuard[float]:
    """Tell whether `period` is a finite number > 0; a bool is none, an int of any size is."""
    if type(period) is int:
        return period > 0
    return type(period) is float and math.isfinite(period) and period > 0


def is_deadband(deadband: object) -> TypeGuard[float]:
    """Tell whether `deadband` is a finite number >= 0, and no bool."""
    return (type(deadband) in {int, float} and deadband == 0) or is_period(deadband)


def address_key(address: str) -> str:
    """Return what an address counts as, where connections or attempts are counted by address.

    Args:
        address: A host as text; what is no IP address counts as itself.

    Returns:
        Of an IPv6 address its network of 64 bits, all of which one customer usually has; of an IPv4 address, mapped
        into IPv6 or not, the address.
    """
    if ":" not in address:
        return address
    try:
        packed = inet_pton(AF_INET6, address.partition("%")[0])  # takes a fifth of the time of ipaddress
    except (OSError, ValueError):
        return address
    if packed.startswith(_MAPPED):
        return inet_ntoa(packed[12:])
    return f"{inet_ntop(AF_INET6, packed[:8] + bytes(8))}/64"
