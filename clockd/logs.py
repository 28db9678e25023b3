"""How log events are written: readable lines for people, JSON lines for machines.

Every event goes through `twisted.logger`, where Twisted's own go too.
"""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self, TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEvent,
    globalLogBeginner,
)

LINES, SECONDS = 10, 10.0
"""As many lines of one kind are written in as many seconds, of those that peers can cause."""


class Quota:
    """Keeps peers from filling the log.

    Args:
        seconds: Returns the time of a monotonic clock.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._kinds: dict[str, tuple[float, int]] = {}  # since when, and how many since then

    def take(self, kind: str) -> str | None:
        """Ask for a line.

        Args:
            kind: What is limited together; one of a few, or two for each account.

        Returns:
            What the line ends with: nothing, or how many were left out before it. None: it is not to be written.
        """
        now = self._seconds()
        since, asked = self._kinds.get(kind, (-math.inf, 0))
        if now - since < SECONDS:
            self._kinds[kind] = since, asked + 1
            return "" if asked < LINES else None
        self._kinds[kind] = now, 1
        return f" ({asked - LINES} more like it were left out)" if asked > LINES else ""


class TwistedLogger(Logger):
    """The `_log` of a class of ours that inherits one of Twisted's.

    A plain one would take the class's name, and what Twisted says of peers would be written as ours.
    """

    def __get__(self, instance: object, owner: type | None = None) -> Self:
        return self


def begin_logging(style: str, stream: TextIO, level: str = "info") -> None:
    """Write our events of a level and above, and Twisted's of `warn` and above, to a stream from now on.

    Args:
        style: `text` or `json`.
        stream: Where the lines go.
        level: `debug`, `info`, `warn`, `error` or `critical`.
    """
    observer = FileLogObserver(stream, {"text": as_text, "json": as_json}[style])
    levels = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)  # Twisted's own chatter, and what peers send
    levels.setLogLevelForNamespace("clockd", LogLevel.levelWithName(level))
    globalLogBeginner.beginLoggingTo([FilteringLogObserver(observer, [levels])], redirectStandardIO=False)


def as_text(event: LogEvent) -> str:
    """Return `TIME LEVEL MESSAGE`, UTC to the millisecond; a traceback follows on its own lines."""
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    return f"{_time(event)} {_level(event):8} {text}\n"


def as_json(event: LogEvent) -> str:
    """Return one JSON object: `time`, `level`, `logger`, `message`, `traceback` if there is one, and the fields."""
    fields = {key: value for key, value in event.items() if not key.startswith("log_") and _is_plain(value)}
    line = fields | {
        "time": _time(event),
        "level": _level(event),
        "logger": event.get("log_namespace", "-"),
        "message": formatEvent(event),
    }
    failure = event.get("log_failure")
    if failure is not None:
        line["traceback"] = failure.getTraceback()
    return json.dumps(line) + "\n"


def count_errors(count: Callable[[], object]) -> ILogObserver:
    """Return an observer that calls `count` for each event that carries a failure or is critical."""

    def observer(event: LogEvent) -> None:
        if event.get("log_failure") is not None or event.get("log_level") is LogLevel.critical:
            count()

    return observer  # type: ignore[return-value]  # a function provides the interface by being callable


def _time(event: LogEvent) -> str:
    return datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _level(event: LogEvent) -> str:
    level = event.get("log_level")
    return level.name if level is not None else "info"


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # JSON has no other
    return value is None or isinstance(value, bool | int | str)
