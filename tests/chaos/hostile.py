# SPDX-License-Identifier: Apache-2.0
"""Hostile files put where a command reads: every refusal is one sentence, and no code in a file is run."""

import os
import shutil

from chaos import chain, contents, forks
from chaos.runs import ROOT, one_sentence

TINY = ROOT / "reasongrm_nemo" / "assets" / "tiny_judge"
STAGE = "3_filter"
"""The last one whose artefacts are damaged here."""


def _stage(stage, folder, *more):
    return chain.words(stage, folder / "runs", *more)[3:]


def _source(suffix):
    def make(folder, name):
        contents.place(name, folder / f"source{suffix}")
        return _stage("0_prepare", folder, f"prepare.source={folder}/source{suffix}"), ""

    return make


def _score(file, *options):
    def make(folder, name):
        contents.place(name, folder / file)
        return ["score", *options, folder / file], ""

    return make


def _artefact(file, *command):
    """A file of a finished artefact, for show and status."""

    def make(folder, name):
        runs = folder / "runs"
        shutil.copytree(folder.parents[1] / "unbroken" / "1_grpo_zero", runs / "1_grpo_zero")
        contents.place(name, runs / "1_grpo_zero" / file)
        return [*command, runs if command[0] == "status" else runs / "1_grpo_zero"], ""

    return make


def _input(stage, earlier, file):
    """A file of the artefact that a stage reads."""

    def make(folder, name):
        runs = chain.before(stage, folder.parents[1] / "unbroken", folder / "runs")
        contents.place(name, runs / earlier / file)
        return _stage(stage, folder), ""

    return make


def _state(stage, file):
    """A file of an unfinished artefact."""

    def make(folder, name):
        runs = chain.before(stage, folder.parents[1] / "unbroken", folder / "runs")
        (runs / ".partial" / stage).mkdir(parents=True)
        contents.place(name, runs / ".partial" / stage / file)
        return _stage(stage, folder), ""

    return make


def _recipe(folder, name):
    contents.place(name, folder / "recipe.yaml")
    return ["plan", folder / "recipe.yaml", "--no-check"], ""


def _template(folder, name):
    contents.place(name, folder / "template.yaml")
    return _stage("0_prepare", folder, f"judge.template={folder}/template.yaml"), ""


def _model(file):
    """A file of a model folder, for prepare, which takes its tokenizer."""

    def make(folder, name):
        shutil.copytree(TINY, folder / "model")
        contents.place(name, folder / "model" / file)
        return _stage("0_prepare", folder, f"model.hf_path={folder}/model"), ""

    return make


def _convert(file):
    def make(folder, name):
        shutil.copytree(TINY, folder / "model")
        contents.place(name, folder / "model" / file)
        return [folder / "model", folder / "megatron"], "conversion/hf_to_megatron.py"

    return make


def _poisoned_megatron(folder, name):
    """A Megatron checkpoint with one file that is a pickle running a command."""
    forks.run(folder, [TINY, folder / "megatron"], "conversion/hf_to_megatron.py")
    (folder / "megatron" / "model_weights" / name).write_bytes(contents.poisoned_pickle(folder / "poisoned"))
    return [folder / "megatron", folder / "hf"], "conversion/megatron_to_hf.py"


def _poisoned_model(folder, name):
    """A Hugging Face folder with such a file in place of its weights."""
    shutil.copytree(TINY, folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    (folder / "model" / name).write_bytes(contents.poisoned_pickle(folder / "poisoned"))
    return [folder / "model", folder / "megatron"], "conversion/hf_to_megatron.py"


READERS = {
    "prepare.source .jsonl": _source(".jsonl"),
    "prepare.source .json": _source(".json"),
    "prepare.source .csv": _source(".csv"),
    "prepare.source .parquet": _source(".parquet"),
    "prepare.source .jsonl.gz": _source(".jsonl.gz"),
    "prepare.source .jsonl.zst": _source(".jsonl.zst"),
    "score rewardbench": _score("verdicts.jsonl", "rewardbench"),
    "score --from rm_bench": _score("results.json", "--from", "rm_bench"),
    "show manifest.json": _artefact("manifest.json", "show"),
    "status metrics.jsonl": _artefact("metrics.jsonl", "status"),
    "run over manifest.json": _input("3_filter", "2_generate", "manifest.json"),
    "filter paths.jsonl": _input("3_filter", "2_generate", "paths.jsonl"),
    "filter stage.json": _state("3_filter", "stage.json"),
    "recipe": _recipe,
    "judge.template": _template,
    "config.json": _model("config.json"),
    "tokenizer.json": _model("tokenizer.json"),
    "tokenizer_config.json": _model("tokenizer_config.json"),
    "convert model.safetensors": _convert("model.safetensors"),
    "convert config.json": _convert("config.json"),
}
PICKLES = {
    "poisoned Megatron checkpoint": (
        _poisoned_megatron,
        ("common.pt", ".metadata", "metadata.json", "__0_0.distcp", "__objects.distcp"),
    ),
    "poisoned model": (
        _poisoned_model,
        ("pytorch_model.bin", "model.safetensors", "model.pt", "consolidated.00.pth"),
    ),
}
# every third content for a reader, shifted by one per reader: six or seven readers get each content
_EVERY = 3


def table():
    """All pairs (reader, content)."""
    names = [*contents.BYTES, *contents.THINGS]
    for shift, reader in enumerate(READERS):
        for number, name in enumerate(names):
            if (number + shift) % _EVERY == 0:
                yield reader, name
    for reader, (_, names) in PICKLES.items():
        yield from ((reader, name) for name in names)


def run(reader, name, folder):
    """Run one case; returns what is wrong ("" if nothing) and the output."""
    make = READERS.get(reader) or PICKLES[reader][0]
    words, script = make(folder, name)
    status, output = forks.run(folder, words, script)
    wrong = one_sentence(status, output)
    signs = [os.path.join(root, "poisoned") for root, _, names in os.walk(folder) if "poisoned" in names]
    return (f"code of the file was run: {signs[0]}" if signs else wrong), output
