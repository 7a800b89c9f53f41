# SPDX-License-Identifier: Apache-2.0
"""Recipes: from YAML to one checked configuration."""
