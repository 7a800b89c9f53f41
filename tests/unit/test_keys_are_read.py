# SPDX-License-Identifier: Apache-2.0
"""Every key is read by its stage; for the stages that train, see tests/parallel/test_simulation.py."""

import importlib
import logging

import pytest
from fake_pool import FakePool
from keys_read import keys_read, unread
from made_up_inputs import TASKS, write_inputs
from omegaconf import OmegaConf

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.plan import command
from reasongrm_nemo.plan import dry_start as starting
from reasongrm_nemo.plan.dry_start import dry_start
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stage_kinds import kind_of

ROOT = recipes_root()
# Keys that only trainers read, in blocks that a sampling stage shares with them.
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
# Keys that are read only if another key asks for it.
DRAWN = {"rollout.temperature", "rollout.top_p", "rollout.top_k"}
UNLESS = {
    "2_generate": {"generate.scorer.hf_path"},  # an input: read only if there is a scorer
    "5_mine": set(),
    "3_filter": {"judge.date", "judge.max_prompt_tokens", "judge.policy", "judge.response_prefix"},
    # the test has no benchmark, and evaluate.settings sets the sampling
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
def test_a_stage_runs_and_reads_all_its_keys(name, tmp_path):
    recipe = load_recipe(ROOT / "qwq_32b" / f"{name}.yaml")
    (tmp_path / "artefact").mkdir()
    read, pool = set(), FakePool(TASKS)
    with keys_read(read):
        dry_start(recipe)
        given = write_inputs(recipe, tmp_path)
        recipe = OmegaConf.create(OmegaConf.to_container(recipe))
        for missing in set(recipe.inputs) - set(given):
            recipe.inputs[missing] = None  # the test has no benchmark
        log = logging.getLogger("test")
        ctx = StageContext(recipe, tmp_path / "artefact", given, Console(quiet=True), log, pool)
        importlib.import_module(f"reasongrm_nemo.stages.{recipe.stage}").run(ctx)
    left = unread(recipe, read)
    assert left <= TRAINERS | UNLESS[name], left - TRAINERS - UNLESS[name]
    assert bool(pool.prompts) == kind_of(recipe).samples
    if kind_of(recipe).samples:
        drawn = set() if name == "7_evaluate" else DRAWN
        assert {"rollout.max_num_seqs", "model.rope.factor", "judge.policy", *drawn} <= read


def test_a_dry_start_lists_what_was_checked():
    generate, prepare = (load_recipe(ROOT / "qwq_32b" / f"{n}.yaml") for n in ("2_generate", "0_prepare"))
    template = f"the template {generate.judge.template} was read"
    assert dry_start(generate) == [template, "1 vLLM server(s) placed and configured"]
    assert dry_start(prepare) == [template]


def test_a_pipeline_starts_dry_with_the_shapes_of_its_base_models(monkeypatch):
    monkeypatch.setattr(starting, "check", lambda *_: [])  # tests/parallel/test_simulation.py covers the step
    data, text, wrong = command.of_dry_start(ROOT / "tiny", ["plan.config=null"])
    assert wrong is None and [entry["recipe"][0] for entry in data] == [*"01234567"]
    assert text.startswith("0_prepare: started dry\n  the template tiny was read\n1_grpo_zero: started dry\n")


def test_the_dry_start_refuses_what_the_stage_refuses():
    wrong = {"judge.template=none": "none", "rollout.tensor_parallel=3": "num_attention_heads"}
    for words, says in wrong.items():
        with pytest.raises(UserError, match=says):
            dry_start(load_recipe(ROOT / "qwq_32b" / "2_generate.yaml", [words]))
