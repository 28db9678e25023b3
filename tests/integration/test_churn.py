import sys

from certificates import Chain
from processes import HERE, Program

ZOPE = {"Provides", "tuple", "dict"}
"""What zope.interface remembers of each interface that a TLS connection provides: ten, however many connections."""


def test_a_connection_that_has_ended_leaves_nothing_for_the_collector(tmp_path):
    Chain().write(tmp_path)
    results = Program(sys.executable, str(HERE / "churn.py"), str(tmp_path)).result(90)
    assert [result["opened"] for result in results] == [10 * n for n in range(1, 13)]
    for result in results:
        assert set(result["left"]) <= (ZOPE if result["way"].startswith("tls") else set()), result
    assert results[-1]["errors"] == 0
