# SPDX-License-Identifier: Apache-2.0
"""Predicts the memory, disk and time of a recipe by arithmetic; imports no torch, needs no weights."""

from reasongrm_nemo.plan.fit import Misfit
from reasongrm_nemo.plan.model import ShapeUnknown, architecture
from reasongrm_nemo.plan.whole import Plan, check_fit, plan

__all__ = ["Misfit", "Plan", "ShapeUnknown", "architecture", "check_fit", "plan"]
