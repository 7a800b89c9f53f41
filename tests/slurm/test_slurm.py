# SPDX-License-Identifier: Apache-2.0
"""The templates on a real Slurm: the whole chain, and the faults that long jobs meet."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import success
from listeners import Watch, open_to_strangers, python_in_jobs
from safetensors.torch import load_file

from reasongrm_nemo.data.jsonl import write_jsonl
from reasongrm_nemo.data.records import SftExample
from reasongrm_nemo.processes.work_order import WorkOrder
from reasongrm_nemo.recipe.load import load_recipe, resolve_path
from reasongrm_nemo.rollout import RolloutServer, RolloutSettings

CHECKOUT = Path(__file__).resolve().parents[2]
LAUNCH = CHECKOUT / "launch"
TINY = {
    "0_prepare": "",
    # TP2 x PP2 x DP2
    "1_grpo_zero": """grpo: {steps: 3, save_every: 2}
cluster: {nodes: 4, devices_per_node: 2, tensor_parallel: 2, pipeline_parallel: 2, threads_per_rank: 1}""",
    "2_generate": "generate: {max_tasks: 40}",
    "3_filter": "",
    "4_sft": "cluster: {nodes: 2, devices_per_node: 1, pipeline_parallel: 2, threads_per_rank: 1}",
    "5_mine": "mine: {max_tasks: 60}",
    # the server on a separate node, so that weights go from one node to another
    "6_grpo_hard": """grpo: {steps: 2, prompts_per_step: 8}
