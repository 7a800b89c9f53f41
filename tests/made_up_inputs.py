# SPDX-License-Identifier: Apache-2.0
"""Small inputs for any recipe, for tests that run a stage without the inputs that its recipe names."""

from reasongrm_nemo.data import JudgeTask, ReasoningPath, SftExample, write_jsonl
from reasongrm_nemo.recipe.load import input_paths, is_model_input, resolve_path

MODEL = "asset:tiny_judge"
"""Stands in for every model: its tokenizer is real, and any of them will do."""
TASKS = [
    JudgeTask(f"t{i}", f"p{i}", "dry", [{"role": "user", "content": f"A or B? {i}"}], "A", "chosen_first")
    for i in range(4)
]
_RIGHT, _WRONG = "short.</think>[[A]]", "long and short.</think>[[B]]"


def write_inputs(recipe, folder):
    """A file or folder for every input of a recipe, by name, except benchmarks."""
    model, tasks = resolve_path(MODEL, "."), TASKS
    made = {}
    for name in input_paths(recipe):
        if is_model_input(name):
            made[name] = model
        elif name in ("tasks", "validation"):
            made[name] = folder / f"{name}.jsonl"
            write_jsonl(made[name], tasks)
        elif name == "paths":
            made[name] = folder / "paths.jsonl"
            write_jsonl(made[name], [_path(task, sample) for task in tasks for sample in range(2)])
        elif name == "examples":
            made[name] = folder / "examples.jsonl"
            turn = {"role": "assistant", "content": _RIGHT}
            write_jsonl(
                made[name], [SftExample(t.id, [*t.messages, turn], 0.5, 0.5, 0.5, "r_star") for t in tasks]
            )
        elif name == "source":
            made[name] = resolve_path("asset:examples/preferences.jsonl", ".")
    return made


def _path(task, sample):
    right = sample == 0
    return ReasoningPath(
        task_id=task.id,
        sample=sample,
        text=_RIGHT if right else _WRONG,
        reasoning_tokens=4,
        answer_tokens=2,
        reasoning_prob_sum=3.0,
        answer_prob_sum=1.5,
        verdict="A" if right else "B",
        parse_status="ok",
        correct=right,
        finish_reason="stop",
        model="dry",
    )
