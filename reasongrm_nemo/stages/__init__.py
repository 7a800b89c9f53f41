# SPDX-License-Identifier: Apache-2.0
"""One module a stage, each reading as its algorithm; `context` runs them."""
