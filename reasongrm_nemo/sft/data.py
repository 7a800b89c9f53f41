# SPDX-License-Identifier: Apache-2.0
"""SFT examples as samples, in an order that depends on the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from nemo.collections.nlp.data.language_modeling.megatron.megatron_batch_samplers import (
    MegatronPretrainingRandomBatchSampler,
)
from omegaconf import DictConfig

from reasongrm_nemo.data.jsonl import read_jsonl
from reasongrm_nemo.data.records import SftExample
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.micro_batches import Sample
from reasongrm_nemo.plan.balance import share
from reasongrm_nemo.tokenization import (
    JudgeTokenizer,
    load_tokenizer,
    prompt_ids,
    response_ids,
    stop_token_ids,
)


def read_samples(path: Path, recipe: DictConfig, model: Path) -> tuple[list[Sample], list[Sample]]:
    """All examples of a file as samples: to train on, and held out for ``sft.validation``.

    Raises:
        UserError: one part is empty that must not be, or an example is longer than the model's context.
    """
    tokenizer = load_tokenizer(model)
    end_of_turn = stop_token_ids(tokenizer, model)[0]
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    own = recipe.sft.validation
    fraction = own.fraction if own.every else 0.0
    for example in read_jsonl(path, SftExample):
        sample = to_sample(example, tokenizer, recipe.judge.response_prefix, end_of_turn)
        if len(sample.tokens) > recipe.model.max_model_len:
            raise UserError(
                f"{path}: example {example.task_id} has {len(sample.tokens)} tokens, "
                f"more than model.max_model_len {recipe.model.max_model_len}."
            )
        held_out = derive_seed(recipe.seed, "sft validation", example.task_id) < fraction * 2**63
        samples[held_out].append(sample)
    if not samples[0]:
        raise UserError(
            f"{path} holds no SFT example: no task had a right path, so there is nothing to train on."
        )
    if fraction and not samples[1]:
        raise UserError(
            f"sft.validation.fraction {own.fraction} of the {len(samples[0])} examples in {path} is none; "
            "raise it, or set sft.validation.every to 0."
        )
    return samples


def batch_size(samples: int, cfg: DictConfig) -> int:
    """Sequences of one step: the recipe's, or all there are where they are fewer."""
    return min(cfg.batch_size, samples)


def step_count(samples: int, cfg: DictConfig) -> int:
    """Optimizer steps of the whole run; an epoch leaves out what does not fill a batch."""
    return samples // batch_size(samples, cfg) * cfg.epochs


def to_sample(example: SftExample, tokenizer: JudgeTokenizer, prefix: str, end_of_turn: int) -> Sample:
    """Prompt as it was rolled out, the path as the response, ended by the end-of-turn token.

    ``prefix`` (``judge.response_prefix``) begins the assistant's turn but was given, not written: it is
    part of the prompt.

    Raises:
        UserError: the last message is not the assistant's.
    """
    *prompt, answer = example.messages
    if answer["role"] != "assistant" or not prompt:
        raise UserError(f"SFT example {example.task_id}: the last message must be the assistant's turn.")
    before = prompt_ids(tokenizer, prompt, prefix)
    path = response_ids(tokenizer, answer["content"].removeprefix(prefix))
    return Sample((*before, *path, end_of_turn), len(before))


class SeededBatchSampler(MegatronPretrainingRandomBatchSampler):
    """One permutation an epoch from (seed, epoch) for any number of ranks, which share a batch by its costs.

    NeMo's sampler gives each data-parallel rank its own bucket of the data; with another number of ranks
    the batches are others.
    """

    def __init__(
        self,
        costs: Sequence[float],
        consumed: int,
        batch_size: int,
        rank: int,
        ranks: int,
        seed: int,
        shuffle: bool,
    ):
        super().__init__(
            total_samples=len(costs),
            consumed_samples=consumed,
            micro_batch_size=1,
            global_batch_size=batch_size,
            data_parallel_rank=rank,
            data_parallel_size=ranks,
            drop_last=True,
            seed=seed,
        )
        self.costs, self.shuffle = costs, shuffle

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of this rank's share of each global batch; the rest of an epoch is left out."""
        size = self.global_batch_size
        active = self.total_samples - self.total_samples % size
        epoch, done = divmod(self.consumed_samples, active)
        order = self._order(epoch)
        for start in range(done, active, size):
            self.consumed_samples += size
            batch = order[start : start + size]
            shares = share([self.costs[index] for index in batch], self.data_parallel_size)
            yield [batch[place] for place in shares[self.data_parallel_rank]]

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
