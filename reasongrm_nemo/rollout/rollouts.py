# SPDX-License-Identifier: Apache-2.0
"""Server and client together: completions that outlive the loss of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from reasongrm_nemo.rollout.client import RolloutClient
from reasongrm_nemo.rollout.server import RolloutServer
from reasongrm_nemo.rollout.types import Completion, Prompt, RolloutServerLost, Sampling


class Rollouts:
    """What stages and trainers ask for completions.

    Args:
        server: started here when it does not run.
        resync: brings a restarted server up to date, where its model folder is not what is wanted (a trainer
            pushes its current weights); None: the folder is.
        on_loss: told the cause of each loss, before the restart.
    """

    def __init__(
        self,
        server: RolloutServer,
        resync: Callable[[], None] | None = None,
        on_loss: Callable[[str], None] | None = None,
    ):
        self.server = server
        self.resync = resync
        self.on_loss = on_loss
        self.losses: list[str] = []

    @classmethod
    def from_spec(
        cls,
        path: str | Path,
        resync: Callable[[], None] | None = None,
        on_loss: Callable[[str], None] | None = None,
    ) -> Rollouts:
        """Take hold of a server that another process started, by its spec file."""
        return cls(RolloutServer.from_spec(path), resync, on_loss)

    def use(self, model_dir: Path) -> None:
        """Serve this model from now on: loaded in place or by a restart; started if nothing runs."""
        self.server.use(model_dir)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        on_completion: Callable[[list[Completion]], None] | None = None,
    ) -> list[list[Completion]]:
        """Ask for n completions of each prompt, in the order of `prompts`.

        Args:
            prompts: with ids that differ.
            sampling: for all of them.
            on_completion: called with each prompt's list as it arrives.

        Raises:
            RolloutServerLost: the server was lost a second time within this call.
            UserError: it refused a request, or could not be started again.
        """
        done = {answer[0].prompt_id: answer for answer in self.stream(prompts, sampling, on_completion)}
        return [done[prompt.id] for prompt in prompts]

    def stream(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        on_completion: Callable[[list[Completion]], None] | None = None,
    ) -> Iterator[list[Completion]]:
        """The same, each prompt's list as it arrives; for stages that write as they go."""
        waiting = {prompt.id: prompt for prompt in prompts}
        if len(waiting) != len(prompts):
            raise ValueError("the prompts of one call must have ids that differ")
        if not self.server.is_alive():
            # Not a loss: the process that restarted it last may have ended since, and the server with it.
            self._bring_up()
        survived = False
        while waiting:
            try:
                for answer in self._client().generate(list(waiting.values()), sampling, on_completion):
                    del waiting[answer[0].prompt_id]
                    yield answer
            except RolloutServerLost as loss:
                if survived:
                    raise
                survived = True
                self._lost(loss)

    def _lost(self, loss: RolloutServerLost) -> None:
        cause = self.server.cause_of(loss)
        self.losses.append(cause)
        if self.on_loss is not None:
            self.on_loss(cause)
        self._bring_up()

    def _bring_up(self) -> None:
        self.server.restart()
        if self.resync is not None:
            self.resync()

    def _client(self) -> RolloutClient:
        settings = self.server.settings
        return RolloutClient(
            self.server.url,
            self.server.token,
            concurrency=settings.concurrency,
            stall_timeout_s=settings.stall_timeout_s,
            alive=self.server.is_alive,
        )

    def stop(self) -> None:
        """End the server."""
        self.server.stop()

    def __enter__(self) -> Rollouts:
        self.server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
