# SPDX-License-Identifier: Apache-2.0
"""Where ranks and servers run, given the recipe and the job."""

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import placement, srun_rank
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.rollout import RolloutSettings

FOUR = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "a,b,c,d"}


def recipe(name="1_grpo_zero", *overrides):
    return load_recipe(recipes_root() / "tiny" / f"{name}.yaml", overrides)


def test_without_a_job_everything_is_on_this_machine():
    place = placement.find(recipe("1_grpo_zero", "rollout.servers=2"), {})
    assert not place.slurm and place.trainer_nodes == ()
    assert [(spot.node, spot.index, spot.count) for spot in place.spots] == [(None, 0, 2), (None, 1, 2)]


def test_a_job_of_one_node_is_this_machine_unless_the_recipe_says_slurm():
    one = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "a"}
    assert not placement.find(recipe(), one).slurm
    assert placement.find(recipe("1_grpo_zero", "cluster.launcher=slurm"), one).trainer_nodes == ("a",)
    # such as a login shell inside an allocation
    assert not placement.find(recipe("1_grpo_zero", "cluster.launcher=local"), FOUR).slurm


def test_colocated_servers_are_distributed_over_the_trainers_nodes():
    cfg = recipe("1_grpo_zero", "cluster.nodes=4", "rollout.servers=6")
    place = placement.find(cfg, FOUR)
    assert place.trainer_nodes == ("a", "b", "c", "d")
    assert [(spot.node, spot.index, spot.count) for spot in place.spots] == [
        ("a", 0, 2),
        ("a", 1, 2),
        ("b", 0, 1),
        ("c", 0, 2),
        ("c", 1, 2),
        ("d", 0, 1),
    ]


def test_separate_servers_take_the_nodes_after_the_ranks_or_the_second_part_of_the_job():
    cfg = recipe("1_grpo_zero", "cluster.nodes=3", "rollout.nodes=1", "rollout.servers=2")
    place = placement.find(cfg, FOUR)
    assert place.trainer_nodes == ("a", "b", "c")
    assert [(spot.node, spot.index, spot.count) for spot in place.spots] == [("d", 0, 2), ("d", 1, 2)]
    groups = {"SLURM_JOB_NODELIST_HET_GROUP_0": "a,b,c", "SLURM_JOB_NODELIST_HET_GROUP_1": "x"}
    place = placement.find(cfg, FOUR | {"SLURM_HET_SIZE": "2"} | groups)
    assert place.trainer_nodes == ("a", "b", "c") and {spot.node for spot in place.spots} == {"x"}
    assert "--het-group=1" in place.server_command(place.spots[0], "python", [])
    assert "--het-group=0" in place.rank_command("python", 2, [])


def test_a_sampling_job_has_as_many_servers_per_node_as_its_recipe():
    cfg = load_recipe(recipes_root() / "qwq_32b" / "2_generate.yaml")  # four servers on four nodes
    one = placement.find(cfg, {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "a"})
    assert len(one.spots) == 1
    two = placement.find(cfg, {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "a,b"})
    assert [spot.node for spot in two.spots] == ["a", "b"]


@pytest.mark.parametrize(
    ("overrides", "environ", "says"),
    [
        (["cluster.launcher=slurm"], {}, "this is not a Slurm job"),
        (["cluster.nodes=2"], {}, "this is one machine"),
        (["cluster.nodes=5"], FOUR, "job 77 has 4 nodes, but the recipe needs cluster.nodes 5"),
        (["cluster.nodes=4", "rollout.nodes=1"], FOUR, "cluster.nodes 4 \\+ rollout.nodes 1"),
    ],
)
def test_what_does_not_fit_is_refused(overrides, environ, says):
    with pytest.raises(UserError, match=says):
        placement.find(recipe("1_grpo_zero", *overrides), environ)


def test_a_nodes_gpus_are_divided_among_its_servers():
    words = ["cluster.platform=gpu", "cluster.weight_transfer=ipc", "model.dtype=bf16"]
    words += [
        "cluster.nodes=2",
        "rollout.servers=4",
        "rollout.tensor_parallel=4",
        "cluster.devices_per_node=8",
    ]
    words.append("cluster.rollout_python=python3")
    cfg = recipe("1_grpo_zero", *words)
    place = placement.find(cfg, {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "a,b"})
    gpus = [RolloutSettings.from_config(cfg, i, spot).gpus for i, spot in enumerate(place.spots)]
    assert gpus == [(0, 1, 2, 3), (4, 5, 6, 7)] * 2


def test_two_jobs_share_no_port():
    assert not set(placement.job_ports(1000)) & set(placement.job_ports(1001))
    assert max(placement.job_ports(999)) < 32768, "the kernel gives out those above"


def test_a_port_in_use_is_skipped():
    taken = list(placement.job_ports(7))[:3]

    def bind(address, port):
        if port in taken:
            raise OSError

    assert placement._free_port("127.0.0.1", 7, bind) == taken[-1] + 1


def test_site_options_reach_the_command_lines(monkeypatch):
    monkeypatch.setenv(placement.TRAINER_SRUN, "--container-image=/shared/my\\ nemo.sqsh --x")
    monkeypatch.setenv(placement.ROLLOUT_PREFIX, "apptainer exec --nv vllm.sif")
    place = placement.find(recipe("1_grpo_zero", "cluster.nodes=4"), FOUR)
    command = place.rank_command("python3", 2, ["-m", "x"])
    assert command[-5:] == ["--container-image=/shared/my nemo.sqsh", "--x", "python3", "-m", "x"]
    assert command[command.index("--ntasks") + 1] == "8"
    command = place.server_command(place.spots[0], "python3", ["-m", "y"])
    assert command[-7:] == ["apptainer", "exec", "--nv", "vllm.sif", "python3", "-m", "y"]


def test_a_ranks_environment_is_torchruns_and_not_slurms():
    task = {
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "2",
        "SLURM_JOB_ID": "77",
        "PMI_RANK": "5",
    }
    env = srun_rank.environment(task | {"MASTER_ADDR": "x", "HOME": "/h"}, "eth0")
    assert env == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "GROUP_RANK": "2",
        "TORCHELASTIC_RUN_ID": "77",
        "GLOO_SOCKET_IFNAME": "eth0",
        "MASTER_ADDR": "x",
        "HOME": "/h",
    }
    assert srun_rank.environment(task | {"GLOO_SOCKET_IFNAME": "ib0"}, "eth0")["GLOO_SOCKET_IFNAME"] == "ib0"


def test_the_batch_scripts_own_settings_do_not_reach_srun():
    env = placement.srun_environment(
        {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4", "A": "b"}
    )
    assert env == {"SLURM_JOB_ID": "7", "A": "b"}