cluster: {nodes: 2, devices_per_node: 1, tensor_parallel: 2, threads_per_rank: 1}
rollout: {nodes: 1}""",
    "7_evaluate": "evaluate: {max_tasks: 20, settings: [{temperature: 0.0, samples: 1}]}",
}


def write_recipes(folder, names=tuple(TINY), **blocks):
    folder.mkdir(parents=True)
    for name in names:
        text = f"defaults: [tiny_smoke/{name}]\n{blocks.get(name[2:], TINY[name])}\n"
        (folder / f"{name}.yaml").write_text(text)
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def ids(output):
    """Job ids that pipeline.sh printed, by name."""
    return dict(re.findall(r"^launch: (\S+): job (\d+)", output, re.MULTILINE))


@pytest.mark.runs("launch/common.sh")
@pytest.mark.runs("launch/convert_to_hf.sbatch")
@pytest.mark.runs("launch/convert_to_megatron.sbatch")
@pytest.mark.runs("launch/evaluate.sbatch")
@pytest.mark.runs("launch/filter.sbatch")
@pytest.mark.runs("launch/generate.sbatch")
@pytest.mark.runs("launch/grpo_hard.sbatch")
@pytest.mark.runs("launch/grpo_zero.sbatch")
@pytest.mark.runs("launch/merge.sbatch")
@pytest.mark.runs("launch/mine.sbatch")
@pytest.mark.runs("launch/pipeline.sh")
@pytest.mark.runs("launch/prepare.sbatch")
@pytest.mark.runs("launch/sft.sbatch")
@pytest.mark.runs("launch/status")
@pytest.mark.runs("-m reasongrm_nemo.processes.srun_rank")
@pytest.mark.runs("-m reasongrm_nemo.rollout.server.agent")
@pytest.mark.runs("-m reasongrm_nemo.slurm.preflight.collective")
@pytest.mark.timeout(2700)  # may have to wait until another test run's cluster ends
def test_the_chain_to_a_converted_and_evaluated_checkpoint(cluster):
    recipes, runs = write_recipes(cluster.space / "my recipes"), cluster.space / "runs" / "mine"
    pipeline = [LAUNCH / "pipeline.sh", "--shards", "2", recipes, f"runs_dir={runs}"]
    nodes = {"REASONGRM_SBATCH_sft": "--nodes=2", "REASONGRM_SBATCH_grpo_hard": "--nodes=3"}
    (cluster.faults / "shard").touch()

    dry = cluster.call(pipeline[0], "--dry-run", *pipeline[1:], **nodes)
    assert dry.count("sbatch") >= 12 and not runs.exists()
    submitted = cluster.call(*pipeline, **nodes)
    jobs = ids(submitted)
    assert list(jobs)[-3:] == ["reasongrm_hf", "7_evaluate.shards", "7_evaluate"] and len(jobs) == 13
    again = cluster.call(*pipeline, **nodes)
    assert ids(again).items() <= jobs.items(), "nothing is submitted twice"
    assert again.count("waits or runs already") + again.count("done before") == 13

    a_chain_that_fails_at_its_beginning(cluster, pipeline[0], runs)
    with Watch(python_in_jobs, every_s=0.5) as watch:
        last = cluster.ended(jobs["7_evaluate"], 1300)
    status = cluster.call(LAUNCH / "status", runs)
    assert last["JobState"] == "COMPLETED", f"{status}\n{cluster.logs()}"
    for name in TINY:
        assert re.search(rf"{name} +done", status), status
    # ranks, agents and servers, each on its node's address in their common network
    for name in ("grpo.main", "rollout.server.agent", "VLLM"):
        assert any(name in words for words, _ in watch.sockets), name
    assert not open_to_strangers(watch.sockets, {f"10.77.0.{node}" for node in range(1, 5)} | {"127.0.0.1"})
    assert_the_stages_did_their_work(cluster, runs, jobs)
    assert cluster.call(*pipeline, **nodes).count("done before") == 13
    # all 13 jobs are done, so every template has run to its end, on ranks with their servers' agents
    templates = set(re.findall(r"^launch: \S+: job \d+, (\S+[.]sbatch)", submitted, re.MULTILINE))
    for name in (*templates, "common.sh", "pipeline.sh", "status"):
        success.note(f"launch/{name}")
    for name in ("processes.srun_rank", "rollout.server.agent", "slurm.preflight.collective"):
        success.note(f"-m reasongrm_nemo.{name}")


def a_chain_that_fails_at_its_beginning(cluster, pipeline, runs):
    """Run a failing chain at the same time as the one in ``runs``."""
    blocks = {"prepare": f"prepare: {{source: {cluster.space}/nowhere.jsonl}}"}
    failing = write_recipes(cluster.space / "failing", ("0_prepare", "3_filter"), **blocks)
    others = cluster.space / "runs" / "failing"
    inputs = [f"3_filter:inputs.paths={runs}/2_generate/paths.jsonl"]
    broken = ids(cluster.call(pipeline, failing, f"runs_dir={others}", *inputs))
    assert cluster.ended(broken["0_prepare"])["JobState"] == "FAILED"
    assert cluster.ended(broken["3_filter"])["JobState"] == "CANCELLED"
    status = cluster.call(LAUNCH / "status", others)
    assert re.search(r"0_prepare +failed .*\n +prepare.source: .*nowhere.jsonl does not exist", status), (
        status
    )
    assert re.search(r"0_prepare-\d+.log:\d+: ", status), "the line of the log"
    cause = "the job never started: it was cancelled, or a job it depends on failed"
    assert re.search(rf"3_filter +cancelled .*\n +{cause}", status), status


def assert_the_stages_did_their_work(cluster, runs, jobs):
    metrics = lines(runs / "1_grpo_zero" / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3]
    # the trainer's log-probs against vLLM's, in fp32 over two nodes each
    assert max(line["log_prob_error_max"] for line in metrics) < 1e-4
    log = (runs / ".launch" / f"1_grpo_zero-{jobs['1_grpo_zero']}.log").read_text()
    assert "collective over 8 ranks by gloo" in log and "nodes node[1-4]" in log
    shards = [cluster.job(f"{jobs['2_generate.shards']}_{task}")["Restarts"] for task in (1, 2)]
    assert shards == ["1", "0"], "the first task failed once"
    assert len(lines(runs / "2_generate" / "paths.jsonl")) == 40 * 8

    # the converted checkpoint is the last training's export
    converted, exported = (
        load_file(folder / "model.safetensors")
        for folder in (runs / "reasongrm_hf", runs / "6_grpo_hard" / "hf")
    )
    assert converted.keys() == exported.keys()
    assert all((converted[name] == exported[name]).all() for name in exported)
    manifest = json.loads((runs / "7_evaluate" / "manifest.json").read_text())
    assert manifest["inputs"]["models.final"]["value"] == "@reasongrm_hf"


@pytest.mark.timeout(1500)
def test_a_run_survives_faults_and_equals_the_uninterrupted_one(cluster, launch, tmp_path):
    """A rank dies, the time limit falls within a step, a requeue, a node goes down, a server is killed."""
    layout = "cluster: {nodes: 2, devices_per_node: 1, tensor_parallel: 2, threads_per_rank: 1}"
    block = f"grpo: {{steps: 40, prompts_per_step: 8, save_every: 1, keep_checkpoints: 2}}\n{layout}"
    recipes = write_recipes(cluster.space / "long", ("0_prepare", "1_grpo_zero"), grpo_zero=block)
    runs = cluster.space / "a folder that is not there" / "runs"  # its parent is missing too
    words = ["--nodes=2", "--time=40", "--signal=B:USR1@110", LAUNCH / "grpo_zero.sbatch", recipes]
    words.append(f"runs_dir={runs}")
    metrics = runs / ".partial" / "1_grpo_zero" / "metrics.jsonl"

    def steps():
        return len(lines(metrics)) if metrics.exists() else 0

    def goes_on(number, past):
        cluster.wait(number, lambda job: job["JobState"] == "RUNNING" and steps() > past)
        return steps()

    prepared = cluster.sbatch(LAUNCH / "prepare.sbatch", recipes, f"runs_dir={runs}")
    assert cluster.ended(prepared)["JobState"] == "COMPLETED", cluster.logs()

    job = cluster.sbatch(*words)
    goes_on(job, 0)
    (cluster.faults / "rank").touch()
    ended, second = cluster.ended(job), cluster.nodes(job)[1]
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0"), cluster.logs()
    summary = summary_of(runs, job)
    assert re.match(rf"failed: rank 1 on {second}: Exited with exit code 7", summary), summary

    # the same command resumes the run
    job, done = cluster.sbatch(*words), steps()
    done = goes_on(job, done)
    let_the_time_limit_come(cluster, job)
    cluster.wait(job, lambda job: job["Restarts"] == "1")
    assert summary_of(runs, job).startswith("requeued: the time limit is near; saved")
    saved = steps()
    assert saved >= done and (metrics.parent / "checkpoints" / f"step_{saved:06d}").is_dir()
    cluster.call("scontrol", "update", f"JobId={job}", "TimeLimit=40")
    goes_on(job, saved)
    cluster.call("scontrol", "requeue", job)
    cluster.wait(job, lambda job: job["Restarts"] == "2")
    goes_on(job, steps())
    lost = cluster.nodes(job)[1]
    cluster.call("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=test")
    cluster.wait(job, lambda job: job["Restarts"] == "3")
    goes_on(job, steps())
    spec = json.loads((runs / ".logs" / "1_grpo_zero" / "rollout-server.spec.json").read_text())
    os.kill(spec["pid"], signal.SIGKILL)  # rank 0 has its agent start another one
    ended = cluster.ended(job)
    # the node may have come back by itself
    cluster.call("scontrol", "update", f"NodeName={lost}", "State=RESUME", check=False)
    assert ended["JobState"] == "COMPLETED", cluster.logs()

    finished = runs / "1_grpo_zero"
    metrics = lines(finished / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [*range(1, 41)]
    assert max(line["log_prob_error_max"] for line in metrics) < 1e-4
    assert_unbroken(finished, recipes, runs, tmp_path, launch)


def summary_of(runs, job):
    """The outcome in the job's summary."""
    return (runs / ".launch" / f"{job}.summary").read_text().splitlines()[0]


