# SPDX-License-Identifier: Apache-2.0
# Everything starts with `setup`, which takes no time when there is nothing to do. Paths are relative:
# make runs in this folder (use `make -C`), and the folder's own name may hold spaces.

PYTHON ?= python3
ARGS ?=
# Test files run at once. Most of a test's time is one core starting something, so 2 suit 2 cores.
JOBS ?= 2

# .envs/env.sh is written by `setup`: the two interpreters, and `reasongrm` on the path.
IN_ENVS = . ./.envs/env.sh &&

.PHONY: help demo smollm2 reasongrm test test-unit test-container test-slurm soak chaos lint format setup clean clean-envs

help:
	@echo 'make demo        the whole method on the tiny model, CPU, from nothing to a scored ReasonGRM'
	@echo 'make test        lint, types, and the tests: unit, parallel, stages'
	@echo 'make test-unit   the unit tests alone, seconds'
	@echo 'make test-container  unit, parallel and one-stage tests with the versions of NeMo'"'"'s container (Python 3.12)'
	@echo 'make test-slurm  the cluster templates on a Slurm of four pseudo-nodes (root on Debian)'
	@echo 'make soak        2,000 GRPO steps of the tiny judge, a server killed every 100 of the first 1,000: what grows (an hour)'
	@echo 'make chaos       kills, faults and hostile files against every stage (long; ARGS="--only kill": a part)'
	@echo 'make lint        ruff, mypy, shellcheck and shfmt'
	@echo 'make format      ruff, changing files'
	@echo 'make smollm2     the method on SmolLM2-135M, CPU, long'
	@echo 'make reasongrm ARGS="plan recipes/tiny/1_grpo_zero.yaml"'
	@echo 'make setup       the two environments (REASONGRM_ENVS: where; REASONGRM_ACCELERATOR=gpu: CUDA)'
	@echo 'make clean       what runs, tests and builds left here; make clean-envs: outdated environments'

setup:
	@command -v "$(PYTHON)" >/dev/null || { echo 'set-up: no $(PYTHON): install python3.11, or say PYTHON=/path/to/python3.11' >&2; exit 2; }
	@exec "$(PYTHON)" scripts/setup_env.py --quiet

demo: setup
	@$(IN_ENVS) reasongrm pipeline recipes/tiny $(ARGS)

smollm2: setup
	@$(IN_ENVS) reasongrm pipeline recipes/smollm2 $(ARGS)

reasongrm: setup
	@$(IN_ENVS) reasongrm $(ARGS)

# The container's environment is built while the first tests run, for those at the end that need it.
test: lint
	@$(if $(ARGS),,"$(PYTHON)" scripts/setup_env.py --container >.envs/container.log 2>&1 </dev/null &) \
	$(IN_ENVS) "$$TRAINER_PYTHON" -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-unit: setup
	@$(IN_ENVS) "$$TRAINER_PYTHON" -m pytest tests/unit $(ARGS)

# tests/stages has one file here: trainer and vLLM, each in its versions.
CONTAINER_TESTS = tests/unit tests/parallel tests/stages/test_resume.py
test-container: setup
	@"$(PYTHON)" scripts/setup_env.py --container
	@$(IN_ENVS) export TRAINER_PYTHON="$$PWD/.envs/container/bin/python" && \
	"$$TRAINER_PYTHON" -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(or $(ARGS),$(CONTAINER_TESTS))

test-slurm: setup
	@$(IN_ENVS) "$$TRAINER_PYTHON" -m pytest tests/slurm $(ARGS)

soak: setup
	@$(IN_ENVS) PYTHONPATH=tests "$$TRAINER_PYTHON" -m soak $(ARGS)

chaos: setup
	@$(IN_ENVS) PYTHONPATH=tests "$$TRAINER_PYTHON" -m chaos $(ARGS)

lint: setup
	@$(IN_ENVS) "$$TRAINER_PYTHON" -m ruff check .
	@$(IN_ENVS) "$$TRAINER_PYTHON" -m ruff format --check .
	@$(IN_ENVS) "$$TRAINER_PYTHON" -m mypy
	@$(IN_ENVS) "$$TRAINER_PYTHON" scripts/check_shell.py

format: setup
	@$(IN_ENVS) "$$TRAINER_PYTHON" -m ruff check --fix-only .
	@$(IN_ENVS) "$$TRAINER_PYTHON" -m ruff format .
	@$(IN_ENVS) "$$TRAINER_PYTHON" scripts/check_shell.py --write

clean:
	rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .envs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-envs:
	@exec "$(PYTHON)" scripts/setup_env.py --prune
