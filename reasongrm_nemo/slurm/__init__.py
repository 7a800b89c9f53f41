# SPDX-License-Identifier: Apache-2.0
"""Slurm jobs: the chain of a pipeline's jobs, their status, and pre-flight checks."""