def let_the_time_limit_come(cluster, job):
    elapsed = cluster.call("squeue", "-h", "-j", job, "-o", "%M").strip()
    minutes = sum(int(part) * 60**place for place, part in enumerate(elapsed.split(":")[-2::-1]))
    cluster.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 2}")


def assert_unbroken(finished, recipes, runs, folder, launch):
    """An uninterrupted run on the same answers gives the same weights."""
    cfg = load_recipe(
        recipes / "1_grpo_zero.yaml",
        [f"runs_dir={runs}", "cluster.launcher=local", "cluster.nodes=1", "cluster.devices_per_node=2"],
    )
    model, work = resolve_path(cfg.model.hf_path, runs), folder / "unbroken"
    shutil.copytree(finished / "rollouts", work / "rollouts")
    with RolloutServer(RolloutSettings.from_config(cfg), model, folder / "server.log") as server:
        order = WorkOrder(cfg, work, model, {"tasks": runs / "0_prepare" / "tasks.jsonl"}, [server.spec()])
        launch("reasongrm_nemo.grpo.main", 2, order.write())
    mine, expected = (load_file(artefact / "hf" / "model.safetensors") for artefact in (finished, work))
    assert all((mine[name] == expected[name]).all() for name in expected)


@pytest.mark.timeout(300)
def test_a_job_whose_log_cannot_be_written_is_named(cluster):
    """Slurm gives no reason: the job fails without a log."""
    runs = cluster.space / "runs" / "silent"
    (runs / ".launch").mkdir(parents=True)
    log = cluster.space / "missing" / "x.log"
    job = cluster.sbatch(f"--output={log}", LAUNCH / "prepare.sbatch", CHECKOUT / "recipes/tiny_smoke")
    assert cluster.ended(job)["JobState"] == "FAILED"
    (runs / ".launch" / "0_prepare.id").write_text(job)
    status = cluster.call(LAUNCH / "status", runs)
    assert f"{log} was never written" in status, status


