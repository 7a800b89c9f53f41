# SPDX-License-Identifier: Apache-2.0
"""Data sets by their name on the Hugging Face hub, fetched as files and then read like any folder."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from reasongrm_nemo.data.rows import SUFFIXES
from reasongrm_nemo.errors import UserError

PREFIX = "hf://"
_NAME = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/[\w.-]+/[\w.-]+|[\w.-]+))?(?:/(?P<files>.+))?"
)


class HubName(NamedTuple):
    """`hf://owner/name`, with `@revision` (a branch, tag, commit or `refs/...`) and `/files` (a pattern)."""

    repository: str
    revision: str | None
    files: str | None

    @classmethod
    def parse(cls, source: str) -> HubName:
        """The parts of a source.

        Raises:
            UserError: it is not of that form.
        """
        match = _NAME.fullmatch(source)
        if match is None:
            raise UserError(
                f"prepare.source {source} is no data set's name; it must be hf://owner/name, "
                "hf://owner/name@revision or hf://owner/name/data/train-*"
            )
        return cls(match["repository"], match["revision"], match["files"])


def fetch_dataset(name: HubName) -> tuple[list[Path], str]:
    """The data set's files, in the hub client's cache, or the folder of all of them; and their commit.

    Raises:
        UserError: no client is installed, the hub cannot be reached, or has no such data set or file.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"prepare.source hf://{name.repository} needs the package huggingface_hub: install it, or fetch "
            "the data set's files elsewhere and give their folder"
        ) from None
    wanted = [name.files] if name.files else [f"*{suffix}" for suffix in SUFFIXES]
    try:
        folder = snapshot_download(
            name.repository,
            repo_type="dataset",
            revision=name.revision,
            allow_patterns=wanted,
            ignore_patterns=["dataset_info*.json"],
        )
    except (OSError, ValueError) as error:  # what the client's own errors derive from, network and HTTP alike
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"prepare.source hf://{name.repository} cannot be fetched ({reason}); see to the network and the "
            "name, or fetch the files elsewhere and give their folder"
        ) from None
    root = Path(folder)
    if name.files is None:
        return [root], root.name
    # what was fetched before under other patterns lies there too
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    chosen = [path for path in files if fnmatch(str(path.relative_to(root)), name.files)]
    if not chosen:
        raise UserError(f"prepare.source hf://{name.repository} has no file that matches {name.files}")
    return chosen, root.name
