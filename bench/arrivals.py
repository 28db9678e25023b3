"""When something came, by the kernel, so that it does not matter when its reader was woken."""

import socket
import struct
import time

SO_TIMESTAMPNS = 35
"""The kernel tells when what is read came: `asm-generic/socket.h`."""

TIMESPEC = struct.Struct("@ll")

BYTES = 65536


def stamp_arrivals(source: socket.socket) -> None:
    """Have the kernel stamp what comes from now on."""
    source.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)


def received(source: socket.socket) -> tuple[bytes, float, tuple[str, int]]:
    """Return what has come, when in Unix seconds, and from where; what has no stamp came now."""
    data, ancillary, _, address = source.recvmsg(BYTES, socket.CMSG_SPACE(TIMESPEC.size))
    for _, kind, value in ancillary:
        if kind == SO_TIMESTAMPNS:
            seconds, nanoseconds = TIMESPEC.unpack(value)
            return data, seconds + nanoseconds / 1e9, address
    return data, time.time(), address