def test_a_recipe_that_does_not_fit_its_job_is_refused(cluster):
    """The recipe needs more nodes than the job has: one sentence, and no requeue."""
    recipes, runs = CHECKOUT / "recipes/tiny_smoke", cluster.space / "runs" / "refused"
    words = [LAUNCH / "sft.sbatch", recipes, "cluster.nodes=3", f"runs_dir={runs}"]
    job = cluster.sbatch("--nodes=2", "--time=40", "--signal=B:USR1@60", *words)
    ended = cluster.ended(job)
    assert (ended["JobState"], ended["Restarts"]) == ("FAILED", "0")
    assert "job" in cluster.logs() and "has 2 nodes, but the recipe needs cluster.nodes 3" in cluster.logs()


@pytest.mark.timeout(600)
def test_a_user_without_root_and_a_node_that_fails_the_preflight_check(cluster, tmp_path):
    """The node is named and the job requeued without it, all with an ordinary user's rights."""
    runs, user = cluster.space / "runs" / "a user's", "nobody"
    runs.mkdir(parents=True)
    shutil.chown(runs, user)
    for node in (None, "node1", "node2", "node3", "node4"):
        cluster.open_private_folder(node)
    answer = "a=1;b=1+2=3;c=3*2=6 is six(A)\n</think>\n\n[[A]]"
    turns = [{"role": "user", "content": "Q:a=1;b=a+2;c=b*2;c?"}, {"role": "assistant", "content": answer}]
    examples = cluster.space / "examples.jsonl"
    write_jsonl(examples, [SftExample(f"t{i}", turns, 0.5, 0.5, 1.0, "r_star") for i in range(8)])

    cluster.call("mount", "-t", "tmpfs", "none", runs, node="node2")  # node2 does not see the shared folder
    words = ["--nodes=2", f"--output={runs}/%j.log", "--time=40", "--signal=B:USR1@60", LAUNCH / "sft.sbatch"]
    words += [CHECKOUT / "recipes/tiny_smoke", f"runs_dir={runs}", f"inputs.examples={examples}"]
    words += [
        "cluster.nodes=2",
        "cluster.tensor_parallel=2",
        "cluster.threads_per_rank=1",
        "sft.batch_size=4",
    ]
    job = cluster.sbatch(*words, user=user)
    cluster.wait(job, lambda job: job["Restarts"] == "1")
    cluster.call("umount", runs, node="node2")
    ended = cluster.ended(job)
    assert ended["UserId"].startswith("nobody") and ended["JobState"] == "COMPLETED", cluster.logs()
    assert ended["ExcNodeList"] == "node2" and "node2" not in cluster.nodes(job)
    assert "node2: " in (runs / f"{job}.log").read_text()
    assert (runs / "4_sft" / "hf" / "model.safetensors").exists()
    assert (runs / "4_sft").owner() == user
