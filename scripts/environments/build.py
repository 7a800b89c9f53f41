# SPDX-License-Identifier: Apache-2.0
"""Build a shared environment; resumable, and safe if two set-ups run at the same time."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import IO

from .spec import SetupError, Spec

# Runs a module that dies with the set-up (prctl 1 is PR_SET_PDEATHSIG), even after kill -9.
RUN_MODULE = (
    "import ctypes, os, runpy, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(9); "
    "sys.argv = sys.argv[2:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)
# User settings that would install packages elsewhere or suppress byte code.
UNWANTED = {
    "PIP_NO_DEPS",
    "PIP_PREFIX",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_ROOT",
    "PIP_TARGET",
    "PIP_USER",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONPYCACHEPREFIX",
}
# Never imported here, and slow to byte-compile.
NOT_COMPILED = (
    r"/tests?/|/torch/testing/|/transformers/models/(?!auto/|llama/|qwen2/)|/nemo/collections/(?!nlp)"
)
NO_NETWORK = re.compile(r"NewConnection|NameResolution|name resolution|ConnectTimeout|Network is unreachable")

# Run inside the environment; prints a line for each package that differs from its pin.
COMPARE = """
import importlib.metadata, json, re, sys
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
installed = {plain(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
wrong = [f"ERROR: {name} is {installed.get(plain(name))}, but {version} is pinned"
         for name, version in json.loads(sys.argv[1]).items()
         if installed.get(plain(name), "").partition("+")[0] != version]
sys.exit("\\n".join(wrong) or 0)
"""


class Builder:
    """Builds the environment of a `Spec`.

    Attributes:
        progress: the current phase, for progress lines.
        error: why the build failed; None if it did not.
    """

    def __init__(self, spec: Spec):
        self.spec = spec
        self.path = spec.path
        self.log_path = self.path.with_name(self.path.name + ".log")
        self.progress = "waiting"
        self.error: SetupError | None = None
        self._lock: IO[str] | None = None

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.path / "bin" / "python"

    def run(self) -> None:
        """Build, and keep an error in `error`; the target of a thread."""
        try:
            with self._locked():
                if not self.spec.marker.exists():  # not finished by another set-up meanwhile
                    self._build()
            self.progress = "ready"
        except SetupError as error:
            self.progress, self.error = "failed", error
        except OSError as error:
            self.progress = "failed"
            self.error = SetupError(
                f"the {self.spec.name} environment could not be written ({error}): fix this and run "
                "the same command again; it continues where it stopped"
            )

    def installed(self) -> int:
        """The number of completely installed packages."""
        count = sum(1 for _ in self.spec.site_packages.glob("*.dist-info/RECORD"))
        return max(0, count - 1)  # pip is there from the start and is not pinned

    def _locked(self) -> IO[str]:
        """Lock the environment until the returned file is closed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path.with_name(self.path.name + ".lock"), "a")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.progress = "waiting for another set-up that is building it"
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self._lock

    def _build(self) -> None:
        spec = self.spec
        self.log_path.write_text(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {spec.name} into {self.path}\n")
        temporary = self.path.with_name(self.path.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        lock = temporary / "pins.txt"
        lock.write_text("".join(f"{name}=={version}\n" for name, version in spec.pins.items()))

        self._make_venv()
        self._drop_half_installed()
        # Build source distributions against these packages instead of downloading others for each.
        builders = [f"{name}=={spec.pins[name]}" for name in ("setuptools", "pybind11") if name in spec.pins]
        self._pip(temporary, "--no-deps", *builders)
        self._pip(temporary, "--no-deps", "--no-build-isolation", "-r", str(lock))
        if spec.adapt:
            spec.adapt(spec.site_packages)
        elif not next(spec.site_packages.glob("torch-*+cpu.dist-info"), None):
            # A CUDA build requires nvidia-* packages, in versions that it specifies.
            self._pip(temporary, "-c", str(lock), f"torch=={spec.pins['torch']}")

        self.progress = "compiling"
        # Compile now: with PYTHONDONTWRITEBYTECODE set, imports would compile the same files every time.
        folders = [str(spec.site_packages / package) for package in spec.compiled]
        if folders:
            self._module("compileall", "-qq", "-x", NOT_COMPILED, *folders)
        self.progress = "checking"
        if self._call("-c", COMPARE, json.dumps(spec.pins)):
            raise self._failure("comparing the packages with the lock file")
        if self._call("-W", "ignore", "-c", spec.probe):
            raise self._failure(f"`{spec.probe}`")

        shutil.rmtree(temporary, ignore_errors=True)
        written = spec.marker.with_suffix(".new")
        with open(written, "w") as file:
            json.dump({"python": self.spec.python_version, "built": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
            file.flush()
            os.fsync(file.fileno())
        written.rename(spec.marker)

    def _make_venv(self) -> None:
        if self.python.exists() and self._call("-m", "pip", "--version") == 0:
            return
        self.progress = "creating"
        shutil.rmtree(self.path, ignore_errors=True)
        with open(self.log_path, "a") as log:
            status = subprocess.call(
                [self.spec.interpreter, "-m", "venv", str(self.path)], stdout=log, stderr=log
            )
        if status:
            raise self._failure("python -m venv")

    def _drop_half_installed(self) -> None:
        """Remove the metadata of partly installed packages, so that pip installs them again.

        pip writes RECORD last, so a package without it may lack files.
        """
        for info in self.spec.site_packages.glob("*.dist-info"):
            if not (info / "RECORD").exists():
                shutil.rmtree(info)
        for leftover in self.spec.site_packages.glob("~*"):  # pip renames a package while replacing it
            shutil.rmtree(leftover, ignore_errors=True)

    def _pip(self, temporary: Path, *arguments: str) -> None:
        """Run `pip install`; writes its output to the log and updates `progress`."""
        settings = {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_PROGRESS_BAR": "off",
            "TMPDIR": str(temporary),  # /tmp may be a small memory disk
        }
        fetched, total = 0, len(self.spec.pins)
        self.progress = "fetching"
        process = self._start("pip", "install", "--no-compile", *arguments, settings=settings)
        assert process.stdout is not None
        with open(self.log_path, "a") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                    fetched += 1
                    self.progress = f"fetching, {fetched} of {total} packages"
                elif line.startswith("Installing collected packages"):
                    self.progress = "installing"
        if process.wait():
            raise self._failure("pip install")

    def _module(self, *arguments: str) -> None:
        """Run `python -m`; ignores its exit status."""
        process = self._start(*arguments)
        with open(self.log_path, "a") as log:
            log.write(process.communicate()[0])

    def _start(self, *arguments: str, settings: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start `python -m <arguments>` in the environment."""
        assert self._lock is not None
        return subprocess.Popen(
            [str(self.python), "-c", RUN_MODULE, str(os.getpid()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self._environment() | (settings or {}),
            # The process holds the lock too, so if it outlives this set-up, the next one waits.
            pass_fds=(self._lock.fileno(),),
        )

    def _call(self, *arguments: str) -> int:
        """Run the environment's Python with output to the log; returns the exit status."""
        with open(self.log_path, "a") as log:
            command = [str(self.python), *arguments]
            return subprocess.call(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment()
            )

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in UNWANTED}
        # building a source distribution runs `python3`
        return kept | {"PATH": f"{self.python.parent}{os.pathsep}{kept.get('PATH', os.defpath)}"}

    def _failure(self, step: str) -> SetupError:
        """The error for a failed step, with the relevant line of the log."""
        text = self.log_path.read_text(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:") or "Error: " in line]
        reason = (errors or lines or ["no output"])[-1].removeprefix("ERROR: ").rstrip(".")
        advice = "see the log"
        if "No space left" in text:
            reason, advice = (
                "the disk is full",
                "make room, or set REASONGRM_ENVS to a folder on another disk",
            )
        elif NO_NETWORK.search(text):
            reason = "the package index cannot be reached"
            advice = "see to the network or pip's index settings"
        return SetupError(
            f"{step} failed for the {self.spec.name} environment ({reason}): {advice}, then run the same "
            f"command again (it continues where it stopped); log: {self.log_path}"
        )
