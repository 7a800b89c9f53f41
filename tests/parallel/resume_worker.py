# SPDX-License-Identifier: Apache-2.0
"""One rank of a GRPO run on given rollouts, so that runs with other layouts train on the same ones.

Run by test_resume_layouts.py and test_skipped_steps.py:
``resume_worker.py WORK OVERRIDE ...``. NAN_STEPS names steps (from 0) in which some log-probs are NaN.
"""

import math
import os
import random
import sys
from pathlib import Path


class Given:
    """Responses that depend only on the step and the prompt."""

    def __init__(self, tokenizer):
        from reasongrm_nemo.models.tokenization import response_ids

        self.end = tokenizer.eos_token_id
        self.verdicts = [response_ids(tokenizer, f"</think>\n\n[[{letter}]]") for letter in "AB"]

    def collect(self, part):
        where, count = f"{part.step} {part.name}", part.sampling.n
        return [self._group(f"{where} {prompt.id}", prompt.id, count) for prompt in part.prompts]

    def _group(self, seed, prompt_id, count):
        from reasongrm_nemo.rollout import Completion

        draw = random.Random(seed)
        group = []
        for sample in range(count):
            ids = [draw.randrange(5, 290) for _ in range(draw.randrange(5, 30))]
            ids += [*draw.choice(self.verdicts), self.end]
            log_probs = [-draw.uniform(3, 6) for _ in ids]
            if sample == 0 and seed.split()[0] in os.environ.get("NAN_STEPS", "").split():
                log_probs[0] = math.nan
            group.append(Completion(prompt_id, sample, ids, log_probs, "stop"))
        return group

    def push(self, version):
        pass

    def pause(self):
        pass

    def losses(self):
        return 0


def main(work, *overrides):
    from reasongrm_nemo.megatron.platform import load_platform

    platform = load_platform("cpu")
    from reasongrm_nemo.data.records import JudgeTask
    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.grpo.trainer import GRPOTrainer
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.megatron.checkpoints import Checkpoints
    from reasongrm_nemo.megatron.metrics import MetricsLog
    from reasongrm_nemo.models.tokenization import load_tokenizer
    from reasongrm_nemo.processes.work_order import first_rank
    from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

    sessions.quiet_libraries()
    # the log-probs given below are random: no policy of this run sampled them
    given = ("grpo.log_prob_gap.warn.fp32=100", "grpo.log_prob_gap.stop.fp32=100")
    recipe = load_recipe(recipes_root() / "tiny" / "1_grpo_zero.yaml", [*given, *overrides])
    model = resolve_path(recipe.model.hf_path, "")
    session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 10, model)
    session.model.grpo = recipe.grpo
    tokenizer = load_tokenizer(model)
    question = "Q:a={};b=a+2;c=b*2;c?\n surely four(A)\n maybe six(B)"
    tasks = [
        JudgeTask(
            f"t{i}", f"p{i}", "test", [{"role": "user", "content": question.format(i)}], "A", "chosen_first"
        )
        for i in range(10)
    ]
    folder = Path(work)
    trainer = GRPOTrainer(
        session,
        recipe,
        tasks,
        tokenizer,
        [2],
        Given(tokenizer),
        Checkpoints(folder / "checkpoints", recipe.grpo.keep_checkpoints),
        MetricsLog(folder if first_rank() else None),
        None,
        lambda seconds: None,
    )
    trainer.fit()


if __name__ == "__main__":
    main(*sys.argv[1:])
