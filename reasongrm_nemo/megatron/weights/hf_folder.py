# SPDX-License-Identifier: Apache-2.0
"""Reads a Hugging Face checkpoint folder's safetensors in slices, and writes such folders as a stream."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import check_file, read_json
from reasongrm_nemo.files.refusals import shown
from reasongrm_nemo.files.shapes import shaped
from reasongrm_nemo.files.writes import StreamedFile, write_json
from reasongrm_nemo.models.architecture import exported_config
from reasongrm_nemo.models.tensor_info import TensorInfo

# Files beside the weights that transformers and vLLM need to load a model.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "judge.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD_BYTES = 5 * 10**9
"""Largest file of an exported checkpoint, the same as transformers' default."""

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
RECIPE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
# Buffers stored by older checkpoints, and computed from config.json here.
_DERIVED = ".rotary_emb.inv_freq"
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"


class HFTensors:
    """Lazy access to the tensors of a Hugging Face folder; thread-safe.

    Args:
        folder: folder with the weights and, if they are sharded, their index.
        compare: check that weights stored twice are equal; False leaves the check to another rank.
        single: read model.safetensors whatever other files exist.

    Raises:
        UserError: the folder has no safetensors, a shard is missing or damaged, the index is wrong, or
            the weights are stored twice with different values.
    """

    def __init__(self, folder: Path, compare: bool = True, single: bool = False) -> None:
        self.folder = Path(folder)
        self._compare = compare
        self._where: dict[str, Path] = {}
        self.infos: dict[str, TensorInfo] = {}
        listed, files = (set(), [SINGLE]) if single else self._index()
        for file in files:
            self._read_header(self.folder / file)
        lost = sorted(listed - set(self._where))
        if lost:
            raise UserError(
                f"The checkpoint at {folder} is damaged: {INDEX} names {lost[0]}, which no file contains."
            )
        if compare and not single:
            self._refuse_another_model(files)

    def _index(self) -> tuple[set[str], list[str]]:
        index = self.folder / INDEX
        if not index.exists():
            self._refuse_without_index()
            return set(), [SINGLE]
        content = shaped(read_json(index), {"weight_map": {...: str}}, str(index))
        weight_map: dict[str, str] = content["weight_map"]
        for name in weight_map.values():
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise UserError(
                    f"The checkpoint at {self.folder} is damaged: {INDEX} names the file {shown(name)!r}, "
                    "which is not in the same folder."
                )
        return set(weight_map), sorted(set(weight_map.values()))

    def _refuse_without_index(self) -> None:
        shards, single = sorted(self.folder.glob("model-*-of-*.safetensors")), self.folder / SINGLE
        if shards and single.exists():
            raise UserError(
                f"{self.folder} holds both {SINGLE} and {shards[0].name}, and libraries differ on which to "
                "load; remove the files that are not the model."
            )
        if shards:
            raise UserError(
                f"{self.folder} holds shards such as {shards[0].name}, but no {INDEX} to list all of them; "
                "download the index from where the model came from."
            )
        pickles = sorted(self.folder.glob("pytorch_model*.bin"))
        if pickles and not single.exists():
            raise UserError(
                f"{self.folder} has its weights in {pickles[0].name}, a pickle, which can run code; "
                "save the weights as safetensors."
            )

    def _refuse_another_model(self, files: Sequence[str]) -> None:
        """Refuse two differing copies: transformers loads the single file, vLLM the indexed shards."""
        if SINGLE in files or not (self.folder / INDEX).exists() or not (self.folder / SINGLE).exists():
            return
        other = HFTensors(self.folder, single=True)
        names = sorted(self.infos.keys() ^ other.infos.keys())
        different = names or [name for name in self.infos if not self.same(name, other, name)]
        if different:
            raise UserError(
                f"{self.folder} holds both {SINGLE} and {INDEX}, libraries differ on which to load, and "
                f"their weights differ in {different[0]}; remove the one that is not the model."
            )

    def same(self, name: str, other: HFTensors, other_name: str) -> bool:
        """Whether two tensors have the same dtype, shape and values."""
        first, second = self.infos[name], other.infos[other_name]
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            return False
        pairs = zip(self.blocks(name), other.blocks(other_name), strict=True)
        return all(torch.equal(one, two) for one, two in pairs)

    def _read_header(self, path: Path) -> None:
        if path.exists():
            check_file(path)
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    if name.endswith(_DERIVED):
                        continue
                    view = file.get_slice(name)
                    if view.get_dtype() not in DTYPES:
                        raise UserError(
                            f"{path}: {name} is stored as {view.get_dtype()}; known: {', '.join(DTYPES)}."
                        )
                    if name in self._where:
                        raise UserError(
                            f"The checkpoint at {self.folder} is ambiguous: {name} is stored in both "
                            f"{self._where[name].name} and {path.name}."
                        )
                    self._where[name] = path
                    self.infos[name] = TensorInfo(name, DTYPES[view.get_dtype()], tuple(view.get_shape()))
        except FileNotFoundError:
            raise UserError(f"No checkpoint at {self.folder}: {path.name} is missing.") from None
        except (SafetensorError, OSError) as error:
            raise UserError(f"The checkpoint at {self.folder} is damaged: {path.name}: {error}.") from None

    def view(self, name: str) -> Any:
        """A lazy view of one tensor; slicing the view reads only the slice.

        Reopens the file on every call, because an open file keeps all pages read so far in memory.
        """
        return safe_open(self._where[name], framework="pt").get_slice(name)

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Yield one tensor in parts of about 16 MB along its first dimension."""
        view, info = self.view(name), self.infos[name]
        step = max((16 << 20) * info.shape[0] // max(info.nbytes, 1), 1)
        for start in range(0, info.shape[0], step):
            yield view[start : start + step]

    def dtype(self) -> torch.dtype:
        """The common dtype of all tensors.

        Raises:
            UserError: tensors have different dtypes.
        """
        dtypes = {info.dtype for info in self.infos.values()}
        if len(dtypes) != 1:
            names = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
            raise UserError(f"The tensors at {self.folder} are stored in {names}; name one dtype to write.")
        return dtypes.pop()

    def check(self, wanted: Iterable[TensorInfo]) -> None:
        """Check that the folder has exactly the tensors ``wanted``, with their shapes.

        A tied model may also store its head if equal to the embedding; the copy is ignored from then on.

        Raises:
            UserError: tensors are missing, unexpected or of a wrong shape.
        """
        shapes = {info.name: info.shape for info in wanted}
        if _HEAD not in shapes and {_HEAD, _EMBEDDING} <= self.infos.keys():
            if self._compare and not self.same(_HEAD, self, _EMBEDDING):
                raise UserError(
                    f"{self.folder}: config.json sets tie_word_embeddings, yet {_HEAD} is stored and differs "
                    f"from {_EMBEDDING}; set tie_word_embeddings to false if the model has a separate head."
                )
            del self.infos[_HEAD]
        missing, extra = shapes.keys() - self.infos.keys(), self.infos.keys() - shapes.keys()
        wrong = [
            f"{name} {list(self.infos[name].shape)} instead of {list(shape)}"
            for name, shape in shapes.items()
            if name in self.infos and self.infos[name].shape != shape
        ]
        mismatches = (("missing", sorted(missing)), ("unexpected", sorted(extra)), ("wrong shape", wrong))
        parts = [
            f"{label}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            for label, names in mismatches
            if names
        ]
        if parts:
            raise UserError(f"The tensors at {self.folder} do not match its config.json; {'; '.join(parts)}.")


def copy_companions(source: Path, folder: Path, dtype: torch.dtype, rope: Mapping[str, Any] | None) -> None:
    """Copy the files beside the weights, updating config.json's dtype and rope.

    Args:
        source: a Hugging Face folder.
        folder: target folder, created if missing.
        dtype: dtype of the weights, written to the key that transformers 4 and 5 both read.
        rope: a recipe's ``model.rope``; None keeps config.json's rope.

    Raises:
        UserError: ``source`` has no config.json.
    """
    if not (source / "config.json").is_file():
        raise UserError(f"{source} has no config.json, without which an exported model cannot be loaded.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    file = source / "config.json"
    stored = str(dtype).removeprefix("torch.")
    write_json(folder / "config.json", exported_config(read_json(file), str(file), rope, stored))


def shards(infos: Sequence[TensorInfo], limit: int = SHARD_BYTES) -> dict[str, list[TensorInfo]]:
    """Split tensors over files: file names with their tensors, in order.

    Args:
        infos: infos of all tensors.
        limit: largest file in bytes; a larger tensor gets its own file.
    """
    groups: list[list[TensorInfo]] = []
    size = 0
    for info in infos:
        if not groups or size + info.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(info)
        size += info.nbytes
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def write_index(folder: Path, files: Mapping[str, Sequence[TensorInfo]]) -> None:
    """Write the index of a checkpoint, unless the checkpoint is a single file."""
    if len(files) == 1:
        return
    weight_map = {info.name: file for file, infos in files.items() for info in infos}
    total = sum(info.nbytes for infos in files.values() for info in infos)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_safetensors(path: Path, infos: Sequence[TensorInfo], tensors: Iterable[Iterable[Tensor]]) -> None:
    """Write one safetensors file, taking its tensors in parts.

    The safetensors library would need all tensors in memory, 5 GB for a file of a 32B model. The format is
    an 8-byte length, a JSON header and the values (README of safetensors, "Format").

    Args:
        path: file to write; replaced if it exists.
        infos: infos of the tensors, in order.
        tensors: tensors that match ``infos``, each in parts along its first dimension.

    Raises:
        ValueError: a tensor does not match its info.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for info in infos:
        entry = {"dtype": _CODES[info.dtype], "shape": list(info.shape)}
        header[info.name] = entry | {"data_offsets": [start, start + info.nbytes]}
        start += info.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with StreamedFile(path) as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for info, parts in zip(infos, tensors, strict=True):
            _write_tensor(out, info, parts)


