# SPDX-License-Identifier: Apache-2.0
"""Memory of the real actor step at full shapes, over tensors without data, and every GPU recipe's model.

Bounds are GiB a rank, states included: bf16 weights, fp32 gradients, 12 bytes a parameter of optimizer over
the data-parallel ranks. Seen: 27.7 and 24.0 (TP8 x PP4, first and last stage), 32.6 and 30.2 (TP8 x PP2).
Without sequence parallelism the first stage is at 70.2, with one chunk of 65,536 log-probs the last at 30.3.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reasongrm_nemo.architecture import Layout
from reasongrm_nemo.checks import check_model
from reasongrm_nemo.config import load_recipe, recipes_root
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.simulation import Request, rank_of_stage, simulate

CONFIGS = Path(__file__).parents[2] / "reasongrm_nemo" / "assets" / "configs"
QWQ = recipes_root() / "qwq_32b" / "1_grpo_zero.yaml"
GIB = 2**30


def trained_on_gpu():
    for path in sorted([*recipes_root().glob("qwq_32b/*.yaml"), *recipes_root().glob("ablation/*/*.yaml")]):
        recipe = load_recipe(path)
        assert recipe.cluster.platform == "gpu"
        if recipe.stage in ("grpo", "sft"):
            yield path, recipe


RECIPES = dict(trained_on_gpu())


def model_of(path):
    """What of a recipe decides how its model is built: model, stage, layout."""
    return path.parent.name, RECIPES[path].stage, Layout.of_cluster(RECIPES[path].cluster)


def requests():
    """Every rank that a test asks for, by name: most of a simulation's time is one start of the libraries."""
    for stages in (2, 4):
        recipe = load_recipe(QWQ, [f"cluster.pipeline_parallel={stages}"])
        for stage in (0, stages - 1):
            rank = rank_of_stage(recipe.cluster, stage)
            yield ("peak", stages, stage), Request(recipe, CONFIGS / "qwq_32b", rank)
    for rank in range(32):
        yield ("count", rank), Request(RECIPES[QWQ], CONFIGS / "qwq_32b", rank, train=False)
    for path, recipe in {model_of(path): (path, recipe) for path, recipe in RECIPES.items()}.values():
        step = path.parent.name != "qwq_32b"  # whose steps are above
        for stage in {0, recipe.cluster.pipeline_parallel - 1}:
            rank = rank_of_stage(recipe.cluster, stage)
            request = Request(recipe, CONFIGS / path.parent.name, rank, train=step)
            yield ("recipe", model_of(path), stage), request


@pytest.fixture(scope="module")
def reports():
    wanted = dict(requests())
    return dict(zip(wanted, simulate(list(wanted.values())), strict=True))


@pytest.mark.parametrize(("stages", "bound"), [(4, 29), (2, 34)])
def test_qwq_at_65536_tokens_fits(reports, stages, bound):
    for stage in (0, stages - 1):
        report = reports["peak", stages, stage]
        assert report.stage == stage
        assert report.total <= bound * GIB, (stage, report.total / GIB)
        # a step that held next to nothing would be none: the layers' inputs alone are more
        assert report.activations >= 5 * GIB, (stage, report.activations / GIB)


def test_all_32_ranks_hold_qwq_once(reports):
    ranks = [reports["count", rank] for rank in range(32)]
    assert [report.stage for report in ranks] == [rank // 8 for rank in range(32)]
    once = [r.parameters - (r.replicated if r.rank % 8 else 0) for r in ranks]
    assert sum(once) == 32_763_876_352


@pytest.mark.parametrize("path", list(RECIPES), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_gpu_recipe_fits_its_model_and_builds_it(path, reports):
    file = CONFIGS / path.parent.name / "config.json"
    check_model(RECIPES[path], json.loads(file.read_text()), str(file))
    for stage in {0, RECIPES[path].cluster.pipeline_parallel - 1}:
        report = reports["recipe", model_of(path), stage]
        assert report.parameters > 0
        # 80 GB are 74.5 GiB, of which CUDA, NCCL and fragmentation take some
        assert report.total <= 65 * GIB, report.total / GIB


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A recipe of one rank and a model that has room on any machine."""
    folder = tmp_path_factory.mktemp("small")
    shape = {
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
    }
    config = json.loads((CONFIGS / "qwq_32b" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | shape))
    recipe = folder / "small.yaml"
    recipe.write_text(
        "defaults: [base/grpo]\n"
        "inputs: {tasks: tasks.jsonl}\n"
        "model: {hf_path: small, max_model_len: 512, recompute: full, log_prob_chunk: 128}\n"
        "judge: {max_prompt_tokens: 128}\n"
        "rollout: {max_response_tokens: 384}\n"
        "grpo: {max_tokens_per_micro_batch: 1024}\n"
        "cluster: {devices_per_node: 1, weight_transfer: ipc}\n"
    )
    return recipe, folder


def test_the_count_is_that_of_real_tensors(small):
    worker = str(Path(__file__).parent / "simulation_worker.py")

    def peak(how):
        done = subprocess.run(
            [sys.executable, worker, *map(str, small), how], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return int(done.stdout.split()[-1])

    fake = peak("fake")
    assert fake == peak("real")
    # seen: 16,352 bytes of 23 million less
    assert fake == pytest.approx(peak("allocator"), rel=0.01)


def test_what_cannot_be_simulated_is_refused(small):
    recipe, folder = load_recipe(small[0]), small[1]
    with pytest.raises(UserError, match=r"rank 1 is none of the cluster's 1 \(0 to 0\)"):
        simulate([Request(recipe, folder, 1)])
    with pytest.raises(UserError, match="3 pipeline stages do not divide num_hidden_layers 4"):
        words = ["cluster.devices_per_node=3", "cluster.pipeline_parallel=3"]
        simulate([Request(load_recipe(small[0], words), folder, 0)])
    with pytest.raises(UserError, match="stage mine trains nothing"):
        simulate([Request(load_recipe(recipes_root() / "qwq_32b" / "5_mine.yaml"), folder, 0)])
