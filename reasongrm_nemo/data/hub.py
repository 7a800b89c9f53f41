# SPDX-License-Identifier: Apache-2.0
"""Data sets named on the Hugging Face hub, downloaded as files and then read like any folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from reasongrm_nemo.data.rows import SUFFIXES, find_files
from reasongrm_nemo.errors import UserError

PREFIX = "hf://"
_NAME = re.compile(
    r"hf://(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/convert/[\w.-]+|refs/pr/\d+|(?!refs/)[\w.-]+))?"
    r"(?:/(?P<files>.+))?"
)
_INFO = "dataset_info*.json"


class HubName(NamedTuple):
    """`hf://owner/name`, with `@revision` (branch, tag, commit, `refs/...`) and `/files` (a pattern)."""

    repository: str
    revision: str | None
    files: str | None

    @classmethod
    def parse(cls, source: str) -> HubName:
        """Parse a source.

        Raises:
            UserError: the source does not have this form.
        """
        match = _NAME.fullmatch(source)
        if match is None:
            raise UserError(
                f"prepare.source {source} is not the name of a data set; it must be hf://owner/name, "
                "hf://owner/name@revision or hf://owner/name/data/train-*"
            )
        return cls(match["repository"], match["revision"], match["files"])


def fetch_dataset(name: HubName) -> tuple[list[Path], str]:
    """Download a data set's readable files into the hub client's cache; returns them and their commit.

    Raises:
        UserError: no client is installed, the hub cannot be reached, or it has no such data set or files.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import filter_repo_objects
    except ImportError:
        raise UserError(
            f"prepare.source hf://{name.repository} needs the package huggingface_hub: install it, or "
            "download the data set's files elsewhere and give their folder"
        ) from None
    wanted = [name.files] if name.files else [f"*{suffix}" for suffix in SUFFIXES]
    try:
        folder = snapshot_download(
            name.repository,
            repo_type="dataset",
            revision=name.revision,
            allow_patterns=wanted,
            ignore_patterns=[_INFO],
        )
    except (OSError, ValueError) as error:  # base classes of the client's network and HTTP errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"prepare.source hf://{name.repository} cannot be downloaded ({reason}); check the network and "
            "the name, or download the files elsewhere and give their folder"
        ) from None
    cached = Path(folder)
    try:
        held = find_files(cached)
    except UserError:  # no file matched the pattern
        held = []
    # the cache may also hold files of this commit that other patterns matched
    names = filter_repo_objects(
        (file.relative_to(cached).as_posix() for file in held),
        allow_patterns=wanted,
        ignore_patterns=[_INFO],
    )
    files = [cached / name for name in names]
    if not files:
        raise UserError(
            f"prepare.source hf://{name.repository}/{name.files or '*'}: no file of the data set matches "
            f"and ends in {', '.join(SUFFIXES)}; give a pattern of whole paths, such as data/train-*"
        )
    return files, cached.name
