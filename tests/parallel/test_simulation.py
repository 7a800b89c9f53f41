# SPDX-License-Identifier: Apache-2.0
"""Memory of the real actor step at full shapes, over tensors without data, and every GPU recipe's model.

Bounds are GiB per rank, including states: bf16 weights, fp32 gradients, 12 bytes a parameter of optimizer
over the data-parallel ranks. Seen: 26.9 and 23.2 (TP8 x PP4, first and last stage), 31.8 and 29.4 (TP8 x
PP2). Without sequence parallelism the first stage is at 67.1.

The plan's arithmetic is compared with each of these ranks, part by part. Seen: no part is off by more than
0.06 % of a rank's activations.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from keys_read import keys_read, unread

from reasongrm_nemo.cli import main
from reasongrm_nemo.errors import StageFailed
from reasongrm_nemo.megatron import activations
from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.plan import command, dry_start, memory
from reasongrm_nemo.plan import text as planning_report
from reasongrm_nemo.plan.simulation.compare import Comparison, lines
from reasongrm_nemo.plan.simulation.simulate import Request, rank_of_stage, simulate
from reasongrm_nemo.recipe.checks import check_model
from reasongrm_nemo.recipe.load import load_recipe, recipes_root

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
    """The parts of a recipe that decide how its model is built: model, stage, layout."""
    return path.parent.name, RECIPES[path].stage, Layout.of_cluster(RECIPES[path].cluster)


def requests():
    """Every rank that a test needs, by name; simulated together, as importing the libraries takes longest."""
    for stages in (2, 4):
        recipe = load_recipe(QWQ, [f"cluster.pipeline_parallel={stages}"])
        for stage in (0, stages - 1):
            rank = rank_of_stage(recipe.cluster, stage)
            yield ("peak", stages, stage), Request(recipe, CONFIGS / "qwq_32b", rank)
    for rank in range(32):
        yield ("count", rank), Request(RECIPES[QWQ], CONFIGS / "qwq_32b", rank, micro_batches=0)
    for path, recipe in {model_of(path): (path, recipe) for path, recipe in RECIPES.items()}.values():
        step = None if path.parent.name != "qwq_32b" else 0  # steps of qwq_32b are requested above
        for stage in {0, recipe.cluster.pipeline_parallel - 1}:
            rank = rank_of_stage(recipe.cluster, stage)
            request = Request(recipe, CONFIGS / path.parent.name, rank, micro_batches=step)
            yield ("recipe", model_of(path), stage), request


@pytest.fixture(scope="module")
def wanted():
    return dict(requests())


@pytest.fixture(scope="module")
def reports(wanted):
    return dict(zip(wanted, simulate(list(wanted.values())), strict=True))


def disagreements(request, report):
    """Components of a rank for which plan and simulation differ by more than 1 % (5 % is required)."""
    architecture = Architecture.from_folder(request.hf_path, request.recipe.model.rope)
    rank = memory.ranks(request.recipe, architecture, request.micro_batches)[report.held.stage]
    compared = lines(request.recipe, architecture, rank, report)
    return [line for line in compared if abs(line.difference) > 0.01]


def test_the_plan_equals_the_measurement_at_full_depth(wanted, reports):
    stepped = [name for name, request in wanted.items() if request.micro_batches != 0]
    assert len(stepped) >= 7
    for name in stepped:
        assert not disagreements(wanted[name], reports[name]), name


@pytest.mark.parametrize(("stages", "bound"), [(4, 29), (2, 34)])
def test_qwq_at_65536_tokens_fits(reports, stages, bound):
    for stage in (0, stages - 1):
        report = reports["peak", stages, stage]
        assert report.held.stage == stage
        assert report.held.peak <= bound * GIB, (stage, report.held.peak / GIB)
        # proves that a step was run: the layers' inputs alone are more than this
        assert sum(report.held.activations.values()) >= 5 * GIB, (stage, report.held.activations)


def test_all_32_ranks_together_hold_qwq_once(reports):
    ranks = [reports["count", rank] for rank in range(32)]
    assert [report.held.stage for report in ranks] == [rank // 8 for rank in range(32)]
    counts = [(report.rank, report.held.count) for report in ranks]
    once = [count.total - (count.replicated if rank % 8 else 0) for rank, count in counts]
    assert sum(once) == 32_763_876_352


@pytest.mark.parametrize("path", list(RECIPES), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_gpu_recipe_fits_its_model_and_builds_it(path, reports):
    file = CONFIGS / path.parent.name / "config.json"
    check_model(RECIPES[path], json.loads(file.read_text()), str(file))
    for stage in {0, RECIPES[path].cluster.pipeline_parallel - 1}:
        report = reports["recipe", model_of(path), stage]
        assert report.held.count.total > 0
        # 80 GB are 74.5 GiB, of which CUDA, NCCL and fragmentation take some
        assert report.held.peak <= 65 * GIB, report.held.peak / GIB


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A recipe for one rank and a model that fits on any machine."""
    folder = tmp_path_factory.mktemp("small")
    shape = {
        "num_hidden_layers": 4,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
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


def test_the_count_equals_that_of_real_tensors(small):
    worker = str(Path(__file__).parent / "simulation_worker.py")

    def peak(how):
        done = subprocess.run(
            [sys.executable, worker, *map(str, small), how], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return int(done.stdout.split()[-1])

    fake = peak("fake")
    assert fake == peak("real")
    # seen: 16,352 bytes less, of 23 million
    assert fake == pytest.approx(peak("allocator"), rel=0.01)


# name -> overrides: TP, PP, sequence parallelism, recomputation
CUTS = {
    f"TP{tensor} PP{pipeline}{' SP' if sequence else ''} {recompute}": (
        f"cluster.tensor_parallel={tensor}",
        f"cluster.pipeline_parallel={pipeline}",
        f"cluster.sequence_parallel={sequence}",
        f"model.recompute={recompute}",
    )
    for tensor, pipeline in ((4, 4), (4, 2), (4, 1), (1, 4))
    for sequence in ((False, True) if tensor > 1 else (False,))
    for recompute in ("full", "none")
} | {
    "all logits at once": ("model.log_prob_chunk=100000",),
    "entropy bonus": ("grpo.entropy_coefficient=0.01",),
    "long head": ("model.log_prob_chunk=900", "model.recompute=full"),
}


@pytest.fixture(scope="module")
def cuts(small):
    """Both ends of the pipeline for every cut of the small model, by cut and stage; also one micro-batch."""
    wanted = {}
    for name, words in CUTS.items():
        recipe = load_recipe(small[0], ["cluster.devices_per_node=16", *words])
        for stage in {0, recipe.cluster.pipeline_parallel - 1}:
            rank = rank_of_stage(recipe.cluster, stage)
            wanted[name, stage] = Request(recipe, small[1], rank, flops=name.startswith("TP4 PP4"))
            if recipe.cluster.pipeline_parallel > 1:
                single = Request(recipe, small[1], rank, micro_batches=1)
                wanted[f"{name}, one micro-batch", stage] = single
    return dict(zip(wanted, zip(wanted.values(), simulate(list(wanted.values())), strict=True), strict=True))


@pytest.mark.parametrize("name", CUTS)
def test_the_plan_equals_the_measurement_however_the_model_is_cut(name, cuts):
    ranks = [pair for (cut, _), pair in cuts.items() if cut.startswith(name)]
    assert ranks
    for request, report in ranks:
        assert not disagreements(request, report)


def test_a_plan_is_checked_by_running_the_model_s_code(monkeypatch):
    """One micro-batch at both ends of the pipeline; a deviation from the plan is reported prominently."""
    said, reports, simulated = [], [], command.check
    monkeypatch.setattr(command, "check", lambda *a: reports.extend(simulated(*a)) or reports)
    data, text, wrong = command.of_recipe(QWQ, [], say=said.append)
    assert wrong is None and "--no-check" in said[0]
    assert [(rank["rank"], rank["stage"]) for rank in data["check"]] == [(0, 0), (24, 3)]
    last = text.splitlines()[-1]
    assert last.startswith("checked against the model's own code (one micro-batch of 65,536 tokens")
    assert max(rank["worst"] for rank in data["check"]) < 0.01

    honest, recipe = activations.of_step, load_recipe(QWQ)
    monkeypatch.setattr(
        activations, "of_step", lambda *a: {part: 1.06 * size for part, size in honest(*a).items()}
    )
    shape = Architecture.from_folder(CONFIGS / "qwq_32b", recipe.model.rope)
    first = memory.ranks(recipe, shape, 1)[0]
    wrong = Comparison(lines(recipe, shape, first, reports[0].report), reports[0].report)
    assert planning_report.check_text([wrong], recipe).startswith("THE PLAN IS OFF")


def test_a_model_that_cannot_be_built_is_refused_after_its_figures(monkeypatch):
    def failed(*_):
        raise StageFailed("the simulation failed: no such layer")

    monkeypatch.setattr(command, "check", failed)
    data, text, wrong = command.of_recipe(QWQ, [])
    assert isinstance(wrong, StageFailed) and "check" not in data and "GPU-hours" in text


def keys_of(path, tmp_path):
    """A training recipe's dry start; the keys that are read by the stage or on ranks; the unread keys."""
    worker, model = Path(__file__).parent / "dry_trainers.py", CONFIGS / path.parent.name
    work = tmp_path / path.stem
    work.mkdir()
    command = [sys.executable, *map(str, (worker, path, model, work))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    read = set(json.loads(next(line for line in ended.stdout.splitlines() if line.startswith("keys:"))[5:]))
    with keys_read(read):  # keys that the stage reads before its ranks start
        done = dry_start.dry_start(RECIPES[path])
    return done, read, unread(RECIPES[path], read)


def test_training_stages_read_all_their_keys(tmp_path, monkeypatch):
    """Keys that only a real rank or another setting reads are listed here."""
    done, read, left = keys_of(QWQ, tmp_path)
    assert left <= {
        "cluster.threads_per_rank",  # by a starting rank
        "grpo.epochs",  # where grpo.steps is not given
        "grpo.global_batch",  # by the checks
        "grpo.kl_in",  # where kl_coefficient is above 0
        *(f"grpo.log_prob_gap.{bound}.{kind}" for bound in ("warn", "stop") for kind in ("fp32", "lagged")),
        "grpo.optim.min_lr",  # by a cosine
        "grpo.validation.max_tasks",
        "grpo.validation.samples",
        "grpo.validation.temperature",
        "tracking.mlflow_uri",
    }
    assert done[1:] == [
        "4 vLLM server(s) placed and configured",
        # the last stage also has the final norm, of 5,120
        "the model was built and stepped on fake tensors, on rank 0 (1,072,674,816 parameters) and "
        "24 (1,072,679,936 parameters)",
    ]
    assert {"grpo.clip_high", "grpo.importance.correction", "grpo.optim.warmup_steps"} <= read
    [path] = [path for path in RECIPES if path.parent.name == "qwen2_5_7b" and path.stem == "1_sft_random"]
    monkeypatch.setattr(dry_start, "check", lambda *_: [])  # done above
    assert keys_of(path, tmp_path)[2] <= {
        "cluster.threads_per_rank",
        "cluster.launcher",  # by a stage that starts ranks
        "cluster.rollout_python",
        "cluster.trainer_python",  # by the simulation, left out here
        "cluster.weight_transfer",
        "judge.max_prompt_tokens",  # by the plan's times
        "judge.policy",
        "sft.optim.min_lr",
        "sft.validation.fraction",
        "tracking.mlflow_uri",
    }


@pytest.mark.runs("plan", "--simulate")
@pytest.mark.runs("-m reasongrm_nemo.plan.simulation.fake_rank")
def test_the_command_simulates_a_step(small):
    words = [str(small[0]), "--simulate", f"plan.config={small[1]}"]
    told = CliRunner().invoke(main, ["plan", *words])
    assert told.exit_code == 0 and "simulated rank" in told.stdout, told.output
