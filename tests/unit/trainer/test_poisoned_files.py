# SPDX-License-Identifier: Apache-2.0
"""Every loader of the package is given a file that runs a command if trusted; none runs the command."""

import json
import os
import pickle
import shutil

import pytest
import torch
import torch.distributed as dist
from small_models import write_model

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.platform import load_platform

load_platform("cpu")

from megatron.core.dist_checkpointing import ShardedTensor  # noqa: E402
from megatron.core.dist_checkpointing.mapping import ShardedObject  # noqa: E402

from reasongrm_nemo.megatron.background_save import BackgroundSave  # noqa: E402
from reasongrm_nemo.megatron.weights import plain  # noqa: E402
from reasongrm_nemo.megatron.weights.hf_folder import HFTensors  # noqa: E402
from reasongrm_nemo.megatron.weights.torch_dist import Reader  # noqa: E402

UNREAD = "damaged or (holds more than plain data|in an unknown format)"


class Payload:
    """An object that writes a file when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def marker(tmp_path):
    """The file that a payload writes; its test fails if the file exists at the end."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists(), "the file's command was run"


@pytest.fixture(autouse=True, scope="module")
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def template(value=0.0, **objects):
    state = {"w": ShardedTensor.from_rank_offsets("w", torch.full((4,), value))}
    return state | {name: ShardedObject(name, data, (1,), (0,)) for name, data in objects.items()}


def save(folder, state):
    folder.mkdir()
    saving = BackgroundSave(state, folder, copy=False)
    assert saving.wait() is None
    saving.complete()
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """A complete checkpoint: a sharded tensor, a sharded object and common state."""
    return save(tmp_path / "whole", template(3.0, o=[1, 2]) | {"scheduler": {"step": 7}})


def test_a_complete_checkpoint_is_read(checkpoint):
    read = plain.load(template(o=None), checkpoint)
    assert read["w"].tolist() == [3.0] * 4 and read["o"] == [1, 2] and read["scheduler"] == {"step": 7}
    assert plain.load_common(checkpoint)["scheduler"] == {"step": 7}
    assert "scheduler" not in plain.load(template(), checkpoint, weights_alone=True)


def test_common_state_is_plain_or_not_read(checkpoint, marker):
    torch.save({"scheduler": Payload(marker)}, checkpoint / "common.pt")
    # weights alone, as from model.megatron_path: a foreign common.pt does not matter
    assert plain.load(template(), checkpoint, weights_alone=True)["w"].tolist() == [3.0] * 4
    for load in (plain.load_common, lambda folder: plain.load(template(), folder)):
        with pytest.raises(UserError, match=f"common.pt is {UNREAD}"):
            load(checkpoint)


@pytest.mark.parametrize("load", [Reader, lambda folder: plain.load(template(), folder, weights_alone=True)])
def test_the_metadata_may_refer_only_to_metadata_classes(load, checkpoint, marker):
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(UserError, match=rf"\.metadata is {UNREAD}.*system"):
        load(checkpoint)


NAMES = (
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("subprocess", "Popen"),
    ("importlib", "import_module"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
    ("codecs", "encode"),
    ("pathlib", "Path"),
    ("collections", "OrderedDict.fromkeys"),
    ("torch", "load"),
    ("torch", "os.system"),
    ("torch.hub", "load"),
    ("torch.serialization", "load"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch_of_a_stranger", "x"),
    ("torch.distributed.checkpoint.metadata", "os"),
    ("torch.distributed.checkpoint.metadata", "os.system"),
    ("torch.distributed.checkpoint.metadata", "field"),
    ("torch.distributed.checkpoint.filesystem", "open"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo.__init__.__globals__"),
    ("numpy", "load"),
    ("reasongrm_nemo.files.writes", "write_text"),
)


def named(module, name):
    """A pickle that calls something without arguments."""
    words = [b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)]
    return b"\x80\x04" + b"".join(words) + b"\x93)R."


def test_no_name_leads_out_of_the_metadata(checkpoint):
    for module, name in NAMES:
        (checkpoint / ".metadata").write_bytes(named(module, name))
        with pytest.raises(UserError, match=rf"\.metadata is {UNREAD}.*it refers to {module}.{name}"):
            Reader(checkpoint)
    for data in (b"", b"\x80", b"junk", pickle.dumps({}), pickle.dumps([None]), named("torch", "Size")):
        (checkpoint / ".metadata").write_bytes(data)
        with pytest.raises(UserError, match=rf"\.metadata is {UNREAD}"):
            Reader(checkpoint)


@pytest.mark.parametrize("elsewhere", ["/etc/passwd", "../other/__0_0.distcp", "a/b"])
def test_metadata_that_points_to_files_elsewhere_is_refused(elsewhere, checkpoint):
    with (checkpoint / ".metadata").open("rb") as file:
        description = pickle.load(file)
    for info in description.storage_data.values():
        info.relative_path = elsewhere
    (checkpoint / ".metadata").write_bytes(pickle.dumps(description))
    for load in (Reader, lambda folder: plain.load(template(), folder)):
        with pytest.raises(UserError, match=elsewhere):
            load(checkpoint)


def test_a_sharded_object_is_plain_or_not_read(tmp_path, marker):
    folder = save(tmp_path / "objects", template(3.0, o=Payload(marker)))
    with pytest.raises(UserError, match=UNREAD):
        plain.load(template(o=None), folder)
    assert plain.load(template(), folder)["w"].tolist() == [3.0] * 4


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: Reader(folder).read("w", ((0, 4),)),
        lambda folder: plain.load(template(), folder),
    ],
)
def test_a_shard_that_is_not_a_tensor_is_not_read(load, checkpoint, marker):
    torch.save(Payload(marker), checkpoint / "poison")
    for file in checkpoint.glob("*.distcp"):
        poison = (checkpoint / "poison").read_bytes()
        file.write_bytes(poison + bytes(max(0, file.stat().st_size - len(poison))))
    with pytest.raises(UserError, match="damaged"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"sharded_backend": "zarr"}', "names the formats zarr and torch"),
        (
            '{"sharded_backend": "torch_dist", "common_backend": "pickle"}',
            "names the formats torch_dist and pickle",
        ),
        ("[]", "metadata.json is damaged"),
        ('{"sharded_backend": "torch_dist", "__class__": 1}', "metadata.json is damaged"),
        ("\0\0", "metadata.json is damaged"),
    ],
)
def test_a_format_that_unpickles_is_refused(text, says, checkpoint):
    (checkpoint / "metadata.json").write_text(text)
    with pytest.raises(UserError, match=says):
        plain.load(template(), checkpoint)


