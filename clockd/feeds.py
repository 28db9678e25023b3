"""The latest sample of each name, and who may read and publish it."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from clockd.errors import InvalidValue, NotPermitted, UnknownFeed
from clockd.interfaces import IAccountStore, IFeed
from clockd.values import EVERYBODY, FeedTally, Published, Retained, Rights, Sample

UNKNOWN = "(unknown)"
"""Under this name is counted what names a feed that does not exist; no feed's."""


EARLY = 0.05
"""A sample may be taken by this part of its interval too early: who wants one as often comes sooner now and then."""


@implementer(IFeed)
class ClockFeed:
    """The feed `time`: its latest sample is always new.

    Args:
        now: Unix seconds UTC by the host's wall clock.
    """

    name = "time"

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def latest(self) -> Sample:
        """Return the time, read in this call."""
        stamp = self._now()
        return Sample(self.name, None, stamp, stamp)


@implementer(IFeed)
class LatestFeed:
    """A feed of values that are published; each takes the place of the one before.

    Args:
        name: The feed's name.
        encode: Returns a value's bytes in the dialect `pb`, which tell it from others, or raises `InvalidValue`.
        counts: Where it is counted.
        now: Unix seconds UTC by the host's wall clock.
    """

    def __init__(
        self, name: str, encode: Callable[[object], bytes], counts: FeedTally, now: Callable[[], float]
    ) -> None:
        self.name = name
        self._encode = encode
        self._counts = counts
        self._now = now
        self._latest: Published | None = None
        self._sequence = 0

    def latest(self) -> Published | None:
        """Return what was published last."""
        return self._latest

    def publish(self, value: object, stamp: object = None) -> int:
        """Put a value in force.

        Args:
            value: None, bool, int, float, str, bytes, or lists, tuples and dicts of these; not to be changed any more.
            stamp: When it was true, Unix seconds UTC; None for now.

        Returns:
            The sample's number, from 1.

        Raises:
            InvalidValue: The value, or the stamp, is something else. The latest sample stays.
        """
        encoded = self._encode(value)
        now = self._now()
        moment = now if stamp is None else moment_of(stamp)
        self._sequence += 1
        self._latest = Published(self.name, self._sequence, moment, value, encoded)
        self._counts.updates += 1
        self._counts.updated = now
        return self._sequence


class RetainedFeed(LatestFeed):
    """A feed whose latest sample is still there after a restart.

    Args:
        name, encode, counts, now: As for `LatestFeed`.
        decode: Returns the value that `encode` made these bytes of, or raises `InvalidValue`.
        store: Keeps the sample.
    """

    def __init__(
        self,
        name: str,
        encode: Callable[[object], bytes],
        counts: FeedTally,
        now: Callable[[], float],
        decode: Callable[[bytes], object],
        store: IAccountStore,
    ) -> None:
        super().__init__(name, encode, counts, now)
        self._decode = decode
        self._store = store

    def publish(self, value: object, stamp: object = None) -> int:
        """Put a value in force, and have it kept."""
        sequence = super().publish(value, stamp)
        latest = cast("Published", self._latest)
        self._store.retain(self.name, Retained(sequence, latest.stamp, latest.encoded))
        return sequence

    def restore(self) -> None:
        """Put in force what was kept, if anything was; before there is anything else."""
        kept = self._store.sample(self.name)
        if kept is not None:
            value = self._decode(kept.encoded)
            self._sequence = kept.sequence
            self._latest = Published(self.name, kept.sequence, kept.stamp, value, kept.encoded)


class SampledFeed(LatestFeed):
    """A feed that takes a sample when somebody wants one and the last is old; without subscribers it costs nothing.

    Args:
        name, encode, counts, now: As for `LatestFeed`.
        take: Returns a value, quickly.
        every: Seconds between two samples.
        clock: Monotonic time.
        report: Is told the feed's name and why there is no new sample.
    """

    def __init__(
        self,
        name: str,
        encode: Callable[[object], bytes],
        counts: FeedTally,
        now: Callable[[], float],
        take: Callable[[], object],
        every: float,
        clock: IReactorTime,
        report: Callable[[str, Exception], object],
    ) -> None:
        super().__init__(name, encode, counts, now)
        self._take = take
        self._every = every
        self._clock = clock
        self._report = report
        self._due = -math.inf  # when the next is to be taken

    def latest(self) -> Published | None:
        """Return the latest sample, taken now if the one before is old."""
        moment = self._clock.seconds()
        late = moment - self._due
        if late >= -EARLY * self._every:
            # counted from when it was due: else one who is pushed as often, now later and now sooner, got old ones
            self._due = moment + self._every - (late if late < self._every else 0)
            try:
                self.publish(self._take())
            except Exception as error:  # noqa: BLE001  # those who are pushed other feeds must not suffer
                self._report(self.name, error)
        return super().latest()


class FeedTable:
    """The feeds of a server, and who may do what with each.

    Args:
        feeds: All of them, with their rights.
    """

    def __init__(self, feeds: Iterable[tuple[IFeed, Rights]]) -> None:
        self._feeds: Mapping[str, tuple[IFeed, Rights]] = {feed.name: (feed, rights) for feed, rights in feeds}

    def readable(self, account: str) -> list[str]:
        """Return the names of the feeds that an account may read."""
        return [name for name, (_, rights) in self._feeds.items() if _allows(rights.read, account)]

    def to_read(self, name: object, account: str) -> IFeed:
        """Return a feed, for who would read it.

        Raises:
            UnknownFeed: `name` is not the name of a feed of this server.
            NotPermitted: The account may not read it.
        """
        feed, rights = self._find(name)
        if not _allows(rights.read, account):
            raise NotPermitted(f"this account may not read {feed.name}")
        return feed

    def to_publish(self, name: object, account: str) -> LatestFeed:
        """Return a feed, for who would publish to it; raises as `to_read` does."""
        feed, rights = self._find(name)
        if not (isinstance(feed, LatestFeed) and _allows(rights.publish, account)):
            raise NotPermitted(f"this account may not publish to {feed.name}")
        return feed

    def counted_as(self, name: object) -> str:
        """Return the name under which a call is counted that names a feed so."""
        return name if isinstance(name, str) and name in self._feeds else UNKNOWN

    def _find(self, name: object) -> tuple[IFeed, Rights]:
        found = self._feeds.get(name) if isinstance(name, str) else None
        if found is None:
            raise UnknownFeed("there is no such feed")
        return found


def _allows(names: tuple[str, ...], account: str) -> bool:
    return EVERYBODY in names or account in names


def moment_of(stamp: object) -> float:
    """Return a stamp that a source gives, in Unix seconds.

    Raises:
        InvalidValue: It is no finite number.
    """
    if type(stamp) in {int, float}:
        try:
            moment = float(stamp)  # type: ignore[arg-type]  # it is a number
        except OverflowError:
            moment = math.inf
        if math.isfinite(moment):
            return moment
    raise InvalidValue("a stamp is a finite number of Unix seconds")
