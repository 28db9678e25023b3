"""Which account do these credentials prove: the users file and its checkers.

The users file is text: a line `key:HEX` made with the file, and one line `NAME:secret:HEX` an account, where HEX is
`md5(secret)`. PB's login is a challenge whose response is `md5(md5(secret) + challenge)`, so the server needs
`md5(secret)`, and whoever reads the file can log in as its accounts: it is guarded like a private key. What makes
that tolerable is that a secret is 128 random bits, made here and never chosen by a person.
"""

import fcntl
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import md5
from pathlib import Path
from typing import Literal

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from zope.interface import Attribute, implementer

from clockd.errors import UsersFileError, WrongCredentials
from clockd.values import Account

ANONYMOUS = "anonymous"
"""The account of those who prove nothing."""

_RESERVED = ("key", ANONYMOUS)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")
_LINE = re.compile(rf"(?P<name>{_NAME.pattern}):secret:(?P<verifier>[0-9a-f]{{32}})")
_KEY = re.compile(r"key:([0-9a-f]{64})")


def digest(secret: str) -> bytes:
    """Return what PB's login proves knowledge of: `md5(secret)`, 16 bytes."""
    return md5(secret.encode(), usedforsecurity=False).digest()


def new_challenge() -> bytes:
    """Return 16 random bytes, for one login."""
    return secrets.token_bytes(16)


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
        self.method: Literal["secret", "unknown"] = "unknown"

    def proves(self, verifier: bytes) -> bool:
        """Compare the response with the right one."""
        expected = md5(verifier + self.challenge, usedforsecurity=False).digest()
        return hmac.compare_digest(expected, self.response)


class UsersFile:
    """The accounts of one file, read again whenever the file changes.

    A file that breaks later leaves the accounts read before in force, and says so in the log.

    Args:
        path: Where the file is.

    Raises:
        UsersFileError: From `load`: it is absent, cannot be read, or has a broken line.
    """

    _log = Logger()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._accounts: dict[str, Account] = {}
        self._key = b""
        self._seen: tuple[int, int, int] | None = None

    def load(self) -> None:
        """Read the file, and warn if others can read it too.

        Raises:
            UsersFileError: It is absent, cannot be read, or has a broken line; the accounts stay as they were.
        """
        try:
            if self.path.exists() and not self.path.is_file():  # a FIFO would be waited for
                raise UsersFileError(f"{self.path}: is no regular file")
            with self.path.open(encoding="utf-8") as file:
                status = os.fstat(file.fileno())
                lines = file.read().splitlines()
        except FileNotFoundError:
            raise UsersFileError(
                f"{self.path}: there is no users file; make one with: clockd user add --users {self.path} NAME"
            ) from None
        except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a null in the path
            raise UsersFileError(f"{self.path}: cannot be read: {_reason(error)}") from error
        self._seen = _identity(status)
        self._key, self._accounts = _parse(self.path, lines)
        if status.st_mode & 0o077:
            self._log.warn(
                "{path}: others than its owner can get at the users file, and so log in as anyone; "
                "mend it with: chmod 600 {path}",
                path=str(self.path),
            )

    def account(self, name: str) -> Account | None:
        """Return the account of this name, as the file has it now."""
        self._refresh()
        return self._accounts.get(name)

    def imitate(self, name: str) -> bytes:
        """Return a verifier for a name that has no account, the same one each time: `HMAC(key, name)`."""
        return hmac.digest(self._key, name.encode(), "sha256")[:16]

    def names(self) -> list[str]:
        """Return the names of all accounts, sorted."""
        return sorted(self._accounts)

    def _refresh(self) -> None:
        try:
            identity = _identity(self.path.stat())
        except OSError:
            identity = None
        if identity == self._seen:
            return
        self._seen = identity
        try:
            self.load()
        except UsersFileError as error:
            self._log.warn("the accounts read before stay in force: {error}", error=str(error))
        else:
            self._log.info("{path}: read again, {count} accounts", path=str(self.path), count=len(self._accounts))


