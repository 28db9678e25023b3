"""Is a server ready, asked from outside: what the command `clockd health` does every few seconds in a container.

Rules of this module: it imports neither Twisted nor much of ours, and reads no file, so that it is quick.
"""

import http.client
import json
import re
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from clockd.printable import printable

METRICS_PORT = 9464
"""Where this looks for the server; the default of `metrics.listen`."""

HEALTH_SECONDS = 1.5
"""As long as this waits for an answer."""

ANSWER_BYTES = 4096
"""As much of an answer is read."""


class Answer(NamedTuple):
    """What a server says of its health."""

    ok: bool
    text: str


def ready(url: str) -> Answer:
    """Ask a server whether it is ready; no whole answer within `HEALTH_SECONDS` is a no.

    It is for the main thread, in which signals are heard.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            return Answer(ok=False, text=f"clockd: {url}: is no http://HOST:PORT/PATH")
        connection = http.client.HTTPConnection(parts.hostname, parts.port)
        with closing(connection), _deadline():
            connection.request("GET", parts.path or "/readyz")
            answer = connection.getresponse()
            said = answer.read(ANSWER_BYTES).decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Answer(ok=False, text=f"clockd: {url}: {error}; is it running there?")
    ok, text = answer.status == http.client.OK, _text(said)
    return Answer(
        ok, text if ok else f"clockd: {url}: {answer.status} {printable(answer.reason, ANSWER_BYTES)}: {text}"
    )


@contextmanager
def _deadline() -> Iterator[None]:
    """Raise `TimeoutError` after `HEALTH_SECONDS`; a time-out of the socket begins anew with each byte that comes."""

    def late(*_: object) -> None:
        raise TimeoutError(f"no answer within {HEALTH_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, HEALTH_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _text(said: str) -> str:
    """Return what a server says in words; of another program's page, the first line."""
    try:
        answer = json.loads(said)
        text = "; ".join(str(word) for word in (answer["text"], answer["remark"]) if word is not None)
    except (ValueError, TypeError, LookupError, RecursionError):
        text = said.strip().partition("\n")[0]
    return printable(text, ANSWER_BYTES)


def health_url(listen: str) -> str:
    """Return where `/readyz` is, for an endpoint string as `metrics.listen` has it; for none the default's.

    What is no TCP endpoint is returned as it is: `ready` says that it is no URL.
    """
    listen = listen.strip("\"'")  # as TOML, a string may be quoted
    if listen and not listen.startswith("tcp"):
        return listen
    kind, *words = re.split(r"(?<!\\):", listen)
    options = dict(word.split("=", 1) for word in words if "=" in word)
    port = options.get("port") or (
        words[0] if kind in {"tcp", "tcp6"} and words and "=" not in words[0] else METRICS_PORT
    )
    host = options.get("interface", "").replace("\\:", ":")
    if host in {"", "0.0.0.0", "::"}:  # noqa: S104  # any address will do, and this one is near
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/readyz" if ":" in host else f"http://{host}:{port}/readyz"
