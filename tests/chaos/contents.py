# SPDX-License-Identifier: Apache-2.0
"""Unexpected contents of a file, and other things in place of a file."""

import gzip
import io
import os
import pickle
import zlib

import faults

_DEEP = 100_000


class Poison:
    """An object that creates a file when unpickled: the sign that a stranger's code ran."""

    def __init__(self, sign):
        self.sign = str(sign)

    def __reduce__(self):
        return os.system, (f"touch '{self.sign}'",)


def poisoned_pickle(sign):
    """The bytes of a pickled Poison."""
    return pickle.dumps(Poison(sign), protocol=2)


def bomb(mib=512):
    """A gzip of one line of `mib` MiB, under 1/1000 of that size."""
    packer, out = zlib.compressobj(9, zlib.DEFLATED, 31), io.BytesIO()
    block = b"a" * (1 << 20)
    for _ in range(mib):
        out.write(packer.compress(block))
    return out.getvalue() + packer.flush()


_NESTED = b'{"a":' * 500 + b"1" + b"}" * 500
BYTES = {
    "empty": b"",
    "one byte": b"{",
    "only white space": b" \n\t\r\n" * 50,
    "all NUL": b"\0" * 4096,
    "random bytes": bytes((i * 7919 + i // 251) % 256 for i in range(5000)),
    "a byte order mark alone": b"\xef\xbb\xbf",
    "UTF-16": '{"id": "x", "prompt": "q", "chosen": "a", "rejected": "b"}'.encode("utf-16"),
    "Latin-1": '{"id": "x\xe9", "prompt": "q\xfc", "chosen": "a", "rejected": "b"}'.encode("latin-1"),
    "a lone surrogate": b'{"id": "\\ud800", "prompt": "\\udfff", "chosen": "a", "rejected": "b"}',
    "null": b"null",
    "true": b"true",
    "a number": b"17",
    "a huge number": b"1" * 5000,
    "an exponent": b"1e999999",
    "NaN": b"NaN",
    "a text": b'"text"',
    "an empty list": b"[]",
    "a list of numbers": b"[1, 2, 3]",
    "a list of lists": b"[[[]], [[1]], [null]]",
    "an empty object": b"{}",
    "an object of nulls": b'{"id": null, "prompt": null, "chosen": null, "rejected": null, "key": null}',
    "numbers for texts": b'{"id": 1, "name": 2, "stage": 3, "key": 4, "task_id": 5, "messages": 7}',
    "lists for objects": b'{"inputs": [], "outputs": [], "timings": [], "recipe": [], "identity": []}',
    "objects for texts": b'{"name": {}, "stage": {}, "key": {}, "id": {}, "prompt": {"a": {}}}',
    "the same key twice": b'{"id": "a", "id": {"b": 1}, "stage": 1, "stage": "x"}',
    "nested 500 deep": _NESTED,
    "nested 100,000 deep": b"[" * _DEEP + b"]" * _DEEP,
    "a torn end": b'{"id": "x", "prompt": "q", "chos',
    "two on a line": b'{"id": "x"} {"id": "y"}\n',
    "a line of 20 MB": b'{"id": "' + b"x" * 20_000_000 + b'"}',
    "a hundred thousand empty lines": b"\n" * 100_000,
    "a hundred thousand objects": b"{}\n" * 100_000,
    "HTML": b"<!doctype html><html><body>404 Not Found</body></html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "YAML with an alias bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 107)),
    "YAML that names Python": b"!!python/object/apply:os.system ['touch poisoned']",
    "YAML of tabs": b"a:\n\t- b\n",
    "a template that never ends": b"system: '{% for i in range(10**9) %}x{% endfor %}'\n",
    "a template that reaches out": b"system: \"{{ ''.__class__.__mro__[1].__subclasses__() }}\"\nuser: x\n",
    "a gzip that is none": b"\x1f\x8b\x08garbage",
    "a torn gzip": gzip.compress(b'{"id": "x"}\n' * 1000)[:40],
    "a torn Parquet": b"PAR1" + b"\0" * 40 + b"\xff\xff\xff\x7fPAR1",
    "safetensors with a header of 2^63": b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
    "safetensors that point outside": (lambda h: len(h).to_bytes(8, "little") + h)(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,99999]}}'
    ),
    "CSV with unequal rows": b'prompt,chosen,rejected\na,b\n"c,d,e,f\n' + b"," * 3000,
}


THINGS = faults.PATHS | {
    "/dev/null": lambda path: path.symlink_to(os.devnull),
    "/proc/self/mem": lambda path: path.symlink_to("/proc/self/mem"),
}
"""What may stand there and is no plain file."""


def place(name, path):
    """Put the named content at `path`."""
    if path.is_symlink() or path.exists():
        path.unlink()
    if name in THINGS:
        THINGS[name](path)
    else:
        path.write_bytes(BYTES[name])
