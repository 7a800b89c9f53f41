# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server that answers like vLLM's, and can be told to misbehave."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from standin_vllm import making


class FakeServer:
    """Answers /v1/completions with n samples of three tokens; entries of `plan` override the next answers.

    An entry is a function of the parsed body that returns (status, bytes), or None to close the connection
    without an answer.
    """

    def __init__(self):
        self.asked = []
        self.plan = []
        self.routes = {}
        self.steps = 0.0
        self.is_paused = False
        self.busy = 0
        self.busiest = 0
        self.delay = threading.Event()
        self.delay.set()
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                self._answer(None)

            def do_POST(self):
                size = int(self.headers.get("Content-Length") or 0)
                self._answer(json.loads(self.rfile.read(size)) if size else None)

            def _answer(self, body):
                answer = fake.answer(self.path, body, self.headers.get("Authorization"))
                if answer is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, data, *size = answer
                self.send_response(status)
                self.send_header("Content-Length", str(size[0] if size else len(data)))
                self.end_headers()
                self.wfile.write(data)
                self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *args):
                pass

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path, body, authorization):
        if path in self.routes:
            return self.routes[path](body)
        if path == "/metrics":
            text = f'# HELP x\nvllm:generation_tokens_total{{engine="0"}} {self.steps}\nother 7\n'
            return 200, text.encode()
        if path == "/is_paused":
            return 200, json.dumps({"is_paused": self.is_paused}).encode()
        if path != "/v1/completions":
            return 200, b"{}"
        with self._lock:
            self.asked.append((body, authorization))
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
            step = self.plan.pop(0) if self.plan else completions
        try:
            self.delay.wait(30)
            return step(body)
        finally:
            with self._lock:
                self.busy -= 1

    def close(self):
        self.delay.set()
        self.http.shutdown()
        self.http.server_close()


def completions(body, n=None, reason="stop", log_probs=(-0.5, -1.0, -2.0)):
    """An answer like vLLM's: sample i is the prompt's first token, the seed plus i, and the stop token."""
    choices = [
        {
            "index": i,
            "token_ids": [body["prompt"][0], body["seed"] + i, 2],
            "logprobs": {"token_logprobs": list(log_probs), "tokens": ["a", "b", "c"]},
            "finish_reason": reason,
        }
        for i in range(body["n"] if n is None else n)
    ]
    return 200, json.dumps({"choices": choices}).encode()


@pytest.fixture
def make(tmp_path):
    """``make(mode, host, **settings)``: a rollout server whose vLLM is a stand-in."""
    with making(tmp_path) as build:
        yield build


@pytest.fixture
def make_fake():
    """A function that starts another fake server."""
    servers = []

    def make():
        servers.append(FakeServer())
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def fake(make_fake):
    return make_fake()


@pytest.fixture
def answer():
    """The usual answer to a completions request."""
    return completions
