# SPDX-License-Identifier: Apache-2.0
"""Commands in forks of a process that has imported the package, so that hundreds of them take minutes.

On stdin: a JSON line `{script, words, folder, env, log, seconds}` a command; on stdout its exit status, null
where it hung. `script` is "" for `reasongrm`, else a file under the checkout.
"""

import json
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_MEMORY = 6 << 30


def warm(script):
    """Import before the fork what the command will import."""
    import reasongrm_nemo.cli
    import reasongrm_nemo.plan.command
    import reasongrm_nemo.report.score_command
    import reasongrm_nemo.report.summary
    import reasongrm_nemo.run.pipeline
    import reasongrm_nemo.slurm.status
    import reasongrm_nemo.stages.filter
    import reasongrm_nemo.stages.generate
    import reasongrm_nemo.stages.prepare
    from reasongrm_nemo.models.tokenization import load_tokenizer
    from reasongrm_nemo.rollout.server import versions

    versions.installed_versions(os.environ["REASONGRM_ROLLOUT_PYTHON"])  # asked once a process
    load_tokenizer(ROOT / "reasongrm_nemo/assets/tiny_judge")
    if script:
        sys.path.insert(0, str((ROOT / script).parent))
        import reasongrm_nemo.megatron.weights.convert  # noqa: F401


def child(order):
    """The command itself; never returns."""
    handle = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    os.chdir(order["folder"])
    os.environ |= order["env"]
    code = 1
    try:
        sys.argv = ["reasongrm", *order["words"]]
        if order["script"]:
            runpy.run_path(str(ROOT / order["script"]), run_name="__main__")
        else:
            from reasongrm_nemo.cli import main

            main(order["words"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid, seconds):
    """Its status; null where it takes too long, and is killed with all it started."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def main():
    """Until stdin ends."""
    warmed = set()
    for line in sys.stdin:
        order = json.loads(line)
        if order["script"] not in warmed:
            warm(order["script"])
            warmed.add(order["script"])
        pid = os.fork()
        if not pid:
            child(order)
        print(json.dumps(wait(pid, order["seconds"])), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
