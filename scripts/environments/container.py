# SPDX-License-Identifier: Apache-2.0
"""Adapts the environment with the container's versions to a machine without CUDA, once per environment.

NeMo's container has CUDA's libraries (a download of about 2 GB) and the compiled part of Transformer Engine,
which builds only on a GPU machine. Tests on a CPU call neither.
"""

import os
import shutil
import subprocess
from pathlib import Path

from .spec import SetupError

PYTHON = "python3.12"
# Increment if `adapt` changes such that environments built earlier no longer work.
VERSION = 1

# Libraries that the CUDA build of PyTorch 2.6 loads, except libcudart and libcupti: those are installed,
# because they are small and are called during loading.
CUDA_LIBRARIES = (
    "libcublas.so.12",
    "libcublasLt.so.12",
    "libcudnn.so.9",
    "libcufft.so.11",
    "libcurand.so.10",
    "libcusparse.so.12",
    "libcusparseLt.so.0",
    "libnccl.so.2",
)


def find_python() -> str:
    """Find a working Python 3.12: PYTHON312, one on the search path, or one of pyenv's.

    Raises:
        SetupError: there is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    places = [os.environ.get("PYTHON312"), shutil.which(PYTHON), *pyenv.glob(f"versions/3.12.*/bin/{PYTHON}")]
    for place in filter(None, places):
        try:  # a shim can exist without a Python behind it
            subprocess.run([place, "-c", "import venv"], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            continue
        return str(place)
    raise SetupError("no Python 3.12: install python3.12 and python3.12-venv, or set PYTHON312=/path/to/it")


def adapt(site_packages: Path) -> None:
    """Make PyTorch load without CUDA's libraries, and Transformer Engine without its compiled part."""
    if (site_packages / "torch" / "lib" / "libtorch_cuda.so").exists():
        _load_without_cuda(site_packages)
    _patch_transformer_engine(site_packages / "transformer_engine")


def _load_without_cuda(site_packages: Path) -> None:
    """Link CUDA's library names to another library: without a GPU, none of their functions is called.

    PyTorch refers only to functions of these libraries, and with RTLD_LAZY the loader looks up a function
    when it is first called.
    """
    for name in CUDA_LIBRARIES:
        link = site_packages / "torch" / "lib" / name
        link.unlink(missing_ok=True)
        link.symlink_to("libc10.so")
    lazy = f"import sys; sys.setdlopenflags({os.RTLD_LAZY})\n"
    (site_packages / "without_cuda.pth").write_text(lazy, encoding="utf-8")


def _patch_transformer_engine(package: Path) -> None:
    """Let Transformer Engine's Python use tests/te_cpu instead of its compiled part and a GPU."""
    _edit(
        package / "__init__.py", "from importlib import metadata\n", before="import transformer_engine_cpu\n"
    )
    _edit(package / "__init__.py", "__version__ =", before="transformer_engine_cpu.imported()\n")
    # without this, errors in importing it would be ignored
    _edit(
        package / "__init__.py",
        "    from . import pytorch\nexcept (ImportError, StopIteration) as e:\n    pass",
        "    from . import pytorch\nfinally:\n    pass",
    )
    _edit(
        package / "pytorch" / "__init__.py", "\n\n_load_library()\n", "\n\nimport transformer_engine_torch\n"
    )
    for path in (package / "pytorch").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(".is_cuda", ".is_cpu"), encoding="utf-8")


def _edit(path: Path, old: str, new: str | None = None, before: str = "") -> None:
    """Replace `old` with `new`, or insert `before` in front of it; does nothing if that is already done."""
    text = path.read_text(encoding="utf-8")
    new = before + old if new is None else new
    if new in text:
        return
    if text.count(old) != 1:
        raise SetupError(
            f"{path} is not Transformer Engine 2.2's: it must contain {old.strip()!r} exactly once"
        )
    path.write_text(text.replace(old, new), encoding="utf-8")
