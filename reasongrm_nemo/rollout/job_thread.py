# SPDX-License-Identifier: Apache-2.0
"""One thread that does jobs in their order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Worker:
    """Does one job after another. Unlike an executor's, its thread does not keep the process from ending.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], Result]) -> Future[Result]:
        """Do it after those before it; whatever it raises is in the future."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        future: Future[Result] = Future()
        self._jobs.put((job, future))
        return future

    def is_current(self) -> bool:
        """Whether the caller is a job."""
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
