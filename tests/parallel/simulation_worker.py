# SPDX-License-Identifier: Apache-2.0
"""Peak memory of one small rank's step, run by test_simulation.py: ``simulation_worker.py RECIPE HF HOW``.

HOW is ``fake`` (tensors without data), ``real`` (the same count over real tensors) or ``allocator`` (what
PyTorch's CPU allocator reports for real tensors).
"""

import sys
from pathlib import Path


class Allocator:
    """Replaces LiveStorages with the profiler's memory events."""

    def __init__(self, known):
        self.peak = 0

    @property
    def at_peak(self):
        """All memory, as a single part."""
        return {"": self.peak}

    def count_as(self, part, tensor):
        """Does not distinguish parts."""

    def __enter__(self):
        from torch.profiler import ProfilerActivity, profile

        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()

    def __exit__(self, *error):
        self._profile.__exit__(*error)
        now = 0
        for event in self._profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                now += event.nbytes()
                self.peak = max(self.peak, now)


def main(recipe, hf_path, how):
    from reasongrm_nemo.megatron.platform import load_platform

    load_platform("cpu")
    from reasongrm_nemo.megatron import session

    session.quiet_libraries()
    from reasongrm_nemo.megatron import storages
    from reasongrm_nemo.plan.simulation import fake_rank
    from reasongrm_nemo.plan.simulation.simulate import Request
    from reasongrm_nemo.recipe.load import load_recipe

    if how == "allocator":
        storages.LiveStorages = Allocator
    report = fake_rank.simulate_rank(Request(load_recipe(recipe), Path(hf_path), 0), fake=how == "fake")
    print("peak", sum(report.held.activations.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
