"""The composition root: every object from a `Config`, hung on a `MultiService`."""

import gc
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from errno import EADDRINUSE, EADDRNOTAVAIL
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.application.internet import TimerService
from twisted.application.service import MultiService, Service
from twisted.cred.checkers import AllowAnonymousAccess, ICredentialsChecker
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, FirstError, gatherResults, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorTime, IStreamServerEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from clockd import __version__
from clockd.auth import AccountChecker, CertificateChecker
from clockd.broker import SWEEPS, ClockServerFactory, printable_address
from clockd.certificate import ServerTLS
from clockd.config import Config, Tls
from clockd.errors import CannotListen, Misconfigured
from clockd.logs import count_errors
from clockd.metrics import NewestStay, TallyCollector, metrics_site
from clockd.passwords import PasswordPool, new_hasher
from clockd.pulse import mean_since
from clockd.realm import ClockRealm, FeedDesk, Roster
from clockd.schedule import Schedule
from clockd.sources import make_feeds
from clockd.transport import TLSFactory, prepare
from clockd.users import UsersFile
from clockd.values import Tally

T = TypeVar("T")

SECOND = 1.0
"""Seconds between the service's looks at its connections and at its own pace."""

LINGERING = 1000
"""As many connections that have ended and are still in memory are worth a full collection, which stops the loop."""

RESERVED_DESCRIPTORS = 64
"""Kept for all that is no connection of a subscriber."""

EXPIRY_SECONDS = 14 * 86400.0
"""A certificate that expires in less is warned of."""

LATE_SECONDS = 0.25
"""Mean lateness of the pushes of one second from which on the service is not ready."""

_ADVICE = {
    EADDRINUSE: "is another server there? choose another address",
    EADDRNOTAVAIL: "this host has no such address",
}


class Listener(Service):
    """Listens on one endpoint while it runs.

    Args:
        key: The configuration key, for errors.
        description: The endpoint as the operator wrote it.
        endpoint: Where to listen.
        factory: Makes the protocols.
        lost_seconds: A peer that the network has not reached for so long is lost, in seconds.

    Attributes:
        listening: Fires with the port, or fails with `CannotListen`; set by `startService`.
    """

    def __init__(
        self,
        key: str,
        description: str,
        endpoint: IStreamServerEndpoint,
        factory: IProtocolFactory,
        lost_seconds: float,
    ) -> None:
        self._key = key
        self._description = description
        self._endpoint = endpoint
        self._factory = factory
        self._lost_seconds = lost_seconds
        self._port: IListeningPort | None = None
        self.listening: Deferred[IListeningPort] = Deferred()

    def startService(self) -> None:
        """Begin to listen."""
        super().startService()
        self.listening = Deferred()
        self._endpoint.listen(self._factory).addCallbacks(self._opened, self._failed)

    def stopService(self) -> Deferred[None]:
        """Listen no more; fires when the port is closed."""
        super().stopService()
        port, self._port = self._port, None
        closing = None if port is None else port.stopListening()
        return succeed(None) if closing is None else closing

    def _opened(self, port: IListeningPort) -> None:
        if not self.running:  # it was stopped meanwhile
            port.stopListening()
            return
        self._port = port
        prepare(port, self._lost_seconds)
        self.listening.callback(port)

    def _failed(self, failure: Failure) -> None:
        reason = failure.value.socketError if isinstance(failure.value, CannotListenError) else failure.value
        what = getattr(reason, "strerror", None) or str(reason)
        advice = _ADVICE.get(getattr(reason, "errno", 0), "choose another address")
        self.listening.errback(CannotListen(f"{self._key}: {self._description}: {what}; {advice}"))


