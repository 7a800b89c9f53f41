# SPDX-License-Identifier: Apache-2.0
"""NeMo-Aligner's supervised fine-tuning, fed with selected reasoning paths."""
