# SPDX-License-Identifier: Apache-2.0
"""Writes a megatron-core checkpoint in a background thread of this process."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync


class BackgroundSave:
    """Starts writing a checkpoint in the background; collective over all ranks.

    Args:
        state: sharded state dict.
        folder: existing, empty folder.
        copy: write from a copy in host memory, because training changes the tensors meanwhile.

    Raises:
        OSError: the part written in the foreground could not be written.
    """

    def __init__(self, state: dict[str, Any], folder: Path, copy: bool) -> None:
        # megatron-core's queue runs in a manager process, and every file is written by another process;
        # starting both takes 12 s before the first byte
        filesystem_async._results_queue = queue.Queue()
        request = dist_checkpointing.save(state, str(folder), async_sharded_save=True)
        self._request: AsyncRequest = request
        self._error: BaseException | None = None
        # a rank has nothing to write if other ranks write all its shards
        arguments = request.async_fn_args if request.async_fn is not None else (0, [], None)
        _, buckets, self._results = arguments
        self._files = [
            (path, key, (blobs, [(item, tensor.to("cpu", copy=copy)) for item, tensor in tensors]))
            for path, key, (blobs, tensors) in buckets
        ]
        self.nbytes = sum(tensor.nbytes for _, _, (_, tensors) in self._files for _, tensor in tensors)
        """Bytes of this rank's tensors."""
        self._thread = threading.Thread(target=self._write, name="checkpoint", daemon=True)
        self._thread.start()

    def done(self) -> bool:
        """Whether this rank's part is written, or has failed."""
        return not self._thread.is_alive()

    def wait(self) -> str | None:
        """Wait for this rank's part; return why writing failed, or None."""
        self._thread.join()
        return None if self._error is None else str(self._error)

    def complete(self) -> None:
        """Write the checkpoint's metadata; collective, after ``wait`` succeeded on every rank."""
        for finalize in self._request.finalize_fns:
            finalize()

    def _write(self) -> None:
        written: dict[int, Any] = {}
        for index, file in enumerate(self._files):
            outcome: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
            (transforms,) = self._request.async_fn.args
            FileSystemWriterAsync.write_preloaded_data(transforms, index, file, outcome, _Uncounted(), True)
            _, result = outcome.get()
            if isinstance(result, Exception):
                self._error = result
                return
            written[index] = result
        if self._results is not None:
            self._results.put(written)


class _Uncounted:
    """Replaces the queue with which megatron-core counts its writer processes."""

    def get(self) -> None:
        pass

    def task_done(self) -> None:
        pass
