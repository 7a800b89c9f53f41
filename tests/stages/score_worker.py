# SPDX-License-Identifier: Apache-2.0
"""Scores sequences with Megatron and exports the model: ``score_worker.py HF SEQUENCES.json OUT ROPE``."""

import json
import sys
from pathlib import Path


def main(hf_path, sequences, out, rope):
    from reasongrm_nemo.megatron.platform import load_platform

    platform = load_platform("cpu")
    from omegaconf import OmegaConf

    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.megatron.micro_batches import Sample

    sessions.quiet_libraries()
    parallel = {"tensor_parallel": 1, "pipeline_parallel": 1, "sequence_parallel": False}
    parallel |= {"layers_in_first_stage": None, "layers_in_last_stage": None}
    recipe = {
        "seed": 1,
        "model": {"dtype": "fp32", "max_model_len": 1024, "log_prob_chunk": 64, "recompute": "none"}
        | {"rope": json.loads(rope)},
        "cluster": {"nodes": 1, "devices_per_node": 1, "threads_per_rank": 2} | parallel,
    }
    optim = {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.0}
    optim |= {"warmup_steps": 0, "schedule": "constant", "min_lr": 0.0}
    session = sessions.start(
        platform, GRPOActor, OmegaConf.create(recipe), OmegaConf.create(optim), 1, Path(hf_path)
    )
    session.model.grpo = OmegaConf.create({"max_tokens_per_micro_batch": 1024})
    samples = [Sample(tuple(ids), prompt) for ids, prompt in json.loads(Path(sequences).read_text())]
    scored = session.model.get_inference_log_probs(samples)
    Path(out).mkdir()
    (Path(out) / "log_probs.json").write_text(json.dumps(scored))
    sessions.export_hf(session, Path(out) / "hf", "fp32")


if __name__ == "__main__":
    main(*sys.argv[1:])
