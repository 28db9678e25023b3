"""The life of one connection's login, as a state machine.

    greeting --challenge--> challenged --respond--> checking --admitted--> serving --left--> gone
        ^                                              |  |
        +-------------------- refused -----------------+  +--left--> abandoned --admitted--> gone
                                                       +--expelled--> gone

In stock PB a peer that leaves while its credentials are being checked leaves its avatar and timer behind for ever:
here such a login is `abandoned`, and logged out the moment it completes.

Rules of this module: every state answers every input; it knows nothing of PB, bytes or sockets.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from automat import TypeMachineBuilder
from twisted.cred.credentials import Anonymous, ICredentials
from twisted.cred.error import LoginFailed, UnhandledCredentials
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface

from clockd.auth import ChallengeResponse, PeerCertificate, new_challenge
from clockd.errors import NotPermitted, Refused, ServerFault, TooManyAttempts, WrongCredentials
from clockd.interfaces import ISession, ISink
from clockd.logs import Quota
from clockd.throttle import Throttle
from clockd.users import ANONYMOUS
from clockd.values import Tally

TRIES = 3
"""How often one connection may try to log in."""

_log = Logger()


class ILogin(Protocol):
    """The inputs."""

    def challenge(self, name: str) -> bytes:
        """The peer claims a name; returns the challenge."""

    def respond(self, response: bytes, mind: ISink) -> Deferred[ISession]:
        """The peer answers the open challenge; fires with its session, or fails with a `Refused`."""

    def anonymous(self, mind: ISink) -> Deferred[ISession]:
        """The peer logs in without proof; fires as `respond` does."""

    def certificate(self, common_names: Sequence[str], mind: ISink) -> Deferred[ISession]:
        """The peer logs in by the certificate that it has shown; fires as `respond` does.

        Args:
            common_names: Those of the certificate's subject; none if there was no certificate.
            mind: Takes the pushes.
        """

    def admitted(self, session: ISession, logout: Callable[[], object]) -> None:
        """The portal has made a session."""

    def refused(self, failure: Failure) -> None:
        """The portal has made none."""

    def expelled(self, failure: Failure) -> None:
        """The portal has made none, and that was the last try."""

    def left(self, reason: str) -> None:
        """The peer has gone, or dropped its session, for one of `CLOSE_REASONS`."""


_UNPROVEN = {"certificate": "the certificate proves no account"}
"""What a peer is told that does not prove itself, by method, where that is not a name and a secret."""

_NOBODY: ICredentials = Anonymous()
_NO_ANSWER: Deferred[Any] = Deferred()
"""What stands where no login is in hand; many connections share them."""


class Login:
    """What the machine remembers and acts on.

    Args:
        portal: Where credentials become a session.
        interface: What to ask the portal for.
        challenge_for: Returns what who claims a name is asked.
        throttle: Slows guessing.
        seconds: Returns the time of a monotonic clock.
        host: Returns the peer's host, or None for a local socket; behind a proxy it is not known from the start.
        peer: Returns the peer's address, for the log; behind a proxy it is not known from the start.
        tally: Where logins are counted.
        quota: Of log lines.
        refusal: Returns why nobody is let in now, or None.
        soon: Runs a callable as soon as the answer in hand has been written.
        close: Closes the connection once all is written, for the reason given.
    """

    def __init__(
        self,
        portal: Portal,
        interface: type[Interface],
        challenge_for: Callable[[str], bytes],
        throttle: Throttle,
        seconds: Callable[[], float],
        host: Callable[[], str | None],
        peer: Callable[[], str],
        tally: Tally,
        quota: Quota,
        refusal: Callable[[], Refused | None],
        soon: Callable[[Callable[[], object]], object],
        close: Callable[[str], object],
    ) -> None:
        self.portal = portal
        self.interface = interface
        self.challenge_for = challenge_for
        self.throttle = throttle
        self.seconds = seconds
        self.host = host
        self.peer = peer
        self.tally = tally
        self.quota = quota
        self.refusal = refusal
        self.soon = soon
        self.close = close
        self.tries = 0
        self.name = ""
        self.nonce = b""
        self.credentials: ICredentials = _NOBODY
        self.answer: Deferred[ISession] = _NO_ANSWER
        self.logout: Callable[[], object] = lambda: None

    @property
    def method(self) -> str:
        """How the credentials in hand are counted."""
        if self.credentials is _NOBODY:
            return "unknown"
        return getattr(self.credentials, "method", "anonymous")

    def check(self, machine: ILogin, credentials: ICredentials, mind: ISink) -> Deferred[ISession]:
        """Ask the portal; the answer fires when the machine has heard from it."""
        self.credentials = credentials
        answer = self.answer = Deferred()

        def admitted(result: tuple[Any, ISession, Callable[[], object]]) -> None:
            _, session, logout = result
            refusal = self.refusal()
            if refusal is None:
                machine.admitted(session, logout)
            else:
                logout()
                refused(Failure(refusal))

        refused = machine.refused if self.tries < TRIES else machine.expelled
        if isinstance(credentials, ChallengeResponse) and not self.throttle.permits(
            self.name, self.host(), self.seconds()
        ):
            refused(Failure(TooManyAttempts("too many logins have failed; wait a moment and try again")))
        else:
            self.portal.login(credentials, mind, self.interface).addCallbacks(admitted, refused)
        return answer

    def succeed(self) -> None:
        """Count a login."""
        self.count("ok")
        if isinstance(self.credentials, ChallengeResponse):
            self.throttle.succeeded(self.name, self.host())

    def start_try(self) -> None:
        """Count a try.

        Raises:
            NotPermitted: There have been enough; the connection will be closed.
        """
        self.tries += 1
        if self.tries == TRIES + 1:
            self.soon(lambda: self.close("limit"))
        if self.tries > TRIES:
            self.nonce = new_challenge()  # one that nobody was told: what is sent behind this fits no challenge
            raise NotPermitted(f"a connection has {TRIES} tries to log in")

    def refuse(self, failure: Failure) -> None:
        """Tell the peer that it is not let in."""
        error = self.translate(failure)
        why = failure.value if isinstance(failure.value, WrongCredentials) else error  # the log may know it better
        rest = self.quota.take("refused")
        if rest is not None:
            cause = f" ({why.__cause__})" if why.__cause__ is not None else ""
            _log.info(
                "refused {name!r} from {address}: {error}{rest}",
                name=self.name,
                address=self.peer(),
                error=f"{why}{cause}",
                rest=rest,
            )
        self.answer.errback(error)

    def forget(self) -> None:
        """Let go of what a session does not need."""
        self.nonce = b""
        self.credentials = _NOBODY
        self.answer = _NO_ANSWER

    def count(self, result: str) -> None:
        """Count the login in hand."""
        self.tally.logins[self.method, result] += 1

    def translate(self, failure: Failure) -> Exception:
        """Count a failed login, and return what the peer is told of it."""
        if failure.check(WrongCredentials, LoginFailed, UnhandledCredentials):
            self.count("denied")
            if isinstance(self.credentials, ChallengeResponse):
                self.throttle.failed(self.name, self.host(), self.seconds())
            return WrongCredentials(_UNPROVEN.get(self.method, "the name and the secret do not fit"))
        if isinstance(failure.value, Refused):
            self.count("throttled" if isinstance(failure.value, TooManyAttempts) else "limit")
            return failure.value
        self.count("error")
        _log.failure("a login failed for a reason of the server's own", failure)
        return ServerFault("the server could not check the login; try again later")


_builder = TypeMachineBuilder(ILogin, Login)

greeting = _builder.state("greeting")
challenged = _builder.state("challenged")
checking = _builder.state("checking")
serving = _builder.state("serving")
abandoned = _builder.state("abandoned")
gone = _builder.state("gone")

abandoned.upon(ILogin.left).loop().returns(None)
gone.upon(ILogin.left).loop().returns(None)


def _no_challenge(machine: ILogin, login: Login, name: str) -> bytes:
    raise NotPermitted("one login a connection")


def _no_response(machine: ILogin, login: Login, response: bytes, mind: ISink) -> Deferred[ISession]:
    raise NotPermitted("there is no open challenge: one login a connection, and each challenge is answered once")


def _no_anonymous(machine: ILogin, login: Login, mind: ISink) -> Deferred[ISession]:
    raise NotPermitted("one login a connection")


def _no_certificate(machine: ILogin, login: Login, common_names: Sequence[str], mind: ISink) -> Deferred[ISession]:
    raise NotPermitted("one login a connection")


for _state in (checking, serving, abandoned, gone):
    _state.upon(ILogin.challenge).loop()(_no_challenge)
    _state.upon(ILogin.anonymous).loop()(_no_anonymous)
    _state.upon(ILogin.certificate).loop()(_no_certificate)
for _state in (greeting, checking, serving, abandoned, gone):
    _state.upon(ILogin.respond).loop()(_no_response)


@greeting.upon(ILogin.challenge).to(challenged)
@challenged.upon(ILogin.challenge).loop()
def _challenge(machine: ILogin, login: Login, name: str) -> bytes:
    login.start_try()
    login.name = name
    login.nonce = login.challenge_for(name)
    return login.nonce


@challenged.upon(ILogin.respond).to(checking)
def _respond(machine: ILogin, login: Login, response: bytes, mind: ISink) -> Deferred[ISession]:
    return login.check(machine, ChallengeResponse(login.name, login.nonce, response), mind)


@greeting.upon(ILogin.anonymous).to(checking)
@challenged.upon(ILogin.anonymous).to(checking)
def _anonymous(machine: ILogin, login: Login, mind: ISink) -> Deferred[ISession]:
    login.start_try()
    login.name = ANONYMOUS
    return login.check(machine, Anonymous(), mind)


@greeting.upon(ILogin.certificate).to(checking)
@challenged.upon(ILogin.certificate).to(checking)
def _certificate(machine: ILogin, login: Login, common_names: Sequence[str], mind: ISink) -> Deferred[ISession]:
    login.start_try()
    login.name = ", ".join(common_names)
    return login.check(machine, PeerCertificate(common_names), mind)


@checking.upon(ILogin.admitted).to(serving)
def _admitted(machine: ILogin, login: Login, session: ISession, logout: Callable[[], object]) -> None:
    login.succeed()
    login.logout = logout
    rest = login.quota.take(f"in {login.name}")
    if rest is not None:
        _log.info("{name} logged in from {address}{rest}", name=login.name, address=login.peer(), rest=rest)
    login.answer.callback(session)
    login.soon(session.begin)
    login.forget()


@checking.upon(ILogin.refused).to(greeting)
def _refused(machine: ILogin, login: Login, failure: Failure) -> None:
    login.refuse(failure)


@checking.upon(ILogin.expelled).to(gone)
def _expelled(machine: ILogin, login: Login, failure: Failure) -> None:
    login.refuse(failure)
    login.soon(lambda: login.close("limit"))


@greeting.upon(ILogin.left).to(gone)
@challenged.upon(ILogin.left).to(gone)
@checking.upon(ILogin.left).to(abandoned)
def _left_early(machine: ILogin, login: Login, reason: str) -> None:
    if reason == "login_timeout":
        login.count("timeout")


@serving.upon(ILogin.left).to(gone)
def _left(machine: ILogin, login: Login, reason: str) -> None:
    rest = login.quota.take(f"out {login.name}")
    if rest is not None:
        _log.info(
            "{name} from {address} has left: {reason}{rest}",
            name=login.name,
            address=login.peer(),
            reason=reason,
            rest=rest,
        )
    login.logout()


@abandoned.upon(ILogin.admitted).to(gone)
def _too_late(machine: ILogin, login: Login, session: ISession, logout: Callable[[], object]) -> None:
    _log.info("{name} from {address} left while logging in", name=login.name, address=login.peer())
    logout()


@abandoned.upon(ILogin.refused).to(gone)
@abandoned.upon(ILogin.expelled).to(gone)
def _not_missed(machine: ILogin, login: Login, failure: Failure) -> None:
    login.translate(failure)  # a fault of the server's own is logged, though nobody is told


new_login: Callable[[Login], ILogin] = _builder.build()
"""Returns the machine of one connection, in the state `greeting`."""
