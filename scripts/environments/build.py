# SPDX-License-Identifier: Apache-2.0
"""Build one shared environment: resumable, and safe against a second set-up at the same time."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from .spec import SetupError, Spec

# pip is started through this: it dies with the set-up (prctl 1 is PR_SET_PDEATHSIG), even after kill -9.
DIE_WITH_PARENT = (
    "import ctypes, os, runpy, sys; ctypes.CDLL(None).prctl(1, 9); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(9); "
    "sys.argv = ['pip', *sys.argv[2:]]; runpy.run_module('pip', run_name='__main__')"
)
# Settings of the user's that would send packages somewhere else; the rest of PIP_* is theirs.
UNWANTED = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV", "PYTHONPATH", "PYTHONHOME")
NO_NETWORK = re.compile(r"NewConnectionError|NameResolutionError|name resolution|ConnectTimeout|Network is unreachable")


class Builder:
    """Builds `spec`; `progress` is what the set-up prints meanwhile."""

    def __init__(self, spec: Spec):
        self.spec = spec
        self.path = spec.path
        self.log_path = self.path.with_name(self.path.name + ".log")
        self.progress = "waiting"
        self.error: SetupError | None = None
        self._lock: IO[str] | None = None

    def run(self) -> None:
        """Build, keeping an error for whoever joins; meant as a thread's target."""
        try:
            with self._locked():
                if not self.spec.marker.exists():  # another set-up may have finished it while this one waited
                    self._build()
            self.progress = "ready"
        except SetupError as error:
            self.progress, self.error = "failed", error
        except OSError as error:
            self.progress = "failed"
            self.error = SetupError(
                f"the {self.spec.name} environment could not be written ({error}): see to it, "
                "then run the same command again."
            )

    def _locked(self) -> IO[str]:
        """Hold the environment's lock file for as long as the returned file is open."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path.with_name(self.path.name + ".lock"), "a")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.progress = "another set-up is building it"
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
        # The few source distributions are built against this setuptools rather than one downloaded for each.
        self._pip(temporary, "--no-deps", f"setuptools=={spec.pins['setuptools']}")
        self._pip(temporary, "--no-deps", "--no-build-isolation", "-r", str(lock))
        self._pip(temporary, "-c", str(lock), *(f"{name}=={spec.pins[name]}" for name in spec.resolved))
        self._verify()
        shutil.rmtree(temporary, ignore_errors=True)

        written = spec.marker.with_suffix(".new")
        with open(written, "w") as file:
            json.dump({"name": spec.name, "python": sys.version, "built": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
            file.flush()
            os.fsync(file.fileno())
        written.rename(spec.marker)

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.path / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        """Where its packages go."""
        return self.path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def _make_venv(self) -> None:
        if self.python.exists() and (self.site_packages / "pip").is_dir() and self._call("-m", "pip", "--version") == 0:
            return
        self.progress = "creating"
        shutil.rmtree(self.path, ignore_errors=True)
        with open(self.log_path, "a") as log:
            status = subprocess.call([sys.executable, "-m", "venv", str(self.path)], stdout=log, stderr=log)
        if status:
            raise self._failure("python -m venv")

    def _drop_half_installed(self) -> None:
        """Forget packages whose installation was cut short, so that pip installs them again.

        pip writes RECORD last; a package without it has some of its files at most.
        """
        for info in self.site_packages.glob("*.dist-info"):
            if not (info / "RECORD").exists():
                shutil.rmtree(info)
        for leftover in self.site_packages.glob("~*"):  # a package being replaced, renamed by pip meanwhile
            shutil.rmtree(leftover, ignore_errors=True)

    def _pip(self, temporary: Path, *arguments: str) -> None:
        """Run `pip install`, its output to the log, its state into `progress`."""
        # Byte code is written when a module is first imported: most of these 5 GB never are.
        command = [str(self.python), "-c", DIE_WITH_PARENT, str(os.getpid()), "install", "--no-compile"]
        environment = {key: value for key, value in os.environ.items() if key not in UNWANTED}
        environment |= {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_NO_COLOR": "1",
            "PIP_PROGRESS_BAR": "off",
            "TMPDIR": str(temporary),  # /tmp may be a small memory disk
        }
        assert self._lock is not None
        with open(self.log_path, "a") as log:
            process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment,
                # pip holds the lock too: should it outlive the set-up, the next one waits for it.
                pass_fds=(self._lock.fileno(),),
            )
            assert process.stdout is not None
            fetched, total = 0, len(self.spec.pins)
            for line in process.stdout:
                log.write(line)
                log.flush()
                if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                    fetched += 1
                    self.progress = f"fetched {min(fetched, total)} of {total} packages"
                elif line.startswith("Installing collected packages"):
                    self.progress = "installing"
        if process.wait():
            raise self._failure("pip install")

    def installed(self) -> int:
        """How many packages are wholly in place."""
        return sum(1 for _ in self.site_packages.glob("*.dist-info/RECORD"))

    def _verify(self) -> None:
        """Compare what is installed with the pins, and import the heaviest of it."""
        self.progress = "checking"
        check = (
            "import importlib.metadata as m, json, sys\n"
            "pins = json.loads(sys.argv[1])\n"
            "have = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
            "for name, version in pins.items():\n"
            "    found = have.get(name.lower().replace('_', '-').replace('.', '-'))\n"
            "    found = found or have.get(name.lower().replace('_', '-'))\n"
            "    if not found or found.partition('+')[0] != version:\n"
            "        sys.exit(f'ERROR: {name} is {found} where {version} is pinned')\n"
        )
        if self._call("-c", check, json.dumps(self.spec.pins)):
            raise self._failure("comparing the packages with the lock file")
        if self._call("-c", self.spec.probe):
            raise self._failure(f"`{self.spec.probe}`")

    def _call(self, *arguments: str) -> int:
        environment = {key: value for key, value in os.environ.items() if key not in UNWANTED}
        with open(self.log_path, "a") as log:
            return subprocess.call(
                [str(self.python), *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def _failure(self, step: str) -> SetupError:
        """The sentence for a failed step, with the decisive line of the log."""
        text = self.log_path.read_text(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:") or "Error: " in line]
        reason = (errors or lines or ["no output"])[-1].removeprefix("ERROR: ").rstrip(".")
        if "No space left" in text:
            reason, advice = "the disk is full", "make room (REASONGRM_ENVS moves the environments elsewhere)"
        elif NO_NETWORK.search(text):
            reason, advice = "the package index cannot be reached", "see to the network or to pip's index settings"
        else:
            advice = "see the log"
        return SetupError(
            f"{step} failed for the {self.spec.name} environment ({reason}): {advice}, then run the same command "
            f"again, it continues where it stopped; log: {self.log_path}"
        )
