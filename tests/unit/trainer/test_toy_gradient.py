# SPDX-License-Identifier: Apache-2.0
"""On a policy small enough to enumerate, GRPO's loss has the gradient of the objective it should raise.

All answers of two tokens over five words, weighted by their probabilities, so without sampling error.
fp32; 1e-5 absolute and relative, for another order of summation.
"""

from itertools import product

import pytest
import torch

from reasongrm_nemo.grpo.loss import micro_batch_loss
from reasongrm_nemo.megatron.log_probs import chunked_log_probs
from reasongrm_nemo.megatron.micro_batches import Sample, collate
from reasongrm_nemo.recipe.load import load_recipe, recipes_root

VOCAB, WIDTH, START = 5, 4, 0
ANSWERS = list(product(range(VOCAB), repeat=2))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


pytestmark = pytest.mark.usefixtures("one_rank")


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


REWARDS = normal(len(ANSWERS), seed=7)


def log_probs(hidden, weight, temperature):
    """Log-probs of every answer's tokens, [answers, 2]: a word's successor depends on that word alone."""
    table = (hidden @ weight.t() / temperature).log_softmax(-1)
    pairs = torch.tensor([(START, *answer) for answer in ANSWERS])
    return table[pairs[:, :-1], pairs[:, 1:]]


def by_the_product(hidden, weight, temperature, *, reference=None, lag=False, words=()):
    """The gradient that the trainer's loss gives, and the sampler's largest difference."""
    path = recipes_root() / "tiny" / "1_grpo_zero.yaml"
    cfg = load_recipe(path, [f"rollout.temperature={temperature}", *words])
    sampler = log_probs(hidden.detach(), weight.detach(), temperature)
    chance = sampler.sum(-1).exp()
    baseline = (chance * REWARDS).sum()
    samples = []
    for i, answer in enumerate(ANSWERS):
        per_token = {"rollout": tuple(sampler[i].tolist())}
        if reference is not None:
            per_token["reference"] = tuple(log_probs(*reference, temperature)[i].tolist())
        if lag:
            per_token["old"] = per_token["rollout"]
        advantage = (REWARDS[i] - baseline).item()
        samples.append(Sample((START, *answer), 1, advantage, per_token, chance[i].item()))
    batch = collate(samples, range(len(samples)))
    scores, entropy = chunked_log_probs(
        hidden[batch.tokens].transpose(0, 1),
        weight,
        batch.targets.t().contiguous(),
        vocab=VOCAB,
        chunk=1,
        sequence_parallel=False,
        entropy=True,
        temperature=temperature,
    )
    sums, error = micro_batch_loss(scores.t(), entropy.t(), batch, cfg.grpo)
    return torch.autograd.grad(sums["loss"], (hidden, weight)), error.item()


def policy(seed):
    return normal(VOCAB, WIDTH, seed=seed).requires_grad_(), normal(
        VOCAB, WIDTH, seed=seed + 1
    ).requires_grad_()


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.5])
@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize("correction", ["none", "truncated", "masked"])
def test_the_loss_raises_the_expected_reward_of_the_sampled_policy(temperature, lag, correction):
    """The policy at the sampling temperature, which the rollouts come from."""
    hidden, weight = policy(1)
    words = [f"grpo.importance.correction={correction}"]
    gradients, error = by_the_product(hidden, weight, temperature, lag=lag, words=words)
    expected = (log_probs(hidden, weight, temperature).sum(-1).exp() * REWARDS).sum()
    wanted = torch.autograd.grad(-expected, (hidden, weight))
    for mine, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)
    assert error < 1e-5, "trainer and sampler score the same distribution"


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_kl_term_compares_the_distributions_at_the_sampling_temperature(temperature):
    """At each token k2, half the squared log-ratio d, has the KL's gradient: d times the score."""
    hidden, weight = policy(1)
    reference = [tensor.detach() for tensor in policy(11)]
    words = ["grpo.kl_coefficient=0.3", "grpo.kl_estimator=k2"]
    with_kl, _ = by_the_product(hidden, weight, temperature, reference=reference, words=words)
    without, _ = by_the_product(hidden, weight, temperature)

    def table(h, w):
        return (h @ w.t() / temperature).log_softmax(-1)

    mine, other = table(hidden, weight), table(*reference)
    kl = (mine.exp() * (mine - other)).sum(-1)  # over each word's successors
    visits = mine.detach()[START].exp()  # how often an answer continues from each word
    wanted = torch.autograd.grad(0.3 * (kl[START] + (visits * kl).sum()), (hidden, weight))
    for a, b, term in zip(with_kl, without, wanted, strict=True):
        torch.testing.assert_close(a - b, term, **CLOSE)
