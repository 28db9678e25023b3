"""Doubles for the tests of programs that use clockd: a server, and a network and clocks that are simulated."""

from clockd.testing.fake import Call, FakeServer

__all__ = ["Call", "FakeServer"]
