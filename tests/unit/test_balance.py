# SPDX-License-Identifier: Apache-2.0
"""Data-parallel ranks share a batch by what its sequences cost, not by their number or length alone."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from reasongrm_nemo.megatron.balance import costs, share
from reasongrm_nemo.models.architecture import Architecture

given_costs = st.lists(st.floats(1, 1e15), max_size=40)
QWQ = {
    "model_type": "qwen2",
    "num_hidden_layers": 64,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
}


def qwq(length):
    recipe = OmegaConf.create({"model": {"recompute": "full"}})
    return costs(recipe, Architecture.from_config(QWQ, "here"), [(length, max(length - 1000, 0))])[0]


def test_a_sequence_costs_its_operations():
    """Forward, recomputation and backward; causal attention, half the square; logits of the response only."""
    matrices = 64 * (2 * 5120 * 5120 + 2 * 5120 * 1024 + 3 * 5120 * 27648)
    attention = 64 * 2 * 40 * 128 * 5000**2
    assert qwq(5000) == pytest.approx(8 * matrices * 5000 + 4.5 * attention + 8 * 152064 * 5120 * 4000)


def loads(costs, ranks):
    return [sum(costs[index] for index in mine) for mine in share(costs, ranks)]


@given(given_costs, st.integers(1, 5))
def test_each_sequence_goes_to_one_rank_and_no_rank_idles_needlessly(costs, ranks):
    shares = share(costs, ranks)
    assert sorted(index for mine in shares for index in mine) == list(range(len(costs)))
    assert all(mine == sorted(mine) for mine in shares)
    assert sum(map(bool, shares)) == min(ranks, len(costs))


@given(st.lists(st.floats(1, 1e15), min_size=1, max_size=7), st.integers(1, 3))
def test_the_busiest_rank_has_at_most_a_third_more_than_in_the_best_split(costs, ranks):
    def busiest(where):
        return max(sum(c for c, rank in zip(costs, where, strict=True) if rank == r) for r in range(ranks))

    best = min(map(busiest, itertools.product(range(ranks), repeat=len(costs))))
    assert max(loads(costs, ranks)) <= 4 / 3 * best * (1 + 1e-9)


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_a_realistic_step_is_balanced(seed, ranks):
    """256 sequences of 200 to 57,344 tokens: within 1 % of the mean."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(4000), 1.0, 256), 200, 57344).astype(int).tolist()
    per_rank = loads([qwq(length) for length in lengths], ranks)
    assert max(per_rank) <= 1.01 * np.mean(per_rank)


def test_long_sequences_count_for_more_than_their_tokens():
    """Attention costs 16 times as much per token at 32,768 tokens as at 2,048."""
    lengths = [32768, *[2048] * 32]
    costs = [qwq(length) for length in lengths]
    with_long, without = share(costs, 2)
    assert 0 in with_long
    assert sum(lengths[index] for index in with_long) < 0.9 * sum(lengths[index] for index in without)
    assert max(loads(costs, 2)) < 1.03 * sum(costs) / 2
