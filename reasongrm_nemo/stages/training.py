# SPDX-License-Identifier: Apache-2.0
"""What the training stages say of themselves in their manifests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def last_figures(metrics: Path, names: Sequence[str]) -> dict[str, Any]:
    """The number of steps and the named figures of the last one."""
    lines = metrics.read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1]) if lines else {}
    return {"steps": last.get("step", 0)} | {name: last[name] for name in names if name in last}
