# SPDX-License-Identifier: Apache-2.0
"""Data sets by their name on the Hugging Face hub, fetched as files and then read like any folder."""

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
    """The data set's files of a kind that can be read, in the hub client's cache, and their commit.

    Raises:
        UserError: no client is installed, the hub cannot be reached, or has no such data set or files.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils import filter_repo_objects
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
            ignore_patterns=[_INFO],
        )
    except (OSError, ValueError) as error:  # what the client's own errors derive from, network and HTTP alike
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"prepare.source hf://{name.repository} cannot be fetched ({reason}); see to the network and the "
            "name, or fetch the files elsewhere and give their folder"
        ) from None
    cached = Path(folder)
    try:
        held = find_files(cached)
    except UserError:  # nothing that matches, so nothing was fetched
        held = []
    # the cache also holds what other patterns fetched of this commit
    names = filter_repo_objects(
        (file.relative_to(cached).as_posix() for file in held),
        allow_patterns=wanted,
        ignore_patterns=[_INFO],
    )
    files = [cached / name for name in names]
    if not files:
        raise UserError(
            f"prepare.source hf://{name.repository}/{name.files or '*'}: no file of the data set has such a "
            f"path and ends in {', '.join(SUFFIXES)}; give a pattern of whole paths, such as data/train-*"
        )
    return files, cached.name