def hf_folder(tmp_path, marker):
    """A folder with pickled weights and a code file that config.json names."""
    folder = write_model("qwen2_tied", tmp_path / "hf")
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    torch.save({"model.embed_tokens.weight": Payload(marker)}, folder / "pytorch_model.bin")
    (folder / "evil.py").write_text(
        f"import os\nos.system(\"touch '{marker}'\")\nConfig = Tokenizer = object"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_code_in_a_hugging_face_folder_is_not_run(tmp_path, marker):
    from reasongrm_nemo.rollout.server.read_config import by_transformers

    folder = hf_folder(tmp_path, marker)
    with pytest.raises(UserError, match="a pickle, which can run code"):
        HFTensors(folder)
    with pytest.raises(ValueError, match="trust_remote_code"):
        by_transformers(str(folder))


ESCAPES = (
    "{{{{ ''.__class__.__mro__[1].__subclasses__() | map(attribute='__init__') | list }}}}",
    "{{{{ cycler.__init__.__globals__.os.system('touch {0}') }}}}",
    "{{{{ raise_exception.__globals__['__builtins__']['__import__']('os').system('touch {0}') }}}}",
    "{{% set x = messages.append(1) %}}",
)


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_chat_template_stays_in_its_sandbox(escape, tmp_path, marker):
    from reasongrm_nemo.models.tokenization import load_tokenizer, prompt_ids
    from reasongrm_nemo.recipe.load import resolve_path

    folder = tmp_path / "model"
    shutil.copytree(resolve_path("asset:tiny_judge", tmp_path), folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    text = escape.format(marker)
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": text}))
    with pytest.raises(UserError, match="template"):
        prompt_ids(load_tokenizer(folder), [{"role": "user", "content": "x"}])


def test_yaml_creates_no_objects(tmp_path, marker):
    from reasongrm_nemo.judge.template import load_template
    from reasongrm_nemo.recipe.load import load_recipe, recipes_root

    call = f"!!python/object/apply:os.system [\"touch '{marker}'\"]"
    recipe = tmp_path / "1_grpo_zero.yaml"
    recipe.write_text(f"defaults: [tiny/1_grpo_zero]\nname: {call}\n")
    with pytest.raises(UserError, match="YAML"):
        load_recipe(recipe, [])
    with pytest.raises(UserError, match="YAML"):
        load_recipe(recipes_root() / "tiny/1_grpo_zero.yaml", [f"name={call}"])
    (tmp_path / "template.yaml").write_text(f"description: {call}\nuser: x\n")
    with pytest.raises(UserError, match="YAML"):
        load_template(tmp_path / "template.yaml")


@pytest.mark.filterwarnings("ignore:pickle-based deserialization:RuntimeWarning")
def test_data_files_give_only_text_and_numbers(tmp_path, marker):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from reasongrm_nemo.data.rows import read_rows
    from reasongrm_nemo.judge.symbolic import load_math_verify

    # an extension type's metadata, which pyarrow once unpickled
    poison = pickle.dumps(Payload(marker))
    said = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": poison}
    field = pa.field("prompt", pa.string(), metadata=said)
    pq.write_table(pa.table([["x"]], schema=pa.schema([field])), tmp_path / "x.parquet")
    assert [row["prompt"] for _, row in read_rows(tmp_path / "x.parquet")] == ["x"]
    call = f"__import__('os').system('touch {marker}')"
    (tmp_path / "x.csv").write_text(f'prompt,chosen,rejected\n"[{call}]","{{1: {call}}}",y\n')
    assert [row["prompt"] for _, row in read_rows(tmp_path / "x.csv")] == [f"[{call}]"]
    equal = load_math_verify()
    for answer in (call, f"({call})", f"1+{call}", f"\\text{{{call}}}", f"$ {call} $", f"answer is {call}"):
        assert not equal(answer, "2") and not equal("2", answer)
