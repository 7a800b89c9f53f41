# SPDX-License-Identifier: Apache-2.0
"""Runs recipes and produces their artefacts: stage, pipeline, manifest, servers, ranks."""
