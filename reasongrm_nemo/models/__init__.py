# SPDX-License-Identifier: Apache-2.0
"""Model families: shapes, ropes, tokenizers, counts.  Empty, to keep imports of its modules cheap."""
