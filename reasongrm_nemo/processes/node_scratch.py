# SPDX-License-Identifier: Apache-2.0
"""A job's folder on each node's own disk, for this user alone."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR

from reasongrm_nemo.errors import UserError

SCRATCH = "REASONGRM_NODE_SCRATCH"
"""A job's folder on each node's own disk, for what compilers write and later run; set by launch/common.sh."""


def own_scratch() -> None:
    """Make this node's scratch folder for this user alone, or see that it is; not set: nothing is done.

    Its name can be foretold, so another user may have made it first and left code in it.

    Raises:
        UserError: it is somebody else's, or others may write in it.
    """
    if not (name := os.environ.get(SCRATCH)):
        return
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        Path(name).mkdir(mode=0o700)
    stat = Path(name).lstat()
    if not S_ISDIR(stat.st_mode) or stat.st_uid != os.geteuid() or stat.st_mode & 0o022:
        raise UserError(
            f"{name} is not a folder in which only you can write: remove it, or name another place by "
            "REASONGRM_SCRATCH (launch/site.env)"
        )
