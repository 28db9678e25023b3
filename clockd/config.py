"""TOML, environment and flags to checked values.

Flags win over the environment, the environment over the file, the file over the defaults, which are written in the
structures below and nowhere else (those of `[limits]` in `values`).
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import msgspec
from msgspec import Meta, Struct, field
from twisted.logger import Logger

from clockd.errors import Misconfigured
from clockd.values import EVERYBODY, FEED_NAME, MAX_SECONDS, MOST_FEEDS, NOTICES, OTHER, Limits, Seconds

Endpoint = Annotated[str, Meta(min_length=1)]
Flags = Mapping[tuple[str, str], object]

ENVIRONMENT_PREFIX = "CLOCKD_"

LIKENESS = 0.75
"""From this ratio of `difflib` on a name of the environment is taken for a mistyped one: platforms set others."""

LAST_PORT = 65535

_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "a section",
    "str": "a text",
}
"""What msgspec calls a type, in words of those who write a configuration."""

_log = Logger()


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[server]`.

    Attributes:
        listen: Twisted endpoint strings for Perspective Broker, in clear: `tcp:`, `unix:`.
        state: SQLite file with what outlives connections; empty to keep it in memory only.
        drain: As long may clients take to leave when the server stops, in seconds.
    """

    listen: Annotated[tuple[Endpoint, ...], Meta(min_length=1)] = ("tcp:8787:interface=127.0.0.1",)
    state: str = "clockd.sqlite"
    drain: Annotated[float, Meta(ge=0, le=MAX_SECONDS)] = 5.0


