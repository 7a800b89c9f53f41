# SPDX-License-Identifier: Apache-2.0
"""One rank's part of a push over tensors without data: ``push_worker.py OUT RECIPE CONFIG RANK WORD...``.

The model, the export and the buckets are real; the process group sends nothing. Writes the bytes allocated
at the peak.
"""

import sys
from pathlib import Path


def main(out, path, config, rank, *words):
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from reasongrm_nemo.megatron import session
    from reasongrm_nemo.megatron.platform import load_platform

    load_platform("cpu")
    session.quiet_libraries()
    from reasongrm_nemo.megatron.storages import LiveStorages
    from reasongrm_nemo.megatron.weights import transfer
    from reasongrm_nemo.models.architecture import Architecture, Layout
    from reasongrm_nemo.plan.simulation import fake_rank
    from reasongrm_nemo.recipe.load import load_recipe
    from reasongrm_nemo.rollout.weights import ipc, sender

    recipe = load_recipe(path, words)
    architecture = Architecture.from_folder(Path(config))
    fake_rank._join_world(recipe.cluster, int(rank))
    layers = Layout.of_cluster(recipe.cluster).stages(architecture.layers)
    transfer._owners = lambda _: Owners(layers)  # a group that sends nothing cannot gather this
    ipc._gathered = lambda mine, group: mine
    reduced = [b"" if at in (7, 11, 13) else 0 for at in range(15)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        module = fake_rank.build(recipe, architecture).core_module()
        push = transfer.WeightTransfer(module, architecture, transformer_engine=False)
        with LiveStorages(module.parameters()) as live:
            infos = push.infos()
            tensors = sender._checked(infos, push.export(everywhere=True))
            for _ in ipc.buckets(infos, tensors, torch.device("cpu"), "GPU", lambda _: (None, reduced)):
                pass
    Path(out).write_text(str(live.peak))


class Owners(dict):
    """Maps a parameter's name to its pipeline stage."""

    def __init__(self, layers):
        super().__init__()
        self._stages = [stage for stage, count in enumerate(layers) for _ in range(count)]

    def __missing__(self, name):
        if name.startswith("decoder.layers."):
            return self._stages[int(name.split(".")[2])]
        return 0 if name.startswith("embedding.") else self._stages[-1]


if __name__ == "__main__":
    main(*sys.argv[1:])
