"""`make soak`, and what `make fuzz` does to a server, in short: so that they are known to run."""

import sys

from processes import HERE, LONG_SECONDS, run


def test_after_a_thousand_connections_nothing_is_left():
    done = run(sys.executable, str(HERE / "soak.py"), "--cycles", "1000", seconds=LONG_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is left" in done.stdout


def test_some_hundred_fuzzed_inputs_do_nothing_to_a_server():
    command = (sys.executable, "-m", "tests.fuzz", "server", "--inputs", "300")
    done = run(*command, cwd=HERE.parent.parent, seconds=LONG_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 unhandled errors" in done.stdout
