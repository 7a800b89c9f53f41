# SPDX-License-Identifier: Apache-2.0
"""What commands import and query once per process, for the process they are forked from (see forked.py)."""

import os

from chaos.runs import ROOT
from reasongrm_nemo.models.tokenization import load_tokenizer
from reasongrm_nemo.rollout.server import versions

versions.installed_versions(os.environ["REASONGRM_ROLLOUT_PYTHON"])
load_tokenizer(ROOT / "reasongrm_nemo/assets/tiny_judge")
