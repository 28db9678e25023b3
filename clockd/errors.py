"""Every class that clockd raises.

    ClockdError                     never raised itself
      Refused                       the peer's doing: short, safe to send, no traceback
        InvalidPeriod  InvalidValue  UnknownFeed  UnknownMethod  NotPermitted
        TooManyConnections  TooManyAttempts  TooManySubscriptions  TooManyPublishes  Draining  ServerFault
        WrongCredentials            also a twisted.cred UnauthorizedLogin
      Misconfigured                 the operator's doing: says where, what, and what to do
        UsersFileError
        CannotListen
      ClientError                   raised by the client library in the user's program
        ConnectionFailed  NotConnected  Kicked  Replaced  Overflow  ReactorConflict

Rules of this module: the qualified name of a `Refused` class is part of the wire contract, because a client tells
errors apart by `failure.check("clockd.errors.NAME")`.
"""

from twisted.cred.error import UnauthorizedLogin
from twisted.spread import pb


class ClockdError(Exception):
    """The root of the tree."""


class Refused(ClockdError, pb.Error):
    """Something the peer asked for and does not get; the state before stays in force."""


class InvalidPeriod(Refused):
    """A period that is no finite number of seconds > 0."""


class InvalidValue(Refused):
    """An argument of a type, number or form that the call does not take."""


class UnknownFeed(Refused):
    """A feed that the server does not have, or that is not subscribed."""


class UnknownMethod(Refused, pb.NoSuchMethod):
    """A remote method that the object does not have."""


class NotPermitted(Refused):
    """A call that this account, or this moment, does not allow."""


class TooManyConnections(Refused):
    """The account has all the connections that it may have."""


class TooManyAttempts(Refused):
    """More logins than the server can check at a time."""


class TooManySubscriptions(Refused):
    """The connection has all the subscriptions that it may have."""


class TooManyPublishes(Refused):
    """The account has published as much as it may at a time."""


class Draining(Refused):
    """A login at a server that is about to stop; to be tried again in a moment."""


class ServerFault(Refused):
    """The server's own fault; the details are in its log and stay there."""


class WrongCredentials(Refused, UnauthorizedLogin):
    """The name and secret do not fit, or the certificate proves no account; says nothing about which of them."""


class Misconfigured(ClockdError):
    """What the operator wrote cannot be served; the message names the place and the way out."""


class UsersFileError(Misconfigured):
    """A users file that is absent, unreadable or has a broken line."""


class CannotListen(Misconfigured):
    """An address that cannot be listened on."""


class ClientError(ClockdError):
    """What keeps a program from its clock, other than a refusal by the server."""


class ConnectionFailed(ClientError):
    """No session with the server could be made."""


class NotConnected(ClientError):
    """The session is gone: closed, or not yet made again."""


class Kicked(ClientError):
    """The server has closed the account's connections and told the client why.

    Args:
        message: For people; what the server wrote stands in it escaped, and not at any length.
        reason: What the server wrote, as it came; empty if it gave no reason.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Replaced(ClientError):
    """A newer login of the account has taken the connection's place, and would lose it if this one came back."""


class Overflow(ClientError):
    """Samples came faster than the program took them, and it has asked to be told; the iterator goes on after it.

    Args:
        message: For people.
        replaced: How many samples were replaced by newer ones before the program took them.
    """

    def __init__(self, message: str, replaced: int = 0) -> None:
        super().__init__(message)
        self.replaced = replaced


class ReactorConflict(ClientError):
    """The installed Twisted reactor does not run on the asyncio loop that asks."""
