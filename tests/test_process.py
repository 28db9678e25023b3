"""What is asked of a process, asked of processes that are made for it: a test's own is left as it is."""

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent


def printed(program):
    """Run a program to its end, and return the words that it printed."""
    path = os.pathsep.join([str(ROOT), *sys.path[1:]])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return done.stdout.split()


class DescriptorsTests(SynchronousTestCase):
    PROGRAM = """
import resource
from twisted.logger import globalLogPublisher
from clockd.process import raise_descriptors
logged = []
globalLogPublisher.addObserver(logged.append)
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
raise_descriptors()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
print(*[event["descriptors"] for event in logged if "descriptors" in event])
"""

    def limits(self, soft, hard):
        """Return soft limit, hard limit, and what was logged, after a process with such limits has asked for more."""
        return [int(word) for word in printed(self.PROGRAM.format(soft=soft, hard=hard))]

    def test_the_soft_limit_is_raised_to_the_hard_one_and_logged(self):
        self.assertEqual(self.limits(100, 200), [200, 200, 200])

    def test_a_soft_limit_that_is_the_hard_one_stays_and_is_logged(self):
        self.assertEqual(self.limits(150, 150), [150, 150, 150])

    def test_as_many_files_can_then_be_open(self):
        program = self.PROGRAM + "files = [open('/dev/null') for _ in range(150)]\nprint(len(files))\n"
        self.assertEqual(printed(program.format(soft=100, hard=200))[-1], "150")
        with self.assertRaises(subprocess.CalledProcessError):  # without it, they cannot
            printed(program.replace("raise_descriptors()", "").format(soft=100, hard=200))


class HangupTests(SynchronousTestCase):
    def test_a_hangup_is_heard_in_the_reactor_and_ends_nothing(self):
        program = """
import os, signal
from twisted.internet import reactor
from clockd.process import reload_on_hangup

def reload():
    heard.append(reactor.running)
    if len(heard) == 2:
        reactor.stop()
    else:
        hang_up()

def hang_up():
    os.kill(os.getpid(), signal.SIGHUP)
    print(len(heard))

heard = []
reload_on_hangup(reload, reactor)
reactor.callWhenRunning(hang_up)
reactor.callLater(30, reactor.stop)
reactor.run()
print(*heard)
"""
        self.assertEqual(printed(program), ["0", "1", "True", "True"])


class CollectorTests(SynchronousTestCase):
    PROGRAM = """
import gc, weakref

class Node:
    pass

def cycle():
    node = Node()
    node.itself = node
    return node

early = cycle()
{tame}
frozen = gc.get_freeze_count()
old = cycle()
gc.collect(0)
gc.collect(1)  # it is in the oldest generation now
refs = [weakref.ref(each) for each in (early, old)]
del early, old

collections = [0, 0, 0]
gc.callbacks.append(lambda phase, info: phase == "start" and collections.__setitem__(
    info["generation"], collections[info["generation"]] + 1))
young = weakref.ref(cycle())
kept = []
for _ in range({rounds}):  # grows by so much that the collector would look at the oldest generation for it
    kept += [[] for _ in range(10_000)]
alive = [ref() is not None for ref in refs]
gc.collect()
print(frozen > 1000, young() is not None, *alive, collections[2] - 1, collections[1] > 40, refs[1]() is not None)
"""

    def after(self, tame):
        return printed(self.PROGRAM.format(tame=tame, rounds=100))

    def test_what_has_become_old_is_not_looked_at_by_itself_while_young_garbage_goes(self):
        frozen, young, early, old, full, often, still = self.after(
            "from clockd.process import tame_collector; tame_collector()"
        )
        self.assertEqual((frozen, young, early, old), ("True", "False", "True", "True"))
        self.assertEqual((full, often), ("0", "True"))
        self.assertEqual(still, "False")  # a collection that is asked for finds it

    def test_without_it_the_old_is_looked_at(self):
        frozen, young, _, old, full, _, _ = self.after("")
        self.assertEqual((frozen, young, old), ("False", "False", "False"))
        self.assertNotEqual(full, "0")

    def test_what_exists_is_collected_once_and_then_never_looked_at_again(self):
        program = """
import gc, weakref
from clockd.process import tame_collector
class Node: pass
garbage, kept = Node(), Node()
garbage.itself, kept.itself = garbage, kept
before, after = weakref.ref(garbage), weakref.ref(kept)
del garbage
tame_collector()
del kept
gc.collect()
print(before() is None, after() is None, gc.isenabled())
"""
        self.assertEqual(printed(program), ["True", "False", "True"])
