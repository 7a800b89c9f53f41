# SPDX-License-Identifier: Apache-2.0
"""Where processes meet before they form a group, and how they know that an object is one of theirs.

torch's TCPStore listens on every interface and asks nobody who they are, and whoever reaches a store or a
gloo socket may pass for a rank. So processes of one machine meet in a file that only their user can open;
those of several nodes meet in a TCPStore on one address; and everywhere an object is unpickled only if it
carries the run's signature. A store itself holds addresses and counters, which nobody unpickles.
"""

from __future__ import annotations

import atexit
import hmac
import io
import os
import pickle
import secrets
import shutil
import socket
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import scratch
from reasongrm_nemo.processes.placement import RUN_KEY

MEETING = "REASONGRM_MEETING"
"""Of a rank: the file in which the ranks of this machine meet; not set: rank 0 listens at MASTER_ADDR."""
_SIGNATURE_BYTES = 32


class PrivateFile:
    """A file's path in a new folder that only this user can enter; gone with this object."""

    def __init__(self) -> None:
        folder, handle = scratch.new_folder(scratch.MEETING)
        self.path = folder / "store"
        self._cleanup = weakref.finalize(self, _remove, folder, handle)

    def close(self) -> None:
        """Remove the file and its folder."""
        self._cleanup()


def _remove(folder: Path, handle: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(handle)


def listen(address: str, port: int, world_size: int, timeout_s: float) -> Any:
    """A TCPStore that listens on one address alone.

    Args:
        address: IPv4, as the others reach it.
        port: 0: any free one, which the store's `port` tells.
        world_size: who meets.
        timeout_s: longest wait in it.

    Raises:
        OSError: the address is not this machine's, or the port is taken.
    """
    with socket.socket() as waiting:
        waiting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        waiting.bind((address, port))
        waiting.listen(socket.SOMAXCONN)
        port = waiting.getsockname()[1]
        return _tcp(address, port, world_size, timeout_s, is_master=True, master_listen_fd=waiting.detach())


def connect(address: str, port: int, world_size: int, timeout_s: float) -> Any:
    """The store that another process opened by `listen`."""
    return _tcp(address, port, world_size, timeout_s, is_master=False)


def join(file: str | None, address: str, port: int, world_size: int, timeout_s: float) -> Any:
    """The store that another process opened in a file or, where none is named, at a port."""
    return in_file(file, world_size, timeout_s) if file else connect(address, port, world_size, timeout_s)


def _tcp(address: str, port: int, world_size: int, timeout_s: float, **how: Any) -> Any:
    import torch.distributed as dist

    timeout = timedelta(seconds=timeout_s)
    return dist.TCPStore(address, port, world_size, timeout=timeout, wait_for_workers=False, **how)


def in_file(path: Path | str, world_size: int, timeout_s: float) -> Any:
    """The store of all processes that name this file."""
    import torch.distributed as dist

    store = dist.FileStore(str(path), world_size)
    store.set_timeout(timedelta(seconds=timeout_s))
    return store


def init_ranks(backend: str, timeout_s: float = 1800.0) -> None:
    """Form torch's default group, as `init_process_group` does; done before: nothing is done.

    RANK, WORLD_SIZE and the run's key come from the environment, and either MEETING or MASTER_ADDR and
    MASTER_PORT.

    Raises:
        UserError: the ranks were given no key.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    key = os.environ.get(RUN_KEY) or (secrets.token_hex() if world == 1 else None)
    if key is None:
        raise UserError(
            f"{RUN_KEY} is not set: start ranks by `reasongrm run`, or give all the same random one"
        )
    sign_objects(key)
    if file := os.environ.get(MEETING):
        store = in_file(file, world, timeout_s)
    else:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        meet = listen if rank == 0 else connect
        store = meet(address, port, world, timeout_s)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s)
    )
    if backend == "nccl":
        atexit.register(_leave)  # as Lightning does, which finds the group formed


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def sign_objects(key: str) -> None:
    """Let this process's collectives of objects sign what they send, and unpickle nothing unsigned.

    Gloo and NCCL do not know who is at the other end of a connection. The rest of what they carry is numbers.

    Args:
        key: a secret of the run's processes.

    Raises:
        RuntimeError: this torch pickles objects by other means.
    """
    from torch.distributed import distributed_c10d as c10d

    if not (hasattr(c10d, "_pickler") and hasattr(c10d, "_unpickler")):
        raise RuntimeError("torch.distributed no longer pickles by _pickler and _unpickler: sign what does")
    secret = key.encode()

    class Signed:
        """Stands for Pickler and Unpickler at once: each is made of a file, and used once."""

        def __init__(self, file: io.BytesIO) -> None:
            self._file = file

        def dump(self, value: Any) -> None:
            data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
            self._file.write(hmac.digest(secret, data, "sha256") + data)

        def load(self) -> Any:
            signature, data = self._file.read(_SIGNATURE_BYTES), self._file.read()
            if not hmac.compare_digest(signature, hmac.digest(secret, data, "sha256")):
                raise RuntimeError("an object from another rank is not signed with the run's key: not read")
            return pickle.loads(data)

    c10d._pickler = c10d._unpickler = Signed
