# SPDX-License-Identifier: Apache-2.0
"""A stage started with everything but a GPU: made-up inputs, a stand-in server, a model without weights."""

from reasongrm_nemo.plan.dry_start.run import DryStart, dry_start

__all__ = ["DryStart", "dry_start"]
