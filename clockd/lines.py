"""What `clockd watch` prints of a sample: a line for people, or a JSON object.

Rules of this module: what others chose does nothing to a terminal; a line of JSON is whole, a line for people need not
be.
"""

import json
import textwrap
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from math import isfinite, isnan

from clockd.values import Reading

WHOLE = 1e5
"""From here on a float has six digits before the point, and is shown without any behind it."""


def line_of(reading: Reading, columns: int = 0) -> str:
    """Return a sample as a line for people.

    Args:
        reading: The sample.
        columns: Where a value is wrapped; 0 if it is not.
    """
    stamp = stamp_of(reading.stamp)
    if reading.sequence is None:
        how = " by this host's clock" if reading.offset is None else f", give or take {amount(reading.bound)}"
        return f"{stamp}  arrived {amount(reading.age, '+')} later{how}"
    line = f"{stamp}  {reading.sequence:>4}  {value_of(reading)}"
    if columns:
        tied = line.replace(": ", ":\0")  # a key and its value stay together
        line = textwrap.fill(tied, columns, subsequent_indent="    ", break_on_hyphens=False).replace("\0", " ")
    return line


def value_of(reading: Reading) -> str:
    """Return a sample's value in JSON, its floats rounded, with nothing in it that cannot be printed."""
    text = json.dumps(_sayable(reading.value, _rounded), ensure_ascii=False)
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in text)


def json_of(reading: Reading, round_trip: float | None) -> str:
    """Return a sample as a JSON object; `clockd watch` says how it puts what JSON has not.

    Args:
        reading: The sample.
        round_trip: Seconds that the last exchange was on its way; None before the first.
    """
    return json.dumps(
        {
            "feed": reading.feed,
            "sequence": reading.sequence,
            "stamp": reading.stamp,
            "value": _sayable(reading.value),
            "age": reading.age,
            "offset": reading.offset,
            "bound": None if reading.offset is None else reading.bound,
            "round_trip": round_trip,
        }
    )


def moment_of(stamp: float) -> datetime | None:
    """Return a stamp's date and time in UTC; None if it is of no year that a calendar, or the C library, has."""
    try:
        return datetime.fromtimestamp(stamp, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def stamp_of(stamp: float) -> str:
    """Return a stamp as people read it, if they can."""
    moment = moment_of(stamp)
    return repr(stamp) if moment is None else moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def amount(seconds: float, sign: str = "") -> str:
    """Return a time in a unit that suits it; with `+` for a sign it has one in any case."""
    return f"{seconds * 1000:{sign}.2f} ms" if abs(seconds) < 1 else f"{seconds:{sign}.2f} s"


def way_of(offset: float) -> str:
    """Return where a clock stands that lacks this many seconds."""
    return f"{amount(abs(offset))} {'behind' if offset > 0 else 'ahead'}"


def _rounded(number: float) -> float:
    return float(f"{number:.6g}") if abs(number) < WHOLE else round(number, 0)


def _escaped(letter: str) -> str:
    """Return a letter as JSON may write it, so that it does nothing to a terminal."""
    digits = letter.encode("utf-16-be").hex()
    return "".join(f"\\u{digits[at : at + 4]}" for at in range(0, len(digits), 4))


def _sayable(value: object, finite: Callable[[float], float] = float) -> object:
    """Return a value as JSON can say it; `finite` returns what is said for a float."""
    match value:
        case bytes():
            return {"base64": b64encode(value).decode()}
        case float() if not isfinite(value):
            return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case float():
            return finite(value)
        case list() | tuple():
            return [_sayable(item, finite) for item in value]
        case dict():
            return {_key(key): _sayable(item, finite) for key, item in value.items()}
    return value


def _key(key: object) -> object:
    """Return what `json.dumps` makes the string of."""
    return b64encode(key).decode() if isinstance(key, bytes) else _sayable(key)
