# SPDX-License-Identifier: Apache-2.0
"""Which of a recipe's keys some code reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from omegaconf import DictConfig


@contextmanager
def keys_read(into: set[str]) -> Iterator[None]:
    """Note every dotted key that is read of a recipe, or of a part of one, from here on."""
    plain = DictConfig._get_impl

    def noted(self: DictConfig, key: Any, *args: Any, **kwargs: Any) -> Any:
        into.add(self._get_full_key(key))
        return plain(self, key, *args, **kwargs)

    with patch.object(DictConfig, "_get_impl", noted):
        yield
