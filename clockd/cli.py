"""A command line becomes one call: the group of all commands, and those of the server's side.

Rules of this module: Twisted, `config`, `service` and whatever else only some commands need is imported inside them:
Twisted alone takes a third of a second, and `clockd health` runs every few seconds.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clockd import __version__
from clockd.accounts import show, user
from clockd.administration import kick, top
from clockd.outcome import drive, one_sentence, quiet_without_readers
from clockd.publish import publish
from clockd.watch import watch

if TYPE_CHECKING:
    from clockd.config import Config, Flags

FIRST_ACCOUNT = "clockd"
"""The account that `serve --init` makes."""

config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="Configuration in TOML; without it the defaults hold."
)


@click.group(commands=[user, watch, publish, top, kick], context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="clockd", message="%(prog)s %(version)s")
def main() -> None:
    """Push the time to Perspective Broker clients, each at the rate it chose.

    \b
    Examples:
      clockd demo                                see it work, in one terminal
      clockd user add alice                      make an account
      clockd serve                               listen on ports of 127.0.0.1
      clockd watch alice@localhost --period 0.5  print the time as it is pushed
      clockd publish alice@localhost load 0.7    put a value of a feed in force
      clockd top operator@localhost              see who is connected

    Exit codes: 0 done, 1 it could not be done, 2 a mistake in the command line, configuration or users file.
    """


@main.command()
@config_option
@click.option("--listen", multiple=True, metavar="ENDPOINT", help="As server.listen; may be given more than once.")
@click.option("--metrics-listen", metavar="ENDPOINT", help="As metrics.listen.")
@click.option("--users", metavar="FILE", help="As auth.users.")
@click.option("--state", metavar="FILE", help="As server.state; empty to keep nothing.")
@click.option("--init", is_flag=True, help="Make an absent users file, with one account; print its secret, once.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def serve(
    config: Path | None,
    listen: tuple[str, ...],
    metrics_listen: str | None,
    users: str | None,
    state: str | None,
    init: bool,
    log_format: str,
) -> None:
    """Run the server until SIGTERM or SIGINT.

    SIGHUP has it read configuration, users and certificates again. Flags win over the environment (CLOCKD_SECTION_KEY),
    the environment over the configuration file.

    \b
    Examples:
      clockd serve --config clockd.toml
      clockd serve --users /etc/clockd/users --listen tcp:8787
      CLOCKD_LIMITS_MIN_PERIOD=0.1 clockd serve --log-format json
    """
    with one_sentence():
        from clockd.config import load, told_where
        from clockd.logs import begin_logging

        given = {
            ("server", "listen"): list(listen) or None,
            ("metrics", "listen"): metrics_listen,
            ("auth", "users"): users,
            ("server", "state"): state,
        }
        flags = {key: value for key, value in given.items() if value is not None}
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read again
        begin_logging(log_format, sys.stderr)
        settings = load(config, flags=flags)
        if init:
            _first_account(Path(settings.auth.users))
        with told_where(config, flags=flags):
            drive(lambda reactor: _serve(settings, config, flags, reactor), endless=True)


@main.command()
def demo() -> None:
    """Show the time being pushed: a server and a subscriber, here.

    The server has an account made for the occasion. It listens on the default ports of 127.0.0.1, or on free ones where
    these are taken; nothing stays behind.
    """
    with one_sentence():
        from clockd.demo import demonstrate
        from clockd.logs import begin_logging

        begin_logging("text", sys.stderr, "warn")
        with quiet_without_readers():
            drive(partial(demonstrate, click.echo, time.time), endless=True)
            click.echo("\nstopped")


@main.command()
@config_option
def check(config: Path | None) -> None:
    """Check the configuration and the files that it names; start nothing.

    They are read as `serve` reads them: run it as the server's user, and in its working directory. Exits 0, or 2 with
    `FILE: section.key: what is wrong`. What may be wrong is told too, and is no error: accounts of feeds that are not
    in the users file, and variables like CLOCKD_SECTION_KEY that look like a mistyped one.
    """
    with one_sentence():
        from twisted.internet import reactor

        from clockd.config import load, told_where
        from clockd.logs import begin_logging
        from clockd.service import check_service

        begin_logging("text", sys.stderr, "warn")
        settings = load(config)
        with told_where(config):
            check_service(settings, reactor, time.time).note_expiry()
        for remark in _remarks(settings):
            click.echo(f"{config}: {remark}", err=True)
        click.echo(f"{config or 'defaults'}: good")


@main.command()
@click.argument("url", required=False)
def health(url: str | None) -> None:
    """Exit 0 if the server at URL is ready, else 1.

    Without URL, /readyz is asked of the address in CLOCKD_METRICS_LISTEN, else of the default port of this host.
    """
    from clockd.health import health_url, ready

    answer = ready(url or health_url(os.environ.get("CLOCKD_METRICS_LISTEN", "")))
    with one_sentence():
        click.echo(answer.text, err=not answer.ok)
    sys.exit(0 if answer.ok else 1)


def _first_account(users: Path) -> None:
    from clockd.users import add_account

    if not users.exists():
        said = f"{users}: made, with the account {FIRST_ACCOUNT}; its secret, shown only now: "
        add_account(users, FIRST_ACCOUNT, show=lambda secret: show(said + secret))


async def _serve(config: "Config", file: Path | None, flags: "Flags", reactor: Any) -> None:
    from twisted.internet.defer import Deferred

    from clockd.notify import supervisor_of
    from clockd.process import on_stop_signals, raise_descriptors, reload_on_hangup, tame_collector
    from clockd.service import make_service, read_again

    again = partial(read_again, file, flags, reactor, time.time)
    supervisor = supervisor_of(os.environ, os.getpid())
    service = make_service(config, reactor, time.time, again, supervisor=supervisor)
    reload_on_hangup(service.reload, reactor)
    service.startService()
    await service.ready
    service.make_room(raise_descriptors())
    tame_collector()
    try:
        await Deferred()
    finally:
        on_stop_signals(service.hasten, reactor)
        await service.stopService()


def _remarks(config: "Config") -> Iterator[str]:
    """Return what sections of feeds say in vain: an account that there is not, and to retain where nothing is kept."""
    from clockd.users import ANONYMOUS, UsersFile
    from clockd.values import EVERYBODY

    users = UsersFile(Path(config.auth.users))
    users.load()
    known = {EVERYBODY, ANONYMOUS, *(account.name for account in users.accounts())}
    for name, feed in config.feeds.items():
        for key in ("read", "publish"):
            for account in getattr(feed, key, ()):
                if account not in known:
                    yield f"feeds.{name}.{key}: there is no account {account} in {config.auth.users}"
        if getattr(feed, "retain", False) and not config.server.state:
            yield f"feeds.{name}.retain: its newest sample is lost at a stop; name a file in server.state"
