# SPDX-License-Identifier: Apache-2.0
"""Settings of servers, the last error in a log, shapes of models."""

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rollout import RolloutSettings
from reasongrm_nemo.rollout.server.same_shape import same_shape, weights_stamp
from reasongrm_nemo.rollout.server.vllm_log import last_words

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cfg(tmp_path):
    python = tmp_path / "python"
    python.touch()
    return {
        "stage": "grpo",
        "rollout": {
            "dtype": "bf16",
            "temperature": 1.0,
            "max_num_seqs": 8,
            "kv_cache_gib": 0.25,
            "enforce_eager": True,
            "threads": 2,
            "port": None,
            "concurrency": 16,
            "stall_timeout_s": 25,
            "start_timeout_s": 60,
            "extra_env": {"A": 1},
            "servers": 1,
            "tensor_parallel": 1,
            "gpus": [],
            "gpu_memory_utilization": 0.9,
            "sleep": False,
        },
        "cluster": {"platform": "cpu", "weight_transfer": "gloo", "rollout_python": str(python)},
        "model": {"max_model_len": 512, "trust_remote_code": False, "rope": {"type": None}},
    }


def pairs(words):
    return {a: b for a, b in itertools.pairwise(words) if a.startswith("--")}


def test_settings_of_a_recipe(cfg, tmp_path):
    settings = RolloutSettings.from_config(cfg)
    assert settings.extra_env == {"A": "1"}
    assert RolloutSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    words = settings.arguments(tmp_path, 80)
    assert pairs(words)["--dtype"] == "bfloat16"
    assert pairs(words)["--kv-cache-memory-bytes"] == str(2**28)
    assert pairs(words)["--generation-config"] == "vllm"
    assert "--enforce-eager" in words and "--no-enable-chunked-prefill" in words
    assert "--trust-remote-code" not in words


@pytest.mark.parametrize(
    ("stage", "temperature", "mode"),
    [
        ("grpo", 1.0, "raw_logprobs"),  # equals processed_logprobs, and servers are shared with other stages
        ("grpo", 0.7, "processed_logprobs"),
        ("generate", 0.7, "raw_logprobs"),  # R* is of the model's distribution at temperature 1
        ("mine", 0.7, "raw_logprobs"),
        ("evaluate", 0.7, "raw_logprobs"),
    ],
)
def test_only_grpo_gets_log_probs_of_the_sampled_distribution(cfg, tmp_path, stage, temperature, mode):
    cfg["stage"], cfg["rollout"]["temperature"] = stage, temperature
    assert pairs(RolloutSettings.from_config(cfg).arguments(tmp_path, 80))["--logprobs-mode"] == mode


def test_settings_on_gpu(cfg, tmp_path):
    cfg["cluster"] |= {"platform": "gpu", "weight_transfer": "nccl"}
    cfg["rollout"] |= {"enforce_eager": False}
    settings = RolloutSettings.from_config(cfg)
    words = settings.arguments(tmp_path, 80)
    assert "--kv-cache-memory-bytes" not in words and "--enforce-eager" not in words
    assert "--no-enable-chunked-prefill" not in words
    assert not {"OMP_NUM_THREADS", "TORCH_COMPILE_DISABLE", "GLIBC_TUNABLES"} & set(settings.environment("t"))
    assert pairs(words)["--gpu-memory-utilization"] == "0.9" and "--enable-sleep-mode" not in words
    assert pairs(words)["--weight-transfer-config"] == '{"backend": "reasongrm_nccl"}'
    cfg["rollout"] |= {"sleep": True, "gpu_memory_utilization": 0.5}
    words = RolloutSettings.from_config(cfg).arguments(tmp_path, 80)
    assert pairs(words)["--gpu-memory-utilization"] == "0.5" and "--enable-sleep-mode" in words


@pytest.mark.parametrize(
    ("servers", "gpus", "outside", "first", "second"),
    [
        (1, [], "4,5,6,7", "4,5,6,7", None),  # left as the environment has it
        (2, [], None, "0,1", "2,3"),
        (2, [6, 7, 4, 5], None, "6,7", "4,5"),
        (2, [], "GPU-a,GPU-b,GPU-c,GPU-d", "GPU-a,GPU-b", "GPU-c,GPU-d"),
    ],
)
def test_servers_share_the_gpus_out(cfg, monkeypatch, servers, gpus, outside, first, second):
    cfg["cluster"] |= {"platform": "gpu", "weight_transfer": "ipc"}
    cfg["rollout"] |= {"servers": servers, "tensor_parallel": 2, "gpus": gpus}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if outside:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", outside)
    for index, expected in [(0, first), (1, second)][:servers]:
        settings = RolloutSettings.from_config(cfg, index)
        settings = RolloutSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
        assert settings == RolloutSettings.from_config(cfg, index)
        assert settings.environment("t")["CUDA_VISIBLE_DEVICES"] == expected


