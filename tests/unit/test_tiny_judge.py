# SPDX-License-Identifier: Apache-2.0
"""The generated task and the training data of its base model: what the stages rely on."""

import json
import random
import struct
from collections import Counter
from importlib import resources

import pytest

from reasongrm_nemo.data import SftExample, make_tasks
from reasongrm_nemo.demo.tiny_base import (
    PHASES,
    base_config,
    base_examples,
    initial_weights,
    write_initial_model,
)
from reasongrm_nemo.demo.tiny_judge import (
    BASE,
    CLEAN,
    DIGITS,
    OPERATIONS,
    SPLITS,
    STYLES,
    Habits,
    Question,
    apply_operation,
    draw_question,
    mode,
    questions,
    trace,
)
from reasongrm_nemo.judge import load_template, parse_verdict

ASSET = resources.files("reasongrm_nemo") / "assets" / "tiny_judge"
QUESTION = Question(9, (("+", 2), ("*", 3)), 5, ("surely", "maybe"))


def chain_of(pair):
    return pair.prompt[0]["content"]


def value_of(text):
    """The value of a question's text, by Python's own arithmetic."""
    *steps, asked = text.rstrip("?").split(";")
    values = {}
    for step in steps:
        name, expression = step.split("=")
        values[name] = eval(expression, {}, values) % 10
    return values[asked]


def test_a_question_as_text():
    assert QUESTION.text == "a=9;b=a+2;c=b*3;c?"
    assert (QUESTION.chosen, QUESTION.rejected) == ("surely three", "maybe five")


@pytest.mark.parametrize(
    ("value", "operation", "result"), [(9, ("+", 2), 1), (1, ("-", 3), 8), (7, ("*", 3), 1)]
)
def test_steps_are_modulo_ten(value, operation, result):
    assert apply_operation(value, operation) == result


@pytest.mark.parametrize("split", SPLITS)
def test_the_chosen_answer_is_right_and_the_rejected_one_is_not(split):
    for pair in questions(300, 5, split):
        right = DIGITS[value_of(chain_of(pair))]
        assert pair.chosen.split()[1] == right
        assert pair.rejected.split()[1] != right


def test_questions_depend_on_seed_split_and_index_alone():
    whole = questions(40, 3, "train")
    assert questions(10, 3, "train") == whole[:10]
    assert questions(40, 4, "train") != whole
    assert questions(40, 3, "validation") != whole
    assert len({pair.id for pair in whole}) == 40


def test_no_chain_is_in_two_splits_whatever_the_seeds():
    chains = [
        {chain_of(pair) for pair in questions(800, seed, split, lengths=(1, 2, 3))}
        for seed, split in enumerate(SPLITS)
    ]
    assert not chains[0] & chains[1] and not chains[0] & chains[2] and not chains[1] & chains[2]


def test_every_split_has_chains_of_one_operation():
    splits = Counter(Question(a, (step,), -1, ("", "")).split for a in range(10) for step in OPERATIONS)
    assert set(splits) == set(SPLITS) and splits["train"] > 40


def test_bare_digits_are_for_training_only():
    assert draw_question(random.Random(0), "train", (0,)).text.count("=") == 1
    with pytest.raises(ValueError, match="without operations"):
        draw_question(random.Random(0), "validation", (0, 1))


def test_unknown_splits_and_lengths_are_refused():
    with pytest.raises(ValueError, match="Unknown split"):
        questions(1, 0, "test")
    with pytest.raises(ValueError, match="Lengths"):
        draw_question(random.Random(0), None, (12,))


def test_labels_lengths_and_style_words_are_balanced():
    pairs = questions(2000, 1, "train")
    tasks = list(make_tasks(pairs, 1, load_template("tiny")))
    assert 0.45 < sum(task.label == "A" for task in tasks) / len(tasks) < 0.55
    lengths = Counter(chain_of(pair).count("=") - 1 for pair in pairs)
    assert set(lengths) == {2, 3, 4, 5} and min(lengths.values()) > 400
    for answers in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs]):
        assert 0.45 < sum(answer.startswith("surely") for answer in answers) / len(pairs) < 0.55


