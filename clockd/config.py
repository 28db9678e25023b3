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
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from clockd.errors import Misconfigured
from clockd.values import Limits

Endpoint = Annotated[str, Meta(min_length=1)]

ENVIRONMENT_PREFIX = "CLOCKD_"


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[server]`.

    Attributes:
        listen: Twisted endpoint strings for Perspective Broker, in clear: `tcp:`, `unix:`.
    """

    listen: Annotated[tuple[Endpoint, ...], Meta(min_length=1)] = ("tcp:8787:interface=127.0.0.1",)


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


class Metrics(Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[metrics]`.

    Attributes:
        listen: Twisted endpoint string for HTTP.
    """

    listen: Endpoint = "tcp:9464:interface=127.0.0.1"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of the configuration.

    Attributes:
        server: Where Perspective Broker listens.
        tls: Where it listens with TLS.
        auth: Who may log in.
        limits: What peers may ask for.
        metrics: Where Prometheus scrapes.
    """

    server: Server = Server()
    tls: Tls = Tls()
    auth: Auth = Auth()
    limits: Limits = Limits()
    metrics: Metrics = Metrics()


_SECTIONS: dict[str, type[Struct]] = {field.name: type(field.default) for field in msgspec.structs.fields(Config)}


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
    try:
        return msgspec.convert(tree, Config, strict=True)
    except msgspec.ValidationError as error:
        raise Misconfigured(_explain(str(error), str(file or "defaults"), origins)) from error


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
        known = _SECTIONS[parts[0]].__struct_fields__ if parts else tuple(_SECTIONS)
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
