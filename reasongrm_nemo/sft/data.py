# SPDX-License-Identifier: Apache-2.0
"""SFT examples as training samples, in an order that depends only on the seed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from nemo.collections.nlp.data.language_modeling.megatron.megatron_batch_samplers import (
    MegatronPretrainingRandomBatchSampler,
)
from omegaconf import DictConfig

from reasongrm_nemo.data.jsonl import read_jsonl
from reasongrm_nemo.data.records import SftExample
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.megatron.balance import share
from reasongrm_nemo.megatron.micro_batches import Sample
from reasongrm_nemo.sft.examples import Examples
from reasongrm_nemo.sft.steps import epoch_steps


def read_samples(
    path: Path, recipe: DictConfig, model: Path, left_out: Collection[int] = ()
) -> tuple[list[Sample], list[Sample]]:
    """Read a file's examples as two lists of samples: for training, and held out for ``sft.validation``.

    Args:
        path: JSON Lines of `SftExample`.
        recipe: recipe of stage ``sft``.
        model: Hugging Face folder of the model to train.
        left_out: indices of examples that the stage has dropped.
    """
    examples = Examples(recipe, model)
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    for index, example in enumerate(read_jsonl(path, SftExample)):
        if index not in left_out:
            samples[examples.held_out(example)].append(Sample(*examples.tokens(example)))
    return samples


class SeededBatchSampler(MegatronPretrainingRandomBatchSampler):
    """Batches from one permutation per epoch, the same for any number of ranks, split over ranks by cost.

    NeMo's sampler gives each data-parallel rank a bucket of the data, which makes batches depend on the
    number of ranks; it also requires the ranks to divide the batch and drops an incomplete last batch.

    Args:
        costs: cost of each example.
        done: number of steps already trained in the whole run.
        batch_size: examples per step; an epoch's last step may have fewer.
        rank: data-parallel rank.
        ranks: number of data-parallel ranks.
        seed: the run's seed.
        shuffle: False keeps the order of the examples.
    """

    def __init__(
        self,
        costs: Sequence[float],
        done: int,
        batch_size: int,
        rank: int,
        ranks: int,
        seed: int,
        shuffle: bool,
    ):
        super().__init__(
            total_samples=len(costs),
            consumed_samples=0,
            micro_batch_size=1,
            global_batch_size=batch_size,
            data_parallel_rank=rank,
            data_parallel_size=ranks,
            drop_last=True,
            seed=seed,
        )
        self.costs, self.done, self.shuffle = costs, done, shuffle
        self.steps = epoch_steps(len(costs), batch_size)

    def update_global_batch_size(self, new_global_batch_size: int) -> None:
        """Set the batch size without NeMo's condition that it is divisible by the number of ranks."""
        self._global_batch_size = new_global_batch_size

    def __len__(self) -> int:
        return self.steps - self.done % self.steps

    def size(self, step: int) -> int:
        """Number of examples in step ``step`` of the run, over all ranks."""
        start = step % self.steps * self.global_batch_size
        return min(self.global_batch_size, self.total_samples - start)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this rank's indices for each remaining batch of the epoch; they may be empty."""
        order = self._order(self.done // self.steps)
        for place in range(self.done % self.steps, self.steps):
            self.done += 1
            batch = order[place * self.global_batch_size :][: self.global_batch_size]
            shares = share([self.costs[index] for index in batch], self.data_parallel_size)
            yield [batch[index] for index in shares[self.data_parallel_rank]]

    def _order(self, epoch: int) -> list[int]:
        if not self.shuffle:
            return list(range(self.total_samples))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "sft order", "", epoch))
        return torch.randperm(self.total_samples, generator=generator).tolist()


def make_dataloader(samples: Sequence[Sample], sampler: SeededBatchSampler) -> torch.utils.data.DataLoader:
    """Batches of this rank's samples, in the form that ``SFTModel.get_loss_and_metrics`` takes."""
    return torch.utils.data.DataLoader(
        samples, batch_sampler=sampler, collate_fn=lambda chosen: {"samples": chosen}
    )
