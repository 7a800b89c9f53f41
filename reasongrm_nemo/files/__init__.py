# SPDX-License-Identifier: Apache-2.0
"""Files: what is read is bounded and of the shape due, what is written survives a kill."""
