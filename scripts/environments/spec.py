# SPDX-License-Identifier: Apache-2.0
"""What an environment consists of, and where it stands."""

import hashlib
import os
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
NAMES = ("trainer", "rollout")

# Raise when the way of building changes so that an environment built before would not do.
BUILD_VERSION = 1


class SetupError(Exception):
    """One sentence: what failed, where the details are, what to do."""


def envs_root() -> Path:
    """The folder of the shared environments."""
    return Path(os.environ.get("REASONGRM_ENVS") or "~/.cache/reasongrm/envs").expanduser().absolute()


def accelerator() -> str:
    """`cpu` or `gpu`, as asked for by REASONGRM_ACCELERATOR."""
    value = os.environ.get("REASONGRM_ACCELERATOR") or "cpu"
    if value not in ("cpu", "gpu"):
        raise SetupError(f"REASONGRM_ACCELERATOR is {value!r}: say cpu or gpu")
    return value


@dataclass(frozen=True)
class Spec:
    """One environment.

    Attributes:
        name: `trainer` or `rollout`.
        pins: distribution name to version, in the order of the lock files.
        compiled: packages to byte-compile; of the others, `probe` compiles what it imports.
        probe: a statement that must run in the finished environment.
    """

    name: str
    pins: dict[str, str]
    compiled: tuple[str, ...]
    probe: str

    @property
    def digest(self) -> str:
        """Hash of everything that decides the content, 12 hexadecimal digits."""
        parts = [str(BUILD_VERSION), platform.python_version(), sysconfig.get_platform(), accelerator()]
        parts += [f"{name}=={version}" for name, version in self.pins.items()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    @property
    def path(self) -> Path:
        """The shared environment's folder."""
        return envs_root() / f"{self.name}-{self.digest}"

    @property
    def marker(self) -> Path:
        """Written last; an environment without it is unfinished."""
        return self.path / "reasongrm-complete.json"


def read_lock(name: str) -> dict[str, str]:
    """Read requirements/<name>.lock: lines `distribution==version`, comments and blanks aside.

    Raises:
        SetupError: on a line that pins nothing.
    """
    pins: dict[str, str] = {}
    path = CHECKOUT / "requirements" / f"{name}.lock"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        distribution, separator, version = line.partition("==")
        if not separator or not version:
            raise SetupError(f"{path}:{number}: {line!r} is no exact pin; write distribution==version")
        pins[distribution] = version
    return pins


def load_spec(name: str) -> Spec:
    """The environment `name` for this machine's accelerator."""
    if name == "trainer":
        pins = read_lock("trainer") | read_lock("dev")
        compiled = ("lightning", "megatron", "nemo", "nemo_aligner", "torch", "transformers")
        return Spec(name, pins, compiled, "import torch, megatron.core, nemo, nemo_aligner")
    pins = read_lock("rollout") | read_lock(f"rollout-{accelerator()}")
    compiled = ("torch", "transformers", "vllm")
    return Spec(name, pins, compiled, "import torch, vllm.entrypoints.openai.api_server")
