# SPDX-License-Identifier: Apache-2.0
"""Random small Hugging Face checkpoints of every architecture."""

import pytest
from small_models import MODELS, write_model


@pytest.fixture(scope="session", params=list(MODELS))
def any_model(request, tmp_path_factory):
    """The checkpoint folder of each entry of MODELS in turn."""
    return write_model(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture
def qwen2_untied(tmp_path):
    """An untied Qwen2 in a folder that the test may change."""
    return write_model("qwen2_untied", tmp_path / "qwen2_untied")


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """A process group and Megatron's parallel state with this process as the only rank."""
    import torch.distributed as dist
    from megatron.core import parallel_state

    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    yield
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
