"""What a peer may call, and what crosses there.

Rules of this module: what a peer does wrong raises a `Refused` and reaches it as that. Any other exception is our
fault: it is logged once and the peer is told nothing of it.
"""

import inspect
from collections.abc import Callable
from functools import lru_cache
from types import MethodType
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.spread import pb

from clockd.errors import InvalidValue, Refused, ServerFault, UnknownMethod

_ATOMS = frozenset((int, float, bytes))
"""What jelly leaves as it is."""


class Boundary(pb.Referenceable):
    """An object whose methods a peer may call; what crosses here is translated.

    A call whose arguments are refused here does not reach its method. If the target has a method `refused_NAME`, that
    is told of such a call `NAME`, with the call's first argument if it is text, else None.

    Args:
        target: Has the methods.
        prefix: What their names begin with.
    """

    _log = Logger()

    def __init__(self, target: object, prefix: str) -> None:
        self._target = target
        self._prefix = prefix

    def remoteMessageReceived(self, broker: pb.Broker, message: str, args: Any, kw: Any) -> Any:
        """Call the method that a message names.

        Returns:
            The jellied result, or a Deferred of it.

        Raises:
            Refused: The peer asked for something it does not get.
        """
        try:
            method = self._method(message)
            try:
                arguments, keywords = _arguments(broker, args, kw)
                _check_signature(message, method, arguments, keywords)
            except InvalidValue:
                self._tell(message, method, args, kw)
                raise
            result = method(*arguments, **keywords)
            if type(result) in _ATOMS:
                return result
            if isinstance(result, Deferred):
                result.addErrback(self._translate)
            return broker.serialize(result)
        except Exception as error:  # noqa: BLE001  # the boundary
            raise self._told(Failure(), error) from None

    def _method(self, message: str) -> Callable[..., object]:
        method = getattr(self._target, self._prefix + message, None)
        if method is None:
            raise UnknownMethod("there is no such method")
        return cast("Callable[..., object]", method)

    def _tell(self, message: str, method: Callable[..., object], args: Any, kw: Any) -> None:
        """Tell the target of a call that does not reach its method."""
        refused = getattr(self._target, f"refused_{message}", None)
        if refused is not None:
            refused(_first_text(method, args, kw))

    def _translate(self, failure: Failure) -> Failure:
        return Failure(self._told(failure, failure.value))

    def _told(self, failure: Failure, error: BaseException | None) -> Refused:
        if isinstance(error, Refused):
            return error
        self._log.failure("a remote call failed for a reason of the server's own", failure)
        return ServerFault("the server failed; its log says why")


def _arguments(broker: pb.Broker, args: Any, kw: Any) -> tuple[tuple[object, ...], dict[str, object]]:
    """Turn what came over the wire into arguments; whatever is wrong with it is the peer's doing."""
    try:
        if is_plain(args) and is_plain(kw):
            arguments = tuple(_value(broker, args))
            keywords = {
                key.decode() if isinstance(key, bytes) else str(key): value for key, value in _value(broker, kw).items()
            }
            return arguments, keywords
    except Exception as error:
        raise InvalidValue("arguments that this server does not take") from error
    if _refers(args) or _refers(kw):
        raise InvalidValue("a list, tuple or dict that occurs twice in a call, or in itself: send a copy of it")
    raise InvalidValue(
        "an argument is None, bool, int, float, str, bytes, list, tuple, dict or a remote reference; "
        "a key of a dict is no container, and an int of it has 64 bits"
    )


def is_plain(jelly: Any) -> bool:
    """Tell whether jelly holds only the types that a peer may send, each in its form."""
    match jelly:
        case int() | float() | bytes() | [b"None"] | [b"unicode", bytes()] | [b"boolean", bytes()] | [b"remote", int()]:
            return True
        case [b"tuple" | b"list", *items]:
            return all(map(is_plain, items))
        case [b"dictionary", *pairs]:
            return all(_is_pair(pair) for pair in pairs)
    return False


def _refers(jelly: Any) -> bool:
    """Tell whether jelly has a container that it refers to, and does not write out again."""
    match jelly:
        case [b"reference" | b"dereference", *_]:
            return True
        case list():
            return any(map(_refers, jelly))
    return False


def _is_pair(pair: Any) -> bool:
    """Tell whether a pair may be in a dictionary.

    A peer could choose long ints, tuples and references that all have one hash, and looking them up takes a time that
    grows with the square of their number.
    """
    match pair:
        case [int() as key, value]:
            return -(2**63) <= key < 2**63 and is_plain(value)
        case [float() | bytes() | [b"None"] | [b"unicode", bytes()] | [b"boolean", bytes()], value]:
            return is_plain(value)
    return False


def _value(broker: pb.Broker, jelly: Any) -> Any:
    """Return what plain jelly stands for: what `broker.unserialize` does, in a third of its time."""
    if type(jelly) is not list:
        return jelly
    kind, *items = jelly
    if kind == b"unicode":
        return items[0].decode()
    if kind == b"list":
        return [_value(broker, item) for item in items]
    if kind == b"tuple":
        return tuple([_value(broker, item) for item in items])
    if kind == b"dictionary":
        return {_value(broker, key): _value(broker, item) for key, item in items}
    return broker.unserialize(jelly)


def _first_text(method: Callable[..., object], args: Any, kw: Any) -> str | None:
    """Return the first argument of a call if it is text, whatever the others are."""
    signature, _ = _signature(cast("MethodType", method).__func__)
    _, name, *_ = signature.parameters
    match args, kw:
        case [b"tuple", [b"unicode", bytes(text)], *_], _:
            return text.decode(errors="replace")
        case [b"tuple"], [b"dictionary", *pairs]:
            for pair in pairs:
                match pair:
                    case [[b"unicode", key] | key, [b"unicode", bytes(text)]] if key == name.encode():
                        return text.decode(errors="replace")
    return None


@lru_cache
def _signature(function: Callable[..., object]) -> tuple[inspect.Signature, range]:
    """Return the signature of a method, with its `self`, and how many arguments it takes where all are positional."""
    signature = inspect.signature(function)
    _, *parameters = signature.parameters.values()
    needed = sum(parameter.default is parameter.empty for parameter in parameters)
    return signature, range(needed, len(parameters) + 1)


def _check_signature(
    message: str, method: Callable[..., object], arguments: tuple[object, ...], keywords: dict[str, object]
) -> None:
    signature, counts = _signature(cast("MethodType", method).__func__)
    if len(arguments) in counts and not keywords:  # nearly all calls; binding them would take 3 µs
        return
    try:
        signature.bind(None, *arguments, **keywords)
    except TypeError as error:
        _, *names = signature.parameters
        raise InvalidValue(f"{message} takes ({', '.join(names)})") from error