class ClockService(MultiService):
    """A whole clockd.

    Args:
        factory: Knows the connections.
        tally: What has happened so far.
        tls: What the certificates come from, or None without TLS.
        now: Unix seconds UTC by the host's wall clock.

    Attributes:
        tally: As given.
        ready: Fires with the listening ports, Perspective Broker's first and HTTP's last, when all listen; fails
            with `CannotListen` when one cannot. Set by `startService`.
    """

    _log = Logger()

    def __init__(
        self, factory: ClockServerFactory, tally: Tally, tls: ServerTLS | None, now: Callable[[], float]
    ) -> None:
        super().__init__()
        self._factory = factory
        self.tally = tally
        self._tls = tls
        self._now = now
        self.ready: Deferred[list[IListeningPort]] = Deferred()
        self._state = "starting"
        self._lateness = 0.0
        self._observed = (0, 0.0)
        self._observer = count_errors(self._count_error)

    def startService(self) -> None:
        """Start everything; see `ready`."""
        globalLogPublisher.addObserver(self._observer)
        self.ready = Deferred()
        self._state = "starting"
        super().startService()
        listening = [service.listening for service in self if isinstance(service, Listener)]
        gatherResults(listening, consumeErrors=True).addCallbacks(self._listening, self._failed)

    async def _stop(self) -> None:
        self._state = "stopping"
        self._log.info("clockd stops")
        self._factory.end_all()
        await maybeDeferred(super().stopService)
        globalLogPublisher.removeObserver(self._observer)

    def stopService(self) -> Deferred[None]:
        """Close every connection and port; fires when all is closed. Nothing, if it was not started."""
        if not self.running:
            return succeed(None)
        return Deferred.fromCoroutine(self._stop())

    def trouble(self) -> str | None:
        """Return what keeps the service from being ready, or None."""
        if self._state != "serving":
            return self._state
        if self._lateness > LATE_SECONDS:
            return f"pushing late: {self._lateness:.3f} s on average in the last second"
        return None

    def reload(self) -> None:
        """Read certificates and keys again, for the connections to come; broken ones leave the old in force."""
        if self._tls is None:
            return
        try:
            self._tls.reload()
        except Misconfigured as error:
            self._log.warn("the certificates read before stay in force: {error}", error=str(error))
        else:
            self._log.info("{certificate}: read again, with what belongs to it", certificate=str(self._tls.certificate))
        self.note_expiry()

    def note_expiry(self) -> None:
        """Tell the tally when the certificate expires, and warn if that is soon, or was."""
        if self._tls is None:
            return
        expires = self.tally.tls_expiry = self._tls.expires
        if expires - self._now() < EXPIRY_SECONDS:
            self._log.warn(
                "{certificate}: is good until {moment} UTC only; put a newer one in its place, then send SIGHUP",
                certificate=str(self._tls.certificate),
                moment=f"{datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M}",
            )

    def make_room(self, descriptors: int) -> None:
        """Have no more connections than there are descriptors for.

        Args:
            descriptors: As many may be open.
        """
        lobby, most = self._factory.lobby, max(1, descriptors - RESERVED_DESCRIPTORS)
        if lobby.limits.connections > most:
            self._log.warn(
                "limits.connections is lowered from {limit} to {most}: only {descriptors} descriptors may be open",
                limit=lobby.limits.connections,
                most=most,
                descriptors=descriptors,
            )
            lobby.limits = replace(lobby.limits, connections=most)

    def look(self, collector: TallyCollector) -> None:
        """Look after connections and pace; called once a second."""
        collector.remember()
        if len(self._factory.ended) >= LINGERING:
            self._factory.ended.clear()
            gc.collect()
        self._lateness, self._observed = mean_since(self._observed, self.tally.lateness)

    def _listening(self, ports: list[IListeningPort]) -> None:
        self._state = "serving"
        *brokers, metrics = [printable_address(port.getHost()) for port in ports]
        self._log.info(
            "clockd {version} pushes the time on {brokers}; metrics are on {metrics}",
            version=__version__,
            brokers=", ".join(brokers),
            metrics=metrics,
        )
        self.ready.callback(ports)

    def _failed(self, failure: Failure) -> None:
        self.ready.errback(failure.value.subFailure if isinstance(failure.value, FirstError) else failure)

    def _count_error(self) -> None:
        self.tally.unhandled_errors += 1


