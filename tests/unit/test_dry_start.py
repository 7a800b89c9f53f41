# SPDX-License-Identifier: Apache-2.0
"""Stages that sample or count, started dry; those that train are in tests/parallel/test_simulation.py."""

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.plan.dry_start import dry_start
from reasongrm_nemo.recipe.load import load_recipe, recipes_root

ROOT = recipes_root()
# Keys of blocks that a sampling stage shares with the trainers, which alone read these.
TRAINERS = {
    "cluster.layers_in_first_stage",
    "cluster.layers_in_last_stage",
    "cluster.offload_optimizer",
    "cluster.pipeline_parallel",
    "cluster.sequence_parallel",
    "cluster.tensor_parallel",
    "cluster.threads_per_rank",
    "cluster.trainer_python",
    "model.dtype",
    "model.log_prob_chunk",
    "model.megatron_path",
    "model.recompute",
    "rollout.straggler_timeout_s",
}
# Keys that are read only where another one says so.
DRAWN = {"rollout.temperature", "rollout.top_p", "rollout.top_k"}
UNLESS = {
    "2_generate": {"generate.scorer.hf_path"},  # an input: read by the scorer, where there is one
    "5_mine": set(),
    "3_filter": {"judge.date", "judge.max_prompt_tokens", "judge.policy", "judge.response_prefix"},
    # no benchmark is made up, and evaluate.settings say how answers are drawn
    "7_evaluate": {"evaluate.both_orders", "evaluate.max_items", "evaluate.policy", *DRAWN},
    "0_prepare": {
        "prepare.decontaminate_words",
        "prepare.instruction",
        "prepare.tiny_judge.train",
        "prepare.tiny_judge.validation",
        "model.architecture",
        "model.max_model_len",
        "model.rope.factor",
        "model.rope.original_max_position_embeddings",
        "model.rope.type",
        "judge.policy",
    },
}


@pytest.mark.parametrize("name", UNLESS)
def test_a_stage_runs_dry_and_reads_all_its_keys(name):
    found = dry_start(load_recipe(ROOT / "qwq_32b" / f"{name}.yaml"))
    assert set(found.unread) <= TRAINERS | UNLESS[name], set(found.unread) - TRAINERS - UNLESS[name]
    assert any("made-up records" in what for what in found.done)
    if name in ("2_generate", "5_mine", "7_evaluate"):
        assert found.done[0] == "1 vLLM server(s) placed and configured"
        drawn = set() if name == "7_evaluate" else DRAWN
        read = {"rollout.max_num_seqs", "model.rope.factor", "judge.policy", *drawn}
        assert read <= set(found.read)


def test_what_the_stage_refuses_the_dry_start_refuses():
    recipe = load_recipe(ROOT / "qwq_32b" / "2_generate.yaml", ["judge.max_prompt_tokens=1"])
    with pytest.raises(UserError, match=r"prompts are longer than judge\.max_prompt_tokens 1"):
        dry_start(recipe)
    recipe = load_recipe(ROOT / "qwq_32b" / "2_generate.yaml", ["judge.template=none"])
    with pytest.raises(UserError, match="none"):
        dry_start(recipe)
