# SPDX-License-Identifier: Apache-2.0
"""Files: reads are bounded and checked against a schema; writes survive a kill."""
