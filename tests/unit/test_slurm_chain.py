# SPDX-License-Identifier: Apache-2.0
"""The chain of jobs and its status, without a cluster; and what the templates would run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import recipes_root
from reasongrm_nemo.run.converted import NOTE, made_of
from reasongrm_nemo.run.manifest import HashCache
from reasongrm_nemo.slurm import jobs as chains
from reasongrm_nemo.slurm import status

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


def jobs(*overrides, folder="tiny", shards=2, first=None, last=None, convert=True):
    chain = chains.pipeline_jobs(recipes_root() / folder, overrides, shards, first, last, convert)
    return {job["name"]: job for job in chain["jobs"]}


def test_the_order_and_the_templates(tmp_path):
    chain = jobs(f"runs_dir={tmp_path}")
    assert [(name, job["template"]) for name, job in chain.items()][:8] == [
        ("0_prepare", "prepare"),
        ("base_megatron", "convert_to_megatron"),
        ("1_grpo_zero", "grpo_zero"),
        ("2_generate.shards", "generate"),
        ("2_generate", "merge"),
        ("3_filter", "filter"),
        ("4_sft", "sft"),
        ("5_mine.shards", "mine"),
    ]
    assert all((LAUNCH / f"{job['template']}.sbatch").is_file() for job in chain.values())
    names = list(chain)
    assert names.index("reasongrm_hf") == names.index("6_grpo_hard") + 1
    assert chain["2_generate.shards"]["array"] == "1,2"
    # both trainings that start from the base read its conversion; the last one starts from LRM-SFT
    reads = [name for name, job in chain.items() if "model.megatron_path=@base_megatron" in job["arguments"]]
    assert reads == ["1_grpo_zero", "4_sft"]
    assert "evaluate.models.final=@reasongrm_hf" in list(chain.values())[-1]["arguments"]
    assert not any(job["done"] for job in chain.values())


def test_a_given_checkpoint_is_not_replaced_by_the_chains_conversion(tmp_path):
    chain = jobs(f"runs_dir={tmp_path}", "1_grpo_zero:model.megatron_path=/data/m")
    assert "model.megatron_path=@base_megatron" not in chain["1_grpo_zero"]["arguments"]
    assert "model.megatron_path=/data/m" in chain["1_grpo_zero"]["arguments"]
    assert "model.megatron_path=@base_megatron" in chain["4_sft"]["arguments"]


def test_a_job_has_as_many_nodes_as_its_recipe(tmp_path):
    runs = f"runs_dir={tmp_path}"
    chain = jobs(runs, folder="ablation/qwen2_5_7b")
    assert {name: job["nodes"] for name, job in chain.items() if job["template"] == "sft"} == {
        "1_sft_random": 1,
        "2_sft_r_star": 1,
    }
    apart = ["rollout.nodes=1", "rollout.servers=1", "cluster.weight_transfer=nccl", "rollout.sleep=false"]
    chain = jobs(runs, *apart, folder="qwq_32b")
    assert chain["1_grpo_zero"]["nodes"] == 5 and chain["4_sft"]["nodes"] == 4
    assert chain["2_generate.shards"]["nodes"] is None
    (line,) = (
        line for line in chains.as_lines({"runs_dir": "r", "jobs": [chain["4_sft"]]}) if "4_sft" in line
    )
    assert line.split("\t")[:6] == ["4_sft", "sft", "todo", "-", "1", "4"]


def test_without_conversion_or_shards(tmp_path):
    chain = jobs(f"runs_dir={tmp_path}", shards=1, convert=False)
    assert list(chain) == [path.stem for path in sorted((recipes_root() / "tiny").glob("*.yaml"))]


def test_a_part_of_the_chain_and_an_override_for_one_stage(tmp_path):
    words = [f"runs_dir={tmp_path}", "4_sft:sft.epochs=1"]
    chain = jobs(*words, first="3_filter", last="5_mine", convert=False)
    assert list(chain) == ["3_filter", "4_sft", "5_mine.shards", "5_mine"]
    assert "sft.epochs=1" in chain["4_sft"]["arguments"]
    assert not any("epochs" in word for word in chain["3_filter"]["arguments"])


def test_a_wrong_recipe_is_refused_before_anything_is_submitted(tmp_path):
    with pytest.raises(UserError, match="unknown key"):
        jobs(f"runs_dir={tmp_path}", "grpo.stepz=3")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A runs folder with jobs of each kind, on a machine without Slurm."""
    monkeypatch.setenv("PATH", "")
    book = tmp_path / ".launch"
    book.mkdir()
    log = book / "3_filter-12.log"
    log.write_text("one\nreasongrm: inputs.paths: gone does not exist\nlast\n")
    (book / "3_filter.id").write_text("12")
    (book / "4_sft.id").write_text("13")
    (book / "12.job").write_text(f"3_filter\t{log}\n")
    (book / "12.summary").write_text("failed: inputs.paths: gone does not exist\n  filter, job 12\n")
    work = tmp_path / ".partial" / "1_grpo_zero"
    work.mkdir(parents=True)
    (work / "metrics.jsonl").write_text('{"step": 1, "reward": 0.25}\n{"step": 2, "reward": 0.5}\n{"step"')
    order = {"recipe": {"stage": "grpo", "grpo": {"steps": 9}}}
    (work / "work_order.json").write_text(json.dumps(order))
    return tmp_path


def test_status(runs):
    text = status.status_as_text(status.collect_status(runs))
    assert re.search(r"1_grpo_zero +unfinished +step 2/9  reward 0.500", text), text
    assert re.search(r"3_filter +failed +job 12\n +inputs.paths: gone does not exist\n", text), text
    assert f"{runs}/.launch/3_filter-12.log:2: reasongrm: inputs.paths" in text
    assert "ended" in text, "a job that Slurm has forgotten"


