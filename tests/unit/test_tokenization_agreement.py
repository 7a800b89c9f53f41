# SPDX-License-Identifier: Apache-2.0
"""Tokenizers compared with transformers of both environments, once per content; a difference is refused."""

import shutil
import sys
from importlib import metadata

import pytest
from fake_pool import RECIPES, TINY, FakePool
from tokenizer_cases import ABSENT, CASES, DECODER, OLDER, bare_byte_level, write

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.tokenization import agreement, load_tokenizer
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.pipeline import run_pipeline
from reasongrm_nemo.run.stage import run_stage

HERE = [(sys.executable, metadata.version("transformers"))]
# A class with four further tokens by default, which this package does not know.
UNKNOWN = {
    "tokenizer_class": "BloomTokenizerFast",
    "pad_token": ABSENT,
    "bos_token": ABSENT,
    "unk_token": ABSENT,
}
# As transformers 5 saves a tokenizer; transformers 4 knows neither the class nor a list of extra tokens.
OF_5 = {
    "tokenizer_class": "TokenizersBackend",
    "extra_special_tokens": ["<|user|>", "<|end|>"],
    "image_token": "<x>",
    "chat_template": "{{ image_token }}{{ messages[-1]['content'] }}{{ eos_token }}",
}
# Classes that transformers 5 rebuilds, with a normalizer and a pre-tokenizer that tokenizer.json lacks.
OLDER_ALONE = {"a class with defaults", "a class whose defaults are new"}


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def counted(monkeypatch):
    asked, real = [], agreement.ask

    def ask(python, folders):
        asked.append(python)
        return real(python, folders)

    monkeypatch.setattr(agreement, "ask", ask)
    return asked


def test_a_folder_is_compared_once_while_its_content_is_the_same(tmp_path, monkeypatch):
    asked = counted(monkeypatch)
    one = write(tmp_path / "one", {"added_tokens_decoder": DECODER})
    words = f"as transformers {HERE[0][1]} reads it"
    assert agreement.check_agreement(one, HERE) == words
    assert agreement.check_agreement(one, HERE) == words and len(asked) == 1
    assert (
        agreement.check_agreement(shutil.copytree(one, tmp_path / "two"), HERE) == words and len(asked) == 1
    )
    write(one, {"added_tokens_decoder": DECODER, "cls_token": "<y>"})
    assert agreement.check_agreement(one, HERE) == words and len(asked) == 2


def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert agreement.check_agreement(TINY, HERE) == f"as transformers {HERE[0][1]} reads it"


def test_differing_tokens_are_refused_in_one_sentence_and_not_cached(tmp_path, memory):
    folder = write(tmp_path / "model", UNKNOWN)
    for _ in range(2):
        with pytest.raises(UserError, match=r"differs from transformers .*save_pretrained") as refusal:
            agreement.check_agreement(folder, HERE)
    assert "'<pad>': [30, 82, 67, 70, 32] here, [424] there" in str(refusal.value) and "\n" not in str(
        refusal.value
    )
    assert not list(memory.rglob("*.json")) and not [path for path in memory.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        (
            "texts",
            [["a<|im_end|>", [67, 3]]],
            r"the tokens of 'a<\|im_end\|>': \[67, 2\] here, \[67, 3\] there",
        ),
        ("decoded", ["b"], "the text of .*: 'a' here, 'b' there"),
        ("chats", ["prompt", None], "the prompt of a chat: "),
        (
            "numbers",
            {"eos_token_id": 2, "pad_token_id": 7, "the number of tokens": 422},
            "pad_token_id: 0 here",
        ),
        (
            "numbers",
            {"eos_token_id": 2, "pad_token_id": 0, "the number of tokens": 423},
            "number of tokens: 422",
        ),
    ],
)
def test_each_part_of_the_answer_is_compared(part, value, says):
    ours = load_tokenizer(TINY)
    chats = [ours.render(chat, True) for chat in agreement.CHATS]
    numbers = {"eos_token_id": 2, "pad_token_id": 0, "the number of tokens": 422}
    theirs = {"texts": [["a", ours.encode("a")]], "decoded": ["a"], "chats": chats, "numbers": numbers}
    agreement.check(ours, theirs, "9")
    theirs |= {part: value} | ({"decoded": ["a<|im_end|>"]} if part == "texts" else {})
    with pytest.raises(UserError, match=says):
        agreement.check(ours, theirs, "9")