def _write_tensor(out: StreamedFile, info: TensorInfo, parts: Iterable[Tensor]) -> None:
    rows = 0
    for part in parts:
        rows += part.shape[0]
        if part.dtype != info.dtype or tuple(part.shape[1:]) != info.shape[1:]:
            raise ValueError(f"{info.name}: got {part.dtype} {tuple(part.shape)}, expected {info}")
        out.write(raw_bytes(part))
    if rows != info.shape[0]:
        raise ValueError(f"{info.name}: got {rows} rows, expected {info}")


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor's values as bytes, in row-major order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def write_hf_folder(
    folder: Path,
    infos: Sequence[TensorInfo],
    tensors: Iterator[tuple[str, Tensor]],
    source: Path,
    rope: Mapping[str, Any] | None,
) -> None:
    """Write a checkpoint folder from a stream of tensors, file by file.

    Args:
        folder: written atomically; an existing folder is replaced.
        infos: infos of all tensors, in the order of ``tensors``.
        tensors: pairs of name and tensor, taken one at a time.
        source: Hugging Face folder to copy config, tokenizer and chat template from.
        rope: a recipe's ``model.rope``; None keeps config.json's rope.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy_companions(source, partial, infos[0].dtype, rope)
    files = shards(infos)
    for name, group in files.items():
        write_safetensors(partial / name, group, ([_named(tensors, info.name)] for info in group))
    write_index(partial, files)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _named(tensors: Iterator[tuple[str, Tensor]], name: str) -> Tensor:
    actual, tensor = next(tensors)
    if actual != name:
        raise ValueError(f"got tensor {actual}, expected {name}")
    return tensor
