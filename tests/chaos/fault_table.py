# SPDX-License-Identifier: Apache-2.0
"""The table of faults."""

from pathlib import Path

import faults as file_faults

from chaos.faults import Fault, damaged, folder_at, linked, removed, replaced

_MOUNT = 'exec unshare -rm sh -c \'mount -t tmpfs {} none {} && exec "$@"\' sh "$@"'
_NO_NET = 'exec unshare -rn "$@"'
_LO_UP = 'exec unshare -rn sh -c \'ip link set lo up 2>/dev/null; exec "$@"\' sh "$@"'
_PROXY = dict.fromkeys(
    ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9"
)


def table():
    """All faults: kind -> rows."""
    return {
        "environment": [*_environment()],
        "disk": [*_disk()],
        "files": [*_files()],
        "network": [*_network()],
    }


def _environment():
    yield Fault("HOME is not set", env={"HOME": None})
    yield Fault("HOME does not exist", env={"HOME": "/nonexistent"})
    yield Fault("HOME is a file", env={"HOME": "/dev/null"})
    yield Fault("HOME cannot be written", env={"HOME": "/proc/1"})
    yield Fault("the cache is a file", env={"XDG_CACHE_HOME": "/dev/null"})
    yield Fault("LANG is C", env={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    yield Fault("LC_ALL is POSIX, a name is given", env={"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"},
                more=("name=0_prepare",))  # fmt: skip
    yield Fault("a locale that is not installed", env={"LC_ALL": "tlh_QO.ISO-8859-1"})
    yield Fault("PYTHONIOENCODING is ASCII", env={"PYTHONIOENCODING": "ascii"})
    yield Fault("TZ is no time zone", env={"TZ": "Nowhere/Land"})
    yield Fault("TERM is unknown", env={"TERM": "no-such-terminal", "COLUMNS": "1"})
    yield Fault("COLUMNS is no number", env={"COLUMNS": "many", "LINES": "-3"})
    yield Fault("PATH is empty", env={"PATH": "/nonexistent"}, shell='exec "$@"', must="either")
    yield Fault("TMPDIR is missing", env={"TMPDIR": "/nonexistent/tmp"})
    yield Fault("TMPDIR is a file", env={"TMPDIR": "/dev/null"})
    yield Fault("TMPDIR is missing, with a server", "2_generate", env={"TMPDIR": "/nonexistent/tmp"})
    yield Fault("umask 077", shell='umask 077; exec "$@"')
    yield Fault("umask 000", shell='umask 000; exec "$@"')
    yield Fault("umask 077, with a server", "2_generate", shell='umask 077; exec "$@"')
    yield Fault("32 descriptors", shell='ulimit -n 32; exec "$@"', must="either")
    yield Fault("40 descriptors, with a server", "2_generate", shell='ulimit -n 40; exec "$@"', must="either")
    yield Fault("400 MiB of address space", shell='ulimit -v 400000; exec "$@"', must="either")
    yield Fault("150 MiB of address space", shell='ulimit -v 150000; exec "$@"', must="either")
    yield Fault("files of 4 KiB at most", shell='ulimit -f 8; exec "$@"', must="refused",
                heal=lambda runs: None)  # fmt: skip
    yield Fault("no core files, a stack of 256 KiB", shell='ulimit -c 0; ulimit -s 256; exec "$@"')
    yield Fault(
        "the working folder was deleted",
        must="either",
        shell='d=$(mktemp -d); cd "$d"; rmdir "$d"; exec "$@"',
    )
    yield Fault("stdout is closed", shell='exec "$@" >&-', must="either")
    yield Fault("stderr is closed", shell='exec "$@" 2>&-')
    yield Fault("stdin is closed", shell='exec "$@" <&-')
    yield Fault("all three are closed", shell='exec "$@" <&- >&- 2>&-', must="either")
    yield Fault("stdout is a full disk", shell='exec "$@" >/dev/full', must="either")
    yield Fault("stderr is a full disk", shell='exec "$@" 2>/dev/full', must="either", mute=True)
    yield Fault("the reader of stdout goes away", shell='"$@" | head -c 0')
    yield Fault("the reader of stderr goes away", shell='{ "$@" 2>&1 >&3 | head -c 0; } 3>/dev/null')
    yield Fault("a clock of 1980", env={"CHAOS_CLOCK": "315532800"})
    yield Fault("a clock of 2100", env={"CHAOS_CLOCK": "4102444800"})
    yield Fault("a clock that jumps back an hour each second", env={"CHAOS_CLOCK": "-3600"})
    yield Fault("PYTHONWARNINGS are errors", env={"PYTHONWARNINGS": "error::ResourceWarning"})
    yield Fault("a rollout environment that is not there", "2_generate", must="refused",
                env={"REASONGRM_ROLLOUT_PYTHON": "/nonexistent/python"}, heal=lambda runs: None)  # fmt: skip
    yield Fault("a rollout environment that is no python", "2_generate", must="refused",
                env={"REASONGRM_ROLLOUT_PYTHON": "/bin/false"}, heal=lambda runs: None)  # fmt: skip
    yield Fault("a rollout environment that is not named", "2_generate", must="refused",
                env={"REASONGRM_ROLLOUT_PYTHON": None}, heal=lambda runs: None)  # fmt: skip
    yield Fault("Slurm's variables of another job", env={"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "x"})


def _disk():
    yield Fault("a disk of 16 KiB", shell=_MOUNT.format("-o size=16k", "RUNS"), must="refused",
                heal=lambda runs: None)  # fmt: skip
    yield Fault("a disk of 12 inodes", shell=_MOUNT.format("-o nr_inodes=12", "RUNS"), must="refused",
                heal=lambda runs: None)  # fmt: skip
    yield Fault("a disk that is read-only", shell=_MOUNT.format("-o ro", "RUNS"), must="refused",
                heal=lambda runs: None)  # fmt: skip
    full = _MOUNT.format("-o size=3m", "RUNS/.partial")
    yield Fault("a disk of 3 MB, in SFT", "4_sft", shell=full, must="refused", heal=lambda runs: None,
                change=lambda runs: (runs / ".partial").mkdir())  # fmt: skip
    yield Fault("no /dev/shm, with a server", "2_generate", shell=_MOUNT.format("-o size=4k,ro", "/dev/shm"),
                must="either")  # fmt: skip
    yield Fault("no room in TMPDIR", shell=_MOUNT.format("-o size=4k", "/tmp/chaos-small"), must="either",
                env={"TMPDIR": "/tmp/chaos-small"},
                change=lambda runs: Path("/tmp/chaos-small").mkdir(exist_ok=True))  # fmt: skip
    yield Fault("a runs folder in /proc", more=("runs_dir=/proc/1/runs",), must="refused")
    yield Fault("a runs folder below a file", more=("runs_dir=/dev/null/runs",), must="refused")
    yield Fault("a runs folder in /sys", more=("runs_dir=/sys/runs",), must="refused")
    yield Fault("a runs folder whose name is too long", more=(f"runs_dir=RUNS/{'x' * 300}",), must="refused")
    yield Fault("a runs folder whose path is too long", more=("runs_dir=/tmp" + "/x" * 3000,), must="refused")
    yield Fault("a runs folder with an empty name", more=("runs_dir=''",), must="either")


def _files():
    for name in (".partial", ".locks", ".stale", ".logs"):
        yield Fault(f"{name} is a file", "3_filter", change=replaced(name), must="either", heal=removed(name))
    yield Fault(".lock is a folder", change=folder_at(".lock"), must="refused", heal=removed(".lock"))
    yield Fault("a stray folder among artefacts", change=folder_at("holiday photos"))
    yield Fault("a stray folder in .partial", change=folder_at(".partial", "other"), must="either")
    yield Fault("a folder under the artefact's name", change=folder_at("0_prepare"), must="refused",
                heal=removed("0_prepare"))  # fmt: skip
    yield Fault("a file under the artefact's name", change=replaced("0_prepare"), must="refused",
                heal=removed("0_prepare"))  # fmt: skip
    yield Fault("a dangling link under the artefact's name", change=linked("/nonexistent", "0_prepare"),
                must="either", heal=removed("0_prepare"))  # fmt: skip
    yield Fault("a link to itself under the artefact's name", change=linked("0_prepare", "0_prepare"),
                must="refused", heal=removed("0_prepare"))  # fmt: skip
    yield Fault("a link to itself in .partial", change=linked("0_prepare", ".partial", "0_prepare"),
                must="either", heal=removed(".partial", "0_prepare"))  # fmt: skip
    yield Fault("a folder for stage.json", change=folder_at(".partial", "0_prepare", "stage.json"),
                must="either", heal=removed(".partial", "0_prepare"))  # fmt: skip
    for name, damage in (file_faults.CONTENTS | file_faults.PATHS).items():
        yield Fault(f"an input: {name}", "3_filter", change=damaged(damage, "2_generate", "paths.jsonl"),
                    must="refused")  # fmt: skip
    for name in ("nuls", "flipped_byte", "truncated", "dangling_link"):
        damage = (file_faults.CONTENTS | file_faults.PATHS)[name]
        yield Fault(f"weights: {name}", "2_generate", must="refused",
                    change=damaged(damage, "1_grpo_zero", "hf", "model.safetensors"))  # fmt: skip
    for name, damage in (file_faults.CONTENTS | file_faults.PATHS).items():
        if name in ("nuls", "truncated", "emptied", "removed", "folder", "looping_link"):
            yield Fault(f"a manifest: {name}", "3_filter", must="refused",
                        change=damaged(damage, "2_generate", "manifest.json"))  # fmt: skip


def _network():
    yield Fault("no network, loopback down, no server", shell=_NO_NET)
    yield Fault("loopback down, with a server", "2_generate", shell=_NO_NET, must="either",
                more=("rollout.start_timeout_s=20",), heal=lambda runs: None)  # fmt: skip
    yield Fault("loopback down, in SFT", "4_sft", shell=_NO_NET, must="either", heal=lambda runs: None)
    yield Fault("loopback alone", "2_generate", shell=_LO_UP)
    yield Fault("proxies are set", "2_generate", env=_PROXY)
    yield Fault(
        "MASTER_ADDR is another machine's", "2_generate", env={"MASTER_ADDR": "192.0.2.1", "RANK": "3"}
    )
    yield Fault("the port is privileged and taken", "2_generate", more=("rollout.port=7",), must="either")
    once = [
        "garbage",
        "html",
        "wrong-shape",
        "list",
        "null",
        "empty",
        "half",
        "status-500",
        "reset",
        "dies",
        "nan",
    ]
    for name in [*once, "slow", "dies-starting", "redirect", "status-401"]:
        yield _served(name, "once", "either" if name in ("redirect", "status-401") else "end")
    for name in ("garbage", "status-500", "status-400", "half", "dies", "dies-starting", "silent"):
        yield _served(name, "always", "refused")


def _served(name, times, must):
    env = '{CHAOS_SERVER: "' + name + '=RUNS/.fault"}'
    quick = ("rollout.stall_timeout_s=6",) if name == "silent" else ()
    return Fault(
        f"a server: {name}, {times}", "2_generate", must=must, more=(f"rollout.extra_env={env}", *quick),
        change=lambda runs: (runs / ".fault").write_text(times) and None, heal=removed(".fault"),
    )  # fmt: skip
