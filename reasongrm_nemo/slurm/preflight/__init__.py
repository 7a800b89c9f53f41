# SPDX-License-Identifier: Apache-2.0
"""Pre-flight: checks a job's nodes, recipe and disk in its first minute, before a model loads."""
