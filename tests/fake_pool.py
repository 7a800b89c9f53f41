# SPDX-License-Identifier: Apache-2.0
"""Rollouts with answers made up by the test, for stages that need no model."""

from pathlib import Path

from reasongrm_nemo.models.tokenization import load_tokenizer, response_ids
from reasongrm_nemo.rollout import Completion, Scoring

BASE = "model.hf_path=asset:tiny_judge"
RECIPES = Path(__file__).resolve().parents[1] / "recipes" / "tiny"
TINY = RECIPES.parents[1] / "reasongrm_nemo" / "assets" / "tiny_judge"


class FakePool:
    """Answers a prompt by its seed: right, wrong and unparsable answers, the last prompt first."""

    def __init__(self, tasks=(), stop_after=None):
        self.tasks = {task.id: task for task in tasks}
        self.stop_after = stop_after
        self.prompts, self.models, self.samplings = [], [], []
        self.tokenizer = load_tokenizer(TINY)

    def get(self, cfg, model_dir):
        self.models.append(model_dir)
        return self

    def stream(self, prompts, sampling):
        self.samplings.append(sampling)
        for count, prompt in enumerate(reversed(prompts)):
            if self.stop_after is not None and count == self.stop_after:
                raise KeyboardInterrupt
            self.prompts.append(prompt)
            if isinstance(sampling, Scoring):
                yield [self.score(prompt)]
            else:
                yield [self.answer(prompt, sample) for sample in range(sampling.n)]

    def score(self, prompt):
        """Score tokens with log-probs that depend on the token and its position."""
        given = prompt.token_ids[1:]
        return Completion(prompt.id, 0, given, [-(t % 7 + 1) / (n + 9) for n, t in enumerate(given)], "stop")

    def answer(self, prompt, sample):
        label = self.tasks[prompt.id].label
        kind = (prompt.seed + sample) % 4
        verdict = {0: label, 1: label, 2: "B" if label == "A" else "A", 3: "C"}[kind]
        ids = response_ids(self.tokenizer, f"a=1;b=1+{sample}=2 is two({verdict})\n</think>\n\n[[{verdict}]]")
        ids = [*ids, self.tokenizer.eos_token_id]
        return Completion(prompt.id, sample, ids, [-0.1 * (kind + 1)] * len(ids), "stop")
