# SPDX-License-Identifier: Apache-2.0
"""Rows in the forms that published data sets have."""

import json


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


ONE = [user("Which sea is 1?")]
LONGER = [user("Hi."), assistant("Hello."), *ONE]


def both_ways(row, label, good, bad):
    """The row, and one for another question with the answers swapped and the other label."""
    one, two = row("Which sea is 1?", "good", "bad"), row("Which sea is 2?", "bad", "good")
    return [{**one, label: good}, {**two, label: bad}]


def ab(question, a, b):
    return {"prompt": question, "response_a": a, "response_b": b}


def one_two(question, a, b):
    return {"instruction": question, "input": "", "response1": a, "response2": b}


def arena(question, a, b):
    return {
        "model_a": "x",
        "model_b": "y",
        "conversation_a": [user(question), assistant(a)],
        "conversation_b": [user(question), assistant(b)],
    }


def lmsys(question, a, b):
    texts = {"prompt": question, "response_a": a, "response_b": b}
    return {"id": 1, "model_a": "x", "model_b": "y"} | {k: json.dumps(["Hi.", t]) for k, t in texts.items()}


def helpsteer(question, a, b):
    return {"domain": "general", "context": [user(question)], "response1": a, "response2": b}


PLAIN = [(ONE, "good", "bad")]
TWICE = [(ONE, "good", "bad"), ([user("Which sea is 2?")], "good", "bad")]
HH = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Which sea is 1?\n\nAssistant:"
FORMS = {
    "TRL, explicit prompt": (
        [
            {
                "prompt": [system("Be brief."), *ONE],
                "chosen": [assistant("good")],
                "rejected": [assistant("bad")],
            }
        ],
        [([system("Be brief."), *ONE], "good", "bad")],
    ),
    "TRL, implicit prompt": (
        [{"chosen": [*LONGER, assistant("good")], "rejected": [*LONGER, assistant("bad")]}],
        [(LONGER, "good", "bad")],
    ),
    "TRL, standard": ([{"prompt": "Which sea is 1?", "chosen": "good", "rejected": "bad"}], PLAIN),
    "UltraFeedback": (
        [
            {
                "prompt": "Which sea is 1?",
                "prompt_id": "0",
                "chosen": [*ONE, assistant("good")],
                "rejected": [*ONE, assistant("bad")],
                "messages": [*ONE, assistant("good")],
                "score_chosen": 8.0,
            }
        ],
        PLAIN,
    ),
    "HH-RLHF": ([{"chosen": f"{HH} good", "rejected": f"{HH} bad"}], [(LONGER, "good", "bad")]),
    "HH-RLHF with a prompt": (
        [{"prompt": HH, "chosen": "good", "rejected": "bad"}],
        [(LONGER, "good", "bad")],
    ),
    "HH-RLHF from Windows": (
        [{"chosen": f"{HH} good".replace("\n", "\r\n"), "rejected": f"{HH} bad".replace("\n", "\r\n")}],
        [(LONGER, "good", "bad")],
    ),
    "messages that hold the answer too": (
        [{"messages": [*ONE, assistant("good")], "chosen": "good", "rejected": "bad"}],
        PLAIN,
    ),
    "Alpaca": (
        [{"instruction": "Which sea?", "input": "1", "chosen": "good", "rejected": "bad", "history": []}],
        [([user("Which sea?\n\n1")], "good", "bad")],
    ),
    "Alpaca with a history": (
        [
            {
                "instruction": "Which sea is 1?",
                "input": "",
                "chosen": "good",
                "rejected": "bad",
                "history": [["Hi.", "Hello."]],
            }
        ],
        [(LONGER, "good", "bad")],
    ),
    "ShareGPT": (
        [
            {
                "conversations": [human("Hi."), gpt("Hello."), human("Which sea is 1?")],
                "chosen": gpt("good"),
                "rejected": gpt("bad"),
                "system": "Be brief.",
            }
        ],
        [([system("Be brief."), *LONGER], "good", "bad")],
    ),
    "ShareGPT, whole": (
        [
            {
                "chosen": [human("Which sea is 1?"), gpt("good")],
                "rejected": [human("Which sea is 1?"), gpt("bad")],
            }
        ],
        PLAIN,
    ),
    "a label, A and B": (both_ways(ab, "label", "A", "B"), TWICE),
    "a label, models": (both_ways(ab, "winner", "model_a", "model_b"), TWICE),
    "a label, numbers from 0": (both_ways(ab, "label", 0, 1), TWICE),
    "a label, numbers from 1": (both_ways(ab, "preference", 1, 2), TWICE),
    "a label, compared": (both_ways(ab, "label", "A>B", "B>>A"), TWICE),
    "Chatbot Arena": (both_ways(arena, "winner", "model_a", "model_b"), TWICE),
    "Chatbot Arena, models": (both_ways(arena, "winner", "x", "y"), TWICE),
    "LMSYS": (
        [
            {**row, "winner_model_a": int(i == 0), "winner_model_b": int(i == 1), "winner_tie": 0}
            for i, row in enumerate(both_ways(lmsys, "id", 1, 2))
        ],
        [([user("Hi."), assistant("Hi."), user(f"Which sea is {n}?")], "good", "bad") for n in (1, 2)],
    ),
    "PandaLM": (
        [
            {**row, "annotator1": n, "annotator2": 3 - n, "annotator3": n, "input": float("nan")}
            for n, row in enumerate(both_ways(one_two, "idx", 0, 1), 1)
        ],
        TWICE,
    ),
    "HelpSteer3": (both_ways(helpsteer, "overall_preference", -1, 3), TWICE),
    "SHP": (
        [
            {"history": "Which sea is 1?", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1},
            {"history": "Which sea is 2?", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0},
        ],
        TWICE,
    ),
    "PKU-SafeRLHF": (
        [
            {"prompt": "Which sea is 1?", "response_0": "good", "response_1": "bad", "better_response_id": 0},
            {"prompt": "Which sea is 2?", "response_0": "bad", "response_1": "good", "better_response_id": 1},
        ],
        TWICE,
    ),
}  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shown(pairs):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
