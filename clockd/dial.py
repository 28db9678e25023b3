"""How a command becomes a client: whom it dials, with which secret, and what it says where it is turned away.

Rules of this module: the client library is imported inside what needs it, as in `cli`.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from clockd.client import ClockClient

DEFAULT_PORT = 8787
"""Where `watch` looks for a server whose port was not said; the default of `server.listen`."""


def login_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `dialler`."""
    for option in (
        click.option("--tls-key", metavar="FILE", help="Its private key.  [default: in the same file]"),
        click.option("--tls-certificate", metavar="FILE", help="Use TLS, and show this certificate, PEM."),
        click.option("--tls-ca", metavar="FILE", help="Use TLS, and trust the authorities in this PEM file."),
        click.option("--tls", is_flag=True, help="Use TLS, and trust the system's authorities."),
        click.option(
            "--secret-file", type=click.Path(path_type=Path), help="Where the secret is.  [default: asks for it]"
        ),
    ):
        command = option(command)
    return command


def dialler(
    target: str,
    *,
    secret_file: Path | None,
    tls: bool,
    tls_ca: str | None,
    tls_certificate: str | None,
    tls_key: str | None,
) -> "partial[ClockClient]":
    """Return `connect`, with all but the reactor; asks for what it needs."""
    import getpass

    from clockd.client import ClientTLS, connect

    if tls_key is not None and tls_certificate is None:
        raise click.UsageError("--tls-key is the key of a certificate: give --tls-certificate, too")
    where = parse_target(target)
    protection = None
    if tls or tls_ca is not None or tls_certificate is not None:
        protection = ClientTLS(where.host, ca=tls_ca, certificate=tls_certificate, private_key=tls_key)
    name = secret = None
    if tls_certificate is None or where.name is not None or secret_file is not None:
        name, secret = where.name or getpass.getuser(), _secret(secret_file, target)
    return partial(connect, where.endpoint, name, secret, tls=protection)


class Target(NamedTuple):
    """What `[NAME@]HOST[:PORT]` says."""

    name: str | None
    host: str
    endpoint: str


def parse_target(target: str) -> Target:
    """Take `[NAME@]HOST[:PORT]` apart; HOST may be `[IPV6]`.

    Raises:
        click.BadParameter: It is of another form.
    """
    name, at, where = target.rpartition("@")
    if where.startswith("["):
        host, bracket, port = where[1:].partition("]")
        valid = bool(bracket) and (port.startswith(":") or not port)
        port = port[1:]
    else:
        host, colon, port = where.partition(":")
        valid = bool(port) or not colon
    try:
        host.encode("idna")
    except UnicodeError:
        valid = False
    if (
        not valid
        or not is_utf8(name)
        or not host
        or (at and not name)
        or (port and not (port.isdecimal() and 0 < int(port) < 65536))
    ):
        raise click.BadParameter(f"{target!r} is not [NAME@]HOST[:PORT], as in alice@localhost:8787")
    escaped = host.replace(":", "\\:")
    return Target(name or None, host, f"tcp:{escaped}:{port or DEFAULT_PORT}")


def _secret(file: Path | None, target: str) -> str:
    if file is not None:
        try:
            read = file.read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise click.BadParameter(f"{file}: cannot be read: {why}", param_hint="--secret-file") from error
        if not read:
            raise click.BadParameter(f"{file}: is empty", param_hint="--secret-file")
        return read
    secret = os.environ.get("CLOCKD_SECRET")
    if secret == "" or (secret is not None and not is_utf8(secret)):
        what = "empty" if secret == "" else "no UTF-8"
        raise click.UsageError(f"CLOCKD_SECRET is {what}: set it to the secret, or give --secret-file")
    if secret is not None:
        return secret
    if not sys.stdin.isatty():
        raise click.UsageError("there is no secret: give --secret-file or set CLOCKD_SECRET")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # Click says "Aborted!"
    try:
        return str(click.prompt(f"Secret of {target}", hide_input=True, err=True))
    finally:
        signal.signal(signal.SIGINT, before)


def is_utf8(word: str) -> bool:
    """Tell whether what the shell has given was UTF-8."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def login_explained(dial: "partial[ClockClient]") -> Iterator[None]:
    """Say with what a login was tried that failed."""
    from clockd.errors import ConnectionFailed, WrongCredentials

    _, name, _ = dial.args
    try:
        yield
    except WrongCredentials as error:
        if name is None:
            raise
        raise WrongCredentials(f"{error} (as {name})") from error
    except ConnectionFailed as error:
        if dial.keywords["tls"] is not None or not str(error).startswith("no session"):
            raise
        raise ConnectionFailed(f"{error} or does it want --tls?") from error


@asynccontextmanager
async def feed_explained(feed: str, clock: "ClockClient") -> AsyncIterator[None]:
    """Say which feeds there are where one is unknown."""
    from clockd.errors import UnknownFeed

    try:
        yield
    except UnknownFeed as error:
        there = ", ".join(await clock.feeds())
        raise UnknownFeed(f"there is no feed {feed}; those that you may read: {there}") from error
