"""What the server asks of the process that it runs in: descriptors, and a collector that does not stop pushes.

Rules of this module: called where a process is made a server, in `cli` and `twist`; never by the library.
"""

import gc
import resource

NEVER = 1_000_000
"""Collections of the middle generation between two of the oldest."""


def raise_descriptors() -> int:
    """Raise the limit of open descriptors as far as the process may; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def tame_collector() -> None:
    """Have the collector leave alone what lives long.

    A full collection stops the loop for some 40 ms with ten thousand connections. What exists now is never looked at
    again, and what outlives the young generations is not looked at either: a connection that ends leaves no cycles
    behind (`tests/integration/test_churn.py`), and `ClockService` has a full collection made if ended ones linger.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)
