# SPDX-License-Identifier: Apache-2.0
"""One module per stage, each stating the stage's algorithm; `run.stage` runs them."""
