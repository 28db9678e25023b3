"""TOML, environment and flags to checked values.

Flags win over the environment, the environment over the file, the file over the defaults, which are written in the
structures below and nowhere else (those of `[limits]` in `values`).
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct, field

from clockd.errors import Misconfigured
from clockd.values import EVERYBODY, FEED_NAME, MAX_SECONDS, MOST_FEEDS, NOTICES, OTHER, Limits, Seconds

Endpoint = Annotated[str, Meta(min_length=1)]

ENVIRONMENT_PREFIX = "CLOCKD_"


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
    """

    listen: Endpoint = "tcp:9464:interface=127.0.0.1"


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

    url: Annotated[str, Meta(pattern="^https?://[^/]")]
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
        metrics: Where Prometheus scrapes.
        feeds: What can be subscribed to beside the time, by name.
    """

    server: Server = Server()
    tls: Tls = Tls()
    auth: Auth = Auth()
    limits: Limits = field(default_factory=Limits)
    avatars: Avatars = Avatars()
    metrics: Metrics = Metrics()
    feeds: Annotated[dict[str, AnyFeed], Meta(max_length=MOST_FEEDS - 1)] = {}  # and the time


_SECTIONS: dict[str, type[Struct]] = {
    each.name: each.type for each in msgspec.structs.fields(Config) if isinstance(each.type, type)
}
_KINDS: dict[str, type[Feed]] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyFeed)}


def load(
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[tuple[str, str], object] | None = None,
) -> Config:
    """Read the configuration.

    Args:
        file: TOML; None for the defaults.
        environment: Where `CLOCKD_SECTION_KEY` is looked for, for exactly the keys that exist. A value is parsed
            as TOML, and taken as a string if it is none.
        flags: Values from the command line by (section, key).

    Raises:
        Misconfigured: The file cannot be read or parsed, or it has an unknown key, a value of the wrong type or out
            of range; the message is `WHERE: section.key: what is wrong`.
    """
    tree = {} if file is None else _read(file)
    origins: dict[tuple[str, str], str] = {}
    for section, kind in _SECTIONS.items():
        for key in kind.__struct_fields__:
            name = f"{ENVIRONMENT_PREFIX}{section}_{key}".upper()
            if name in environment:
                _put(tree, section, key, _value(environment[name]))
                origins[section, key] = name
    for (section, key), value in (flags or {}).items():
        _put(tree, section, key, value)
        origins[section, key] = "command line"
    where = str(file or "defaults")
    feeds = tree.get("feeds", {})
    if isinstance(feeds, dict):
        for name, section in feeds.items():
            _check_feed(where, name, section)
    try:
        return msgspec.convert(tree, Config, strict=True)
    except msgspec.ValidationError as error:
        raise Misconfigured(_explain(str(error), where, origins)) from error


def _check_feed(where: str, name: str, section: object) -> None:
    """Raise what is wrong with a feed; msgspec would not say with which."""
    if not FEED_NAME.fullmatch(name) or name in {"time", NOTICES, OTHER}:
        raise Misconfigured(
            f"{where}: feeds.{name}: is no name for a feed: take 1 to 64 of a to z, 0 to 9, dot, dash and underscore, "
            f"but not time, {NOTICES} or {OTHER}"
        )
    kind = section.get("kind") if isinstance(section, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise Misconfigured(f"{where}: feeds.{name}.kind: is needed, one of: {', '.join(_KINDS)}")
    try:
        msgspec.convert(section, _KINDS[kind], strict=True)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at ")
        key = "".join(re.findall(r"\w+", path)[:1])
        if missing := re.search(r"(?:required|unknown) field `(.*)`", what):
            known = _KINDS[kind].__struct_fields__
            what = f"no such key; there are: {', '.join(known)}" if "unknown" in what else "is needed"
            key = missing[1]
        raise Misconfigured(f"{where}: feeds.{name}.{key}: {what[:1].lower()}{what[1:]}") from error


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


def _explain(message: str, file: str, origins: Mapping[tuple[str, str], str]) -> str:
    """Turn msgspec's message, `What is wrong - at `$.section.key``, into ours."""
    what, _, path = message.partition(" - at ")
    parts = re.findall(r"\w+", path)
    if unknown := re.search(r"contains unknown field `(.*)`", what):
        known = _SECTIONS[parts[0]].__struct_fields__ if parts else Config.__struct_fields__
        near = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        parts.append(unknown[1])
        what = f"no such {'key' if len(parts) > 1 else 'section'}; {hint}"
    elif len(parts) == 1:
        key, colon, rest = what.partition(": ")
        if colon and key in _SECTIONS[parts[0]].__struct_fields__:
            parts.append(key)
            what = rest
    origin = origins.get((parts[0], parts[1]), file) if len(parts) > 1 else file
    return f"{origin}: {'.'.join(parts[:2])}: {what[:1].lower()}{what[1:]}"
