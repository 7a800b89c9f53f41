# SPDX-License-Identifier: Apache-2.0
"""ReasonGRM on NeMo-Aligner, Megatron-core and vLLM."""

__version__ = "0.1.0"
