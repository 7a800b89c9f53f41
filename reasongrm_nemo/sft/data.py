# SPDX-License-Identifier: Apache-2.0
"""SFT examples as samples, in an order that depends on the seed alone."""

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
    """The examples of a file as samples: to train on, and held out for ``sft.validation``.

    Args:
        path: JSON Lines of `SftExample`.
        recipe: of stage ``sft``.
        model: Hugging Face folder of the model that learns.
        left_out: indices of examples that the stage has counted as unfit.
    """
    examples = Examples(recipe, model)
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    for index, example in enumerate(read_jsonl(path, SftExample)):
        if index not in left_out:
            samples[examples.held_out(example)].append(Sample(*examples.tokens(example)))
    return samples


class SeededBatchSampler(MegatronPretrainingRandomBatchSampler):
    """One permutation an epoch from (seed, epoch) for any number of ranks, which share a batch by its costs.

    NeMo's sampler gives each data-parallel rank its own bucket of the data, so that with another number of
    ranks the batches are others, wants the ranks to divide a batch, and leaves out what does not fill one.

    Args:
        costs: of each example.
        done: steps of the whole run that are trained already.
        batch_size: examples of a step; an epoch's last one may have fewer.
        rank: data-parallel rank.
        ranks: data-parallel ranks.
        seed: the run's.
        shuffle: False takes the examples in their order.
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
        """Without NeMo's condition that the ranks divide it."""
        self._global_batch_size = new_global_batch_size

    def __len__(self) -> int:
        return self.steps - self.done % self.steps

    def size(self, step: int) -> int:
        """Examples of a step of the run, over all ranks."""
        start = step % self.steps * self.global_batch_size
        return min(self.global_batch_size, self.total_samples - start)

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of this rank's share of each global batch left of the epoch; a share may be empty."""
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
    """Batches of this rank's samples, as ``SFTModel.get_loss_and_metrics`` takes them."""
    return torch.utils.data.DataLoader(
        samples, batch_sampler=sampler, collate_fn=lambda chosen: {"samples": chosen}
    )
