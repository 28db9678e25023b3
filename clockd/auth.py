"""Which account do these credentials prove: what a login is asked, and whether the answer is right.

PB's login is a challenge whose response is `md5(md5(secret) + challenge)`. An account with a secret gets a fresh
challenge each time, so that a response is good for one login. An account with a password gets its own salt each time,
because the server has nothing but a hash of the one response to that. Whoever overhears it can use it again, so it is
taken only where nobody listens in.
"""

import hmac
import secrets
from collections.abc import Callable, Sequence
from typing import Literal

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import Attribute, implementer

from clockd.errors import WrongCredentials
from clockd.interfaces import IPeerCertificate
from clockd.users import BYTES, UsersFile, response_to


def new_challenge() -> bytes:
    """Return 16 random bytes, for one login."""
    return secrets.token_bytes(BYTES)


class IChallengeResponse(ICredentials):
    """A name, and the response to a challenge."""

    name: str = Attribute("The account that is claimed.")
    method: str = Attribute("The kind of the account, set by its checker; `unknown` before.")

    def proves(verifier: bytes) -> bool:
        """Tell, in constant time, whether the response was made with the secret of this `md5(secret)`."""


@implementer(IChallengeResponse)
class ChallengeResponse:
    """The credentials of PB's login.

    Args:
        name: The account that is claimed.
        challenge: What the server sent.
        response: What came back; right if it is `md5(md5(secret) + challenge)`.
    """

    def __init__(self, name: str, challenge: bytes, response: bytes) -> None:
        self.name = name
        self.challenge = challenge
        self.response = response
        self.method: Literal["secret", "password", "unknown"] = "unknown"

    def proves(self, verifier: bytes) -> bool:
        """Compare the response with the right one."""
        return hmac.compare_digest(response_to(self.challenge, verifier), self.response)


@implementer(ICredentialsChecker)
class AccountChecker:
    """Makes the challenges of logins and checks the responses.

    For a name without an account, all is done that is done for an account of the kind which the name imitates.

    Args:
        users: Who there is.
        fits: Tells whether a response is the one that a password account's verifier is the hash of.
    """

    credentialInterfaces = (IChallengeResponse,)

    def __init__(self, users: UsersFile, fits: Callable[[bytes, bytes], Deferred[bool]]) -> None:
        self._users = users
        self._fits = fits

    def challenge(self, private: bool, name: str) -> bytes:
        """Return what a peer is asked, 16 bytes.

        Args:
            private: Whether nobody can listen in; where somebody can, no password is asked for.
            name: The account that it claims.
        """
        account, imitation = self._users.account(name), self._users.imitate(name)
        asked = account or imitation
        return asked.salt if private and asked.kind == "password" else new_challenge()

    def requestAvatarId(self, credentials: ChallengeResponse) -> Deferred[bytes | tuple[()]]:
        """Return the name of the account in bytes, if the response is right.

        Raises:
            WrongCredentials: Through the Deferred.
            TooManyAttempts: Through the Deferred: too many passwords wait to be checked.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: ChallengeResponse) -> bytes:
        name = credentials.name
        account, imitation = self._users.account(name), self._users.imitate(name)
        asked = account or imitation
        if account is not None:
            credentials.method = account.kind
        why = "the name and the secret do not fit"
        if asked.kind == "password" and credentials.challenge == asked.salt:
            proven = await self._fits(asked.verifier, credentials.response)
            proven = proven and self._users.account(name) == account  # it may have been removed or changed meanwhile
        else:
            proven = credentials.proves(asked.verifier) and asked.kind == "secret"
            if account is not None and account.kind == "password":
                why = "a password is taken over TLS, a Unix socket or loopback only"
        if account is None or not proven:
            raise WrongCredentials(why)
        return name.encode()


@implementer(IPeerCertificate)
class PeerCertificate:
    """The credentials of a login by certificate.

    Args:
        common_names: Those of the certificate's subject.
    """

    method = "certificate"

    def __init__(self, common_names: Sequence[str]) -> None:
        self.common_names = common_names


@implementer(ICredentialsChecker)
class CertificateChecker:
    """Takes a certificate for the account that the one common name of its subject names, whatever its kind.

    Args:
        users: Who there is.
    """

    credentialInterfaces = (IPeerCertificate,)

    def __init__(self, users: UsersFile) -> None:
        self._users = users

    def requestAvatarId(self, credentials: PeerCertificate) -> Deferred[bytes | tuple[()]]:
        """Return the name of the account in bytes.

        Raises:
            WrongCredentials: Through the Deferred.
        """
        names = credentials.common_names
        if len(names) != 1:
            return fail(WrongCredentials(f"a certificate of one common name proves an account; here are {len(names)}"))
        account = self._users.account(names[0])
        if account is None:
            return fail(WrongCredentials("the common name of the certificate is no account"))
        return succeed(account.name.encode())
