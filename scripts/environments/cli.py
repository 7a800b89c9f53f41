# SPDX-License-Identifier: Apache-2.0
"""The set-up command: checks the machine, builds what is missing, links the checkout."""

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

# GiB of the finished environments and of what pip unpacks meanwhile (CPU: measured; CUDA: calculated).
DISK_GIB = {"cpu": 8, "gpu": 25}
CONTAINER_GIB = 5
PROGRESS_EVERY_S = 10.0


def check_machine(needed: int) -> None:
    """Check everything that would stop the set-up half-way.

    Args:
        needed: required disk space in GiB.

    Raises:
        SetupError: names what is missing.
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
            f"{root} cannot be written ({error}): set REASONGRM_ENVS to a writable folder"
        ) from None
    free = shutil.disk_usage(root).free / 2**30
    if free < needed:
        raise SetupError(
            f"{root} has {free:.1f} GiB free and the environments need {needed}: make room, or set "
            "REASONGRM_ENVS to a folder on another disk"
        )


def build(specs: list[Spec]) -> None:
    """Build unfinished environments in parallel and print their progress.

    Parallel builds are faster even on two cores: while one waits for the network, the other unpacks.

    Raises:
        SetupError: the first failure, after all builds have ended.
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
    """Remove shared environments that this checkout's lock files do not use, unless they are being built."""
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
    """Build the container's environment if it is missing, and link this checkout to it.

    Raises:
        SetupError: the build failed, or there is no Python 3.12.
    """
    spec = load_spec(CONTAINER)
    if not spec.marker.exists():
        check_machine(CONTAINER_GIB)
        build([spec])
    checkout.tie_alone(spec)


def _known_specs() -> list[Spec]:
    specs = [load_spec(name) for name in NAMES]
    with contextlib.suppress(SetupError):  # without Python 3.12, the container's environment is not in use
        specs.append(load_spec(CONTAINER))
    return specs


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="setup_env.py", description="Build the environments of this project."
    )
    parser.add_argument(
        "--prune", action="store_true", help="remove environments of other lock files, and build nothing"
    )
    parser.add_argument(
        "--container", action="store_true", help="build the environment with the versions of NeMo's container"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing if there is nothing to do")
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
        print("set-up: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    return 0
