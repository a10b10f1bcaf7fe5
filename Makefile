# `make demo` and `make test` need nothing but Python 3.11 or 3.12: each makes its own virtual environment.
PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
DEMO_OUT ?= demo-out
WORKERS ?= 2
# The clients that open our packages, each in an environment of its own; tests/clients uses those that are here.
CLIENTS ?= $(HOME)/.cache/plm-export-clients
TEST_EXTRAS := mobile,samples,tensorflow,dev
DEMO_EXTRAS := mobile,samples

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help demo test lint clients bench clean
PIP_FLAGS := -qq --disable-pip-version-check --no-input -c constraints.txt
# One thread a worker: more only fight over the cores. Nothing in a test may reach for the network or for telemetry.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 ORT_DISABLE_TELEMETRY=1 \
  PLM_EXPORT_CLIENTS="$(CLIENTS)"

help:
	@echo "make demo   the bundled sample through all three targets, into ./$(DEMO_OUT)"
	@echo "make test   lint, types and tests, in an environment of their own; PYTEST_ARGS=tests/unit for some of them"
	@echo "make lint   ruff and mypy alone"
	@echo "make clients  transformers.js, Optimum, MediaPipe, onnxruntime-genai and LiteRT-LM, for the tests that open packages in them"
	@echo "make bench  the measured figures of README and docs, into benchmarks/results/"
	@echo "make clean  remove the demo, its environment, and caches"

demo: $(DEMO_VENV)/.ready
	$(DEMO_VENV)/bin/plm-export --target tflite --target cpu-int8 --target ort-gpu -o $(DEMO_OUT) --force

# Compiled first, for all processes that the tests start: where Python may not write, each would compile it for itself.
# Where nobody may write, as in a read-only checkout, each does, and the tests run all the same.
# The types are checked beside the tests; what mypy says is shown when these are done.
test: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/python -m compileall -qq -j 2 converter targets sample_models >/dev/null 2>&1 || true
	@said=$$(mktemp); $(VENV)/bin/mypy >"$$said" 2>&1 & types=$$!; \
	trap 'kill "$$types" 2>/dev/null || true; rm -f "$$said"' EXIT; \
	tested=0; $(TEST_ENV) $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS) || tested=$$?; \
	typed=0; wait "$$types" || typed=$$?; echo "mypy: $$(cat "$$said")"; exit $$((tested ? tested : typed))

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clients:
	@"$(PYTHON)" tests/clients/environments.py "$(CLIENTS)"

bench: $(VENV)/.ready
	$(VENV)/bin/python benchmarks/pipeline.py
	$(VENV)/bin/python benchmarks/memory.py
	$(VENV)/bin/python benchmarks/readme_table.py

$(VENV)/.ready: pyproject.toml constraints.txt docs/ci/signing.txt
	$(call make_venv,$(VENV),$(TEST_EXTRAS))
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps -r docs/ci/signing.txt || { rm -f $@; exit 1; }

$(DEMO_VENV)/.ready: pyproject.toml constraints.txt
	$(call make_venv,$(DEMO_VENV),$(DEMO_EXTRAS))

# PyTorch first, by itself: it is the largest part, and the line says what is being waited for.
define make_venv
@command -v "$(PYTHON)" >/dev/null || { echo "there is no $(PYTHON): say make PYTHON=/path/to/python3.11" >&2; exit 1; }
@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
  echo "$(PYTHON) is $$("$(PYTHON)" -V 2>&1), wanted 3.11 or 3.12: say make PYTHON=python3.11" >&2; exit 1; }
@echo "Making the environment $(1): some minutes, PyTorch and the runtimes are large"
@test -x "$(1)/bin/python" || "$(PYTHON)" -m venv "$(1)"
@echo "  1 of 2: PyTorch"; "$(1)/bin/python" -m pip install $(PIP_FLAGS) torch
@echo "  2 of 2: plm-export with $(2)"; "$(1)/bin/python" -m pip install $(PIP_FLAGS) -e ".[$(2)]"
@touch "$@"
endef

clean:
	rm -rf $(DEMO_VENV) $(DEMO_OUT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