def test_the_prompt_has_the_digit_before_its_label():
    pair = questions(1, 1, "train")[0]
    (task,) = make_tasks([pair], 1, load_template("tiny"))
    first, second = (pair.chosen, pair.rejected) if task.label == "A" else (pair.rejected, pair.chosen)
    assert task.messages[-1]["content"] == f"Q:{chain_of(pair)}\n {first}(A)\n {second}(B)"


def test_a_clean_trace():
    text, style = trace(random.Random(0), QUESTION, "B", CLEAN)
    assert text == "a=9;b=9+2=1;c=1*3=3 is three(B)\n</think>\n\n[[B]]"
    assert style == "concise"


@pytest.mark.parametrize("style", STYLES)
def test_styles_are_recognized_by_their_marks(style):
    rng = random.Random(2)
    habits = Habits({style: 1.0}, slip=0.2, bad_format=0.2)
    for _ in range(300):
        text, written = trace(rng, draw_question(rng), rng.choice("AB"), habits)
        assert written == mode(text) == style


def test_clean_traces_judge_right_and_slips_sometimes_wrong():
    rng = random.Random(3)
    right = Counter()
    for slip in (0.0, 0.5):
        for _ in range(300):
            label = rng.choice("AB")
            text, _ = trace(rng, draw_question(rng), label, Habits({"concise": 1.0}, slip, 0.0))
            right[slip] += parse_verdict(text).verdict == label
    assert right[0.0] == 300 and 100 < right[0.5] < 270


def test_verdicts_follow_the_habits_of_the_base():
    rng = random.Random(4)
    count, readable, styles, right = 4000, 0, Counter(), 0
    for _ in range(count):
        label = rng.choice("AB")
        text, style = trace(rng, draw_question(rng), label, BASE)
        verdict = parse_verdict(text).verdict
        readable += verdict is not None
        right += verdict == label
        styles[style] += 1
    assert abs(readable / count - (1 - BASE.bad_format)) < 0.01
    for style, share in BASE.mix.items():
        assert abs(styles[style] / count - share) < 0.03
    assert 0.55 < right / count < 0.75


@pytest.mark.parametrize("phase", PHASES)
def test_base_examples_are_records_of_training_questions_only(phase):
    examples = base_examples(phase, 60, 1)
    assert examples[:20] == base_examples(phase, 20, 1)
    assert examples != base_examples(phase, 60, 2)
    for example in examples:
        assert SftExample.from_dict(example.to_dict()) == example
        chain = example.messages[0]["content"].split("\n")[0].removeprefix("Q:")
        operations = tuple((step[3], int(step[4])) for step in chain.split(";")[1:-1])
        assert Question(int(chain[2]), operations, -1, ("", "")).split == "train"


def test_look_up_examples_ask_for_a_digit_that_they_name():
    lengths = Counter()
    for example in base_examples("lookup", 200, 1):
        asked, first, second = example.messages[0]["content"].split("\n")
        assert asked.endswith(";a?")
        lengths[asked.count("=") - 1] += 1
        digit = DIGITS[int(asked.removeprefix("Q:a=")[0])]
        assert (digit in first) != (digit in second)
        side = "A" if digit in first else "B"
        right = f"<think>\na={DIGITS.index(digit)} is {digit}({side})\n</think>\n\n[[{side}]]"
        assert example.messages[1]["content"] == right
    assert set(lengths) == set(range(6)) and lengths[0] > 60


def test_an_unknown_phase_is_refused():
    with pytest.raises(ValueError, match="Unknown phase"):
        base_examples("polish", 1, 1)


