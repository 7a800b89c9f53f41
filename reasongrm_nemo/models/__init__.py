# SPDX-License-Identifier: Apache-2.0
"""Model families: shapes, ropes, tokenizers, counts.  Empty, so that importing a part is light."""
