# SPDX-License-Identifier: Apache-2.0
"""Lengths of answers, and the time that rollouts of such lengths take."""