def test_servers_share_the_cores_and_the_ports_out(cfg, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    cfg["rollout"] |= {"servers": 2, "threads": None, "port": 7000}
    both = [RolloutSettings.from_config(cfg, index) for index in range(2)]
    assert [settings.port for settings in both] == [7000, 7001]
    assert [settings.environment("t")["OMP_NUM_THREADS"] for settings in both] == ["3", "3"]


def test_environment(cfg, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("PYTHONPATH", "x")
    env = RolloutSettings.from_config(cfg).environment("secret")
    assert env["VLLM_API_KEY"] == "secret" and env["A"] == "1" and env["OMP_NUM_THREADS"] == "2"
    assert not {"WORLD_SIZE", "PYTHONPATH"} & set(env)
    assert "trim_threshold" in env["GLIBC_TUNABLES"]


def test_threads_leave_one_core_for_the_front_end(cfg, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)))
    cfg["rollout"]["threads"] = None
    assert RolloutSettings.from_config(cfg).environment("t")["OMP_NUM_THREADS"] == "3"
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    assert RolloutSettings.from_config(cfg).environment("t")["OMP_NUM_THREADS"] == "1"


def test_a_job_s_caches_of_compiled_code_reach_the_server(cfg, monkeypatch):
    """Each that launch/common.sh sets; in a home directory on NFS compilation is slow, and nodes race."""
    set_scratch = (
        (ROOT / "launch" / "common.sh").read_text().partition("set_scratch() {")[2].partition("\n}")[0]
    )
    names = re.findall(r"(\w+)=\$scratch/", set_scratch)
    assert {"TRITON_CACHE_DIR", "VLLM_CACHE_ROOT"} <= set(names)
    for name in names:
        monkeypatch.setenv(name, f"/scratch/{name}")
    env = RolloutSettings.from_config(cfg).environment("t")
    assert {name: env.get(name) for name in names} == {name: f"/scratch/{name}" for name in names}


def test_interpreter_from_the_environment(cfg, monkeypatch, tmp_path):
    cfg["cluster"]["rollout_python"] = None
    monkeypatch.setenv("REASONGRM_ROLLOUT_PYTHON", str(tmp_path / "python"))
    assert RolloutSettings.from_config(cfg).python == str(tmp_path / "python")
    monkeypatch.setenv("REASONGRM_ROLLOUT_PYTHON", str(tmp_path / "no"))
    with pytest.raises(UserError, match=r"does not exist.*cluster\.rollout_python"):
        RolloutSettings.from_config(cfg)
    monkeypatch.delenv("REASONGRM_ROLLOUT_PYTHON")
    with pytest.raises(UserError, match=r"cluster\.rollout_python.*REASONGRM_ROLLOUT_PYTHON"):
        RolloutSettings.from_config(cfg)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        ("INFO 11-23 07:07:16 [a.py:1] ready\n\n", "ready"),
        (
            "(Worker pid=7) ERROR 11-23 07:07:16 [b.py:1] RuntimeError: CPU Generator does not use offset\n"
            "(EngineCore pid=6) ERROR 11-23 07:07:16 [c.py:1] RuntimeError: Worker failed with error: "
            "EngineCore encountered an issue. See root cause above\n"
            "warnings.warn('resource_tracker: There appear to be 1 leaked semaphore objects')\n",
            "RuntimeError: CPU Generator does not use offset",
        ),
        ("\x1b[1;36m(APIServer pid=5)\x1b[0;0m   torch.cuda.OutOfMemoryError: no room.\nbye\n", None),
        ("/x/python: No module named vllm\n", "/x/python: No module named vllm"),
        (
            "pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "  Value error, max_model_len (9) is greater.\n  For further information visit x\n",
            "pydantic_core.ValidationError: 1 validation error for ModelConfig: "
            "Value error, max_model_len (9) is greater",
        ),
        ("api_server.py: error: unrecognized arguments: --x\n", None),
    ],
)
def test_last_words(tmp_path, text, words):
    log = tmp_path / "log"
    log.write_text(text)
    quoted = last_words(log)
    if words is None:
        assert "no room" in quoted or "unrecognized arguments" in quoted
    else:
        assert quoted == words


def test_last_words_of_this_start_only(tmp_path):
    log = tmp_path / "log"
    log.write_text("ValueError: old\n")
    start = log.stat().st_size
    with log.open("a") as out:
        out.write("hello\n")
    assert last_words(log, start) == "hello"
    assert last_words(tmp_path / "none") == ""


QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 402,
    "tie_word_embeddings": True,
}
AS_TRANSFORMERS_5 = {
    "head_dim": 32,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "dtype": "float32",
    "transformers_version": "5.19.0",
    "layer_types": ["full_attention"],
}
AS_TRANSFORMERS_4 = {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "bfloat16"}


def folder(path, config):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (AS_TRANSFORMERS_4, True),
        (AS_TRANSFORMERS_4 | {"rope_theta": 1e6}, False),
        (AS_TRANSFORMERS_4 | {"rope_parameters": AS_TRANSFORMERS_5["rope_parameters"]}, True),
        (AS_TRANSFORMERS_4 | {"rope_scaling": {"type": "yarn", "factor": 4.0}}, False),
        (AS_TRANSFORMERS_4 | {"vocab_size": 403}, False),
        (AS_TRANSFORMERS_4 | {"tie_word_embeddings": False}, False),
        (AS_TRANSFORMERS_4 | {"head_dim": 64}, False),
    ],
)
def test_same_shape(tmp_path, change, same):
    first = folder(tmp_path / "a", QWEN2 | AS_TRANSFORMERS_5)
    second = folder(tmp_path / "b", QWEN2 | change)
    assert same_shape(first, second) is same


def test_weights_stamp(tmp_path):
    first = folder(tmp_path / "a", QWEN2)
    stamp = weights_stamp(first)
    assert weights_stamp(first) == stamp
    (first / "model.safetensors").write_bytes(b"xy")
    assert weights_stamp(first) != stamp
    assert weights_stamp(folder(tmp_path / "b", QWEN2)) != stamp


def test_to_path():
    from math import log

    from reasongrm_nemo.data.records import JudgeTask
    from reasongrm_nemo.rollout import Completion, reasoning_path
    from reasongrm_nemo.rollout.reading import CompletionReader

    texts = ["it is", " B", "\n</think>", "\n\n", "[[B]]", "<|end|>"]
    tokenizer = SimpleNamespace(decode=lambda ids: "".join(texts[i] for i in ids), piece=texts.__getitem__)
    task = JudgeTask("t", "p", "s", [{"role": "user", "content": "?"}], "B", "rejected_first")
    reader = CompletionReader(tokenizer, "last", opened=True)
    probs = [0.5, 0.25, 1.0, 0.5, 0.75, 0.125]
    whole = Completion("t", 3, list(range(6)), [log(p) for p in probs], "stop")
    path = reasoning_path(
        whole, task, tokenizer, reader, "zero", keep_token_ids=True, begun="<think>\n", digest="d"
    )
    assert path.text == "it is B\n</think>\n\n[[B]]"
    assert (path.task_id, path.sample, path.model, path.finish_reason) == ("t", 3, "zero", "stop")
    assert (path.reasoning_tokens, path.answer_tokens) == (3, 2)
    assert path.reasoning_prob_sum == pytest.approx(1.75) and path.answer_prob_sum == pytest.approx(1.25)
    assert (path.verdict, path.parse_status, path.correct) == ("B", "ok", True)
    assert path.token_ids == [0, 1, 2, 3, 4]
    assert (path.begun, path.opened, path.tokenizer) == ("<think>\n", True, "d")

    cut = Completion("t", 0, [0, 1], [log(0.5), log(0.25)], "length")
    path = reasoning_path(cut, task, tokenizer, reader, "zero")
    assert (path.reasoning_tokens, path.answer_tokens, path.answer_prob_sum) == (2, 0, 0.0)
    assert path.reasoning_prob_sum == pytest.approx(0.75)
    assert (path.verdict, path.correct, path.token_ids) == (None, False, None)

    empty = Completion("t", 0, [5], [0.0], "stop")
    path = reasoning_path(empty, task, tokenizer, reader, "zero")
    assert (path.text, path.reasoning_tokens, path.reasoning_prob_sum) == ("", 0, 0.0)


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        # theta beside a scaling, where vLLM does not look for it
        (
            {
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_theta": 1e6, "rope_type": "linear", "factor": 2.0},
            },
            1e6,
        ),
        ({"rope_theta": 5e5}, 5e5),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}, "rope_theta": 5e5}, None),
        # nothing is known of a model of an unsupported family
        ({"model_type": "gemma3", "rope_theta": 5e5}, None),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, None),
    ],
)
def test_vllm_is_told_the_rope_that_is_trained_with(cfg, tmp_path, stated, told):
    sizes = {"num_hidden_layers": 2, "intermediate_size": 8, "rms_norm_eps": 1e-6, "architectures": None}
    model = folder(tmp_path / "model", QWEN2 | sizes | stated)
    changes = pairs(RolloutSettings.from_config(cfg).arguments(model, 80)).get("--hf-overrides")
    assert (json.loads(changes)["rope_parameters"]["rope_theta"] if changes else None) == told
