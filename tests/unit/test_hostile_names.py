# SPDX-License-Identifier: Apache-2.0
"""Untrusted names and ids through every writer: they are shown as text and have no other effect."""

import io
import json
import logging
import re
import unicodedata

import pytest
from rich.cells import cell_len

from reasongrm_nemo.report.paper_tables import TableRun, as_latex, build_tables, tables_as_markdown
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.text import aligned, in_json, latex, markdown, markdown_table, printable

SCORES = {"Chat": 0.5, "Score": 0.96}
NAMES = [
    "a|b",
    "`rm -rf`",
    "**bold**",
    "_em_ and __strong__",
    "[link](http://evil.example)",
    "![image](http://evil.example/x.png)",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; & co",
    "back\\slash \\input{/etc/passwd}",
    "$\\infty$ $x$",
    "100 % #1 ~/x ^2 {a}",
    "two\nlines\r\nthree",
    "tab\there",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "\x9b2J c1",
    "bidi \u202eevil\u202c \u2066x\u2069",
    "zero\u200bwidth\ufeff joined\u200d",
    "line\u2028separator\u2029",
    "half \ud83d pair",
    "nul \x00 del \x7f bell \x07 \x08\x08",
    "[optional] after a row",
    "*starred after a row",
    "# heading",
    "> quote",
    "- item",
    "~~gone~~ ``` fence",
    "[x]: http://evil.example",
    "www \"quoted\" 'single'",
    "naïve 日本語 Ω 🙂",
]


def obeyed(text, keep="\n"):
    """Characters that control a terminal, or that change how others are displayed."""
    return [c for c in text if c not in keep and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def rendered_cell(text):
    """The characters that a Markdown renderer would act on, and the text that would be shown."""
    active = re.findall(r"(?<!\\)(?:\\\\)*([`*_\[\]<>|#~$]|&#?\w+;)", text)
    return active, re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


@pytest.mark.parametrize("name", NAMES)
def test_text_and_markdown(name):
    assert not obeyed(printable(name)) and "\n" not in printable(name)
    assert printable(printable(name)) == printable(name)
    active, shown = rendered_cell(markdown(name))
    assert not active and shown == printable(name)
    assert "://" not in markdown(name)
    table = markdown_table([name, "b"], [[name, "1.00"], ["x", name]])
    assert len(table) == 4 and not obeyed("".join(table))
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in table)
    lines = aligned(["n", name], [[name, "1"]])
    assert len(lines) == 3 and not obeyed("\n".join(lines)) and len(lines[0]) <= len(lines[1])


def test_columns_are_as_wide_as_a_terminal_shows_them():
    lines = aligned(["model", "n"], [["漢字", "1"], ["judge", "22"]])
    assert {cell_len(line) for line in lines} == {len("judge  22")}


@pytest.mark.parametrize("name", NAMES)
def test_latex(name):
    text = latex(name)
    bare = re.sub(r"\\(?:text[a-z]+\{\}|[&%$#_{}])", "", text)
    bare = re.sub(r"\{[\[\]*]\}", "", bare)
    assert not re.search(r"[\\&%$#_{}~^\[\]*<>|`]", bare), bare
    assert not obeyed(text) and "\n" not in text


@pytest.mark.parametrize("name", NAMES)
def test_json_for_a_terminal(name):
    text = in_json(json.dumps({name: [name]}, ensure_ascii=False, indent=2))
    assert not obeyed(text) and json.loads(text) == {name: [name]}


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_tables(name):
    run = TableRun(name, False, {"rewardbench": SCORES}, {"rewardbench": "1 of 2 judgements"})
    table = build_tables(4, [run])
    text = tables_as_markdown(table)
    row = next(line for line in text.splitlines() if "†‡" in line and line.startswith("|"))
    plain = tables_as_markdown(build_tables(4, [TableRun("n", False, {"rewardbench": SCORES})])).splitlines()
    assert len(re.findall(r"(?<!\\)\|", row)) == len(table.head) + 2
    assert len(text.splitlines()) == len(plain) and not obeyed(text)
    tex = as_latex(table)
    assert latex(name) in tex and tex.count("{") - tex.count(r"\{") == tex.count("}") - tex.count(r"\}")
    assert not obeyed(tex)


@pytest.mark.parametrize("name", NAMES)
def test_the_console_and_the_log(name, tmp_path):
    from reasongrm_nemo.run.stage import _logger

    for plain in (True, False):
        out = io.StringIO()
        Console(stream=out, plain=plain).warn(f"{name} is odd")
        text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()) if not plain else out.getvalue()
        assert not obeyed(text, keep="\n\t"), text
    log, handler = _logger(f"hostile {abs(hash(name))}", tmp_path)
    log.info("dropped %s", name)
    log.removeHandler(handler)
    handler.close()
    lines = (tmp_path / "stage.log").read_text().split("\n")
    assert len(lines) == 2 and not obeyed(lines[0], keep="\t")
    assert logging.getLogger(log.name) is log
