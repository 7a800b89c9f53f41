# SPDX-License-Identifier: Apache-2.0
"""Where a trainer's rollouts come from: the first rank asks the server, every rank gets the answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state

from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.files import write_text
from reasongrm_nemo.rollout import (
    Completion,
    Prompt,
    Rollouts,
    RolloutServerLost,
    Sampling,
    WeightSender,
)

_PUSH, _DONE, _LOST = "push", "done", "lost"


class RolloutsLost(StageFailed):
    """The rollout server was lost twice in one step; the trainer saves and ends."""


class RolloutSource:
    """Rollouts and refits for a trainer of any number of ranks.

    A step's completions are kept under ``folder``, so that a step repeated after a kill trains on the same
    ones. Only the first rank talks to the server; the others follow its commands, because pushing weights
    needs every rank that holds some.

    Args:
        rollouts: the server and its client on the first rank, None elsewhere.
        transfer: the live model's weights.
        folder: where completions are kept.
    """

    def __init__(self, rollouts: Rollouts | None, transfer: Any, folder: Path) -> None:
        self._rollouts = rollouts
        self._sender = WeightSender(rollouts.server) if rollouts else None
        self._transfer = transfer
        self._folder = folder
        self._version = 0
        if rollouts:
            rollouts.resync = self._resync
            folder.mkdir(exist_ok=True)

    def collect(
        self, step: int, part: int | str, prompts: Sequence[Prompt], sampling: Sampling
    ) -> list[list[Completion]]:
        """The completions of a part of ``step``, one list a prompt in their order; collective.

        Args:
            step: whose rollouts they are.
            part: 0, the number of a refill, or another name; with ``step`` it names what is kept.
            prompts: what is asked.
            sampling: for all of them.

        Raises:
            RolloutsLost: on every rank, when the server could not be kept.
        """
        if self._rollouts is not None:
            try:
                file = self._file(step, part)
                completions = _kept(file) or _generate(self._rollouts, file, prompts, sampling)
            except UserError as error:
                self._command(_LOST, str(error))
                raise RolloutsLost(str(error)) from error
            self._command(_DONE, completions)
            return completions
        while True:
            command, payload = self._command()
            if command == _PUSH:
                self._send()
            elif command == _LOST:
                raise RolloutsLost(payload)
            else:
                return payload

    def push(self) -> None:
        """Give the server the model's present weights; collective.

        A server lost meanwhile is started again and given them; a second loss ends the run.
        """
        lost = None
        if self._rollouts is not None:
            try:
                self._command(_PUSH, None)
                self._send()
            except RolloutServerLost:
                try:
                    self._rollouts.server.restart()
                    self._resync()
                except UserError as error:
                    lost = str(error)
            self._command(_LOST if lost else _DONE, lost)
        else:
            while (command := self._command())[0] == _PUSH:
                self._send()
            if command[0] == _LOST:
                lost = command[1]
        if lost:
            raise RolloutsLost(lost)

    def _file(self, step: int, part: int | str) -> Path:
        return self._folder / (f"step_{step:06d}" + (f"_{part}" if part else "") + ".jsonl")

    def _resync(self) -> None:
        self._command(_PUSH, None)
        self._send()

    def _send(self) -> None:
        """Export on every rank of the first replica; the first rank passes the tensors on."""
        if parallel_state.get_data_parallel_rank() != 0:
            return
        tensors = self._transfer.export()
        if self._sender is None:
            for _ in tensors:
                pass
            return
        self._version += 1
        # uses the tensors up even when the server is lost: the other ranks are in the middle of the export
        self._sender.push(self._transfer.infos(), tensors, version=self._version)

    def _command(self, command: str = "", payload: Any = None) -> tuple[str, Any]:
        box = [(command, payload)]
        dist.broadcast_object_list(box, 0)
        return box[0]


def _generate(
    rollouts: Rollouts, file: Path, prompts: Sequence[Prompt], sampling: Sampling
) -> list[list[Completion]]:
    completions = rollouts.generate(prompts, sampling)
    rows = [[asdict(c) for c in group] for group in completions]
    write_text(file, "\n".join(json.dumps(row) for row in rows) + "\n")
    return completions


def _kept(file: Path) -> list[list[Completion]] | None:
    if not file.exists():
        return None
    lines = file.read_text(encoding="utf-8").splitlines()
    return [[Completion(**fields) for fields in json.loads(line)] for line in lines]
