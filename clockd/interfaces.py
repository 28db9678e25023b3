"""The seams between modules, as zope interfaces.

Rules of this module: an interface is documented here in full; what implements it adds only what is its own.
"""

from collections.abc import Callable, Mapping, Sequence

from twisted.cred.credentials import ICredentials
from zope.interface import Attribute, Interface

from clockd.values import Sample


class IFeed(Interface):
    """A named value that changes; only its latest sample exists."""

    name: str = Attribute("The feed's name, `[a-z0-9_.-]{1,64}`.")

    def latest() -> Sample | None:
        """Return the newest sample, taken now if the feed can; None if there was none yet.

        A feed whose value may stay the same returns a `Published`.
        """


class ISink(Interface):
    """The server's view of one client's mind: what takes pushes."""

    def push(sample: Sample) -> bool:
        """Send a sample, now or not at all.

        Returns:
            False if it was skipped: the sink remembers that this feed is owed, and pulls the feed's newest sample
            when its window opens.
        """

    def pull_from(pull: Callable[[str], Sample | None]) -> None:
        """Have `pull` asked for the newest sample of a feed that is owed; None means that nothing is owed any more."""

    def take_notices(wanted: bool = True) -> None:
        """Have the client told notices from now on, or no more."""

    def notify(notice: Mapping[str, object]) -> None:
        """Tell the client something of its connection, at once; as `NOTICES` and nobody's sample."""


class IPeerCertificate(ICredentials):
    """The certificate that a peer has shown in the handshake of TLS, where it was found good."""

    common_names: Sequence[str] = Attribute("The common names of its subject, in their order.")


class ISession(Interface):
    """What a login makes, as the connection sees it."""

    account: str = Attribute("The account's name.")

    def begin() -> None:
        """Start pushing; called once, when the answer to the login has been written."""
