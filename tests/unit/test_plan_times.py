# SPDX-License-Identifier: Apache-2.0
"""A stage's duration, against figures for QwQ-32B worked out here by hand."""

from unittest.mock import patch

import numpy as np
import pytest

from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import counts, times
from reasongrm_nemo.plan.rollouts.timeline import roll_out
from reasongrm_nemo.plan.serving import server
from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

QWQ = Architecture.from_folder(resolve_path("asset:configs/qwq_32b", "."))
PARAMETERS = 32_763_876_352
# per layer: query, output; key, value (8 of 40 heads); gate, up, down
MATRICES = 2 * 5120 * 5120 + 2 * 5120 * 1024 + 3 * 5120 * 27648
HEAD = 152064 * 5120
PROMPT = 2000  # the recipe's plan.prompt_tokens
LENGTH = 2096  # of a response; with the prompt, a sixteenth of a micro-batch
DECODED = 2039e9 * 0.75  # bytes per second that a GPU reads while decoding
COMPUTED = 312e12 * 0.35  # operations per second on a GPU
ON_THEIR_OWN = ["rollout.sleep=false", "cluster.weight_transfer=nccl", "rollout.servers=2", "rollout.nodes=2"]


class Same:
    """Draws responses that all have the same length."""

    def __init__(self, length):
        self.length = length

    def draw(self, groups, samples, seed):
        return np.full((groups, samples), self.length, dtype=np.int64)


def recipe(stage="1_grpo_zero", *words):
    return load_recipe(recipes_root() / "qwq_32b" / f"{stage}.yaml", words)


def forward(length, layers=64, head=1):
    """Operations of a forward pass over one sequence: causal attention, the head at every token."""
    return 2 * (layers * MATRICES + head * HEAD) * length + layers * 2 * 40 * 128 * length**2


def step(length, layers=64, head=1):
    """Forward, recomputed forward, and backward, which for attention takes five products instead of two."""
    return 8 * (layers * MATRICES + head * HEAD) * length + layers * 4.5 * 2 * 40 * 128 * length**2


def of_stage(cfg, length, optimizer=0):
    with patch.object(times, "stated_lengths", lambda _: Same(length)):
        return times.of_stage(cfg, QWQ, server(cfg, QWQ), optimizer)


def test_a_server_reads_its_share_of_the_weights_and_of_the_cache_at_each_step():
    cfg = recipe()
    rates = times.rates(cfg, QWQ, server(cfg, QWQ))
    assert rates.fixed == pytest.approx(0.0026)
    assert rates.weights == pytest.approx(2 * PARAMETERS / 8 / DECODED, rel=1e-6)  # 5.4 ms
    assert rates.token == pytest.approx(2 * 2 * 64 * 128 / DECODED, rel=1e-6)  # one KV head a worker
    assert rates.sample == pytest.approx(2 * PARAMETERS / (8 * COMPUTED), rel=1e-6)


@pytest.mark.parametrize(
    ("servers", "sequences", "prompts"), [(4, 64, 16), (4, 60, 16), (4, 4096, 256), (1, 64, 256)]
)
def test_several_servers_are_given_prompts_for_twice_their_slots(servers, sequences, prompts):
    cfg = recipe("1_grpo_zero", f"rollout.servers={servers}", f"rollout.max_num_seqs={sequences}")
    pool = times.servers(cfg, server(cfg, QWQ), 8)
    assert (pool.count, pool.slots, pool.prompts) == (servers, sequences, prompts)


def test_a_sampling_stage_has_one_nodes_servers_and_a_grpo_step_has_all():
    assert times.server_count(recipe()) == 4
    assert times.server_count(recipe("2_generate")) == 1


def test_training_time_counts_operations_and_filling_and_draining_the_pipeline():
    """8 sequences over DP 2, two per micro-batch: two passes on the stage with the head, one on the other."""
    cfg = recipe("1_grpo_zero", "cluster.pipeline_parallel=2")
    length = PROMPT + 1000
    seconds = times.training_seconds(cfg, QWQ, np.full((2, 4), 1000), 2 * length)
    expected = (2 * step(length, 32) + step(length, 32, 0)) * 2 / (8 * COMPUTED)
    assert seconds == pytest.approx(expected, rel=1e-9)
    scored = times.training_seconds(cfg, QWQ, np.full((2, 4), 1000), 2 * length, forwards=2)
    expected = (2 * forward(length, 32) + forward(length, 32, 0)) * 2 * 2 / (8 * COMPUTED)
    assert scored - seconds == pytest.approx(expected, rel=1e-9)


