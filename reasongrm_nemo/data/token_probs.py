# SPDX-License-Identifier: Apache-2.0
"""The probabilities of all tokens of reasoning paths: fp16 in Parquet, next to the file of the paths.

fp16 has a relative error of 2^-11, and below 2^-14 an absolute error of 2^-25. A mean is no less accurate
than its terms, so R*, a product of two means, computed from this file agrees with that from the paths' sums
(double precision) to a relative 0.001 plus 1e-7.
"""

from __future__ import annotations

import base64
import heapq
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reasongrm_nemo.errors import UserError

GROUP_PATHS = 256
"""Paths per row group, which is held in memory; changing this changes the file's bytes."""


class TokenProbs(NamedTuple):
    """A path's token probabilities (temperature 1, full vocabulary), (L_R,) and (L_a,) fp16."""

    task_id: str
    sample: int
    reasoning: NDArray[np.float16]
    answer: NDArray[np.float16]


def read_token_probs(path: str | Path) -> Iterator[TokenProbs]:
    """The probabilities of every path of a file, in file order, with one row group in memory at a time.

    Raises:
        UserError: the file does not exist, or was not written by `write_token_probs`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                batch = file.read_row_group(group).combine_chunks().to_batches()[0]
                columns = [batch.column(name) for name in ("task_id", "sample")]
                parts = [_lists(batch.column(name)) for name in ("reasoning", "answer")]
                names = (column.to_pylist() for column in columns)
                for task, sample, reasoning, answer in zip(*names, *parts, strict=True):
                    yield TokenProbs(task, sample, reasoning, answer)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a file of token probabilities ({reason})") from None


def write_token_probs(path: Path, rows: Iterable[TokenProbs]) -> None:
    """Write the rows atomically; the same rows give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    probs = pa.list_(pa.field("element", pa.float16(), nullable=False))
    schema = pa.schema(
        [
            pa.field("task_id", pa.string(), nullable=False),
            pa.field("sample", pa.int32(), nullable=False),
            pa.field("reasoning", probs, nullable=False),
            pa.field("answer", probs, nullable=False),
        ]
    )
    aside = path.with_name(path.name + ".tmp")
    with pq.ParquetWriter(aside, schema, compression="zstd", use_dictionary=["task_id"]) as writer:
        for group in _groups(rows):
            columns: list[Any] = [
                pa.array([row.task_id for row in group], pa.string()),
                pa.array([row.sample for row in group], pa.int32()),
            ]
            for name in ("reasoning", "answer"):
                parts = [getattr(row, name) for row in group]
                ends = np.cumsum([0, *map(len, parts)], dtype=np.int32)
                columns.append(pa.ListArray.from_arrays(ends, pa.array(np.concatenate(parts)), type=probs))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=GROUP_PATHS)
    with aside.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(aside, path)


def merge_token_probs(files: Sequence[Path], out: Path, order: Mapping[str, int]) -> None:
    """Merge the files of shards into the file that an unsharded run would have written.

    Args:
        files: one per shard, each in the order of `order`, without common paths.
        out: the file to write.
        order: task id -> position; other tasks are omitted.

    Raises:
        UserError: a file is missing, or was not written by `write_token_probs`.
    """

    def ordered(file: Path) -> Iterator[tuple[int, int, TokenProbs]]:
        for row in read_token_probs(file):
            if row.task_id in order:
                yield order[row.task_id], row.sample, row

    merged = heapq.merge(*(ordered(file) for file in files), key=lambda item: item[:2])
    write_token_probs(out, (row for _, _, row in merged))


def pack(probs: ArrayLike) -> str:
    """Probabilities as text, for a record of unfinished sampling: fp16, little-endian, base64."""
    return base64.b64encode(np.asarray(probs, dtype="<f2").tobytes()).decode("ascii")


def unpack(text: str) -> NDArray[np.float16]:
    """The inverse of `pack`."""
    return np.frombuffer(base64.b64decode(text), dtype="<f2").astype(np.float16)


def _groups(rows: Iterable[TokenProbs]) -> Iterator[list[TokenProbs]]:
    waiting = iter(rows)
    while group := list(islice(waiting, GROUP_PATHS)):
        yield group


def _lists(column: Any) -> Iterator[NDArray[np.float16]]:
    """The lists of a ListArray, as slices of its values."""
    values, ends = column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy()
    return (values[start:end] for start, end in pairwise(ends))
