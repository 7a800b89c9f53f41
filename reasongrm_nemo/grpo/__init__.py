# SPDX-License-Identifier: Apache-2.0
"""Group relative policy optimisation.

Importing the package is light: the pure functions only.  The actor and the trainer, which need torch and
NeMo, are imported by their own modules' names.
"""

from reasongrm_nemo.grpo.advantages import group_advantages, keep_group

__all__ = ["group_advantages", "keep_group"]