def test_fewer_layers_beside_the_head_make_a_step_shorter():
    """The head costs 1.6 layers: 17 layers without it take less time than 16 with it, and 18 take more."""
    layers = {None: 16, 13: 17, 10: 18}
    seconds = {
        last: times.training_seconds(
            recipe("1_grpo_zero", f"cluster.layers_in_last_stage={last or 'null'}"),
            QWQ,
            np.full((1, 400), 1000),
            PROMPT + 1000,
        )
        for last in layers
    }
    length = PROMPT + 1000
    slowest = {last: step(length, count, head=last is None) for last, count in layers.items()}
    assert seconds[13] < seconds[None] < seconds[10]
    for last, operations in slowest.items():  # 400 micro-batches: filling and draining are under 1 %
        assert seconds[last] == pytest.approx(400 * operations / (8 * COMPUTED), rel=0.01)


def test_a_step_lasts_as_long_as_its_busiest_rank():
    cfg = recipe("1_grpo_zero", "cluster.pipeline_parallel=2")
    seconds = times.training_seconds(cfg, QWQ, np.array([[500, 30000]]), 65536)
    assert seconds == pytest.approx(step(PROMPT + 30000) / (8 * COMPUTED), rel=1e-9)


def test_without_recomputation_there_is_one_forward_pass_fewer():
    full, none = (recipe("1_grpo_zero", f"model.recompute={how}") for how in ("full", "none"))
    a, b = (times.training_seconds(cfg, QWQ, np.full((1, 1), 1000), 65536) for cfg in (full, none))
    layers = forward(3000) - 2 * HEAD * 3000  # the head's logits are recomputed in any case
    assert a - b == pytest.approx(layers / (8 * COMPUTED), rel=1e-9)  # one micro-batch: stage after stage


def test_prompts_are_capped_at_the_judges_limit():
    seconds = {
        times.training_seconds(
            recipe("1_grpo_zero", f"plan.prompt_tokens={n}"), QWQ, np.full((1, 1), 9), 65536
        )
        for n in (8192, 9000)
    }
    assert len(seconds) == 1


def rollouts(length):
    """256 samples on 4 servers, 64 at once on each: 8 prefills, then a step per token, contexts growing."""
    cache = 2 * 2 * 64 * 128 / DECODED * sum(64 * (PROMPT + made) for made in range(length))
    sample = 2 * PARAMETERS / (8 * COMPUTED)
    one = 0.0026 + max(2 * PARAMETERS / 8 / DECODED, 64 * sample)
    return 8 * PROMPT * sample + length * one + cache


def test_a_step_of_grpo_is_the_sum_of_its_parts():
    estimate = of_stage(recipe(), LENGTH, optimizer=12 * 10**9)
    assert estimate.rollouts == pytest.approx(rollouts(LENGTH), rel=1e-6)
    assert estimate.slowest == pytest.approx(rollouts(LENGTH), rel=1e-6)
    assert estimate.idle == pytest.approx(0, abs=1e-9)
    assert estimate.refit == pytest.approx(2 * PARAMETERS / 10e9)
    assert estimate.offload == pytest.approx(2 * 12 / 20)  # to the CPU and back
    assert estimate.steps == 100 and estimate.devices == 32
    assert estimate.training == pytest.approx(of_micro_batches(), rel=1e-9)
    whole = estimate.rollouts + estimate.training + estimate.refit + estimate.offload
    assert estimate.seconds == pytest.approx(100 * whole)
    assert estimate.device_hours == pytest.approx(estimate.seconds * 32 / 3600)


def of_micro_batches(passes=step, sequences=256):
    """Sequences of 4,096 tokens, 16 a micro-batch, PP 4: the last stage, with the head, waits for three."""
    sizes = (sequences, 16, 1), (3 * 16, 16, 0)
    return sum(count * passes(PROMPT + LENGTH, layers, head) for count, layers, head in sizes) / (
        8 * COMPUTED
    )


