"""The users file: which accounts there are, and what a login of each has to prove.

It is text: a line `key:HEX` made with the file, and one line an account.

    NAME:secret:HEX           HEX is `md5(secret)`
    NAME:password:SALT:HASH   HASH is the argon2id hash of the one response that fits the challenge SALT

A line that ends in `:admin` is an administrator's.

PB's login is a challenge whose response is `md5(md5(secret) + challenge)`. To check the response to a fresh challenge
the server needs `md5(secret)`, and that is all one needs to log in: the file is guarded like a private key. What makes
that tolerable is that a secret is 128 random bits, made here and never chosen by a person. A password is chosen by a
person, and people use theirs elsewhere, too: its challenge is always the same, so that a hash of its response will do.

Rules of this module: it knows the form of a hash, and not how one is made.
"""

import fcntl
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import md5
from pathlib import Path
from typing import Literal

from twisted.logger import Logger

from clockd.errors import UsersFileError
from clockd.values import Account

ANONYMOUS = "anonymous"
"""The account of those who prove nothing."""

BYTES = 16
"""Length of a challenge, and so of a salt; of a response and a verifier it is MD5's."""

_RESERVED = ("key", ANONYMOUS)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")
_HASH = (  # what argon2 itself writes, for a salt of 16 bytes and a hash of 32; it takes no other last characters
    r"\$argon2id\$v=19\$m=[1-9][0-9]{3,6},t=[1-9][0-9]?,p=[1-9][0-9]?"
    r"\$[A-Za-z0-9+/]{21}[AQgw]\$[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]"
)
_LINE = re.compile(
    rf"(?P<name>{_NAME.pattern}):(?:secret:(?P<verifier>[0-9a-f]{{32}})"
    rf"|password:(?P<salt>[0-9a-f]{{32}}):(?P<hash>{_HASH}))(?P<admin>:admin)?"
)
_KEY = re.compile(r"key:([0-9a-f]{64})")


def digest(secret: bytes) -> bytes:
    """Return what PB's login proves knowledge of: `md5(secret)`, 16 bytes."""
    return md5(secret, usedforsecurity=False).digest()


def response_to(challenge: bytes, verifier: bytes) -> bytes:
    """Return the one response that fits, 16 bytes.

    Args:
        challenge: What the client was asked.
        verifier: The `digest` of its secret or password.
    """
    return md5(verifier + challenge, usedforsecurity=False).digest()


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
        self._removed: frozenset[str] = frozenset()
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
        before = self._accounts.keys()
        self._key, self._accounts = _parse(self.path, lines)
        self._removed |= before - self._accounts.keys()
        # one of root's, such as a secret that Kubernetes mounts, is read by way of its group
        others = 0o037 if status.st_uid == 0 != os.geteuid() else 0o077
        if status.st_mode & others:
            self._log.warn(
                "{path}: others than its owner can get at the users file, and so log in as anyone; "
                "mend it with: chmod 600 {path}",
                path=str(self.path),
            )

    def account(self, name: str) -> Account | None:
        """Return the account of this name, as the file has it now."""
        self._read_again()
        return self._accounts.get(name)

    def accounts(self) -> list[Account]:
        """Return all accounts, sorted by name."""
        return [self._accounts[name] for name in sorted(self._accounts)]

    def role_of(self, name: str) -> str | None:
        """Return the role of an account; None if there is no such account."""
        account = self.account(name)
        return None if account is None else account.role

    def imitate(self, name: str) -> Account:
        """Return what a name without an account passes for: `HMAC(key, name)` decides, so it is the same each time.

        Returns:
            An account of either kind; if it has a password, the verifier is empty.
        """
        drawn = hmac.digest(self._key, name.encode(), "sha256")
        if drawn[BYTES] % 2:
            return Account(name, "password", b"", drawn[:BYTES])
        return Account(name, "secret", drawn[:BYTES])

    def refresh(self) -> frozenset[str]:
        """Read the file again if it has changed.

        Returns:
            The names of the accounts that were found to be removed since the last call.
        """
        self._read_again()
        removed, self._removed = self._removed, frozenset()
        return removed

    def _read_again(self) -> None:
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


def _unseen(secret: str) -> None:
    """Show a secret to nobody but the caller, who gets it returned."""


def add_account(path: Path, name: str, *, admin: bool = False, show: Callable[[str], object] = _unseen) -> str:
    """Make a secret account, and the users file if it is absent.

    Args:
        path: The users file.
        name: The account.
        admin: Whether it has the role `admin`.
        show: Is given the secret before it is good for anything; if it raises, the file stays as it was.

    Returns:
        The secret: 128 random bits in 22 URL-safe characters, stored nowhere.

    Raises:
        UsersFileError: The name is taken or not allowed, or the file cannot be read or written.
    """
    secret, rest = _new_secret()
    with _changing(path, create=True) as lines:
        _add(path, lines, name, rest, admin=admin)
        show(secret)
    return secret


