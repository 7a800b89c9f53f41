# SPDX-License-Identifier: Apache-2.0
"""Result files of other projects' scripts: how tests make and score them."""

import json
import random

from click.testing import CliRunner

from reasongrm_nemo.cli import main

SWAPPED = "Is_Chosen_Answer_Shuffled_toPositionB"


def call(*words):
    return CliRunner().invoke(main, ["score", *map(str, words)])


def figures(*words):
    result = call(*words, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def values(data):
    return {name: score and score["value"] for name, score in data["scores"].items()}


def refusal(*words):
    result = call(*words)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, (result.stdout, result.stderr)
    return result.stderr


def save(path, data, indent=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=indent))
    return path


def turns(question, answer):
    return [{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}]


def answer(right, swapped):
    """A judge's text as RM-R1 writes it, without think tags; without a verdict if `right` is None."""
    said = "I cannot say" if right is None else f"<answer>[[{'AB'[right == swapped]}]]</answer>"
    return f"<eval>both are good</eval>{said}"


def draw(count):
    rng = random.Random(count)
    return [(rng.choice([True, True, False, None]), rng.random() < 0.5) for _ in range(count)]