@implementer(ICredentialsChecker)
class SecretChecker:
    """Checks the responses of secret accounts.

    Args:
        users: Who there is.
    """

    credentialInterfaces = (IChallengeResponse,)

    def __init__(self, users: UsersFile) -> None:
        self._users = users

    def requestAvatarId(self, credentials: ChallengeResponse) -> Deferred[bytes | tuple[()]]:
        """Return the name of the account in bytes, if the response is right.

        The same work is done for a name that is unknown.

        Raises:
            WrongCredentials: Through the Deferred.
        """
        account = self._users.account(credentials.name)
        imitation = self._users.imitate(credentials.name)
        if account is not None:
            credentials.method = account.kind
        proven = credentials.proves(imitation if account is None else account.verifier)
        if account is None or not proven:
            return fail(WrongCredentials("the name and the secret do not fit"))
        return succeed(account.name.encode())


def add_account(path: Path, name: str) -> str:
    """Make a secret account, and the users file if it is absent.

    Returns:
        The secret: 128 random bits in 22 URL-safe characters, stored nowhere.

    Raises:
        UsersFileError: The name is taken or not allowed, or the file cannot be read or written.
    """
    with _changing(path, create=True) as lines:
        _check_name(path, name)
        if name in lines:
            raise UsersFileError(
                f"{path}: there is an account {name} already; for a new secret use: clockd user passwd {name}"
            )
        return _put_secret(lines, name)


def renew_secret(path: Path, name: str) -> str:
    """Give an account a new secret; the old one ends.

    Returns:
        The secret, as `add_account` does.

    Raises:
        UsersFileError: There is no such account, or the file cannot be read or written.
    """
    with _changing(path) as lines:
        _expect(path, lines, name)
        return _put_secret(lines, name)


def remove_account(path: Path, name: str) -> None:
    """Remove an account.

    Raises:
        UsersFileError: There is no such account, or the file cannot be read or written.
    """
    with _changing(path) as lines:
        _expect(path, lines, name)
        del lines[name]


def _put_secret(lines: dict[str, str], name: str) -> str:
    secret = secrets.token_urlsafe(16)
    lines[name] = f"{name}:secret:{digest(secret).hex()}"
    return secret


def _check_name(path: Path, name: str) -> None:
    if _NAME.fullmatch(name) is None or name in _RESERVED:
        raise UsersFileError(
            f"{path}: {name!r} cannot be an account's name: 1 to 64 letters, digits and _ . @ + -, "
            f"beginning with a letter, digit or _; not `key`, not `{ANONYMOUS}`"
        )


def _expect(path: Path, lines: dict[str, str], name: str) -> None:
    if name not in lines or name == "key":
        raise UsersFileError(f"{path}: there is no account {name!r}; see: clockd user list --users {path}")


@contextmanager
def _changing(path: Path, *, create: bool = False) -> Iterator[dict[str, str]]:
    """Hand out the file's lines by name, then replace the file by what they have become.

    A lock on the folder makes two commands at a time wait for each other; the new file takes the old one's place in
    one step, so a reader sees either.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise UsersFileError(f"{path}: {_reason(error)}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        users = UsersFile(path)
        if create and not path.exists():
            lines = {"key": f"key:{secrets.token_hex(32)}"}
        else:
            users.load()
            lines = {line.partition(":")[0]: line for line in path.read_text(encoding="utf-8").splitlines() if line}
        yield lines
        _replace(path, "".join(f"{line}\n" for line in lines.values()))
    except OSError as error:
        raise UsersFileError(f"{path}: {_reason(error)}") from error
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    """Write a file of mode 0600 beside `path`, to the disk, and rename it to `path`."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123  # it is a descriptor
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)  # noqa: PTH105  # `name` is what mkstemp returns
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise


def _parse(path: Path, lines: list[str]) -> tuple[bytes, dict[str, Account]]:
    key: bytes | None = None
    accounts: dict[str, Account] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        if found := _KEY.fullmatch(line):
            if key is not None:
                raise UsersFileError(f"{path}:{number}: a second key; remove the line")
            key = bytes.fromhex(found[1])
        elif found := _LINE.fullmatch(line):
            if found["name"] in _RESERVED:
                raise UsersFileError(f"{path}:{number}: no account can be named {found['name']}; remove the line")
            if found["name"] in accounts:
                raise UsersFileError(f"{path}:{number}: a second account {found['name']}; remove one of the lines")
            accounts[found["name"]] = Account(found["name"], "secret", bytes.fromhex(found["verifier"]))
        else:
            raise UsersFileError(f"{path}:{number}: a broken line; it is NAME:secret: and 32 hexadecimal digits")
    if key is None:
        raise UsersFileError(f"{path}: has no line key: and 64 hexadecimal digits; was it made by: clockd user add?")
    return key, accounts


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
