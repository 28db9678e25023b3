"""Doubles for the tests of programs that use clockd: a network and clocks that are simulated."""
