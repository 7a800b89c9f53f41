# SPDX-License-Identifier: Apache-2.0
"""One of two tensor-parallel ranks, run by test_log_probs.py: ``log_probs_worker.py OUT.json``.

Compares chunked log-probs and entropies with plain torch's, with and without sequence parallelism.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

TEMPERATURE = 0.7


def main(out):
    from reasongrm_nemo.megatron.platform import load_platform

    load_platform("cpu")
    import torch
    import torch.distributed as dist
    from log_probs_case import VOCAB, WIDTH, case, plain
    from megatron.core import parallel_state

    from reasongrm_nemo.megatron.log_probs import chunked_log_probs
    from reasongrm_nemo.processes.meeting import init_ranks

    init_ranks("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    rank = dist.get_rank()
    hidden, weight, targets, weights = case()
    *values, hidden_grad, weight_grad = plain(hidden, weight, targets, weights, TEMPERATURE)
    # 29 entries over two ranks: one row of padding, which would win every softmax if it counted
    shard = torch.cat((weight, torch.full((1, WIDTH), 5.0))).chunk(2)[rank]
    wanted = torch.cat((weight_grad, torch.zeros(1, WIDTH))).chunk(2)[rank]
    assert VOCAB % 2 == 1

    figures = {}
    for name, sequence_parallel in (("plain", False), ("sequence parallel", True)):
        h = (hidden.chunk(2)[rank] if sequence_parallel else hidden).clone().requires_grad_()
        w = shard.clone().requires_grad_()
        scores = chunked_log_probs(
            h,
            w,
            targets,
            vocab=VOCAB,
            chunk=7,
            sequence_parallel=sequence_parallel,
            entropy=True,
            temperature=TEMPERATURE,
        )
        sum((score * x).sum() for score, x in zip(scores, weights, strict=True)).backward()
        expected = hidden_grad.chunk(2)[rank] if sequence_parallel else hidden_grad
        errors = [(a.detach() - b).abs().max() for a, b in zip(scores, values, strict=True)]
        errors += [(a - b).norm() / b.norm() for a, b in ((h.grad, expected), (w.grad, wanted))]
        worst = torch.stack(errors)
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        figures[name] = dict(
            zip(("log_probs", "entropy", "hidden_grad", "weight_grad"), worst.tolist(), strict=True)
        )
    if rank == 0:
        Path(out).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
