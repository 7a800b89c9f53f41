# SPDX-License-Identifier: Apache-2.0
"""What the container's versions need on a machine without CUDA, done once to their shared environment.

NeMo's container brings CUDA's libraries (some 2 GB to fetch) and Transformer Engine's compiled
part, which builds on a GPU only. Tests on a CPU call neither.
"""

import os
import shutil
import subprocess
from pathlib import Path

from .spec import SetupError

PYTHON = "python3.12"
# Raise when `adapt` changes so that an environment built before would not do.
VERSION = 1

# What the CUDA build of PyTorch 2.6 asks the loader for. libcudart and libcupti are the real ones: small, and
# called when the libraries are loaded.
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
    """A Python 3.12 that runs: PYTHON312, the search path's, or one of pyenv's.

    Raises:
        SetupError: there is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    places = [os.environ.get("PYTHON312"), shutil.which(PYTHON), *pyenv.glob(f"versions/3.12.*/bin/{PYTHON}")]
    for place in filter(None, places):
        try:  # a shim can be found and still not run
            subprocess.run([place, "-c", "import venv"], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            continue
        return str(place)
    raise SetupError("no Python 3.12: install python3.12 and python3.12-venv, or say PYTHON312=/path/to/it")


def adapt(site_packages: Path) -> None:
    """Make PyTorch load without CUDA's libraries, and Transformer Engine without its compiled part."""
    if (site_packages / "torch" / "lib" / "libtorch_cuda.so").exists():
        _load_without_cuda(site_packages)
    _patch_transformer_engine(site_packages / "transformer_engine")


def _load_without_cuda(site_packages: Path) -> None:
    """Let any library stand under the names of CUDA's: none of their functions is called without a GPU.

    PyTorch refers to them by functions alone, which the loader looks up at the first call if it is told to.
    """
    for name in CUDA_LIBRARIES:
        link = site_packages / "torch" / "lib" / name
        link.unlink(missing_ok=True)
        link.symlink_to("libc10.so")
    lazy = f"import sys; sys.setdlopenflags({os.RTLD_LAZY})\n"
    (site_packages / "without_cuda.pth").write_text(lazy, encoding="utf-8")


def _patch_transformer_engine(package: Path) -> None:
    """Its Python with tests/te_cpu in the place of the compiled part and of the GPU."""
    _edit(
        package / "__init__.py", "from importlib import metadata\n", before="import transformer_engine_cpu\n"
    )
    _edit(package / "__init__.py", "__version__ =", before="transformer_engine_cpu.imported()\n")
    # a fault in it would go unseen
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
    """Replace `old`, or put `before` before it; done already: nothing."""
    text = path.read_text(encoding="utf-8")
    new = before + old if new is None else new
    if new in text:
        return
    if text.count(old) != 1:
        raise SetupError(f"{path} is not Transformer Engine 2.2's: {old.strip()!r} is not there once")
    path.write_text(text.replace(old, new), encoding="utf-8")