def test_the_initial_model_is_a_seeded_safetensors_file(tmp_path):
    write_initial_model(tmp_path / "a", 1)
    write_initial_model(tmp_path / "b", 1)
    write_initial_model(tmp_path / "c", 2)
    blobs = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert blobs[0] == blobs[1] != blobs[2]
    (size,) = struct.unpack("<Q", blobs[0][:8])
    header = json.loads(blobs[0][8 : 8 + size])
    weights = initial_weights(json.loads((tmp_path / "a" / "config.json").read_text()), 1)
    assert set(header) - {"__metadata__"} == set(weights)
    end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    assert 8 + size + end == len(blobs[0])
    for name, array in weights.items():
        start, stop = header[name]["data_offsets"]
        assert blobs[0][8 + size + start : 8 + size + stop] == array.tobytes()


def test_the_shipped_model_has_the_shape_that_the_recipes_expect():
    config = json.loads((ASSET / "config.json").read_text(encoding="utf-8"))
    wanted = base_config(config["vocab_size"], config["pad_token_id"], config["eos_token_id"])
    assert {name: config.get(name) for name in wanted} == wanted
    blob = (ASSET / "model.safetensors").read_bytes()
    assert len(blob) < 2_000_000
    (size,) = struct.unpack("<Q", blob[:8])
    header = json.loads(blob[8 : 8 + size])
    shapes = {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    assert shapes == {name: list(array.shape) for name, array in initial_weights(config, 1).items()}
    assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F32"}


class TestTokenizer:
    @pytest.fixture(scope="class")
    def tokenizer(self):
        tokenizers = pytest.importorskip("tokenizers")
        return tokenizers.Tokenizer.from_file(str(ASSET / "tokenizer.json"))

    def test_every_example_survives_tokenization(self, tokenizer):
        for phase in PHASES:
            for example in base_examples(phase, 100, 7):
                for message in example.messages:
                    text = message["content"] + "<|im_end|>"
                    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text

    def test_control_tokens_are_one_token_each(self, tokenizer):
        config = json.loads((ASSET / "config.json").read_text(encoding="utf-8"))
        text = "<|im_start|><think></think><|im_end|><|endoftext|>"
        ids = tokenizer.encode(text).ids
        assert len(ids) == 5
        assert ids[3:] == [config["eos_token_id"], config["pad_token_id"]]
        assert tokenizer.decode(ids, skip_special_tokens=True) == "<think></think>"

    def test_digits_words_and_labels_are_whole(self, tokenizer):
        tokens = tokenizer.encode("Q:a=7;b=a*3;b?\n surely seven(A)\n maybe one(B)").tokens
        assert {"7", "*", "3", "Ġsurely", "Ġseven", "(A", "Ġmaybe", "Ġone", "(B"} <= set(tokens)
        for digit in DIGITS:
            assert len(tokenizer.encode(f" {digit}").ids) == 1

    def test_prompts_and_paths_fit_the_context_of_the_recipes(self, tokenizer):
        for example in base_examples("mixture", 500, 3):
            lengths = [len(tokenizer.encode(message["content"]).ids) for message in example.messages]
            assert lengths[0] + 10 <= 160 and lengths[1] + 1 <= 160

    def test_the_chat_template_opens_the_reasoning(self):
        pytest.importorskip("tokenizers")
        pytest.importorskip("jinja2")
        from reasongrm_nemo.models.tokenization import load_tokenizer, prompt_ids

        tokenizer = load_tokenizer(ASSET)
        messages = [{"role": "user", "content": "Q:a=7;a?\n surely seven(A)\n maybe one(B)"}]
        text = tokenizer.decode(prompt_ids(tokenizer, messages))
        wanted = f"<|im_start|>user\n{messages[0]['content']}<|im_end|>\n<|im_start|>assistant\n<think>\n"
        assert text == wanted
        assert tokenizer.vocab_size == json.loads((ASSET / "config.json").read_text())["vocab_size"]