def test_status_of_a_missing_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        status.collect_status(tmp_path / "nowhere")


def dry_run(template, *words, **env):
    """What a template prints outside a job."""
    bare = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "REASONGRM_"))
    }
    bare |= {"REASONGRM_SITE": "/dev/null", "REASONGRM_ENV": "/dev/null"}
    bare["PATH"] = f"{Path(sys.executable).parents[2] / 'bin'}:{ROOT / '.envs/bin'}:{bare['PATH']}"
    command = ["bash", str(LAUNCH / f"{template}.sbatch"), *words]
    done = subprocess.run(command, cwd="/", env=bare | env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_template_outside_a_job_says_what_it_would_run(tmp_path):
    said = dry_run("grpo_zero", str(ROOT / "recipes/qwq_32b"), f"runs_dir={tmp_path}/runs")
    assert "--nodes=4" in said and "32 ranks (TP8 × PP4) on node-1, node-2, node-3, node-4" in said
    assert said.count("vLLM server, TP8") == 4
    assert not (tmp_path / "runs").exists()


def test_containers_reach_the_command_lines():
    images = {"REASONGRM_TRAINER_IMAGE": "/shared/my nemo.sqsh", "REASONGRM_ROLLOUT_IMAGE": "vllm.sif"}
    recipe = str(ROOT / "recipes/qwq_32b")
    said = dry_run("grpo_zero", recipe, REASONGRM_CONTAINER="pyxis", REASONGRM_MOUNTS="/s:/s", **images)
    assert "'--container-image=/shared/my nemo.sqsh' --container-mounts=/s:/s" in said
    said = dry_run("generate", recipe, REASONGRM_CONTAINER="apptainer", REASONGRM_MOUNTS="/s:/s", **images)
    assert re.search(r"apptainer exec --nv --bind /s:/s --pwd \S+ vllm.sif", said)


TEMPLATES = sorted(LAUNCH.glob("*.sbatch"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_templates_request_requeue_signals_and_logs(template):
    """Without these options a job can lose its work, its log or its place in the queue."""
    words = re.findall(r"^#SBATCH (.*)$", template.read_text(), re.MULTILINE)
    assert {"--requeue", "--open-mode=append"} <= set(words)
    assert any(word.startswith("--signal=B:USR1@") for word in words)
    assert f"--job-name={template.stem}" in words
    output = next(word for word in words if word.startswith("--output="))
    assert "/" not in output, "a folder that may be missing: the job would fail without a log"


def test_merged_shards_are_done_and_only_missing_shards_are_submitted(tmp_path, monkeypatch):
    def done(cfg):
        merged = cfg.stage == "generate" and len(cfg.generate.shards) == 3
        return merged or cfg.stage in ("prepare", "grpo", "filter", "sft") or cfg.name == "5_mine.2of3"

    monkeypatch.setattr(chains, "is_done", done)
    chain = jobs(f"runs_dir={tmp_path}", shards=3, convert=False)
    assert chain["2_generate.shards"]["done"] and chain["2_generate"]["done"]
    assert chain["5_mine.shards"]["array"] == "1,3" and not chain["5_mine"]["done"]


def test_no_stage_downstream_of_a_rerun_counts_as_done(tmp_path, monkeypatch):
    """One submission brings the whole chain up to date: it includes the stages after a changed one."""
    monkeypatch.setattr(chains, "is_done", lambda cfg: cfg.name != "3_filter")
    chain = jobs(f"runs_dir={tmp_path}", convert=False)
    todo = [name for name, job in chain.items() if not job["done"]]
    assert todo == [
        "3_filter",
        "4_sft",
        "5_mine.shards",
        "5_mine",
        "6_grpo_hard",
        "7_evaluate.shards",
        "7_evaluate",
    ]
    assert chain["5_mine.shards"]["array"] == "1,2"


def converted(tmp_path):
    """The two conversions of a chain whose stages are all done."""
    chain = jobs(f"runs_dir={tmp_path}/runs", f"model.hf_path={tmp_path}/base")
    return chain["base_megatron"], chain["reasongrm_hf"]


def test_a_conversion_is_done_only_if_made_from_the_current_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "is_done", lambda cfg: True)
    for folder, target in (("base", "base_megatron"), ("runs/6_grpo_hard/hf", "reasongrm_hf")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.safetensors").write_text("old weights")
        (tmp_path / "runs" / target).mkdir(parents=True)
    assert not any(job["done"] for job in converted(tmp_path)), "they stand, but nothing tells of what"
    for folder, target in (("base", "base_megatron"), ("runs/6_grpo_hard/hf", "reasongrm_hf")):
        note = made_of(tmp_path / folder, HashCache())
        (tmp_path / "runs" / target / NOTE).write_text(json.dumps(note))
    assert all(job["done"] for job in converted(tmp_path))
    (tmp_path / "runs" / "6_grpo_hard" / "hf" / "model.safetensors").write_text("new weights")
    base, final = converted(tmp_path)
    assert base["done"] and not final["done"]
    (tmp_path / "base" / "model.safetensors").write_text("another base")
    assert not converted(tmp_path)[0]["done"]


def test_an_argument_that_does_not_fit_on_a_line_is_refused(tmp_path):
    words = [f"runs_dir={tmp_path}", 'prepare.source="a\tb"']
    chain = chains.pipeline_jobs(recipes_root() / "tiny", words, 1, None, None, False)
    with pytest.raises(UserError, match="set the key in the recipe"):
        chains.as_lines(chain)
