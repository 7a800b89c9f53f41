# SPDX-License-Identifier: Apache-2.0
"""Seeds derived from their purpose, independent of order, sharding and world size."""

from __future__ import annotations

import hashlib
import json


def derive_seed(run_seed: int, purpose: str, item: str, index: int = 0) -> int:
    """A 63-bit seed from the run's seed, the purpose, the item's id and an index (the sample).

    The parts are hashed as a JSON list, so that different tuples never have the same text.

    Returns:
        0 <= seed < 2**63.  vLLM's request seeds take `seed & 0x7fffffff`.
    """
    text = json.dumps([run_seed, purpose, item, index])
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big") >> 1
