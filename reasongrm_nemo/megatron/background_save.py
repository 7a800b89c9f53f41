# SPDX-License-Identifier: Apache-2.0
"""Writing one of megatron-core's checkpoints on a thread of this process."""

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
    """A checkpoint that is written from now on; collective over all ranks.

    Args:
        state: sharded state dict.
        folder: exists and is empty.
        copy: write from a copy in host memory, because the tensors will change meanwhile.

    Raises:
        OSError: the part that is written at once could not be.
    """

    def __init__(self, state: dict[str, Any], folder: Path, copy: bool) -> None:
        # megatron-core's own queue is a manager process, and it starts another one for each file: two
        # interpreters and 12 s before the first byte
        filesystem_async._results_queue = queue.Queue()
        request = dist_checkpointing.save(state, str(folder), async_sharded_save=True)
        self._request: AsyncRequest = request
        self._error: BaseException | None = None
        # a rank whose every shard another rank writes has nothing to do
        arguments = request.async_fn_args if request.async_fn is not None else (0, [], None)
        _, buckets, self._results = arguments
        self._files = [
            (path, key, (blobs, [(item, tensor.to("cpu", copy=copy)) for item, tensor in tensors]))
            for path, key, (blobs, tensors) in buckets
        ]
        self.nbytes = sum(tensor.nbytes for _, _, (_, tensors) in self._files for _, tensor in tensors)
        """Of this rank's tensors."""
        self._thread = threading.Thread(target=self._write, name="checkpoint", daemon=True)
        self._thread.start()

    def done(self) -> bool:
        """Whether this rank's part is written, or has failed."""
        return not self._thread.is_alive()

    def wait(self) -> str | None:
        """Wait for this rank's part; why it failed, or None."""
        self._thread.join()
        return None if self._error is None else str(self._error)

    def complete(self) -> None:
        """Write what holds the parts together; collective, once every rank's ``wait`` was good."""
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
    """In place of the queue by which megatron-core counts its writer processes."""

    def get(self) -> None:
        pass

    def task_done(self) -> None:
        pass
