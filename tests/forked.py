# SPDX-License-Identifier: Apache-2.0
"""Programs run in forks of a process that has imported their libraries, since imports dominate a small run.

    with Forker(imports) as forker:
        process = forker.start("package.module", [argument], env, log)  # like subprocess.Popen

Run as a program, this file is the process that is forked. It answers an order on its socket with the child's
process id, and with the exit status when the child ends. It has one thread, as threads do not survive a fork.
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_POLL_S = 0.01
_PR_SET_PDEATHSIG = 1


class Forked:
    """A forked child as the test sees it, with the interface of ``subprocess.Popen``."""

    def __init__(self, connection, order):
        self.returncode = None
        self._connection = connection
        connection.sendall(json.dumps(order).encode() + b"\n")
        self._answers = connection.makefile()
        self.pid = int(self._answers.readline())

    def poll(self):
        """The exit status, negative for a signal; None while the child runs."""
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout=None):
        """Wait for the child's end; returns the exit status.

        Raises:
            subprocess.TimeoutExpired: the child still runs.
        """
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked program", timeout)
            # no answer: the forker has ended, and its children with it
            self.returncode = int(self._answers.readline() or -signal.SIGKILL)
            self._connection.close()
        return self.returncode

    def terminate(self):
        self._send(signal.SIGTERM)

    def kill(self):
        """Kill the child and everything that it has started."""
        self._send(signal.SIGKILL, os.killpg)

    def _send(self, number, send=os.kill):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                send(self.pid, number)


class Forker:
    """The process that is forked, as long as the ``with`` lasts; several threads may start programs.

    Args:
        env: the environment in which the process imports.
        imports: modules to import before the first fork.
        python: the interpreter.
    """

    def __init__(self, env, imports=(), python=sys.executable):
        self._env, self._imports, self._python = env, imports, str(python)

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._socket = os.path.join(self._folder.name, "s")
        self._process = subprocess.Popen(
            [self._python, __file__, self._socket, *self._imports],
            env=self._env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout.readline() == b"ready\n", "the process to fork from did not start"
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self._folder.cleanup()

    def start(self, program, arguments, env, log, folder=ROOT, imports=(), memory=None):
        """Start a program with its output appended to a file.

        Args:
            program: a module's dotted name or a .py file, run as ``__main__``.
            arguments: the arguments after the program on the command line.
            env: the program's whole environment; what libraries read on import stays as in the forker.
            log: the file for the output.
            folder: working directory.
            imports: further modules to import before the fork.
            memory: limit of the address space in bytes.
        """
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._socket)
        order = {"program": str(program), "arguments": [*map(str, arguments)], "env": dict(env)}
        order |= {"log": str(log), "folder": str(folder), "imports": [*imports], "memory": memory}
        return Forked(connection, order)


def become(order, parent, added):
    """In a child: become the program, and never return.

    Args:
        order: the arguments of `Forker.start`.
        parent: the forker's process id.
        added: variables that libraries have added to the environment.
    """
    code = 1
    try:
        _settle(order, parent, added)
        sys.argv = [order["program"], *order["arguments"]]
        is_file = order["program"].endswith(".py")
        if is_file:
            sys.path.insert(0, os.path.dirname(os.path.abspath(order["program"])))
        (runpy.run_path if is_file else runpy.run_module)(order["program"], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


def _settle(order, parent, added):
    """Give the child a session that ends with the forker, and its output, folder, environment and limit."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # as LocalRanks starts its ranks
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.chdir(order["folder"])
    if order["memory"]:
        resource.setrlimit(resource.RLIMIT_AS, (order["memory"], order["memory"]))
    os.environ.clear()
    os.environ.update(added | order["env"])


def serve(listener, imports, out):
    """Import, then fork until stdin ends."""
    running, parent = {}, os.getpid()
    before = dict(os.environ)
    for name in imports:
        importlib.import_module(name)
    os.write(out, b"ready\n")
    while True:
        ready = select.select([0, listener], [], [], _POLL_S if running else None)[0]
        if 0 in ready:
            return
        if ready:
            connection = listener.accept()[0]
            order = json.loads(connection.makefile().readline())
            for name in order["imports"]:
                importlib.import_module(name)
            pid = os.fork()
            if not pid:
                for inherited in (listener, connection, *running.values()):
                    inherited.close()
                become(order, parent, dict(os.environ.items() - before.items()))
            running[pid] = connection
            connection.sendall(b"%d\n" % pid)
        for pid in [*running]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with running.pop(pid) as connection, contextlib.suppress(OSError):
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def main():
    """Listen, and report when everything is imported."""
    out = os.dup(1)
    os.dup2(2, 1)  # output of libraries must not be taken for an answer
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen(64)
    serve(listener, sys.argv[2:], out)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
