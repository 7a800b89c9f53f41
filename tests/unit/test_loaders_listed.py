# SPDX-License-Identifier: Apache-2.0
"""Every call that could execute the contents of a file is listed here, and none is unguarded."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("reasongrm_nemo", "conversion", "scripts")
# end of the call's dotted name -> the keyword and values that make it harmless, or None if nothing does
CALLS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "from_pretrained": ("trust_remote_code", False),
    "get_config": ("trust_remote_code", False),
    "get_tokenizer": ("trust_remote_code", False),
    "load_dataset": ("trust_remote_code", False),
    "yaml.load": ("Loader", "_Loader"),
    "yaml.compose": ("Loader", "_Loader", "yaml.SafeLoader"),
    "yaml.load_all": ("Loader", "UniqueKeyLoader"),
    "pickle.load": None,
    "pickle.loads": None,
    "pickle.Unpickler": None,
    "marshal.loads": None,
    "marshal.load": None,
    "shelve.open": None,
    "joblib.load": None,
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
    "eval": None,
    "exec": None,
    "Environment": None,
    "NativeEnvironment": None,
    "parse_expr": None,
    "sympify": None,
    "dist_checkpointing.load": None,
    "dist_checkpointing.load_common_state_dict": None,
    "read_metadata": None,
    "SourceFileLoader": None,
    "spec_from_file_location": None,
    "import_module": None,
    "run_path": None,
    "run_module": None,
    "__import__": None,
    "os.system": None,
}
BUILT_IN = {"eval", "exec", "__import__"}
# calls that are allowed all the same, and why
KNOWN = {
    ("reasongrm_nemo/processes/meeting.py", "pickle.loads"): "after the signature was checked",
    ("reasongrm_nemo/megatron/weights/plain.py", "dist_checkpointing.load"): "the one guarded way to it",
    ("reasongrm_nemo/judge/functions.py", "import_module"): "the user's function, named in the recipe",
    ("reasongrm_nemo/judge/symbolic.py", "import_module"): "math_verify, by a fixed name",
    ("reasongrm_nemo/rollout/__init__.py", "import_module"): "this package's modules",
    ("reasongrm_nemo/run/stage.py", "import_module"): "this package's stages",
    (
        "reasongrm_nemo/processes/srun_rank.py",
        "run_module",
    ): "this package's module, from srun's command line",
    ("reasongrm_nemo/rollout/server/vllm_main.py", "run_module"): "vLLM's server, by a fixed name",
}


def name_of(call):
    words, node = [], call.func
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        words.append(node.id)
    return ".".join(reversed(words))


def keywords(call, tree):
    """The call's keywords, including those of a `**how` dictionary in the same file."""
    given = {}
    for keyword in call.keywords:
        if keyword.arg:
            given[keyword.arg] = ast.unparse(keyword.value)
        elif isinstance(keyword.value, ast.Name):
            for node in ast.walk(tree):
                target = node.target if isinstance(node, ast.AnnAssign) else None
                if target and ast.unparse(target) == keyword.value.id and isinstance(node.value, ast.Dict):
                    pairs = zip(node.value.keys, node.value.values, strict=True)
                    given |= {key.value: ast.unparse(value) for key, value in pairs}
    return given


def unguarded():
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
                name = name_of(call)
                for known, guard in CALLS.items():
                    meant = name == known or (known not in BUILT_IN and name.endswith(f".{known}"))
                    if meant and (
                        guard is None or keywords(call, tree).get(guard[0]) not in map(str, guard[1:])
                    ):
                        yield path.relative_to(ROOT).as_posix(), known, call.lineno


def test_no_call_could_execute_the_file_that_it_reads():
    calls = list(unguarded())
    new = [f"{path}:{line}: {name}" for path, name, line in calls if (path, name) not in KNOWN]
    assert not new, f"{new}: read it as plain data, or say in KNOWN why it cannot run what a stranger wrote"
    assert set(KNOWN) == {(path, name) for path, name, _ in calls}, "KNOWN names calls that are gone"
