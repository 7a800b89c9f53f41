# SPDX-License-Identifier: Apache-2.0
"""Maps weights between Hugging Face and Megatron; loading, refit, export and conversion share the mapping.

The pairs of names are in `models.decoder` and in each family's file in `models`.
"""