def test_without_transformers_the_result_says_so(tmp_path):
    assert agreement.check_agreement(TINY, []) == "not compared with transformers (no python here has it)"
    words = agreement.check_agreement(TINY, [(str(tmp_path / "none"), "5")])
    assert (
        words.startswith("not compared with transformers (transformers 5: ") and "FileNotFoundError" in words
    )


def test_transformers_5_agrees_on_its_folders_and_on_older_ones(tmp_path, rollout_python):
    """One process for all folders, since starting one takes seconds."""
    # Version 5 rebuilds a Qwen2 model's tokenizer, with NFC, whatever tokenizer.json says.
    bare = {"config.json": {}}
    cases = {name: write(tmp_path / str(i), CASES[name], bare) for i, name in enumerate(CASES)}
    # A list of tokens with flags is an error in version 5.
    plain = OLDER["special_tokens_map.json"] | {"additional_special_tokens": ["<|user|>", "<x>"]}
    cases["older files"] = write(tmp_path / "older", {}, bare | OLDER | {"special_tokens_map.json": plain})
    cases["saved by version 5"] = write(tmp_path / "five", OF_5, bare)
    cases["saved with a bare level"] = write(tmp_path / "level", OF_5, bare, bare_byte_level(True))
    ours = {name: load_tokenizer(folder) for name, folder in cases.items()}
    answers = agreement.ask(str(rollout_python), {cases[name]: ours[name].added_tokens for name in cases})
    differ = {}
    for name, folder in cases.items():
        assert "error" not in answers[folder], (name, answers[folder])
        try:
            agreement.check(ours[name], answers[folder], "5")
        except UserError as difference:
            differ[name] = str(difference)
    assert set(differ) == OLDER_ALONE, "\n".join(f"{name}: {differ[name]}" for name in differ)


def test_a_folder_unreadable_for_the_trainer_s_transformers_is_compared_with_the_other(
    tmp_path, rollout_python
):
    folder = write(tmp_path / "five", OF_5, {"config.json": {}})
    assert agreement.check_agreement(folder, HERE).startswith("not compared with transformers")
    assert (
        agreement.check_agreement(folder, [*HERE, (str(rollout_python), "5")]) == "as transformers 5 reads it"
    )


# -- stages ----------------------------------------------------------------------------------------------


def generate(tmp_path, model, *words):
    given = [f"runs_dir={tmp_path / 'runs'}", f"model.hf_path={model}", "generate.skip_tasks=0"]
    return load_recipe(RECIPES / "2_generate.yaml", [*given, "generate.max_tasks=2", *words])


def test_a_stage_compares_before_it_begins_and_records_the_versions(tmp_path, tasks):
    pool = FakePool(tasks)
    with pytest.raises(UserError, match="differs from transformers"):
        run_stage(generate(tmp_path, write(tmp_path / "odd", UNKNOWN)), Console(quiet=True), pool)
    assert not pool.prompts and not (tmp_path / "runs" / ".partial").exists()
    manifest = run_stage(generate(tmp_path, TINY), Console(quiet=True), pool).manifest
    assert manifest["tokenizers"] == {"model": f"as transformers {HERE[0][1]} reads it"}


def test_a_stage_without_transformers_continues_and_says_so(tmp_path, tasks, monkeypatch, capsys):
    from reasongrm_nemo.run import tokenizers

    monkeypatch.setattr(tokenizers, "_environments", lambda cfg: [])
    manifest = run_stage(generate(tmp_path, TINY), Console(), FakePool(tasks)).manifest
    assert manifest["tokenizers"]["model"].startswith("not compared with transformers")
    assert "tokenizer of" in "".join(capsys.readouterr())


def test_a_pipeline_compares_all_models_before_its_first_stage(tmp_path):
    folder = tmp_path / "pipeline"
    folder.mkdir()
    shutil.copyfile(RECIPES / "0_prepare.yaml", folder / "0_prepare.yaml")
    (folder / "1_evaluate.yaml").write_text(
        "defaults: [base/evaluate, model/tiny, cluster/cpu]\ninputs: {tasks: '@0_prepare/validation.jsonl'}\n"
        f"evaluate: {{models: {{odd: {write(tmp_path / 'odd', UNKNOWN)}}}}}\n"
    )
    with pytest.raises(UserError, match="differs from transformers"):
        run_pipeline(folder, Console(quiet=True), overrides=[f"runs_dir={tmp_path / 'runs'}"])
    assert not (tmp_path / "runs" / "0_prepare").exists()
