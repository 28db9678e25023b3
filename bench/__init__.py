"""Benchmarks of clockd and of what it is compared with: `python -m bench --help`.

How it is measured, alike for every server: the server runs alone on one core, the load generator (and the publisher,
where a broker needs one) on another. The subscribers are divided into groups; the members of a group are sent a
message one after the other, and the groups follow each other at even distances over the period, because what a push
costs depends on how many go out per wake-up. Messages have the same number of bytes on the wire, and carry the time at
which they were sent.
"""
