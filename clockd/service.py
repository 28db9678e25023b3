"""The composition root: every object from a `Config`, hung on a `MultiService`."""

import gc
import os
import re
from collections.abc import Callable
from contextlib import suppress
from errno import EADDRINUSE, EADDRNOTAVAIL
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.application.internet import TimerService
from twisted.application.service import MultiService, Service
from twisted.cred.checkers import AllowAnonymousAccess, ICredentialsChecker
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults, maybeDeferred, succeed
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorTime, IStreamServerEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from clockd import __version__
from clockd.auth import AccountChecker, CertificateChecker
from clockd.broker import SWEEPS, ClockServerFactory, printable_address
from clockd.certificate import ServerTLS
from clockd.config import Config, Flags, Tls, load_again, told_where
from clockd.desk import FeedDesk
from clockd.errors import CannotListen, Misconfigured
from clockd.hostclock import HostClock, kernel_clock, since_boot
from clockd.interfaces import IAccountStore
from clockd.lag import LagWatch
from clockd.logs import count_errors
from clockd.metrics import MetricsPage, TallyCollector
from clockd.notify import Supervisor
from clockd.pace import LOOKS, Pace
from clockd.page import StatusBoard, page_url
from clockd.passwords import PasswordPool, new_hasher
from clockd.pulse import Pulse
from clockd.realm import ClockRealm, Roster
from clockd.reload import Reload
from clockd.schedule import Schedule
from clockd.site import AlivePage, NewestStay, PageSite, ReadinessPage
from clockd.sources import make_feeds
from clockd.store import MemoryStore, SQLiteStore, Unusable, examine
from clockd.transport import TLSFactory, prepare
from clockd.users import UsersFile
from clockd.values import Readiness, Tally

T = TypeVar("T")

SECOND = 1.0
"""Seconds between the service's looks at its connections and at its own pace."""

LINGERING = 1000
"""As many connections that have ended and are still in memory are worth a full collection, which stops the loop."""

CLOSING_SECONDS = 1.0
"""As long at least is waited for the store at the end; a disk that hangs must not hold up the stop."""

RESERVED_DESCRIPTORS = 128
"""Kept for all that is no connection of a subscriber."""

