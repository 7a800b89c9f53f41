# SPDX-License-Identifier: Apache-2.0
"""Rollout servers whose vLLM is a small HTTP server that reports what it was given."""

import json
import os
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

from reasongrm_nemo.rollout import RolloutServer, RolloutSettings
from reasongrm_nemo.rollout.http import call

ROOT = Path(__file__).resolve().parents[1]

# In place of vLLM's API server: reports its arguments and environment, and records what is posted.
SERVER = """
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
mode = os.environ.get("MODE", "")
args = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("INFO 01-01 00:00:00 [a.py:1] starting", flush=True)
if mode == "fails":
    print("(EngineCore pid=3) ERROR 01-01 00:00:00 [core.py:1] ValueError: head size 16 is not supported")
    print("RuntimeError: Engine core initialization failed. See root cause above.")
    sys.exit(1)
if mode == "once" and not os.path.exists(os.environ["FLAG"]):
    open(os.environ["FLAG"], "w").close()
    print("(EngineCore pid=3) ERROR 01-01 00:00:00 [core.py:1] Traceback (most recent call last):")
    print("(EngineCore pid=3) ERROR 01-01 00:00:00 [core.py:1] OSError: no device is free")
    print("WARNING 01-01 00:00:00 [w.py:1] ImportError: nice_to_have is missing")
    print("RuntimeError: Engine core initialization failed. See root cause above.")
    print("Loading shards: 40% done", flush=True)
    os.kill(os.getpid(), 9)
if mode == "quiet":
    print("WARNING 01-01 00:00:00 [w.py:1] something is odd")
    print("Loading shards: 40% done", flush=True)
    os.kill(os.getpid(), 9)
if mode == "race" and not os.path.exists(os.environ["FLAG"]):
    open(os.environ["FLAG"], "w").close()
    print("OSError: [Errno 98] address already in use")
    sys.exit(1)
if mode == "slow":
    time.sleep(60)
class Handler(BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        ok = self.headers.get("Authorization") == "Bearer " + os.environ["VLLM_API_KEY"]
        body = json.dumps({"argv": sys.argv[1:], "env": sorted(os.environ)}).encode()
        self.send_response(200 if ok else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        with open(os.environ["POSTS"], "a") as out:
            out.write(self.path + " " + self.rfile.read(size).decode() + "\\n")
        if mode == "noreload" and "collective" in self.path:
            self.send_response(500); self.end_headers(); return
        body = b'{"success": true}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
ThreadingHTTPServer((args["--host"], int(args["--port"])), Handler).serve_forever()
"""


@contextmanager
def making(tmp_path):
    """A function that makes a server with the stand-in above; all servers are stopped at the end."""
    package = tmp_path / "fake" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(textwrap.dedent(SERVER))
    made = []

    def build(mode="", host=None, **changes):
        env = {"PYTHONPATH": f"{tmp_path / 'fake'}:{ROOT}", "MODE": mode}
        env |= {"POSTS": str(tmp_path / "posts"), "FLAG": str(tmp_path / "flag")}
        values = {
            "python": sys.executable,
            "platform": "cpu",
            "weight_transfer": "gloo",
            "dtype": "fp32",
            "max_model_len": 64,
            "trust_remote_code": False,
            "max_num_seqs": 8,
            "kv_cache_gib": 0.5,
            "enforce_eager": True,
            "tensor_parallel": 1,
            "threads": 1,
            "port": None,
            "concurrency": 4,
            "stall_timeout_s": 5,
            "start_timeout_s": 20,
            "extra_env": env,
        }
        settings = RolloutSettings(**(values | changes))
        log = tmp_path / "logs" / "server.log"
        server = RolloutServer(settings, model(tmp_path / "model"), log, host=host)
        made.append(server)
        return server

    yield build
    for server in made:
        server.stop(grace_s=0)


def model(folder, **changes):
    folder.mkdir(exist_ok=True)
    config = {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 8, "num_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "model.safetensors").write_bytes(os.urandom(8))
    return folder


def info(server):
    return call(server.url, server.token, "GET", "/health", 5)


def posts(tmp_path):
    file = tmp_path / "posts"
    return file.read_text().splitlines() if file.exists() else []


def until_gone(server):
    deadline = time.monotonic() + 30
    while server.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
