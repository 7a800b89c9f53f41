# SPDX-License-Identifier: Apache-2.0
"""Loads a user's function, named in a recipe as ``module:function``."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError


def load_function(name: str, key: str) -> Callable[..., Any]:
    """Load a function of two arguments from PYTHONPATH or the current folder.

    Args:
        name: ``module:function``.
        key: the recipe's key, for errors.

    Raises:
        UserError: the module or function does not exist, cannot be loaded, or does not take two arguments.
    """
    module, _, function = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last, so that no file there shadows an installed package
    try:
        loaded = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise UserError(f"{key}: {name} cannot be loaded: {type(error).__name__}: {error}") from None
    if not callable(loaded):
        raise UserError(f"{key}: {name} is {type(loaded).__name__}, not a function")
    try:
        inspect.signature(loaded).bind(None, None)
    except TypeError as error:
        raise UserError(f"{key}: {name} cannot be called with two arguments: {error}") from None
    except ValueError:  # a built-in function without a signature
        pass
    return loaded  # type: ignore[no-any-return]


def source_digest(name: str, key: str) -> str:
    """SHA-256 of the source file of ``module:function``; of an empty string if there is no file.

    Raises:
        UserError: as ``load_function``.
    """
    try:
        file = inspect.getsourcefile(inspect.unwrap(load_function(name, key)))
    except TypeError:  # a class instance or a built-in function
        file = None
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()
