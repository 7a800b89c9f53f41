# SPDX-License-Identifier: Apache-2.0
"""transformers, Megatron and vLLM agree on what was sampled, on the tiny model and on real weights.

Also with YaRN and linear scaling, which the recipe states once and the exported checkpoint contains.

fp32; 1e-4 absolute on each log-prob, over at least 1,000 sampled tokens (seen: 4e-5), and on R*.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reasongrm_nemo.data import ReasoningPath
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.models.rope import Rope
from reasongrm_nemo.models.tokenization import load_tokenizer, prompt_ids, stop_token_ids
from reasongrm_nemo.recipe.load import load_recipe, resolve_path
from reasongrm_nemo.rollout import Prompt, Rollouts, RolloutServer, RolloutSettings, Sampling, Scoring
from reasongrm_nemo.rstar import path_sums, score_sums

ROOT = Path(__file__).resolve().parents[2]
QUESTION = (
    "Which is better? Answer A: Water boils at 100 degrees Celsius at sea level. Answer B: Water boils at {}."
)
CHAIN = "Q:a={};b=a+2;c=b*3;d=c-1;d?\n surely three(A)\n maybe five(B)"
# Sequences end far past the 32 positions of the model's declared training length.
YARN = ["model.rope.type=yarn", "model.rope.factor=16", "model.rope.original_max_position_embeddings=32"]
CASES = {
    "tiny": (CHAIN, 8, []),
    "tiny with YaRN": (CHAIN, 8, YARN),
    "tiny with linear scaling": (CHAIN, 8, ["model.rope.type=linear", *YARN[1:]]),
    "smollm2": (QUESTION, 4, []),
}


def score_with_megatron(launch, folder, sequences, out, recipe):
    file = out.with_suffix(".json")
    file.write_text(json.dumps(sequences))
    launch(str(Path(__file__).parent / "score_worker.py"), 1, folder, file, out, *recipe)
    return json.loads((out / "log_probs.json").read_text())


def score_with_transformers(model, sequences):
    scored = []
    for ids, prompt in sequences:
        tokens = torch.tensor([ids])
        with torch.no_grad():
            log_probs = model(tokens).logits.log_softmax(-1)[0, :-1]
        scored.append(log_probs.gather(-1, tokens[0, 1:, None])[prompt - 1 :, 0].tolist())
    return scored


def largest_difference(first, second):
    pairs = [(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)]
    assert len(pairs) >= 1000
    return max(abs(a - b) for a, b in pairs)


def r_stars(log_probs):
    """R* for every possible end of the reasoning, by the package's steps from log-probs to sums to R*."""
    scores = []
    for cut in range(1, len(log_probs)):
        sums = path_sums(log_probs, cut)
        path = ReasoningPath("t", 0, "x", *sums, "A", "ok", True, "stop", "m")
        scores.append(score_sums(path).score)
    return scores


@pytest.mark.parametrize("name", list(CASES))
def test_log_probs_and_greedy_tokens_agree(name, launch, tmp_path, request):
    text, samples, changes = CASES[name]
    recipe = ROOT / "recipes" / name.split()[0] / "1_grpo_zero.yaml"
    cfg = load_recipe(recipe, changes)
    folder = (
        request.getfixturevalue("smollm2") if name == "smollm2" else resolve_path("asset:tiny_judge", ".")
    )
    tokenizer = load_tokenizer(folder)
    prompts = [
        Prompt(str(i), prompt_ids(tokenizer, [{"role": "user", "content": text.format(i)}]), i)
        for i in range(10)
    ]
    stop = tuple(stop_token_ids(tokenizer, folder))
    with RolloutServer(RolloutSettings.from_config(cfg), folder, tmp_path / "server.log") as server:
        rollouts = Rollouts([server])
        answers = rollouts.generate(prompts, Sampling(samples, 48, stop_token_ids=stop))
        greedy = rollouts.generate(prompts[:3], Sampling(1, 32, temperature=0.0, stop_token_ids=stop))
        completions = [(p, c) for p, group in zip(prompts, answers, strict=True) for c in group]
        sequences = [([*p.token_ids, *c.token_ids], len(p.token_ids)) for p, c in completions]
        given = [Prompt(str(i), ids, 0) for i, (ids, _) in enumerate(sequences[::samples])]
        scored = [c.log_probs for (c,) in rollouts.generate(given, Scoring())]
    vllm = [c.log_probs for _, c in completions]

    megatron = score_with_megatron(launch, folder, sequences, tmp_path / "megatron", [str(recipe), *changes])
    stated = Rope.from_config(read_json(folder / "config.json"), str(folder), cfg.model.rope)
    config = AutoConfig.from_pretrained(folder, **stated.spelled())
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, torch_dtype=torch.float32).eval()
    transformers = score_with_transformers(model, sequences)
    assert largest_difference(megatron, transformers) <= 1e-4
    assert largest_difference(vllm, transformers) <= 1e-4
    assert largest_difference(vllm, megatron) <= 1e-4
    for log_probs, again, truth in zip(vllm[::samples], scored, transformers[::samples], strict=True):
        assert again[-len(truth) :] == pytest.approx(truth, abs=1e-4)
        assert r_stars(log_probs) == pytest.approx(r_stars(truth), abs=1e-4)
        assert r_stars(again[-len(truth) :]) == pytest.approx(r_stars(truth), abs=1e-4)

    # Megatron exports the same model, with which transformers generates what vLLM does
    exported = AutoModelForCausalLM.from_pretrained(
        tmp_path / "megatron" / "hf", torch_dtype=torch.float32
    ).eval()
    for parameter, written in zip(model.parameters(), exported.parameters(), strict=True):
        assert torch.equal(parameter, written)
    for prompt, (completion,) in zip(prompts, greedy, strict=False):
        tokens = torch.tensor([prompt.token_ids])
        out = exported.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=32,
            do_sample=False,
            eos_token_id=list(stop),
            pad_token_id=stop[0],
        )
        assert out[0, len(prompt.token_ids) :].tolist() == completion.token_ids
