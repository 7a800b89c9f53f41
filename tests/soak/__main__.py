# SPDX-License-Identifier: Apache-2.0
"""Many GRPO steps of the tiny judge with a server killed again and again: does anything grow? (`make soak`)

The run is `reasongrm run recipes/tiny/1_grpo_zero.yaml` in a small size. Every few steps a line of
samples.jsonl records what its processes hold (see `processes`); at the end least-squares slopes per 1,000
steps are printed with 95 % intervals (see `slopes`), and the exit status is 1 if one is a leak. After an
interruption, the same command resumes.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from soak.processes import Watched
from soak.slopes import verdicts

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "recipes/tiny/1_grpo_zero.yaml"
NAME = "1_grpo_zero"
SMALL = ["grpo.prompts_per_step=2", "grpo.samples_per_prompt=4", "rollout.max_response_tokens=48"]
SMALL += ["grpo.max_tasks=null", "rollout.kv_cache_gib=0.01", "cluster.threads_per_rank=1"]
# oneDNN caches a kernel for each of the last 1,024 shapes: 140 MiB over the first 450 steps, at a falling
# rate, which would hide a leak. With 8, only vLLM's cache grows, of kernels for 32 batch sizes per weight; it
# is full after about 75 steps, hence the warm-up and a last life without a kill.
SMALL += ["rollout.extra_env={ONEDNN_PRIMITIVE_CACHE_CAPACITY: '8'}"]
# the tiny judge would drift away in a thousand steps at the recipe's learning rate
SMALL += ["grpo.optim.lr=1e-5", "rollout.start_timeout_s=600", "rollout.stall_timeout_s=120"]


def arguments():
    """The parsed command line."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "soak", help="the run and its samples")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kill-every", type=int, default=100, help="steps between SIGKILLs of the server")
    parser.add_argument("--last-kill", type=int, default=1000, help="no kill after this step")
    parser.add_argument("--sample-every", type=int, default=5, help="steps between two samples")
    parser.add_argument("--warm-up", type=int, default=75, help="steps of a process's life that do not count")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--report", action="store_true", help="print the table of the samples so far")
    return parser.parse_args()


def command(args, runs):
    """The run's command, in a mount namespace with a private /dev/shm if this user may create one."""
    prepared = runs / "0_prepare" / "tasks.jsonl"
    words = [sys.executable, "-m", "reasongrm_nemo", "run", str(ROOT / RECIPE), f"runs_dir={runs}", *SMALL]
    words += [
        f"inputs.tasks={prepared}",
        f"grpo.steps={args.steps}",
        f"grpo.save_every={max(1, args.kill_every // 2)}",
    ]
    alone = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs shm /dev/shm && exec "$@"', "sh"]
    allowed = (
        shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    )
    return [*alone, *words] if allowed else words


def environment(work):
    """An environment that puts temporary files and caches where they can be counted."""
    folders = {"TMPDIR": work / "tmp", "XDG_CACHE_HOME": work / "cache"}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return os.environ | {"PYTHONPATH": str(ROOT)} | {name: str(path) for name, path in folders.items()}


def prepare(runs, env):
    """Make 200 judge tasks."""
    words = [sys.executable, "-m", "reasongrm_nemo", "run", str(ROOT / "recipes/tiny/0_prepare.yaml")]
    words += [f"runs_dir={runs}", "prepare.tiny_judge={train: 200, validation: 10}"]
    subprocess.run(words, env=env, check=True, stdout=subprocess.DEVNULL)


def steps_done(runs):
    """The last step in the run's metrics."""
    for folder in (runs / NAME, runs / ".partial" / NAME):
        file = folder / "metrics.jsonl"
        if file.exists() and (lines := file.read_bytes().splitlines(keepends=True)):
            whole = [line for line in lines[-2:] if line.endswith(b"\n")]
            return json.loads(whole[-1])["step"] if whole else 0
    return 0


def follow(args, run, runs, log):
    """Sample and kill until the run ends."""
    watched = Watched(run.pid, runs, NAME, args.work)
    said = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    killed = {row["kill"] for row in said if "kill" in row}
    sampled = steps_done(runs)
    with log.open("a") as out:
        while run.poll() is None:
            step = steps_done(runs)
            due = step // args.kill_every * args.kill_every
            last = min(args.last_kill, args.steps - 1)
            if due and due not in killed and due <= last and step < due + args.kill_every:
                killed.add(due)
                print(json.dumps({"kill": due, "pid": watched.kill_server(), "time": time.time()}), file=out)
            if step >= sampled + args.sample_every and (row := watched.sample(step)):
                sampled = step
                print(json.dumps(row), file=out, flush=True)
                print(f"\rstep {step}/{args.steps}, {len(killed)} kills", end="", file=sys.stderr, flush=True)
            time.sleep(0.1)
    print(file=sys.stderr)


def soak(args):
    """Run to the end; returns the run's exit status."""
    runs, log = args.work / "runs", args.work / "samples.jsonl"
    env = environment(args.work)
    if not (runs / "0_prepare").exists():
        prepare(runs, env)
    with (args.work / "run.log").open("ab") as out:
        run = subprocess.Popen(command(args, runs), env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        follow(args, run, runs, log)
    finally:
        if run.poll() is None:
            run.send_signal(signal.SIGTERM)
            run.wait()
    if run.returncode:
        print(f"the run ended with status {run.returncode}; its words are in {args.work / 'run.log'}")
    return run.returncode


def main():
    """The command."""
    args = arguments()
    args.work = args.work.absolute()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    try:
        failed = 0 if args.report else soak(args)
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
    rows = [json.loads(line) for line in (args.work / "samples.jsonl").read_text().splitlines()]
    summary = verdicts([row for row in rows if "roles" in row], args.warm_up, args.kill_every)
    summary["kills"], summary["steps"] = sum("kill" in row for row in rows), steps_done(args.work / "runs")
    (args.work / "slopes.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1) if args.json else summary["table"])
    sys.exit(1 if failed or summary["leaks"] else 0)


if __name__ == "__main__":
    main()
