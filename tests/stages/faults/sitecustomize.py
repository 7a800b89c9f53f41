# SPDX-License-Identifier: Apache-2.0
"""Breaks a rollout server from within, once; imported before anything else from the server's PYTHONPATH.

REASONGRM_TEST_FAULT names the file whose existence arms the fault; the file holds one of:
``http500``: a request for completions is answered with status 500.
``cut``: the weight channel's connections are shut down in the middle of an update.
"""

import os
import socket
from pathlib import Path

FILE = Path(os.environ["REASONGRM_TEST_FAULT"])


def armed(fault):
    """Whether this fault is armed; disarms the fault."""
    try:
        if FILE.read_text() != fault:
            return False
        FILE.unlink()
        return True
    except OSError:
        return False


def cut():
    for name in os.listdir("/proc/self/fd"):
        try:
            connection = socket.socket(fileno=os.dup(int(name)))
            if connection.family == socket.AF_INET and connection.type == socket.SOCK_STREAM:
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        except OSError:
            continue  # not a socket, or a listening one


def install():
    from reasongrm_nemo.rollout.server import vllm_plugin
    from reasongrm_nemo.rollout.weights import broadcast_group

    broadcast, call = broadcast_group.BroadcastGroup.broadcast, vllm_plugin.RequireToken.__call__

    def broadcast_or_cut(self, tensor):
        if armed("cut"):
            cut()
        return broadcast(self, tensor)

    async def answer_or_fail(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/v1/completions" and armed("http500"):
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"an injected fault"})
            return
        await call(self, scope, receive, send)

    broadcast_group.BroadcastGroup.broadcast = broadcast_or_cut
    vllm_plugin.RequireToken.__call__ = answer_or_fail


install()
