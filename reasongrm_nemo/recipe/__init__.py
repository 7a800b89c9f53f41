# SPDX-License-Identifier: Apache-2.0
"""Recipes: YAML to one checked configuration."""
