# SPDX-License-Identifier: Apache-2.0
"""Chunked log-probs and entropies equal plain torch's in value and gradient, with a chunk of logits at once.

fp32; 1e-5 absolute and relative (a different order of summing 29 products; seen below 3e-6). With two
tensor-parallel ranks: tests/parallel/test_log_probs.py.
"""

import pytest
import torch
from log_probs_case import LENGTH, ROWS, VOCAB, WIDTH, case, plain
from torch.utils._python_dispatch import TorchDispatchMode

from reasongrm_nemo.megatron.log_probs import chunked_log_probs

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


pytestmark = pytest.mark.usefixtures("one_rank")


def chunked(hidden, weight, targets, chunk, **options):
    options = {"entropy": True} | options
    return chunked_log_probs(
        hidden, weight, targets, vocab=VOCAB, chunk=chunk, sequence_parallel=False, **options
    )


@pytest.mark.parametrize("chunk", [1, 7, 22, 100])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_equals_the_plain_computation(chunk, padding, temperature):
    hidden, weight, targets, weights = case()
    *values, hidden_grad, weight_grad = plain(hidden, weight, targets, weights, temperature)
    # rows that pad the vocabulary would win every softmax if they counted
    padded = torch.cat((weight, torch.full((padding, WIDTH), 5.0))).requires_grad_()
    hidden.requires_grad_()
    scores = chunked(hidden, padded, targets, chunk, temperature=temperature)
    sum((score * w).sum() for score, w in zip(scores, weights, strict=True)).backward()
    for mine, theirs in zip(scores, values, strict=True):
        torch.testing.assert_close(mine.detach(), theirs, **CLOSE)
    torch.testing.assert_close(hidden.grad, hidden_grad, **CLOSE)
    torch.testing.assert_close(padded.grad[:VOCAB], weight_grad, **CLOSE)
    assert not padded.grad[VOCAB:].any()


@pytest.mark.parametrize("used", [0, 1])
def test_either_score_may_be_unused(used):
    hidden, weight, targets, weights = case()
    only = tuple(w if i == used else torch.zeros_like(w) for i, w in enumerate(weights))
    *_, hidden_grad, weight_grad = plain(hidden, weight, targets, only)
    hidden.requires_grad_(), weight.requires_grad_()
    (chunked(hidden, weight, targets, 7)[used] * weights[used]).sum().backward()
    torch.testing.assert_close(hidden.grad, hidden_grad, **CLOSE)
    torch.testing.assert_close(weight.grad, weight_grad, **CLOSE)


def test_entropy_changes_no_log_prob():
    hidden, weight, targets, _ = case()
    with_entropy, _ = chunked(hidden, weight, targets, 7)
    without, none = chunked(hidden, weight, targets, 7, entropy=False)
    assert none is None and torch.equal(with_entropy, without)


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor created."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_no_more_than_a_chunk_of_logits_exists():
    hidden, weight, targets, weights = case()
    hidden.requires_grad_(), weight.requires_grad_()
    with Largest() as largest:
        scores = chunked(hidden, weight, targets, 7)
        sum((score * w).sum() for score, w in zip(scores, weights, strict=True)).backward()
    whole = LENGTH * ROWS * VOCAB
    assert largest.elements < whole
    assert largest.elements == max(7 * ROWS * VOCAB, hidden.numel())
