# SPDX-License-Identifier: Apache-2.0
"""The first minute of a cluster job: whether its nodes, its recipe and its disk fit, before a model loads."""
