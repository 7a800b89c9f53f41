# SPDX-License-Identifier: Apache-2.0
"""Everything that touches megatron-core and NeMo: platform, model, weights, micro-batches, checkpoints."""
