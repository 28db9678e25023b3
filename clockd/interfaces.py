"""The seams between modules, as zope interfaces.

Rules of this module: an interface is documented here in full; what implements it adds only what is its own.
"""

from collections.abc import Callable, Mapping, Sequence

from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from clockd.values import Remembered, Retained, Sample


class IFeed(Interface):
    """A named value that changes; only its latest sample exists."""

    name: str = Attribute("The feed's name, `[a-z0-9_.-]{1,64}`.")

    def latest() -> Sample | None:
        """Return the newest sample, taken now if the feed can; None if there was none yet.

        A feed whose value may stay the same returns a `Published`.
        """


class ISink(Interface):
    """What takes pushes: one client, or several."""

    def push(sample: Sample) -> bool:
        """Send a sample, now or not at all.

        Returns:
            False if it was skipped: a client remembers that this feed is owed, and pulls the feed's newest sample
            when its window opens.
        """


class IClient(ISink):
    """The server's view of one client's mind."""

    address: str = Attribute("Where it is, printable.")
    pushes: int = Attribute("Pushes written.")
    skipped: int = Attribute("Pushes that were due and not written, because it was too slow.")
    acknowledgement: float | None = Attribute("How long its latest answer to a push took, in seconds.")
    takes_notices: bool = Attribute("Whether it is told notices.")
    takes_samples: bool = Attribute(
        "Whether it is to be pushed samples that others of its account have subscribed to: until it has answered one "
        "that it did not expect with an error."
    )
    received: float = Attribute(
        "When the bytes came that completed the call which is served, Unix seconds UTC by the host's wall clock; or "
        "when that was stepped, if they came before."
    )

    def pull_from(pull: Callable[[str], Sample | None]) -> None:
        """Have `pull` asked for the newest sample of a feed that is owed; None means that nothing is owed any more."""

    def expect_samples(expected: bool) -> None:
        """Note whether the client has subscribed to samples itself, as every one has that shares its avatar with none.

        One that expects them and answers them with errors is closed in the end; one that does not expect them is not,
        and takes none any more.
        """

    def take_notices(wanted: bool = True) -> None:
        """Have the client told notices from now on, or no more."""

    def notify(notice: Mapping[str, object]) -> None:
        """Tell the client something of its connection, at once; as `NOTICES` and nobody's sample."""

    def ping() -> Deferred[bool]:
        """Ask for a sign of life, if no other question is open.

        Returns:
            Fires with True at the next answer, or with False when the connection has ended.
        """

    def close(reason: str) -> None:
        """Close the connection once all is written, for one of `CLOSE_REASONS`."""


class IPeerCertificate(ICredentials):
    """The certificate that a peer has shown in the handshake of TLS, where it was found good."""

    common_names: Sequence[str] = Attribute("The common names of its subject, in their order.")


class ISession(Interface):
    """What a login makes, as the connection sees it."""

    account: str = Attribute("The account's name.")

    def begin() -> None:
        """Start pushing; called once, when the answer to the login has been written."""


class IAccountStore(Interface):
    """What outlives connections, in memory; some stores keep it longer than the process.

    None of these raises for what a disk does, and none waits for one but through its Deferred.
    """

    trouble: str | None = Attribute("What keeps it from writing and what to do about it, a sentence; None if nothing.")

    def open() -> Deferred[None]:
        """Read everything; fires when it can be asked, with None always. What could not be read is told by `trouble`.

        Before it, and after `close`, there is memory only.
        """

    def account(name: str) -> Remembered:
        """Return what is remembered of an account; of one that it has never heard of, `Remembered()`."""

    def remember(name: str, what: Remembered) -> None:
        """Put something in the place of what was remembered of an account."""

    def forget(name: str) -> None:
        """Remember nothing of an account any more; nothing, if it has never heard of it."""

    def sample(feed: str) -> Retained | None:
        """Return the sample of a feed that was kept last, or None."""

    def retain(feed: str, sample: Retained) -> None:
        """Keep a sample in the place of the one before."""

    def save() -> Deferred[None]:
        """Write now what is to be written; fires when that was tried, with None always, in some seconds at most."""

    def close() -> Deferred[None]:
        """Save, then let go of everything; fires as `save` does. Closing twice is harmless."""
