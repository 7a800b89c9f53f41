# SPDX-License-Identifier: Apache-2.0
"""The tiny judge: its task and base model; and SmolLM2 from a package."""
