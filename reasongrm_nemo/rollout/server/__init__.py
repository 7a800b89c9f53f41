# SPDX-License-Identifier: Apache-2.0
"""The vLLM process: how it is started, checked and restarted."""
