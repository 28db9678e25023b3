"""`make soak` in short, so that it is known to run."""

import sys

from processes import HERE, run


def test_after_a_thousand_connections_nothing_is_left():
    done = run(sys.executable, str(HERE / "soak.py"), "--cycles", "1000", seconds=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is left" in done.stdout
