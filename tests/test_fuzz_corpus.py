"""What is kept of `python -m tests.fuzz`, tried anew: each input some times, cut in other ways, at other moments."""

import gc
from random import Random

from fuzz.inputs import corpus, random_input
from fuzz.targets import TARGETS
from twisted.trial.unittest import SynchronousTestCase

TIMES = 16


class FuzzCase(SynchronousTestCase):
    def setUp(self):
        gc.freeze()  # each try collects, and need not look at what was there before
        self.addCleanup(gc.unfreeze)


class CorpusTests(FuzzCase):
    def try_all(self, target):
        self.assertGreater(len(corpus()), 20)
        for name, data in corpus().items():
            for seed in range(TIMES):
                try:
                    TARGETS[target](data, Random(seed))
                except Exception as error:
                    raise AssertionError(f"{name}, seed {seed}") from error

    def test_the_decoder_does_with_each_what_stock_banana_does_within_bounds(self):
        self.try_all("decoder")

    def test_a_server_survives_each_and_nothing_is_left(self):
        self.try_all("login")


class RandomTests(FuzzCase):
    """A little of what the runner does, so that it is known to run."""

    def test_random_inputs(self):
        for target, inputs in (("decoder", 300), ("login", 100)):
            for seed in range(inputs):
                random = Random(seed)
                TARGETS[target](random_input(random), random)