def make_service(config: Config, reactor: Any, now: Callable[[], float]) -> ClockService:
    """Build a clockd that is ready to be started.

    Args:
        config: What to build.
        reactor: A Twisted reactor whose `seconds` is monotonic; also what tests put in its place.
        now: Unix seconds UTC by the host's wall clock.

    Raises:
        Misconfigured: A users file, an endpoint, or a source of a feed that cannot be used.
    """
    clock: IReactorTime = reactor
    tally = Tally()
    tally.feed("time")

    def in_thread(call: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), call)

    feeds, sources = make_feeds(config.feeds, tally, reactor, now)
    schedule = Schedule(clock, tally.lateness)
    desk = FeedDesk(feeds, schedule, config.limits, tally)
    realm = ClockRealm(Roster(config.limits.connections_per_account), desk, tally)
    users = UsersFile(Path(config.auth.users))
    users.load()
    passwords = PasswordPool(reactor, new_hasher(), len(os.sched_getaffinity(0)))
    accounts = AccountChecker(users, passwords.fits)
    checkers: list[ICredentialsChecker] = [accounts, CertificateChecker(users)]
    if config.auth.anonymous:
        checkers.append(AllowAnonymousAccess())
    factory = ClockServerFactory(
        Portal(realm, checkers),
        schedule,
        config.limits,
        tally,
        clock,
        now,
        config.auth.anonymous,
        accounts.challenge,
    )
    tls = _server_tls(config.tls)
    service = ClockService(factory, tally, tls, now)
    service.note_expiry()
    for child in (passwords, *sources):
        child.setServiceParent(service)
    collector = TallyCollector(tally, clock)

    def listen(key: str, description: str, factory: IProtocolFactory) -> None:
        endpoint = _endpoint(key, description, reactor)
        Listener(key, description, endpoint, factory, config.limits.stale_seconds).setServiceParent(service)

    for description in config.server.listen:
        listen("server.listen", description, factory)
    if tls is not None:
        for description in config.tls.listen:
            listen("tls.listen", description, TLSFactory(tls, factory, clock, factory.took))
    site = metrics_site(collector, service.trouble, clock, in_thread, schedule.catch_up)
    listen("metrics.listen", config.metrics.listen, NewestStay(site))
    for timer in (
        TimerService(SECOND, service.look, collector),
        TimerService(SECOND, lambda: factory.expel(users.refresh())),
        TimerService(SECOND / SWEEPS, factory.sweep),
    ):
        timer.clock = clock
        timer.setServiceParent(service)
    return service


def _server_tls(config: Tls) -> ServerTLS | None:
    if not config.listen:
        return None
    client_ca = Path(config.client_ca) if config.client_ca else None
    return ServerTLS(Path(config.certificate), Path(config.private_key), client_ca)


def _endpoint(key: str, description: str, reactor: Any) -> IStreamServerEndpoint:
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:  # its parsers raise ValueError, TypeError, KeyError and more
        raise Misconfigured(
            f"{key}: {description}: is no Twisted endpoint such as tcp:8787:interface=127.0.0.1 ({_plainly(error)})"
        ) from error
    return endpoint


def _plainly(error: Exception) -> str:
    """Return what one of Twisted's parsers raised in the words of whoever wrote the endpoint."""
    words = str(error)
    for pattern, plain in (
        (r"invalid literal for int\(\) with base \d+: (.*)", r"\1 is no number"),
        (r".* got an unexpected keyword argument '(.*)'", r"it has no \1"),
        (r".* missing \d+ required positional argument: '(.*)'", r"the \1 is missing"),
        (r".* takes from \d+ to \d+ positional arguments but .*", "it has too many parts"),
    ):
        if found := re.fullmatch(pattern, words):
            return found.expand(plain)
    return words
