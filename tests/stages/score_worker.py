# SPDX-License-Identifier: Apache-2.0
"""Scores sequences with Megatron and exports the model.

``score_worker.py HF SEQUENCES.json OUT RECIPE [key=value ...]``
"""

import json
import sys
from pathlib import Path


def main(hf_path, sequences, out, recipe, *overrides):
    from reasongrm_nemo.megatron.platform import load_platform

    platform = load_platform("cpu")
    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.megatron.micro_batches import Sample
    from reasongrm_nemo.recipe.load import load_recipe

    sessions.quiet_libraries()
    recipe = load_recipe(recipe, overrides)
    session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 1, Path(hf_path))
    session.model.grpo = recipe.grpo
    samples = [Sample(tuple(ids), prompt) for ids, prompt in json.loads(Path(sequences).read_text())]
    scored = session.model.get_inference_log_probs(samples)
    Path(out).mkdir()
    (Path(out) / "log_probs.json").write_text(json.dumps(scored))
    sessions.export_hf(session, Path(out) / "hf", "fp32")


if __name__ == "__main__":
    main(*sys.argv[1:])