def add_password_account(
    path: Path, name: str, password: bytes, make_hash: Callable[[bytes], str], *, admin: bool = False
) -> None:
    """Make an account with a password, and the users file if it is absent.

    Args:
        path: The users file.
        name: The account.
        password: Chosen by a person.
        make_hash: Returns the argon2id hash of a response.
        admin: Whether it has the role `admin`.

    Raises:
        UsersFileError: As `add_account` does.
    """
    rest = _password(password, make_hash)
    with _changing(path, create=True) as lines:
        _add(path, lines, name, rest, admin=admin)


def renew_secret(path: Path, name: str, show: Callable[[str], object] = _unseen) -> str:
    """Give an account a new secret; the old one, or its password, ends, and its role stays.

    Args:
        path: The users file.
        name: The account.
        show: As for `add_account`.

    Returns:
        The secret, as `add_account` does.

    Raises:
        UsersFileError: There is no such account, or the file cannot be read or written.
    """
    secret, rest = _new_secret()
    with _changing(path) as lines:
        _change(path, lines, name, rest)
        show(secret)
    return secret


def change_password(path: Path, name: str, password: bytes, make_hash: Callable[[bytes], str]) -> None:
    """Give an account a password, as `add_password_account` does; the old one, or its secret, ends, and its role stays.

    Raises:
        UsersFileError: As `renew_secret` does.
    """
    rest = _password(password, make_hash)
    with _changing(path) as lines:
        _change(path, lines, name, rest)


def remove_account(path: Path, name: str) -> None:
    """Remove an account.

    Raises:
        UsersFileError: There is no such account, or the file cannot be read or written.
    """
    with _changing(path) as lines:
        _expect(path, lines, name)
        del lines[name]


def _new_secret() -> tuple[str, str]:
    """Return a secret, and what follows the name in the line of its account."""
    secret = secrets.token_urlsafe(16)
    return secret, f"secret:{digest(secret.encode()).hex()}"


def _password(password: bytes, make_hash: Callable[[bytes], str]) -> str:
    """Return what follows the name in the line of an account with this password."""
    salt = secrets.token_bytes(BYTES)
    return f"password:{salt.hex()}:{make_hash(response_to(salt, digest(password)))}"


def _add(path: Path, lines: dict[str, str], name: str, rest: str, *, admin: bool) -> None:
    _check_name(path, name)
    if name in lines:
        raise UsersFileError(
            f"{path}: there is an account {name} already; for a new secret use: clockd user passwd {name}"
        )
    lines[name] = f"{name}:{rest}{':admin' if admin else ''}"


def _change(path: Path, lines: dict[str, str], name: str, rest: str) -> None:
    _expect(path, lines, name)
    role = ":admin" if lines[name].endswith(":admin") else ""
    lines[name] = f"{name}:{rest}{role}"


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
    with _named(f"{path}: the folder {path.parent}"):
        folder = os.open(path.parent, os.O_RDONLY)
    try:
        with _named(str(path)):
            fcntl.flock(folder, fcntl.LOCK_EX)
            users = UsersFile(path)
            if create and not path.exists():
                lines = {"key": f"key:{secrets.token_hex(32)}"}
            else:
                users.load()
                lines = {line.partition(":")[0]: line for line in path.read_text(encoding="utf-8").splitlines() if line}
        yield lines
        with _named(str(path)):
            _replace(path, "".join(f"{line}\n" for line in lines.values()))
    finally:
        os.close(folder)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say of what could not be read or written which it was."""
    try:
        yield
    except OSError as error:
        raise UsersFileError(f"{what}: {_reason(error)}") from error


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
            name = found["name"]
            if name in _RESERVED:
                raise UsersFileError(f"{path}:{number}: no account can be named {name}; remove the line")
            if name in accounts:
                raise UsersFileError(f"{path}:{number}: a second account {name}; remove one of the lines")
            role: Literal["", "admin"] = "admin" if found["admin"] else ""
            if found["hash"] is None:
                accounts[name] = Account(name, "secret", bytes.fromhex(found["verifier"]), role=role)
            else:
                accounts[name] = Account(name, "password", found["hash"].encode(), bytes.fromhex(found["salt"]), role)
        else:
            raise UsersFileError(
                f"{path}:{number}: a broken line; it is NAME:secret:HEX or NAME:password:SALT:HASH, "
                "and :admin after it if that is the account's role, as clockd user writes it"
            )
    if key is None:
        raise UsersFileError(f"{path}: has no line key: and 64 hexadecimal digits; was it made by: clockd user add?")
    return key, accounts


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
