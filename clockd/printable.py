"""What somebody else has written, as it may stand in a line.

Rules of this module: it imports nothing.
"""


def printable(text: str, most: int) -> str:
    """Return what somebody else has written as it may stand in a line: escaped where it cannot be printed, and cut.

    Args:
        text: As it came.
        most: Longest result, in letters.
    """
    escaped = (char if char.isprintable() else ascii(char)[1:-1] for char in text[:most])
    return "".join(escaped)[:most]
