# SPDX-License-Identifier: Apache-2.0
"""A rollout server that starts in a second and whose answers depend only on prompt, seed and weights.

As answers depend on the weights, a run that resumes with the wrong weights gives different artefacts.
CHAOS_SERVER may name a fault, which the first server to see it causes once: see `_faulty`.
"""

import argparse
import hashlib
import hmac
import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main(words):
    """Stand in for the rollout environment's python."""
    sys.path.insert(0, str(ROOT))
    if words[:2] == ["-m", "reasongrm_nemo.processes.child"]:
        from reasongrm_nemo.processes.child import die_with_parent

        die_with_parent(int(words[2]))
        os.execv(words[3], words[3:])
    if words[:2] == ["-m", "reasongrm_nemo.rollout.server.vllm_main"]:
        serve(words[2:])
    else:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, *words])


def serve(words):
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    for name in ("model", "host", "port"):
        parser.add_argument(f"--{name}")
    args, _ = parser.parse_known_args(words)
    if _fault("dies-starting"):
        print("RuntimeError: an injected end", flush=True)
        sys.exit(3)
    model = Model(Path(args.model))
    threading.Thread(target=__import__, args=("torch",), daemon=True).start()  # for the first push
    server = ThreadingHTTPServer((args.host, int(args.port)), handler(model))
    server.daemon_threads = True
    server.serve_forever()


def _fault(name):
    """Whether this fault is due: once, or always if the fault's file says so."""
    wanted = os.environ.get("CHAOS_SERVER", "")
    if not wanted.startswith(f"{name}="):
        return False
    file = Path(wanted.partition("=")[2])
    try:
        if file.read_text() != "always":
            file.unlink()
        return True
    except OSError:
        return False


class Model:
    """What the server holds: a tokenizer, and a digest instead of weights."""

    def __init__(self, folder):
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.group = None
        self.load(folder)

    def load(self, folder):
        """Load the weights of a folder."""
        from safetensors import safe_open

        digest = hashlib.sha256()
        for file in sorted(Path(folder).glob("*.safetensors")):
            with safe_open(file, "numpy") as tensors:
                parts = {name: tensors.get_tensor(name).tobytes() for name in tensors.keys()}  # noqa: SIM118
        for name in sorted(parts):
            digest.update(name.encode() + hashlib.sha256(parts[name]).digest())
        self.weights = digest.hexdigest()

    def meet(self, info):
        """Join the trainer's group, as the engine in `rollout.weights.vllm_engines` does."""
        from reasongrm_nemo.processes import meeting
        from reasongrm_nemo.rollout.weights.broadcast_group import BroadcastGroup

        host, world, timeout_s = info["master_host"], info["world_size"], info["timeout_s"]
        store = meeting.join(info["file"], host, info["master_port"], world, timeout_s)
        self.group = BroadcastGroup("gloo", store, host, 1, world, timeout_s)

    def receive(self, info):
        """Receive the weights that the trainer broadcasts."""
        import torch

        from reasongrm_nemo.rollout.weights.broadcast_group import Flight, tensors_ahead

        flight, parts = Flight(self.group, tensors_ahead("gloo")), {}

        def land(everything=False):
            for name, tensor in flight.land(everything):
                parts[name] = hashlib.sha256(tensor.numpy().tobytes()).digest()

        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            flight.begin(name, torch.empty(shape, dtype=getattr(torch, dtype)))
            land()
        land(True)
        digest = hashlib.sha256()
        for name in sorted(parts):
            digest.update(name.encode() + parts[name])
        self.weights = digest.hexdigest()

    def choices(self, body):
        """n answers, right at random."""
        out = []
        for sample in range(body["n"]):
            words = f"{body['seed']} {sample} {body['prompt']} {self.weights}"
            draw = hashlib.sha256(words.encode()).digest()
            verdict = "AABBC"[draw[0] % 5]
            text = f"a=1;b=1+{draw[1] % 9}={draw[2] % 10} is two({verdict})\n</think>\n\n[[{verdict}]]"
            ids = [*self.tokenizer.encode(text, add_special_tokens=False).ids, body["stop_token_ids"][0]]
            probs = [-0.05 - digit % 10 / 10 for digit, _ in zip(draw * 9, ids, strict=False)]
            out.append(
                {
                    "index": sample,
                    "token_ids": ids,
                    "logprobs": {"token_logprobs": probs},
                    "finish_reason": "stop",
                }
            )
        return out


def handler(model):
    """The request handler with the server's routes."""
    token = f"Bearer {os.environ['VLLM_API_KEY']}".encode()
    pause = float(os.environ.get("CHAOS_PAUSE", "0"))

    def answer(path, body):
        if path == "/v1/completions":
            time.sleep(pause)
            return {"choices": model.choices(body)}
        if path == "/init_weight_transfer_engine":
            model.meet(body["init_info"])
        elif path == "/update_weights":
            model.receive(body["update_info"])
        elif path == "/collective_rpc":
            model.load(body["kwargs"]["weights_path"])
        fixed = {"/get_world_size": {"world_size": 1}, "/is_paused": {"is_paused": False}}
        return fixed.get(path, {"success": True})

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self._say(self.path.partition("?")[0], None)

        def do_POST(self):
            size = int(self.headers.get("Content-Length") or 0)
            self._say(self.path.partition("?")[0], json.loads(self.rfile.read(size) or b"null"))

        def _say(self, path, body):
            if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), token):
                return self._write(401, b'{"error": "Unauthorized"}')
            if path == "/v1/completions" and (wrong := _faulty(self)):
                return wrong()
            try:
                self._write(200, json.dumps(answer(path, body)).encode())
            except Exception as error:
                self._write(500, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())

        def _write(self, status, data, size=None):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data) if size is None else size))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _faulty(request):
    """What to do instead of answering, or None."""

    def reset():
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        request.connection.close()

    wrong = {
        "garbage": lambda: request._write(200, b"\x00\xff garbage <html>"),
        "html": lambda: request._write(200, b"<html>captive portal</html>"),
        "wrong-shape": lambda: request._write(200, b'{"choices": {"0": [1, 2]}}'),
        "list": lambda: request._write(200, b"[]"),
        "null": lambda: request._write(200, b"null"),
        "empty": lambda: request._write(200, b""),
        "half": lambda: request._write(200, b'{"choices": [', 4000),
        "status-500": lambda: request._write(500, b"broken"),
        "status-400": lambda: request._write(400, b'{"error": {"message": "no such model"}}'),
        "status-401": lambda: request._write(401, b'{"error": "Unauthorized"}'),
        "redirect": lambda: request._write(302, b""),
        "reset": reset,
        "silent": lambda: time.sleep(3600),
        "slow": lambda: time.sleep(2.0),
        "dies": lambda: os._exit(9),
        "nan": lambda: request._write(200, b'{"choices": [{"token_ids": [5], "logprobs": {"token_logprobs": '
                                           b'[NaN]}, "finish_reason": "stop"}]}'),
    }  # fmt: skip
    for name, act in wrong.items():
        if _fault(name):
            return act
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
