# SPDX-License-Identifier: Apache-2.0
"""Ranks without the libraries' start: this process imports them once and forks each rank.

Most of a small run is the import of NeMo. Run by conftest.py; reads one request a line from stdin (script or
module, world size, arguments, environment, log file), answers with a line when all its ranks have ended.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import sys
import traceback

MODULES = (
    "transformers",
    "reasongrm_nemo.recipe.load",
    "reasongrm_nemo.grpo.actor",
    "reasongrm_nemo.grpo.trainer",
    "reasongrm_nemo.sft.main",
    "reasongrm_nemo.sft.model",
    "reasongrm_nemo.megatron.checkpoints",
    "reasongrm_nemo.megatron.session",
    "reasongrm_nemo.megatron.weights.transfer",
)


def rank_environment(rank, world, port):
    """What torchrun would say."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": str(port),
        "REASONGRM_RUN_KEY": "these ranks",
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_rank(request, rank, port):
    """In a child: become the rank, and never return."""
    code = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= request["env"] | rank_environment(rank, request["world"], port)
        sys.argv = [request["script"], *request["arguments"]]
        run = runpy.run_path if request["script"].endswith(".py") else runpy.run_module
        run(request["script"], run_name="__main__")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(request):
    """The exit codes of all ranks; when one fails the others are ended, as torchrun does."""
    port, ranks = free_port(), []
    for rank in range(request["world"]):
        pid = os.fork()
        if pid == 0:
            run_rank(request, rank, port)
        ranks.append(pid)
    codes = {}
    while len(codes) < len(ranks):
        pid, status = os.wait()
        if pid in ranks:
            codes[pid] = os.waitstatus_to_exitcode(status)
            if codes[pid]:
                for other in set(ranks) - set(codes):
                    os.kill(other, signal.SIGKILL)
    return [codes[pid] for pid in ranks]


def main():
    out = os.dup(1)
    os.dup2(2, 1)  # whatever the libraries print is no answer
    from reasongrm_nemo.megatron.platform import load_platform

    load_platform("cpu")
    for name in MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        os.write(out, (json.dumps(run(json.loads(line))) + "\n").encode())


if __name__ == "__main__":
    main()
