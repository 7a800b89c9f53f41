# SPDX-License-Identifier: Apache-2.0
"""mbridge's Hugging Face → Megatron import on CPU, as a peer of our conversion: ``peer_mbridge.py HF OUT``.

Loads HF with mbridge into a megatron-core model, then saves a torch_dist checkpoint to OUT (with
megatron-core, as mbridge cannot save this format), or with --export saves Hugging Face files there with
mbridge. mbridge's load_weights, save_weights and name tables run unmodified; only parts that need CUDA or
Transformer Engine are replaced. Needs ``mbridge`` (tested: 0.15.1), without its dependencies, next to the
trainer environment's packages.
"""

import os
import sys
from pathlib import Path
from types import ModuleType


def stand_ins():
    """Replace CUDA with the CPU, and mbridge's models that import Transformer Engine at module level."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from reasongrm_nemo.megatron.cpu import device, gaps

    device.install_device()
    gaps.before_nemo()
    for name, classes in {
        "gemma3": ["Gemma3Bridge"],
        "glm4_vl": ["Glm4VLBridgeMoe", "Glm4VLBridgeDense"],
        "internvl3": ["InternVL3Bridge"],
    }.items():
        module = ModuleType(f"mbridge.models.{name}")
        for label in classes:
            setattr(module, label, type(label, (), {}))
        sys.modules[module.__name__] = module


def layer_spec(config):
    """The decoder block in plain PyTorch with Transformer Engine's names, the only ones mbridge knows."""
    import torch
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear
    from megatron.core.transformer.identity_op import IdentityOp
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules

    class NormedLinear(ColumnParallelLinear):
        def __init__(self, input_size, output_size, *, config, **kwargs):
            super().__init__(input_size, output_size, config=config, **kwargs)
            self.layer_norm_weight = torch.nn.Parameter(torch.ones(input_size, dtype=config.params_dtype))

    class FinalNorm(torch.nn.RMSNorm):
        def __init__(self, config, hidden_size, eps=1e-5, **_):
            super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)

    layer = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=config.qk_layernorm)
    modules = layer.submodules
    modules.input_layernorm = modules.pre_mlp_layernorm = IdentityOp
    modules.sharded_state_dict_keys_map = {}
    modules.self_attention.submodules.linear_qkv = NormedLinear
    modules.mlp.submodules.linear_fc1 = NormedLinear
    return TransformerBlockSubmodules(layer_specs=[layer] * config.num_layers, layer_norm=FinalNorm)


def main(hf, out, *options):
    stand_ins()
    import mbridge
    import torch
    import torch.distributed as dist
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    bridge = mbridge.AutoBridge.from_pretrained(hf, dtype=torch.bfloat16)
    # mbridge's best case: without a random initialization
    bridge.set_extra_args(perform_initialization=False)
    bridge.has_vp_stage = False  # set by the method replaced on the next line
    bridge._get_transformer_layer_spec = lambda vp_stage=None: layer_spec(bridge.config)
    models = bridge.get_model(bf16=True)
    bridge.load_weights(models, hf)
    if "--export" in options:
        bridge.save_weights(models, out)
        return
    Path(out).mkdir()
    dist_checkpointing.save(models[0].sharded_state_dict(), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
