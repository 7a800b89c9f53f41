# SPDX-License-Identifier: Apache-2.0
"""The tiny judge and its task, its base, and SmolLM2 from a package."""
