# SPDX-License-Identifier: Apache-2.0
"""Hidden states, an output weight and a loss over log-probs and entropies, by plain torch."""

import torch

LENGTH, ROWS, WIDTH, VOCAB = 22, 3, 16, 29


def case():
    """Hidden states [s, b, h], weight [v, h], targets [s, b], and weights of each position's two scores."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    targets = torch.randint(0, VOCAB, (LENGTH, ROWS), generator=generator)
    weights = normal(LENGTH, ROWS), normal(LENGTH, ROWS)
    return normal(LENGTH, ROWS, WIDTH), normal(VOCAB, WIDTH), targets, weights


def plain(hidden, weight, targets, weights, temperature=1.0):
    """Log-probs, entropies, and the gradients of their weighted sum; all logits at once."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    distribution = (hidden @ weight.t() / temperature).log_softmax(-1)
    log_probs = distribution.gather(-1, targets[..., None])[..., 0]
    entropy = -(distribution.exp() * distribution).sum(-1)
    (log_probs * weights[0] + entropy * weights[1]).sum().backward()
    return log_probs.detach(), entropy.detach(), hidden.grad, weight.grad
