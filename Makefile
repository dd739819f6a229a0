# Two commands on a fresh machine: `make demo` and `make test`. Both make the environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers

.PHONY: demo test faults chaos lint format peers clean

demo: $(STAMP)
	$(BIN)/coffey demo

# Two processes: the tests that share a Ray cluster keep to one, and all others run beside them.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

faults: $(STAMP)
	PYTHONPATH=. $(BIN)/python benchmarks/faults.py

chaos: $(STAMP)
	PYTHONPATH=. $(BIN)/python benchmarks/chaos.py

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The constraints pin the one build of torch that needs no CUDA packages. It has no torchvision: of torchdistill, tests
# need the losses alone, and these only torch.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing Coffey and what it needs (a minute or two the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'torchdistill>=1.1'
	@touch $@

# An environment of its own: some of the peers pin older versions of what Coffey needs.
peers:
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group peers --group distillation-peers
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps mosaicml-streaming

clean:
	rm -rf $(VENV) $(PEERS) coffey-demo coffey-store
