# SPDX-License-Identifier: Apache-2.0
"""VLLM's API server as the program whose every child process dies with its parent.

The processes that vLLM spawns import their parent's main module before anything else.  That it is this one is
what ties them: vLLM loads plug-ins later, after the engine core has waited minutes for a front end that may
be gone.
"""

import os
import runpy

from reasongrm_nemo.processes import scratch
from reasongrm_nemo.processes.child import die_with_parent

_PARENT = "REASONGRM_PARENT"  # multiprocessing says who the parent is only later

if __name__ == "__mp_main__":
    die_with_parent(int(os.environ[_PARENT]))
if __name__ in ("__main__", "__mp_main__"):
    os.environ[_PARENT] = str(os.getpid())
if __name__ == "__main__":
    os.umask(0o077)  # its sockets and the file where its workers meet are nobody else's
    scratch.enter()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
