"""Evaluations of one network that trace an attack once: tracing takes longest in tests of them."""

import pickle

import pytest

from sat_tf.evaluation import runner


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Gives an engine the graphs of the first one of the same network, attack and strategy.

    A file that has this name has it for all its tests. Graphs hold the network's variables, not
    their values; whoever changes an attack's or a network's functions must go without it.
    """
    first = {}

    class Engine(runner.Packed):
        def __init__(self, network, attack, num_slots, **options):
            super().__init__(network, attack, num_slots, **options)
            # The name of the loss stands beside its function, which cannot be pickled.
            settings = {name: v for name, v in vars(attack).items() if name != "loss_function"}
            key = network, type(attack), pickle.dumps(settings), self.entries, options["strategy"]
            same = first.setdefault(key, self)
            self._fill, self._refill, self._advance = same._fill, same._refill, same._advance

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Packed", Engine)
        yield
