"""`clockd user`: the accounts of a users file, made, changed, removed and listed.

Rules of this module: what only some commands need is imported inside them, as in `cli`.
"""

import sys
from pathlib import Path

import click

from clockd.outcome import one_sentence

users_option = click.option(
    "--users",
    type=click.Path(path_type=Path),
    envvar="CLOCKD_AUTH_USERS",
    help="The users file.  [default: users]",
)
password_option = click.option(
    "--password-stdin",
    is_flag=True,
    help="Take a password from standard input, one line, instead of making a secret.",
)

PASSWORD_BYTES = 1024
"""Longest password."""


@click.group()
def user() -> None:
    """Make, change and list the accounts of a users file.

    A running server reads the file again when it has changed.
    """


@user.command()
@click.argument("name")
@users_option
@password_option
@click.option("--role", type=click.Choice(["admin"]), help="May see and close connections: clockd top, clockd kick.")
def add(name: str, users: Path | None, password_stdin: bool, role: str | None) -> None:
    """Make an account and print its secret, once.

    If there is no users file it is made, too. With --password-stdin the account has a password instead, and nothing is
    printed. Passwords are taken over TLS, a Unix socket or loopback only.

    An account that there is becomes an administrator's when its line in the users file is made to end in :admin, and
    ceases to be one when that is removed.

    \b
    Examples:
      clockd user add --users users alice
      clockd user add --users users bob --password-stdin < bob.password
      clockd user add --users users operator --role admin
    """
    with one_sentence():
        from clockd.users import add_account, add_password_account

        if password_stdin:
            from clockd.passwords import new_hasher

            add_password_account(_users(users), name, _password(), new_hasher().hash, admin=role == "admin")
            return
        add_account(_users(users), name, admin=role == "admin", show=show)


@user.command()
@click.argument("name")
@users_option
@password_option
def passwd(name: str, users: Path | None, password_stdin: bool) -> None:
    """Give an account a new secret and print it, once.

    The old one is good for no login any more. With --password-stdin the account has that password instead. What an
    account had before, secret or password, ends; its role stays.
    """
    with one_sentence():
        from clockd.users import change_password, renew_secret

        if password_stdin:
            from clockd.passwords import new_hasher

            change_password(_users(users), name, _password(), new_hasher().hash)
        else:
            renew_secret(_users(users), name, show)


@user.command()
@click.argument("name")
@users_option
def remove(name: str, users: Path | None) -> None:
    """Remove an account."""
    with one_sentence():
        from clockd.users import remove_account

        remove_account(_users(users), name)


@user.command("list")
@users_option
def list_(users: Path | None) -> None:
    """Print all accounts, a line each: name, proof, role."""
    with one_sentence():
        from clockd.users import UsersFile

        file = UsersFile(_users(users))
        file.load()
        for account in file.accounts():
            click.echo(f"{account.name} {account.kind} {account.role}".rstrip())


def show(secret: str) -> None:
    """Print a secret, which nobody can do later.

    Raises:
        OSError: It cannot be printed.
    """
    if sys.stdout is None:
        raise OSError("standard output is closed, where a secret is printed, once")
    click.echo(secret)


def _users(users: Path | None) -> Path:
    from clockd.config import Auth

    return Path(Auth().users) if users is None else users


def _password() -> bytes:
    """Read a line from standard input."""
    line = b"" if sys.stdin is None else sys.stdin.buffer.readline(PASSWORD_BYTES + 3)
    password = line.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(password) <= PASSWORD_BYTES or password.decode(errors="replace").encode() != password:
        raise click.BadParameter(
            f"a password is one line of 1 to {PASSWORD_BYTES} bytes of UTF-8 on standard input: "
            "give it as in --password-stdin < FILE",
            param_hint="--password-stdin",
        )
    return password