LATE_SECONDS = 0.25
"""The service is not ready while its mean lateness in the last ten seconds is above this."""

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
        store: Remembers accounts and samples.
        reload: Reads again what may change.
        tally: What has happened so far.
        clock: Monotonic time and delayed calls.
        pace: Tells how late pushes are.
        drain: As long may clients take to leave when it stops, in seconds.
        tell: Says to the process's supervisor what sd_notify(3) knows.

    Attributes:
        tally: As given.
        ready: Fires with the listening ports, Perspective Broker's first and HTTP's last, when all listen; fails
            with `CannotListen` when one cannot. Set by `startService`.
    """

    _log = Logger()

    def __init__(
        self,
        factory: ClockServerFactory,
        store: IAccountStore,
        reload: Reload,
        tally: Tally,
        clock: IReactorTime,
        pace: Pace,
        drain: float,
        has_page: bool,
        tell: Callable[..., object],
    ) -> None:
        super().__init__()
        self._factory = factory
        self._store = store
        self._reload = reload
        self.tally = tally
        self._clock = clock
        self._pace = pace
        self._drain = drain
        self._has_page = has_page
        self._tell = tell
        self._stopped: Deferred[None] | None = None
        self._emptied: Deferred[None] = succeed(None)  # fires when all have left
        self._parts_run = False
        self.ready: Deferred[list[IListeningPort]] = Deferred()
        self._state = "starting"
        self._lateness = 0.0
        self._observer = count_errors(self._count_error)

    def note_expiry(self) -> None:
        """Warn if the certificate expires soon, or has."""
        self._reload.note_expiry()

    def startService(self) -> None:
        """Start everything; see `ready`."""
        self.note_expiry()
        globalLogPublisher.addObserver(self._observer)
        self.ready = Deferred()
        self._stopped = None
        self._enter("starting")
        Service.startService(self)
        self._store.open().addCallback(self._opened)

    def _opened(self, _: None) -> None:
        """Start all parts, now that what is remembered has been read."""
        if self._state != "starting":  # it was stopped meanwhile
            return
        self._parts_run = True
        for service in self:
            service.startService()
        listening = [listener.listening for listener in self._listeners()]
        gatherResults(listening, consumeErrors=True).addCallbacks(self._listening, self._failed)

    async def _stop(self) -> None:
        self._enter("draining")
        self._tell("STOPPING=1", "STATUS=draining")
        self._log.info("clockd stops, in {seconds:g} s at the latest", seconds=self._drain)
        until = self._clock.seconds() + self._drain
        *brokers, _ = self._listeners()  # HTTP goes on: it says that the server drains
        for listener in brokers:
            await listener.stopService()
        self._store.save()  # so that a server that takes over finds it
        self._emptied = self._factory.drain()
        with suppress(TimedOut, CancelledError):
            await self._emptied.addTimeout(self._drain, self._clock)
        self._enter("stopping")
        self._factory.end_all()
        await maybeDeferred(super().stopService if self._parts_run else partial(Service.stopService, self))
        self._parts_run = False
        with suppress(TimedOut):
            await self._store.close().addTimeout(max(CLOSING_SECONDS, until - self._clock.seconds()), self._clock)
        globalLogPublisher.removeObserver(self._observer)

    def stopService(self) -> Deferred[None]:
        """Have all clients leave, then close what is left; fires when all is closed. Nothing, if it was not started."""
        if self._stopped is None:
            self._stopped = Deferred.fromCoroutine(self._stop()) if self.running else succeed(None)
        stopped: Deferred[None] = Deferred()
        self._stopped.chainDeferred(stopped)
        return stopped

    def hasten(self) -> None:
        """Wait for no client any more, if the server drains."""
        self._emptied.cancel()

    def trouble(self) -> str | None:
        """Return what keeps the service from being ready, or None."""
        if self._state != "serving":
            return self._state
        if self._lateness > LATE_SECONDS:
            return f"pushing late: by {self._lateness:.3f} s on average in the last {LOOKS} seconds"
        return None

    def readiness(self) -> Readiness:
        """Return whether the service is ready, and why not."""
        trouble = self.trouble()
        reason = None if trouble is None else "late" if self._state == "serving" else self._state
        return Readiness(
            reason is None,
            reason,
            trouble or "ready",
            self.remark(),
            round(self._lateness, 6),
            LATE_SECONDS,
            __version__,
        )

    def reload(self) -> None:
        """Read the configuration, users and certificates again; what is broken leaves the old in force."""
        if self._state != "serving":  # a supervisor waits for the first READY=1, or for the end
            self._reload.all()
            return
        self._tell("RELOADING=1")
        try:
            self._reload.all()
        finally:
            self._tell("READY=1")

    def remark(self) -> str | None:
        """Return what the operator should look after though the service is ready, or None."""
        return None if self._store.trouble is None else f"store: {self._store.trouble}"

    def make_room(self, descriptors: int) -> None:
        """Have no more connections than there are descriptors for.

        Args:
            descriptors: As many may be open.
        """
        lobby = self._factory.lobby
        lobby.room = most = max(1, descriptors - RESERVED_DESCRIPTORS)
        self.tally.connections_limit = lobby.most
        if lobby.limits.connections > most:
            self._log.warn(
                "limits.connections is lowered from {limit} to {most}: only {descriptors} descriptors may be open",
                limit=lobby.limits.connections,
                most=most,
                descriptors=descriptors,
            )

    def look(self, collector: TallyCollector) -> None:
        """Look after connections and pace; called once a second."""
        collector.remember()
        if len(self._factory.ended) >= LINGERING:
            self._factory.ended.clear()
            gc.collect()
        self._lateness = self._pace.look()
        self.tally.store_up = self._store.trouble is None
        self.tally.ready = self.trouble() is None
        self.tally.connections_limit = self._factory.lobby.most

    def _enter(self, state: str) -> None:
        self._state = state
        self.tally.ready = self.trouble() is None

    def status(self, pulse: Pulse) -> str:
        """Return how it is, in a line; the rate is that since the line before."""
        reading = pulse.take()
        return f"{self._state}: {reading['avatars']} avatars, {reading['push_achieved_hertz']:.0f} pushes/s"

    def _listeners(self) -> list[Listener]:
        return [service for service in self if isinstance(service, Listener)]

    def _listening(self, ports: list[IListeningPort]) -> None:
        self._enter("serving")
        self._tell("READY=1", "STATUS=serving")
        *brokers, metrics = [printable_address(port.getHost()) for port in ports]
        self._log.info(
            "clockd {version} pushes the time on {brokers}; metrics are on {metrics}",
            version=__version__,
            brokers=", ".join(brokers),
            metrics=metrics,
        )
        url = page_url(ports[-1].getHost())
        if self._has_page and url is not None:
            self._log.info("the status page is {url}", url=url)
        self.ready.callback(ports)

    def _failed(self, failure: Failure) -> None:
        self.ready.errback(failure.value.subFailure if isinstance(failure.value, FirstError) else failure)

    def _count_error(self) -> None:
        self.tally.unhandled_errors += 1


def make_service(
    config: Config,
    reactor: Any,
    now: Callable[[], float],
    read_config: Callable[[], Config] | None = None,
    local: Callable[[], float] = since_boot,
    supervisor: Supervisor | None = None,
) -> ClockService:
    """Build a clockd that is ready to be started.

    Args:
        config: What to build.
        reactor: A Twisted reactor whose `seconds` is monotonic; also what tests put in its place.
        now: Unix seconds UTC by the host's wall clock.
        read_config: Reads the configuration again, if there is anything to be read.
        local: Seconds of a clock that nobody steps and that goes on in suspend.
        supervisor: Is told how it goes.

    Raises:
        Misconfigured: A users file, an endpoint, or a source of a feed that cannot be used.
    """
    tally = Tally()
    tally.feed("time")
    users = UsersFile(Path(config.auth.users))
    users.load()
    store = _store(config.server.state, tally, reactor, now)
    feeds, sources = make_feeds(config.feeds, tally, store, reactor, now)
    schedule = Schedule(reactor, tally.lateness)
    desk = FeedDesk(feeds, schedule, config.limits, tally)
    roster = Roster(config.limits, config.avatars.when_full, reactor, now, users.role_of)
    host = HostClock(kernel_clock(), now, local, tally)
    realm = ClockRealm(config.avatars.sharing, roster, desk, store, host, tally)

    def taken(config: Config) -> None:
        roster.when_full = config.avatars.when_full

    service = make_realm_service(
        realm,
        config,
        schedule,
        tally,
        reactor,
        now,
        users=users,
        store=store,
        host=host,
        read_config=read_config,
        taken=taken,
        supervisor=supervisor,
    )
    for source in sources:
        source.setServiceParent(service)
    return service


def check_service(config: Config, reactor: Any, now: Callable[[], float]) -> ClockService:
    """Build a clockd that nobody starts, to see whether it could be; nothing is changed by that.

    Args:
        config: As for `make_service`.
        reactor: As for `make_service`.
        now: As for `make_service`.

    Raises:
        Misconfigured: As for `make_service`; or what is to be remembered cannot be kept.
    """
    service = make_service(config, reactor, now)
    state = config.server.state
    if state:
        try:
            examine(Path(state))
        except Unusable as error:
            raise Misconfigured(f"server.state: {state}: {error}") from error
    return service


def read_again(file: Path | None, flags: Flags | None, reactor: Any, now: Callable[[], float]) -> Config:
    """Read once more the configuration of a server that runs.

    Args:
        file: As for `load`.
        flags: As for `load`.
        reactor: As for `make_service`.
        now: As for `make_service`.

    Raises:
        Misconfigured: It cannot be read, or a server of it could not be started.
    """
    config = load_again(file, flags)
    with told_where(file, flags=flags):
        check_service(config, reactor, now)
    gc.collect(1)  # else a service that became old while it was built would stay for good: see `tame_collector`
    return config


def make_realm_service(
    realm: IRealm,
    config: Config,
    schedule: Schedule,
    tally: Tally,
    reactor: Any,
    now: Callable[[], float],
    *,
    users: UsersFile | None = None,
    store: IAccountStore | None = None,
    host: HostClock | None = None,
    read_config: Callable[[], Config] | None = None,
    taken: Callable[[Config], object] = lambda _: None,
    supervisor: Supervisor | None = None,
) -> ClockService:
    """Build what a clockd is beside its realm and feeds: listeners, TLS, accounts, limits and metrics.

    A program with a realm of its own begins here; those in `examples/` do. The realm is asked for `pb.IPerspective`,
    with an `IClient` as the mind, and returns an `ISession`. What it would have called at a time joins the schedule. Of
    each feed it calls `tally.feed` before it pushes.

    Args:
        realm: Makes a session of each login.
        config: What to build; its feeds and avatars, and the limits of an account and of subscriptions, are the
            realm's affair. Its limits are shared by all parts, and change when the configuration is read again.
        schedule: On the reactor given here.
        tally: Where everything is counted.
        reactor: As for `make_service`.
        now: As for `make_service`.
        users: The accounts, loaded, if the realm knows them; else those of `config.auth`.
        store: What the realm remembers things in, if it does: opened before anything starts, closed when all has ended.
        host: This host's clock, if the realm knows it; its steps are told to clients.
        read_config: As for `make_service`.
        taken: Is told a configuration whose limits or avatars have changed, for the realm's part in it.
        supervisor: As for `make_service`.

    Raises:
        Misconfigured: A users file or an endpoint that cannot be used.
    """
    clock: IReactorTime = reactor
    if users is None:
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
    host = host or HostClock(kernel_clock(), now, since_boot, tally)
    host.stepped = factory.stepped
    schedule.prelude = host.look
    store = store or MemoryStore()
    reload = Reload(config, read_config or (lambda: config), taken, factory, users, store, tls, tally, now)
    tell = (lambda *_: None) if supervisor is None else supervisor.tell
    pace = Pace(schedule)
    service = ClockService(factory, store, reload, tally, clock, pace, config.server.drain, config.metrics.page, tell)
    passwords.setServiceParent(service)
    pace.setServiceParent(service)
    collector = TallyCollector(tally, clock)

    def listen(key: str, description: str, protocols: IProtocolFactory) -> None:
        endpoint = _endpoint(key, description, reactor)
        Listener(key, description, endpoint, protocols, config.limits.stale_seconds).setServiceParent(service)

    for description in config.server.listen:
        listen("server.listen", description, factory)
    if tls is not None:
        for description in config.tls.listen:
            listen("tls.listen", description, TLSFactory(tls, factory, clock, factory.took))
    pages: dict[str, Resource] = {
        "metrics": MetricsPage(collector, partial(_in_thread, reactor), schedule.catch_up),
        "healthz": AlivePage(),
        "readyz": ReadinessPage(service.readiness),
    }
    timers = [
        TimerService(SECOND, service.look, collector),
        TimerService(SECOND, reload.users),
        TimerService(SECOND, host.attend),
        TimerService(SECOND / SWEEPS, factory.sweep),
    ]
    if config.metrics.page:
        board = StatusBoard(tally, host, service.readiness, clock, now, schedule.catch_up)
        board.setServiceParent(service)
        pages |= board.pages
        timers.append(TimerService(SECOND, board.look))
    listen("metrics.listen", config.metrics.listen, NewestStay(PageSite(pages, clock, schedule.catch_up)))
    if supervisor is not None:
        supervisor.setServiceParent(service)
        pulse = Pulse(tally, clock)
        live = supervisor.live
        timers.append(TimerService(supervisor.seconds, lambda: live(service.status(pulse))))
    for timer in timers:
        timer.clock = clock
        timer.setServiceParent(service)
    LagWatch(reactor, tally.lag).setServiceParent(service)
    return service


def _store(state: str, tally: Tally, reactor: Any, now: Callable[[], float]) -> IAccountStore:
    def failed() -> None:
        tally.store_errors += 1

    return SQLiteStore(Path(state), reactor, now, failed) if state else MemoryStore()


def _in_thread(reactor: Any, call: Callable[[], T]) -> Deferred[T]:
    """Call something that takes a while in a thread of the reactor's pool."""
    return deferToThreadPool(reactor, reactor.getThreadPool(), call)


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
        (r".* got an unexpected keyword argument '(.*?)'.*", r"it has no \1"),  # 3.13 has a hint behind it
        (r".* missing \d+ required positional argument: '(.*)'", r"the \1 is missing"),
        (r".* takes from \d+ to \d+ positional arguments but .*", "it has too many parts"),
    ):
        if found := re.fullmatch(pattern, words):
            return found.expand(plain)
    return words
