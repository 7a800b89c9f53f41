# SPDX-License-Identifier: Apache-2.0
"""What brings a recipe's artefact about: stage, pipeline, manifest, servers, ranks."""
