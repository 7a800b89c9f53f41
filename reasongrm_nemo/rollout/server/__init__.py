# SPDX-License-Identifier: Apache-2.0
"""Starts, checks and stops the vLLM server process; `rollout.rollouts` decides when to restart a lost one."""