class Tls(Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[tls]`.

    Attributes:
        listen: Twisted endpoint strings for Perspective Broker, whose connections are wrapped in TLS.
        certificate: PEM file: the server's certificate, then those of the authorities between it and the root.
        private_key: PEM file, of the first certificate.
        client_ca: PEM file: authorities whose clients may log in by certificate; empty for none.
    """

    listen: tuple[Endpoint, ...] = ()
    certificate: str = ""
    private_key: str = ""
    client_ca: str = ""

    def __post_init__(self) -> None:
        for key in ("certificate", "private_key"):
            if self.listen and not getattr(self, key):
                raise ValueError(f"{key}: is needed to listen with TLS: name a PEM file")


class Auth(Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[auth]`.

    Attributes:
        users: The users file.
        anonymous: Whether one may log in without proof.
    """

    users: Annotated[str, Meta(min_length=1)] = "users"
    anonymous: bool = False


class Avatars(Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[avatars]`.

    Attributes:
        sharing: Whether an avatar belongs to one connection or to all of an account.
        when_full: What becomes of one more connection than `limits.connections_per_account`: `reject` refuses it,
            `replace` closes the oldest for it, `ping` closes the oldest if that does not answer, and else refuses it.
    """

    sharing: Literal["connection", "account"] = "connection"
    when_full: Literal["reject", "replace", "ping"] = "reject"


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[metrics]`.

    Attributes:
        listen: Twisted endpoint string for HTTP.
        page: Whether there is a status page, for people.
    """

    listen: Endpoint = "tcp:9464:interface=127.0.0.1"
    page: bool = True


Accounts = tuple[Annotated[str, Meta(min_length=1)], ...]


class Feed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """A section `[feeds.NAME]`, of a kind below.

    Attributes:
        read: Accounts that may subscribe to it; `*` for all.
    """

    read: Accounts = (EVERYBODY,)


class PushFeed(Feed, frozen=True, kw_only=True, tag="push"):
    """Clients publish it.

    Attributes:
        publish: Accounts that may; `*` for all.
        retain: Whether the newest sample is kept over a restart.
    """

    publish: Accounts = ()
    retain: bool = False


class HostFeed(Feed, frozen=True, kw_only=True, tag="host"):
    """The host's own load.

    Attributes:
        every: Seconds between two samples, while somebody is subscribed.
    """

    every: Seconds = 1.0


class ClockdFeed(Feed, frozen=True, kw_only=True, tag="clockd"):
    """The service's own rates.

    Attributes:
        every: As for a host.
    """

    every: Seconds = 1.0


class PrometheusFeed(Feed, frozen=True, kw_only=True, tag="prometheus"):
    """Metrics that an exporter has for Prometheus.

    Attributes:
        url: Where they are scraped.
        metrics: What is published: names of samples, or names with labels.
        every: Seconds between two scrapes.
    """

    url: str
    metrics: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]
    every: Seconds = 15.0


class PythonFeed(Feed, frozen=True, kw_only=True, tag="python"):
    """What a plug-in returns: an entry point of the group `clockd.feeds`, a callable without arguments.

    Attributes:
        plugin: The entry point's name.
        every: Seconds between two calls, from the end of one to the begin of the next.
    """

    plugin: Annotated[str, Meta(min_length=1)]
    every: Seconds = 1.0


AnyFeed = PushFeed | HostFeed | ClockdFeed | PrometheusFeed | PythonFeed


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of the configuration.

    Attributes:
        server: Where Perspective Broker listens.
        tls: Where it listens with TLS.
        auth: Who may log in.
        limits: What peers may ask for.
        avatars: Who shares one.
        metrics: What is told over HTTP.
        feeds: What can be subscribed to beside the time, by name.
    """

    server: Server = Server()
    tls: Tls = Tls()
    auth: Auth = Auth()
    limits: Limits = field(default_factory=Limits)
    avatars: Avatars = Avatars()
    metrics: Metrics = Metrics()
    feeds: dict[str, AnyFeed] = {}


_SECTIONS: dict[str, type[Struct]] = {
    each.name: each.type for each in msgspec.structs.fields(Config) if isinstance(each.type, type)
}
_KINDS: dict[str, type[Feed]] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyFeed)}


def load(
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    flags: Flags | None = None,
) -> Config:
    """Read the configuration.

    Args:
        file: TOML; None for the defaults.
        environment: Where `CLOCKD_SECTION_KEY` is looked for, for exactly the keys that exist; what looks like a
            mistyped one is warned of. A value is parsed as TOML, and taken as a string if it is none.
        flags: Values from the command line by (section, key).

    Raises:
        Misconfigured: The file cannot be read or parsed, or it has an unknown key, a value of the wrong type or out
            of range; the message is `WHERE: section.key: what is wrong`.
    """
    tree = {} if file is None else _read(file)
    for section, kind in _SECTIONS.items():
        for key in kind.__struct_fields__:
            name = _variable(section, key)
            if name in environment:
                _put(tree, section, key, _value(environment[name]))
        _warn_of_typos(section, kind, environment)
    for (section, key), value in (flags or {}).items():
        _put(tree, section, key, value)
    where = str(file or "defaults")
    feeds = tree.get("feeds", {})
    if isinstance(feeds, dict):
        if len(feeds) >= MOST_FEEDS:
            raise Misconfigured(f"{where}: feeds: there are {len(feeds)}, and {MOST_FEEDS - 1} at most can be served")
        for name, section in feeds.items():
            _check_feed(where, name, section)
    try:
        config = msgspec.convert(tree, Config, strict=True)
    except msgspec.ValidationError as error:
        (section, *keys), what = _explain(str(error), tree)
        origin = _written(section, keys[0], environment, flags) if keys else None
        raise Misconfigured(f"{origin or where}: {'.'.join((section, *keys[:1]))}: {what}") from error
    with told_where(file, environment, flags):
        _check_endpoints(config)
        _check_ping(config)
    return config


def load_again(file: Path | None, flags: Flags | None = None) -> Config:
    """Read the configuration once more; arguments and errors are those of `load`.

    What is no regular file, such as a pipe, was read once: it is empty now, or would be waited for.
    """
    if file is not None and not file.is_file():
        raise Misconfigured(f"{file}: cannot be read again: it is no regular file, or gone")
    return load(file, flags=flags)


@contextmanager
def told_where(
    file: Path | None, environment: Mapping[str, str] = os.environ, flags: Flags | None = None
) -> Iterator[None]:
    """Put before what is wrong with `section.key: ...` where that was written; arguments are those of `load`."""
    try:
        yield
    except Misconfigured as error:
        found = re.match(r"(\w+)\.([\w.-]+): ", str(error))
        if found is None or found[1] not in Config.__struct_fields__:
            raise
        section, key = found.groups()
        origin = _written(section, key, environment, flags)
        if origin is None:
            in_file = file is not None and (section not in _SECTIONS or _has(file, section, key))
            origin = str(file) if in_file else "defaults"
        raise type(error)(f"{origin}: {error}") from error


def _written(section: str, key: str, environment: Mapping[str, str], flags: Flags | None) -> str | None:
    """Return where the value of a key was given that holds against any file's, or None."""
    if (section, key) in (flags or {}):
        return "command line"
    kind = _SECTIONS.get(section)
    name = _variable(section, key)
    return name if kind is not None and key in kind.__struct_fields__ and name in environment else None


def _has(file: Path, section: str, key: str) -> bool:
    """Return whether a file has a key; what cannot be read again is thought to."""
    try:
        return not file.is_file() or key in _read(file).get(section, {})
    except (Misconfigured, TypeError):
        return True


def _variable(section: str, key: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{section}_{key}".upper()


def _warn_of_typos(section: str, kind: type[Struct], environment: Mapping[str, str]) -> None:
    known = [_variable(section, key) for key in kind.__struct_fields__]
    prefix = _variable(section, "")
    keys = [name.removeprefix(prefix) for name in known]
    for name in sorted(environment.keys() - known):
        if name.startswith(prefix):
            for near in difflib.get_close_matches(name.removeprefix(prefix), keys, 1, LIKENESS):
                _log.warn("{name}: is no key, and not read; did you mean {near}?", name=name, near=f"{prefix}{near}")


def _check_endpoints(config: Config) -> None:
    """Raise what is wrong with endpoint strings, as far as Twisted would tell it late or not at all."""
    before: dict[str, str] = {}
    endpoints = [("server.listen", description) for description in config.server.listen]
    endpoints += [("tls.listen", description) for description in config.tls.listen]
    for key, description in [*endpoints, ("metrics.listen", config.metrics.listen)]:
        if re.match("(haproxy:)?(tls|ssl):", description):
            raise Misconfigured(f"{key}: {description}: is not served; write tcp:PORT, and use [tls] for TLS")
        found = re.match(r"(?:haproxy:)?tcp6?:(?:[^:=]*=[^:]*:)*(?:port=)?(-?\d+)(?::|$)", description)
        port = int(found[1]) if found else None
        if port is not None and not 0 <= port <= LAST_PORT:
            raise Misconfigured(f"{key}: {description}: a port is 0 to {LAST_PORT}, where 0 is any that is free")
        if port != 0 and description in before:
            raise Misconfigured(f"{key}: {description}: is in {before[description]} already; choose another port")
        before[description] = key


def _check_ping(config: Config) -> None:
    """Raise that whoever logs in while the oldest is pinged would be late."""
    patience, time = config.limits.ack_seconds, config.limits.login_seconds
    if config.avatars.when_full == "ping" and patience >= time:
        raise Misconfigured(
            f"limits.ack_seconds: {patience:g} is no less than login_seconds ({time:g}): "
            "a login that waits for a ping would be late"
        )


def _check_feed(where: str, name: str, section: object) -> None:
    """Raise what is wrong with a feed; msgspec would not say with which."""
    if not FEED_NAME.fullmatch(name) or name in {"time", NOTICES, OTHER}:
        raise Misconfigured(
            f"{where}: feeds.{name}: is no name for a feed: take 1 to 64 of a to z, 0 to 9, dot, dash and underscore, "
            f"but not time, {NOTICES} or {OTHER}"
        )
    kind = section.get("kind") if isinstance(section, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        near = difflib.get_close_matches(kind if isinstance(kind, str) else "", _KINDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Misconfigured(f"{where}: feeds.{name}.kind: is needed, one of: {', '.join(_KINDS)}{hint}")
    try:
        msgspec.convert(section, _KINDS[kind], strict=True)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at ")
        key = "".join(re.findall(r"\w+", path)[:1])
        if missing := re.search(r"(?:required|unknown) field `(.*)`", what):
            known = _KINDS[kind].__struct_fields__
            what = f"no such key; there are: {', '.join(known)}" if "unknown" in what else "is needed"
            key = missing[1]
        what = _in_words(what, cast("dict[str, object]", section).get(key))
        raise Misconfigured(f"{where}: feeds.{name}.{key}: {what}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise Misconfigured(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, no UTF-8, too many digits; too deep
        raise Misconfigured(f"{file}: is no TOML: {error}") from error


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # as above
        return text


def _put(tree: dict[str, Any], section: str, key: str, value: object) -> None:
    if isinstance(tree.setdefault(section, {}), dict):
        tree[section][key] = value


def _in_words(what: str, value: object) -> str:
    """Return what msgspec says of a value in words of who wrote it; a text that has to be a list as it is written."""
    hint = f"; write {json.dumps([value], ensure_ascii=False)}" if what == "Expected `array`, got `str`" else ""
    what = re.sub(r"`(\w+)`", lambda found: _WORDS.get(found[1], f"a {found[1]}"), what)
    for theirs, ours in (
        ("Expected ", "is to be "),
        (", got a number", ", not a fraction"),  # where a whole one is to be
        (", got ", ", not "),
        (" of length >= 1", " that is not empty"),
        (" >= ", " of at least "),
        (" <= ", " of at most "),
    ):
        what = what.replace(theirs, ours)
    return what.removesuffix(".0") + hint


def _explain(message: str, tree: dict[str, Any]) -> tuple[list[str], str]:
    """Take msgspec's message, `What is wrong - at `$.section.key``, apart, and say what is wrong in our words."""
    what, _, path = message.partition(" - at ")
    parts = re.findall(r"\w+", path)
    if unknown := re.search(r"contains unknown field `(.*)`", what):
        known = _SECTIONS[parts[0]].__struct_fields__ if parts else Config.__struct_fields__
        near = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        parts.append(unknown[1])
        what = f"no such {'key' if len(parts) > 1 else 'section'}; {hint}"
    elif len(parts) > 1 and what.startswith("Invalid enum value"):
        what = f"is to be one of: {', '.join(get_args(_SECTIONS[parts[0]].__annotations__[parts[1]]))}"
    elif len(parts) > 1:
        what = _in_words(what, tree[parts[0]][parts[1]])
    elif what.startswith("Expected "):
        what = _in_words(what, None)
    else:  # said by one of our structures
        key, _, what = what.partition(": ")
        parts.append(key)
    return parts, what