@pytest.mark.parametrize(
    ("words", "forwards"),
    [
        (["grpo.kl_coefficient=0.1"], 1),
        (["grpo.kl_coefficient=0.1", "grpo.kl_in=reward"], 2),
        (["grpo.optimizer_steps=2"], 1),
        (["grpo.optimizer_steps=2", "grpo.kl_coefficient=0.1"], 2),
        ([*ON_THEIR_OWN, "grpo.optimizer_steps=2", "grpo.max_lag=1"], 0),  # vLLM's log-probs are the old ones
    ],
)
def test_extra_log_prob_passes_of_a_step_are_counted(words, forwards):
    estimate = of_stage(recipe("1_grpo_zero", *words), LENGTH)
    updates = 2 if "grpo.optimizer_steps=2" in words else 1  # each fills and drains the pipeline

    def passes(length, layers, head):
        return step(length, layers, head) + forwards * forward(length, layers, head)

    expected = updates * of_micro_batches(passes, 256 // updates)
    assert estimate.training == pytest.approx(expected, rel=1e-9)


def test_gpus_of_servers_beside_the_ranks_are_counted():
    beside = ["cluster.devices_per_node=4", "cluster.tensor_parallel=4", "rollout.tensor_parallel=4"]
    beside += ["rollout.gpus=[4,5,6,7]", "cluster.weight_transfer=nccl", "rollout.sleep=false"]
    words = [*beside, "cluster.offload_optimizer=false", "rollout.servers=4"]
    assert of_stage(recipe("1_grpo_zero", *words), 1000).devices == 32


def test_without_a_gpus_memory_sampling_has_no_estimate():
    assert "plan.device_memory_gib is null" in of_stage(
        recipe("2_generate", "plan.device_memory_gib=null"), 1000
    )


def test_evaluate_max_tasks_limits_only_the_held_out_tasks():
    assert counts.tasks(recipe("7_evaluate", "evaluate.max_tasks=100")) == 41773
    without = [f"inputs.{name}=null" for name in ("rewardbench", "rm_bench", "rmb")]
    assert counts.tasks(recipe("7_evaluate", "evaluate.max_tasks=100", *without)) == 100
    assert counts.tasks(recipe("7_evaluate", "evaluate.shards=[a,b]")) == 0


def test_a_lag_hides_the_shorter_part_and_servers_on_separate_nodes_are_counted():
    apart = [*ON_THEIR_OWN, "cluster.offload_optimizer=false"]
    plain = of_stage(recipe("1_grpo_zero", *apart), 1000)
    ahead = of_stage(recipe("1_grpo_zero", *apart, "grpo.max_lag=1"), 1000)
    assert plain.offload == 0 and plain.devices == ahead.devices == 48
    assert plain.seconds == pytest.approx(100 * (plain.rollouts + plain.training + plain.refit))
    assert ahead.seconds == pytest.approx(100 * max(ahead.rollouts, ahead.training + ahead.refit))


def test_sft_takes_the_steps_of_its_epochs():
    estimate = of_stage(recipe("4_sft", "plan.tasks=1000", "sft.epochs=2"), LENGTH)
    # 3 batches of 256 and one of 232, twice
    assert (estimate.steps, estimate.rollouts, estimate.refit) == (8, 0, 0)
    assert estimate.training == pytest.approx(of_micro_batches(), rel=1e-9)
    assert estimate.seconds == pytest.approx(2 * 1000 / 256 * estimate.training)
    assert of_stage(recipe("4_sft", "plan.tasks=100"), 1000).steps == 1
    held_out = "sft.validation={every: 5, fraction: 0.5}"
    assert of_stage(recipe("4_sft", "plan.tasks=1000", held_out), 1000).steps == 2


@pytest.mark.parametrize("tasks", [64, 400])
def test_sampling_takes_as_long_as_simulated(tasks):
    """512 and 3,200 answers of one length, 256 at once, on one server: its waves, token by token."""
    cfg = recipe("2_generate", f"plan.tasks={tasks}")
    one_server = server(cfg, QWQ)
    line = roll_out(
        np.full((tasks, 8), 3000),
        [PROMPT] * tasks,
        times.servers(cfg, one_server, 8),
        times.rates(cfg, QWQ, one_server),
    )
    estimate = of_stage(cfg, 3000)
    assert (estimate.steps, estimate.training, estimate.devices) == (1, 0, 8)
    assert estimate.slowest == pytest.approx(line.seconds, rel=0.03)
    # plus the longest answer, which runs alone at the end
    alone = times.rates(cfg, QWQ, one_server).steps(3000, 1, PROMPT)
    assert estimate.seconds == estimate.rollouts == pytest.approx(estimate.slowest + alone)


def test_evaluation_samples_for_each_model_and_setting():
    words = ["plan.tasks=4000", "rollout.max_num_seqs=64"]
    words.append("evaluate.settings=[{temperature: 0.0, samples: 1}]")
    one = of_stage(recipe("7_evaluate", *words), 1000)
    two = "evaluate.settings=[{temperature: 0.0, samples: 1}, {temperature: 1.0, samples: 1}]"
    assert of_stage(recipe("7_evaluate", *words, two), 1000).seconds == pytest.approx(2 * one.seconds)
    five = of_stage(recipe("7_evaluate", *words, "evaluate.models.more=a"), 1000)
    assert five.seconds == pytest.approx(5 / 4 * one.seconds)


def test_a_shard_and_a_limit_reduce_the_tasks():
    def tasks(stage, *words):
        return counts.tasks(recipe(stage, *words))

    assert tasks("2_generate") == 72000
    assert tasks("2_generate", "generate.max_tasks=100") == 100
    assert tasks("2_generate", "generate.max_tasks=100", "plan.tasks=null") == 100
    assert tasks("2_generate", "plan.tasks=10", "generate.max_tasks=100") == 10
    assert tasks("2_generate", "plan.tasks=10", "generate.shard=1/3") == 4
    assert tasks("4_sft", "plan.tasks=10") == 10


@pytest.mark.parametrize("missing", ["tflops", "bandwidth_gb_s"])
def test_without_rates_or_tasks_the_plan_says_what_is_missing(missing):
    assert "no time is estimated" in of_stage(recipe("1_grpo_zero", f"plan.{missing}=null"), 1000)
    assert "plan.tasks is null" in of_stage(recipe("2_generate", "plan.tasks=null"), 1000)
