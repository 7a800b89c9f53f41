# SPDX-License-Identifier: Apache-2.0
"""Pairs of the tiny judge, written in every form that preference data comes in.

The tiny model can read these pairs, so all seven stages have work to do; real texts are too long for it.
Run as a program, this file runs the seven stages on every form: see `main`.
"""

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reasongrm_nemo.demo.tiny_judge import questions

ROOT = Path(__file__).resolve().parents[1]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def _rows(make):
    """Makes a form's rows from pairs; every other row of a labelled form has its answers swapped."""
    return lambda pairs: [
        make(p.prompt[0]["content"], p.chosen, p.rejected, n % 2) for n, p in enumerate(pairs)
    ]


def _two(good, bad, swapped):
    return (bad, good) if swapped else (good, bad)


def _labelled(question, first, second, label):
    """A form with two answers and a label, whose value is `label[swapped]`."""

    def make(asked, good, bad, swapped):
        one, two = _two(good, bad, swapped)
        return {question: asked, first: one, second: two, **label[swapped]}

    return _rows(make)


def _choice(field, one, two):
    return {field: one}, {field: two}


def _arena(asked, good, bad, swapped):
    one, two = _two(good, bad, swapped)
    sides = {
        f"conversation_{mark}": [user(asked), assistant(text)] for mark, text in (("a", one), ("b", two))
    }
    return sides | {"model_a": "x", "model_b": "y", "winner": "model_b" if swapped else "model_a"}


def _helpsteer(asked, good, bad, swapped):
    one, two = _two(good, bad, swapped)
    return {
        "context": [user(asked)],
        "response1": one,
        "response2": two,
        "overall_preference": 2 if swapped else -1,
    }


FORMS = {
    "skywork": _rows(
        lambda q, good, bad, _: {"chosen": [user(q), assistant(good)], "rejected": [user(q), assistant(bad)]}
    ),
    "trl_explicit": _rows(
        lambda q, good, bad, _: {
            "prompt": [user(q)],
            "chosen": [assistant(good)],
            "rejected": [assistant(bad)],
        }
    ),
    "trl_standard": _rows(lambda q, good, bad, _: {"prompt": q, "chosen": good, "rejected": bad}),
    "hh_rlhf": _rows(
        lambda q, *texts: {
            side: f"\n\nHuman: {q}\n\nAssistant: {text}"
            for side, text in zip(("chosen", "rejected"), texts[:2], strict=True)
        }
    ),
    "alpaca": _rows(lambda q, good, bad, _: {"instruction": q, "input": "", "chosen": good, "rejected": bad}),
    "sharegpt": _rows(
        lambda q, good, bad, _: {
            "conversations": [{"from": "human", "value": q}],
            "chosen": gpt(good),
            "rejected": gpt(bad),
        }
    ),
    "ab": _labelled("prompt", "response_a", "response_b", _choice("winner", "A", "B")),
    "ab_from_0": _labelled("question", "answer_a", "answer_b", _choice("label", 0, 1)),
    "arena": _rows(_arena),
    "pandalm": _labelled(
        "instruction",
        "response1",
        "response2",
        [{f"annotator{n}": best for n in (1, 2, 3)} for best in (1, 2)],
    ),
    "helpsteer3": _rows(_helpsteer),
    "columns": _labelled("ask", "one", "two", _choice("pick", "left", "right")),
}
"""Rows of JSON by form."""
TABLES = {"csv": (",", "ab"), "tsv": ("\t", "trl_standard")}
COLUMNS = {"prompt": "ask", "a": "one", "b": "two", "label": "pick", "a_wins": "left", "b_wins": "right"}
EVERY_FORM = (*FORMS, *TABLES, "parquet", "tool_calls")


def write_form(form, folder, count, seed=5):
    """Write `count` pairs in a form; returns the overrides that prepare needs to read the file."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = questions(count, seed, "train")
    if form in TABLES:
        separator, of = TABLES[form]
        rows = FORMS[of](pairs)
        text = io.StringIO()
        writer = csv.DictWriter(text, [*rows[0]], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
        path = folder / f"pairs.{form}"
        path.write_text(text.getvalue())
    elif form == "parquet":
        path = folder / "pairs.parquet"
        pq.write_table(pa.Table.from_pylist(FORMS["trl_explicit"](pairs)), path)
    else:
        rows = _called(pairs) if form == "tool_calls" else FORMS[form](pairs)
        path = folder / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mapped = [f"prepare.columns.{key}={name}" for key, name in COLUMNS.items()] if form == "columns" else []
    return [f"prepare.source={path}", *mapped]


def _called(pairs):
    """Explicit prompts after a system prompt, with answers that call a tool named by the answer's digit."""
    rows = []
    for pair in pairs:
        sides = {}
        for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            call = {"type": "function", "function": {"name": text.split()[-1], "arguments": "{}"}}
            sides[side] = [assistant(text) | {"tool_calls": [call]}]
        rows.append({"system": "be sure", "prompt": pair.prompt, **sides})
    return rows


SMALL = [
    "1_grpo_zero:grpo.steps=2", "1_grpo_zero:grpo.save_every=2", "1_grpo_zero:grpo.prompts_per_step=16",
    "2_generate:generate.max_tasks=32", "5_mine:mine.max_tasks=32",
    "6_grpo_hard:grpo.steps=1", "6_grpo_hard:grpo.save_every=1", "6_grpo_hard:grpo.prompts_per_step=4",
]  # fmt: skip
"""The smoke pipeline, smaller still."""


def run_stages(form, folder):
    """Run the seven stages on a file of this form; returns the runs folder."""
    runs = folder / "runs"
    words = [*write_form(form, folder, 120), *SMALL, f"runs_dir={runs}"]
    command = [sys.executable, "-m", "reasongrm_nemo", "pipeline", "recipes/tiny_smoke", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        raise RuntimeError(f"{form}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    return runs


def result_of(runs, stage):
    """A stage's result in its manifest."""
    return json.loads((runs / stage / "manifest.json").read_text())["result"]


def main():
    """`python tests/preference_forms.py FOLDER [FORM ...]`: all seven stages on a file of each form."""
    folder, *forms = sys.argv[1:]
    for form in forms or EVERY_FORM:
        started = time.monotonic()
        runs = run_stages(form, Path(folder) / form)
        tasks = result_of(runs, "0_prepare")["tasks"]
        kept = [result_of(runs, stage)["kept"] for stage in ("1_grpo_zero", "6_grpo_hard")]
        examples = result_of(runs, "3_filter")["examples"]
        said = f"{tasks} tasks, groups kept {kept}, {examples} examples"
        print(f"{form:12} {time.monotonic() - started:4.0f} s: {said}", flush=True)


if __name__ == "__main__":
    main()
