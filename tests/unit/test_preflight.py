# SPDX-License-Identifier: Apache-2.0
"""How the nodes' answers are judged, and what a node reports about itself."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from reasongrm_nemo.processes import placement
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.slurm.preflight import checks, node
from reasongrm_nemo.slurm.preflight.command import preflight

ROOT = Path(__file__).parents[2]
APART = ["rollout.sleep=false", "rollout.servers=2", "rollout.nodes=2"]
QWQ = ROOT / "reasongrm_nemo/assets/configs/qwq_32b"  # only config.json, which is all these tests read


def recipe(*overrides):
    return load_recipe(recipes_root() / "qwq_32b" / "1_grpo_zero.yaml", overrides)


def answer(**changes):
    gpu = {"name": "A800", "memory": "81920 MiB", "driver": "550.1"}
    said = {"shared": None, "free": {"runs_dir": 10**13}, "versions": {"torch": "2.13.0"}, "python": "3.11.7"}
    said |= {"code": "0.1", "gpus": [gpu] * 8, "address": "10.0.0.1", "taken": [], "nccl": "2.29.7"}
    return said | changes


def judged(**answers):
    findings = checks.Findings()
    checks._judge(findings, "trainer", answers, recipe())
    return findings


def test_identical_nodes_pass():
    findings = judged(a=answer(), b=answer())
    assert not findings.problems and findings.good == ["trainer environment on a, b"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (None, "c: did not answer"),
        (answer(shared="/runs is not the folder that the first node sees (x)"), "must be on a file system"),
        (answer(free={"scratch": "/tmp cannot be written"}), "c: scratch: /tmp cannot be written"),
        (
            answer(versions={"torch": "2.12.0"}),
            "c: torch in the trainer environment is 2.12.0, but 2.13.0 on the",
        ),
        (answer(versions={"torch": None}), "c: torch in the trainer environment is missing"),
        (answer(nccl="2.26.2"), "c: NCCL in the trainer environment is 2.26.2, but 2.29.7 on the others"),
        (answer(python="3.10.2"), "c: python in the"),
        (answer(gpus=[]), "c: has 0 GPUs, but the recipe's cluster.devices_per_node is 8"),
        (answer(gpus="nvidia-smi failed: x"), "c: nvidia-smi failed"),
        (answer(gpus=[{"name": "A800", "memory": "", "driver": "535"}] * 8), "c: GPU driver in the"),
        (answer(taken=[21000]), r"c: the job's ports \[21000\] are in use"),
        (answer(network="GLOO_SOCKET_IFNAME is ib0, but c has only lo"), "c: GLOO_SOCKET_IFNAME is ib0"),
    ],
)
def test_the_node_that_differs_is_named(wrong, says):
    findings = judged(a=answer(), b=answer(), c=wrong)
    assert set(findings.bad) == {"c"}
    assert any(re.search(says, problem) for problem in findings.problems), findings.problems


@pytest.mark.parametrize(
    ("ours", "theirs", "differ"),
    [
        ("2.29.7", "2.29.7", False),
        ("2.26.2", "2.29.7", True),
        (None, "2.29.7", False),
        ("2.29.7", None, False),
    ],
)
def test_both_ends_of_an_nccl_push_must_have_the_same_version(tmp_path, monkeypatch, ours, theirs, differ):
    """Unknown versions are left to the first push. Only the loader's variables reach the question."""
    asked = {}

    def ask(place, nodes, python, question, timeout_s, trains):
        asked[trains] = question["nccl"]
        return {"a": answer(nccl=ours if trains else theirs)}

    monkeypatch.setattr(checks, "_ask", ask)
    words = [f"runs_dir={tmp_path}", "rollout.extra_env={LD_PRELOAD: /opt/libnccl.so.2, API_KEY: x}"]
    words += ["cluster.weight_transfer=nccl", *APART]
    findings = checks.run(recipe(*words), placement.Placement(None, (), ()), quick=True)
    said = [problem for problem in findings.problems if "NCCL" in problem]
    assert bool(said) == differ
    if differ:
        assert "the trainer's NCCL is 2.26.2, the rollout server's 2.29.7" in said[0]
    assert asked == {True: {}, False: {"LD_PRELOAD": "/opt/libnccl.so.2"}}


