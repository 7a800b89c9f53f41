# SPDX-License-Identifier: Apache-2.0
"""Random small Hugging Face checkpoints of every architecture."""

import pytest
from small_models import MODELS, write_model


@pytest.fixture(scope="session", params=list(MODELS))
def any_model(request, tmp_path_factory):
    """A folder for each entry of MODELS."""
    return write_model(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture
def qwen2_untied(tmp_path):
    """An untied Qwen2, of the test's own."""
    return write_model("qwen2_untied", tmp_path / "qwen2_untied")
