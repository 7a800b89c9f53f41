# SPDX-License-Identifier: Apache-2.0
"""SECURITY.md names every module that opens a socket to others, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "reasongrm_nemo"
# What makes a process reachable: our sockets, servers and stores, and those that torch and vLLM open for us.
OPENS = re.compile(
    r"\.listen\(|HTTPServer\(|\bTCPStore\(|\bcreate_device\(|ProcessGroupNCCL\(|start_server\(|\"--host\""
)


def test_exactly_the_modules_that_listen_are_in_the_table():
    opens = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if OPENS.search(re.sub(r"\bmeeting\.listen\(", "", path.read_text(encoding="utf-8")))
    }
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    table = page.split("## Listening sockets")[1].split("\n## ")[0]
    named = re.findall(r"\| `([\w/]+\.py)` \|$", table, re.MULTILINE)
    assert set(named) == opens


def test_nothing_is_told_to_listen_on_all_interfaces():
    for path in PACKAGE.rglob("*.py"):
        assert "0.0.0.0" not in path.read_text(encoding="utf-8"), path
