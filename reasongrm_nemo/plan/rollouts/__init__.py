# SPDX-License-Identifier: Apache-2.0
"""Response lengths, and a simulation of the rollouts that produce them."""
