# SPDX-License-Identifier: Apache-2.0
"""Rendezvous of processes before they form a group, and signatures on the objects they exchange.

torch's TCPStore listens on every interface without authentication, and anyone who reaches a store or a gloo
socket can pose as a rank. Processes on one machine therefore meet in a file that only their user can open,
processes on several nodes meet in a TCPStore on a single address, and objects are unpickled only if they
carry the run's signature. Stores hold only addresses and counters, which are never unpickled.
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
"""Variable for ranks: the file in which this machine's ranks meet; unset: rank 0 listens at MASTER_ADDR."""
_SIGNATURE_BYTES = 32


class PrivateFile:
    """Path of a file in a new folder that only this user can enter; removed with this object."""

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
    """Create a TCPStore that listens on a single address.

    Args:
        address: IPv4 address at which the others reach this machine.
        port: port to listen on; 0: any free one, see the store's `port`.
        world_size: number of processes that meet.
        timeout_s: longest wait in the store.

    Raises:
        OSError: the address is not this machine's, or the port is taken.
    """
    with socket.socket() as waiting:
        waiting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        waiting.bind((address, port))
        waiting.listen(socket.SOMAXCONN)
        port = waiting.getsockname()[1]
        # torch 2.6, which NeMo's container holds, has a server on libuv that takes no socket
        how = {"is_master": True, "master_listen_fd": waiting.detach(), "use_libuv": False}
        return _tcp(address, port, world_size, timeout_s, **how)


def connect(address: str, port: int, world_size: int, timeout_s: float) -> Any:
    """Connect to a store that another process created with `listen`."""
    return _tcp(address, port, world_size, timeout_s, is_master=False)


def join(file: str | None, address: str, port: int, world_size: int, timeout_s: float) -> Any:
    """Open another process's store, in a file if one is named, and otherwise at a port."""
    return in_file(file, world_size, timeout_s) if file else connect(address, port, world_size, timeout_s)


def _tcp(address: str, port: int, world_size: int, timeout_s: float, **how: Any) -> Any:
    import torch.distributed as dist

    timeout = timedelta(seconds=timeout_s)
    return dist.TCPStore(address, port, world_size, timeout=timeout, wait_for_workers=False, **how)


def in_file(path: Path | str, world_size: int, timeout_s: float) -> Any:
    """Open the store in a file, shared by all processes that open the same file."""
    import torch.distributed as dist

    store = dist.FileStore(str(path), world_size)
    store.set_timeout(timedelta(seconds=timeout_s))
    return store


def init_ranks(backend: str, timeout_s: float = 1800.0) -> None:
    """Create torch's default process group, unless it exists.

    Reads RANK, WORLD_SIZE, the run's key, and either MEETING or MASTER_ADDR and MASTER_PORT from the
    environment.

    Raises:
        UserError: the run's key is not set.
    """
    import torch.distributed as dist

    if dist.is_initialized():
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    key = os.environ.get(RUN_KEY) or (secrets.token_hex() if world == 1 else None)
    if key is None:
        raise UserError(
            f"{RUN_KEY} is not set; start ranks with `reasongrm run`, or set the same random value for all"
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
        atexit.register(_leave)  # Lightning does this only for groups that it creates


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def sign_objects(key: str) -> None:
    """Make torch's object collectives in this process sign what they send and refuse unsigned objects.

    Gloo and NCCL do not authenticate the other end of a connection. All other collectives carry only numbers.

    Args:
        key: secret shared by the run's processes.

    Raises:
        RuntimeError: this version of torch pickles objects differently.
    """
    from torch.distributed import distributed_c10d as c10d

    if not (hasattr(c10d, "_pickler") and hasattr(c10d, "_unpickler")):
        raise RuntimeError("torch.distributed has no _pickler and _unpickler to sign objects with")
    secret = key.encode()

    class Signed:
        """Replaces both Pickler and Unpickler, each of which is created for a file and used once."""

        def __init__(self, file: io.BytesIO) -> None:
            self._file = file

        def dump(self, value: Any) -> None:
            data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
            self._file.write(hmac.digest(secret, data, "sha256") + data)

        def load(self) -> Any:
            signature, data = self._file.read(_SIGNATURE_BYTES), self._file.read()
            if not hmac.compare_digest(signature, hmac.digest(secret, data, "sha256")):
                raise RuntimeError("refused an object from another rank that lacks the run's signature")
            return pickle.loads(data)

    c10d._pickler = c10d._unpickler = Signed
