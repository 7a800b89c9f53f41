# SPDX-License-Identifier: Apache-2.0
"""Weights between Hugging Face and Megatron: one mapping for loading, refit, export and conversion."""
