"""What a running server takes over of a configuration, users and certificates that have changed."""

from collections.abc import Callable
from datetime import UTC, datetime

from msgspec.structs import replace
from twisted.logger import Logger

from clockd.broker import ClockServerFactory
from clockd.certificate import ServerTLS
from clockd.config import Config
from clockd.errors import Misconfigured
from clockd.interfaces import IAccountStore
from clockd.users import UsersFile
from clockd.values import Tally

EXPIRY_SECONDS = 14 * 86400.0
"""A certificate that expires in less is warned of."""


class Reload:
    """Reads again what may change while the server runs; what is broken leaves in force what was read before.

    Args:
        config: What the server was built from; its limits, which all parts share, are changed in place.
        read: Reads the configuration again.
        taken: Is told a configuration of which something is in force now.
        factory: Knows the connections.
        users: The accounts.
        store: Remembers them.
        tls: What the certificates come from, or None without TLS.
        tally: Is told when the certificate expires.
        now: Unix seconds UTC by the host's wall clock.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        read: Callable[[], Config],
        taken: Callable[[Config], object],
        factory: ClockServerFactory,
        users: UsersFile,
        store: IAccountStore,
        tls: ServerTLS | None,
        tally: Tally,
        now: Callable[[], float],
    ) -> None:
        self._limits = config.limits
        self._config = replace(config, limits=replace(config.limits))  # what is compared with what is read
        self._read = read
        self._taken = taken
        self._factory = factory
        self._users = users
        self._store = store
        self._tls = tls
        self._tally = tally
        self._now = now

    def all(self) -> None:
        """Read the configuration, the users and the certificates again."""
        self._configuration()
        self.users()
        self._certificates()

    def users(self) -> None:
        """Read the users file again if it has changed; send away and forget accounts that are no more."""
        removed = self._users.refresh()
        self._factory.expel(removed)
        for account in removed:
            self._store.forget(account)

    def note_expiry(self) -> None:
        """Tell the tally when the certificate expires, and warn if that is soon, or was."""
        if self._tls is None:
            return
        expires = self._tally.tls_expiry = self._tls.expires
        if expires - self._now() < EXPIRY_SECONDS:
            self._log.warn(
                "{certificate}: is good until {moment} UTC only; put a newer one in its place, then send SIGHUP",
                certificate=str(self._tls.certificate),
                moment=f"{datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M}",
            )

    def _configuration(self) -> None:
        try:
            config = self._read()
        except Misconfigured as error:
            self._log.warn("the configuration read before stays in force: {error}", error=str(error))
            return
        changed = _changes(self._config, config)
        live = {key for key in changed if key.startswith("limits.") or key == "avatars.when_full"}
        if live:
            self._take(config)
            self._log.info("in force from now on: {keys}", keys=", ".join(sorted(live)))
        if others := changed - live:
            self._log.warn("changed, but in force only after a restart: {keys}", keys=", ".join(sorted(others)))
        if not changed:
            self._log.info("nothing of the configuration has changed")

    def _take(self, config: Config) -> None:
        for key in self._limits.__struct_fields__:
            setattr(self._limits, key, getattr(config.limits, key))
        self._factory.take_limits()
        self._taken(config)
        avatars = replace(self._config.avatars, when_full=config.avatars.when_full)
        self._config = replace(self._config, limits=replace(config.limits), avatars=avatars)

    def _certificates(self) -> None:
        if self._tls is None:
            return
        try:
            self._tls.reload()
        except Misconfigured as error:
            self._log.warn("the certificates read before stay in force: {error}", error=str(error))
        else:
            self._log.info("{certificate}: read again, with what belongs to it", certificate=str(self._tls.certificate))
        self.note_expiry()


def _changes(old: Config, new: Config) -> set[str]:
    """Return the keys that differ between two configurations, as `section.key`; of a feed, its section."""
    changed = set()
    for section in Config.__struct_fields__:
        before, after = getattr(old, section), getattr(new, section)
        if isinstance(after, dict):
            keys = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        else:
            keys = {key for key in after.__struct_fields__ if getattr(before, key) != getattr(after, key)}
        changed |= {f"{section}.{key}" for key in keys}
    return changed
