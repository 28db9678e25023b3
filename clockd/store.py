"""What outlives connections."""

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from clockd.interfaces import IAccountStore
from clockd.values import Remembered, Retained

_NEVER_SEEN = Remembered()


@implementer(IAccountStore)
class MemoryStore:
    """Keeps everything in memory only."""

    trouble: str | None = None

    def __init__(self) -> None:
        self._accounts: dict[str, Remembered] = {}
        self._samples: dict[str, Retained] = {}

    def open(self) -> Deferred[None]:
        return succeed(None)

    def account(self, name: str) -> Remembered:
        return self._accounts.get(name, _NEVER_SEEN)

    def remember(self, name: str, what: Remembered) -> None:
        self._accounts[name] = what

    def sample(self, feed: str) -> Retained | None:
        return self._samples.get(feed)

    def retain(self, feed: str, sample: Retained) -> None:
        self._samples[feed] = sample

    def save(self) -> Deferred[None]:
        return succeed(None)

    def close(self) -> Deferred[None]:
        return succeed(None)