def test_nccl_is_not_asked_about_where_weights_are_pushed_another_way(tmp_path, monkeypatch):
    asked = []

    def ask(place, nodes, python, question, timeout_s, trains):
        asked.append(question["nccl"])
        return {"a": answer()}

    monkeypatch.setattr(checks, "_ask", ask)
    checks.run(recipe(f"runs_dir={tmp_path}"), placement.Placement(None, (), ()), quick=True)  # by ipc
    assert asked == [None, None]


def test_planned_checkpoints_must_fit_on_the_disk(tmp_path, monkeypatch):
    cfg = recipe(f"model.hf_path={QWQ}", f"runs_dir={tmp_path}")

    def with_free(gigabytes):
        class Disk:
            f_bavail, f_frsize = gigabytes * 10**6, 1000

        monkeypatch.setattr(checks.os, "statvfs", lambda path: Disk)
        findings = checks.Findings()
        checks._check_plan(findings, cfg)
        return findings

    # two kept checkpoints and one being written, of 459 GB each, besides weights and rollouts
    findings = with_free(1400)
    assert "is too small" in findings.problems[-1] and "keep fewer checkpoints" in findings.problems[-1]
    assert "checkpoints of 427.2 GiB" in findings.problems[-1]
    assert not with_free(3000).problems


def test_a_layout_that_does_not_fit_the_gpu_is_a_problem(tmp_path):
    layout = ["cluster.pipeline_parallel=1", "model.recompute=none"]
    findings = checks.Findings()
    checks._check_plan(findings, recipe(f"model.hf_path={QWQ}", f"runs_dir={tmp_path}", *layout))
    assert "does not fit" in findings.problems[0] or "GiB" in findings.problems[0]


@pytest.mark.runs("-m reasongrm_nemo.slurm.preflight.node")
def test_a_node_reports_what_it_sees(tmp_path):
    (tmp_path / "token").write_text("abc")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        asked = {
            "token_file": str(tmp_path / "token"),
            "token": "abc",
            "folders": {"x": str(tmp_path / "new")},
        }
        asked |= {
            "packages": ["click", "no-such-package"],
            "gpu": False,
            "nccl": None,
            "nodes": [],
            "ports": [port],
        }
        env = {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
        command = [sys.executable, "-m", node.__name__, json.dumps(asked)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    said = json.loads(done.stdout.partition(node.MARK)[2])
    assert said["shared"] is None and said["free"]["x"] > 0 and said["taken"] == [port]
    assert said["versions"]["click"] and said["versions"]["no-such-package"] is None
    asked["token"] = "another"
    assert "differs from that on the first node" in node.look(asked)["shared"]
    asked["token_file"] = str(tmp_path / "gone" / "token")
    assert "is not the folder" in node.look(asked)["shared"]


def test_a_node_reports_which_nccl_torch_loads_in_the_servers_environment(tmp_path):
    torch = "class cuda:\n  class nccl:\n    version = staticmethod(lambda: (2, 29, 7))\n"
    (tmp_path / "torch.py").write_text(torch)
    asked = {"token_file": "gone", "token": "", "folders": {}, "packages": [], "gpu": False}
    asked |= {"nodes": [], "ports": []}
    assert node.look(asked | {"nccl": {"PYTHONPATH": str(tmp_path)}})["nccl"] == "2.29.7"
    (tmp_path / "torch.py").write_text("class cuda: pass")
    assert node.look(asked | {"nccl": {"PYTHONPATH": str(tmp_path)}})["nccl"] is None
    assert "nccl" not in node.look(asked | {"nccl": None})


def test_missing_inputs_are_listed_and_nothing_is_left_behind(tmp_path, capsys):
    words = [f"runs_dir={tmp_path}/runs", "model.hf_path=/gone", f"cluster.rollout_python={sys.executable}"]
    recipe_file = recipes_root() / "tiny" / "1_grpo_zero.yaml"
    assert not preflight(recipe_file, words, Console(), True, False, False, None, tmp_path / "notes")
    said = capsys.readouterr().err
    assert "FIX model.hf_path: /gone does not exist" in said and "FIX inputs.tasks: @0_prepare" in said
    notes = (tmp_path / "notes").read_text()
    assert f"artefact={tmp_path}/runs/1_grpo_zero\n" in notes and "bad_nodes" not in notes
    assert not list((tmp_path / "runs").iterdir())
