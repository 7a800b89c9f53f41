# SPDX-License-Identifier: Apache-2.0
"""The set-up command: check the machine, build what is missing, tie the checkout, report."""

import argparse
import contextlib
import fcntl
import importlib.util
import shutil
import sys
import threading
import time

from . import checkout
from .build import Builder
from .spec import CHECKOUT, CONTAINER, NAMES, SetupError, Spec, accelerator, envs_root, load_spec

# The finished environments and what pip unpacks on the way, in GiB (CPU: measured; CUDA: arithmetic).
DISK_GIB = {"cpu": 8, "gpu": 25}
CONTAINER_GIB = 5
PROGRESS_EVERY_S = 10.0


def check_machine(needed: int) -> None:
    """Everything that would stop the set-up half-way, asked before it starts.

    Args:
        needed: free GiB.

    Raises:
        SetupError: with what is missing.
    """
    if not sys.platform.startswith("linux"):
        raise SetupError("only Linux is supported (vLLM, NeMo): use a Linux machine, a container or WSL")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError("this Python has no venv module: install python3.11-venv (Debian, Ubuntu)")
    if accelerator() == "gpu" and not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        raise SetupError("no C compiler: install gcc (Triton compiles its launchers with it)")
    root = envs_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / ".writable").touch()
        (root / ".writable").unlink()
    except OSError as error:
        raise SetupError(
            f"{root} cannot be written ({error}): set REASONGRM_ENVS to a folder that can"
        ) from None
    free = shutil.disk_usage(root).free / 2**30
    if free < needed:
        raise SetupError(
            f"{root} has {free:.1f} GiB free and the environments need {needed}: make room, or set "
            "REASONGRM_ENVS to a folder on another disk"
        )


def build(specs: list[Spec]) -> None:
    """Build the unfinished ones side by side, with a line now and then.

    Side by side is faster on two cores too: while one waits for the network the other unpacks.

    Raises:
        SetupError: the first failure, after the other builds have ended.
    """
    builders = [Builder(spec) for spec in specs]
    threads = [threading.Thread(target=builder.run, daemon=True) for builder in builders]
    names = " and ".join(spec.name for spec in specs)
    print(
        f"Building the {names} environment{'s' * (len(specs) > 1)} in {envs_root()} (once, some minutes)",
        flush=True,
    )
    started = printed = time.monotonic()
    for thread in threads:
        thread.start()
    said: dict[str, str] = {}
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.2)
        now = time.monotonic()
        phases = {builder.spec.name: builder.progress.partition(",")[0] for builder in builders}
        if now - printed >= PROGRESS_EVERY_S or phases != said:
            said, printed = phases, now
            print(
                f"  {now - started:4.0f} s  " + "; ".join(_describe(builder) for builder in builders),
                flush=True,
            )
    for builder in builders:
        if builder.error:
            raise builder.error
    print(f"  {time.monotonic() - started:4.0f} s  done", flush=True)


def _describe(builder: Builder) -> str:
    text = builder.progress
    if text == "installing":
        text = f"installing, {builder.installed()} of {len(builder.spec.pins)} packages"
    return f"{builder.spec.name}: {text}"


def prune(specs: list[Spec]) -> None:
    """Remove the shared environments that no lock file of this checkout names, unless one is being built."""
    wanted = {spec.path.name for spec in specs}
    for lock in sorted(envs_root().glob("*.lock")):
        if lock.stem in wanted or not lock.stem.startswith((*NAMES, CONTAINER)):
            continue
        with open(lock) as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"kept {lock.with_suffix('')}: a set-up is building it")
                continue
            print(f"removing {lock.with_suffix('')}")
            for suffix in ("", ".tmp"):
                shutil.rmtree(lock.with_suffix(suffix), ignore_errors=True)
            for suffix in (".log", ".lock"):
                lock.with_suffix(suffix).unlink(missing_ok=True)


def set_up_container() -> None:
    """Build the container's environment if it is missing, and tie it to this checkout.

    Raises:
        SetupError: as `build`, or there is no Python 3.12.
    """
    spec = load_spec(CONTAINER)
    if not spec.marker.exists():
        check_machine(CONTAINER_GIB)
        build([spec])
    checkout.tie_alone(spec)


def _known_specs() -> list[Spec]:
    specs = [load_spec(name) for name in NAMES]
    with contextlib.suppress(SetupError):  # without its Python, none of it is in use
        specs.append(load_spec(CONTAINER))
    return specs


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="setup_env.py", description="Build the environments of this project."
    )
    parser.add_argument(
        "--prune", action="store_true", help="remove environments of other lock files, then stop"
    )
    parser.add_argument(
        "--container", action="store_true", help="build the environment with the versions of NeMo's container"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing when there is nothing to do")
    arguments = parser.parse_args()
    try:
        if arguments.prune:
            prune(_known_specs())
            return 0
        if arguments.container:
            set_up_container()
            return 0
        specs = [load_spec(name) for name in NAMES]
        missing = [spec for spec in specs if not spec.marker.exists()]
        if missing:
            check_machine(DISK_GIB[accelerator()])
            build(missing)
        if missing or not checkout.is_current(specs):
            checkout.tie(specs)
            print(
                f"Ready: {CHECKOUT / '.envs' / 'bin' / 'reasongrm'} (or `. .envs/env.sh`, then `reasongrm`)"
            )
        elif not arguments.quiet:
            print("Environments are ready.")
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("set-up: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    return 0
