# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning with NeMo-Aligner on the selected reasoning paths."""
