# SPDX-License-Identifier: Apache-2.0
"""Group relative policy optimisation.

The package exports only the pure functions, so importing it is cheap.  The actor and the trainer need torch
and NeMo; import them from their modules.
"""

from reasongrm_nemo.grpo.advantages import group_advantages, keep_group

__all__ = ["group_advantages", "keep_group"]
