# SPDX-License-Identifier: Apache-2.0
"""ReasonGRM on NeMo-Aligner, Megatron-core and vLLM.

The method, without torch: `judge`, `data`, `rstar`, `rewards`, `evaluation`. `models`: families and sizes.
`megatron`: the trainer's side. `rollout`: vLLM's. `grpo`, `sft`: the two trainings. What users run: `recipe`
(YAML to a checked recipe), `stages` (one module each), `run` (stages, pipelines, artefacts), `slurm`, `plan`,
`report`. Underneath: `processes`, `files`. `demo`: the tiny judge.
"""

__version__ = "0.1.0"
