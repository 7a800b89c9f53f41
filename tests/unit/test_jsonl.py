# SPDX-License-Identifier: Apache-2.0
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongrm_nemo.data.jsonl import JsonlAppender, read_jsonl, read_tasks, write_jsonl
from reasongrm_nemo.data.records import HardTask, JudgeTask, PreferencePair
from reasongrm_nemo.errors import UserError


def pair(index, text="right"):
    prompt = [{"role": "user", "content": "q\u2028\u0085?"}]
    return PreferencePair(f"p{index}", "s", prompt, text, "wrong\n\r")


def test_written_records_are_read_back(tmp_path):
    path = tmp_path / "pairs.jsonl"
    records = [pair(index, "täxt \ud800 🙂 \x00") for index in range(5)]
    assert write_jsonl(path, records) == 5
    assert list(read_jsonl(path, PreferencePair)) == records
    assert [entry.name for entry in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_jsonl(path, [pair(0)])

    def failing():
        yield pair(1)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_jsonl(path, failing())
    assert list(read_jsonl(path, PreferencePair)) == [pair(0)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_reading_names_file_and_line(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_jsonl(path, [pair(0)])
    good = path.read_bytes()
    path.write_bytes(good + b"\n" + b'{"id": \n')
    with pytest.raises(UserError, match=r"pairs\.jsonl:3: not a JSON line"):
        list(read_jsonl(path, PreferencePair))
    path.write_bytes(good + b'{"id": "x"}\n')
    with pytest.raises(UserError, match=r"pairs\.jsonl:2: PreferencePair lacks the field 'source'"):
        list(read_jsonl(path, PreferencePair))
    with pytest.raises(UserError, match="no such file"):
        list(read_jsonl(tmp_path / "none.jsonl", PreferencePair))
    with pytest.raises(UserError, match="cannot be read"):
        list(read_jsonl(tmp_path, PreferencePair))


def test_gzip_and_byte_order_mark(tmp_path):
    plain = tmp_path / "pairs.jsonl"
    write_jsonl(plain, [pair(0), pair(1)])
    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    assert list(read_jsonl(packed, PreferencePair)) == [pair(0), pair(1)]
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match="damaged data"):
        list(read_jsonl(packed, PreferencePair))
    packed.write_bytes(b"not gzip")
    with pytest.raises(UserError, match="damaged data"):
        list(read_jsonl(packed, PreferencePair))


def test_tasks_are_read_as_records_of_their_own_kind(tmp_path):
    task = JudgeTask("p-c", "p", "s", [{"role": "user", "content": "q"}], "A", "chosen_first")
    hard = HardTask(**{**task.to_dict(), "id": "q-c"}, answers=["B"], accuracy=0.0)
    path = tmp_path / "tasks.jsonl"
    write_jsonl(path, [task, hard])
    assert list(read_tasks(path)) == [task, hard]


def test_appending_continues_after_the_last_line(tmp_path):
    path = tmp_path / "paths.jsonl"
    for start in (0, 2):
        with JsonlAppender(path) as appender:
            assert appender.dropped_bytes == 0
            assert appender.append([pair(start), pair(start + 1)]) == 2
            assert appender.append([]) == 0
    assert list(read_jsonl(path, PreferencePair)) == [pair(index) for index in range(4)]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_file_cut_anywhere_resumes_with_its_whole_lines(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "paths.jsonl"
    records = [pair(index, "é" * index) for index in range(4)]
    write_jsonl(path, records)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    with JsonlAppender(path) as appender:
        assert appender.dropped_bytes == cut - len(b"".join(whole.splitlines(keepends=True)[:kept]))
        assert list(read_jsonl(path, PreferencePair)) == records[:kept]
        appender.append(records[kept:])
    assert path.read_bytes() == whole


def test_last_lines_that_are_not_json_are_dropped_too(tmp_path):
    path = tmp_path / "paths.jsonl"
    write_jsonl(path, [pair(0)])
    whole = path.read_bytes()
    path.write_bytes(whole + b"\x00" * 70000 + b"\n" + b"{}x\n" + b'{"id"')
    with JsonlAppender(path) as appender:
        assert appender.dropped_bytes == 70000 + 1 + 4 + 5
    assert path.read_bytes() == whole


def test_a_torn_line_longer_than_the_buffer(tmp_path):
    path = tmp_path / "paths.jsonl"
    write_jsonl(path, [pair(0, "x" * 200_000), pair(1)])
    whole = path.read_bytes()
    first = whole.splitlines(keepends=True)[0]
    path.write_bytes(first + first[:150_000])
    with JsonlAppender(path):
        pass
    assert path.read_bytes() == first
