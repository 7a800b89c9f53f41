# SPDX-License-Identifier: Apache-2.0
"""A job's private scratch folder on each node's disk."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR

from reasongrm_nemo.errors import UserError

SCRATCH = "REASONGRM_NODE_SCRATCH"
"""Variable: the job's folder on each node's disk, for code that compilers write; set by launch/common.sh."""


def own_scratch() -> None:
    """Create this node's scratch folder as a private one, or check that it is; no effect if not set.

    Another user could guess the folder's name, create it first and put code into it.

    Raises:
        UserError: the folder belongs to another user, or others may write to it.
    """
    if not (name := os.environ.get(SCRATCH)):
        return
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        Path(name).mkdir(mode=0o700)
    stat = Path(name).lstat()
    if not S_ISDIR(stat.st_mode) or stat.st_uid != os.geteuid() or stat.st_mode & 0o022:
        raise UserError(
            f"{name} is not a folder that only you can write to; remove it, or set REASONGRM_SCRATCH "
            "(launch/site.env) to another place"
        )
