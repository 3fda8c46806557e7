# Two commands: `make demo` and `make test`. Each does all set-up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
SERVERS ?= transformers vllm

.PHONY: demo test test-long soak test-gpu test-reference test-servers lint check setup nano clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup  ## train the bundled nano model by reinforcement learning, a few minutes on two cores (ARGS="run.seed=1")
	$(BIN)/lzero train $(ARGS)

test: lint check  ## everything CI runs: lint, types, tests (ARGS="-k repl")
	$(BIN)/pytest -m "not slow and not gpu and not reference and not servers" --numprocesses 2 --dist loadfile $(ARGS)

test-long: setup  ## the bars of the README; kills, churn, fuzzing and attacks under load, whole (over an hour)
	$(BIN)/pytest -m slow $(ARGS)

soak: setup  ## an hour of everything that sandboxed sessions do, well or badly (ARGS="--soak-minutes 5")
	$(BIN)/pytest -m slow -s tests/faults/test_soak.py --soak-minutes 60 $(ARGS)

test-gpu: setup  ## what needs a CUDA device
	$(BIN)/pytest -m gpu $(ARGS)

test-reference: setup  ## credit and loss against TRL's
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[reference]'
	$(BIN)/pytest -m reference $(ARGS)

test-servers: setup $(SERVERS:%=.servers/%/.ready)  ## the agent against real model servers on loopback (SERVERS=transformers for one)
	$(BIN)/pytest -m servers $(ARGS)

# A server is somebody else's program, with requirements of its own: each has an environment to itself.
.servers/transformers/.ready: constraints.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --constraint constraints.txt 'transformers[serving]>=5.0'
	touch $@

.servers/vllm/.ready: constraints.txt tests/servers/install_vllm.py
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python tests/servers/install_vllm.py
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: setup
	$(BIN)/mypy

setup: $(VENV)/.ready  ## virtual environment, bubblewrap, kernel environment

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lzero needs Python 3.11 or newer; $(PYTHON) is older. Name another one: make PYTHON=python3.12 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m lzero.repl.setup
	touch $@

nano: setup  ## make the bundled nano base model again, from nothing: demonstrations, two stages of fine-tuning (10 minutes)
	rm -rf runs/nano-*
	$(BIN)/lzero eval model.path=policy:recall tasks.eval=world/recall eval.num_tasks=5000 run.dir=runs/nano-demos-recall
	$(BIN)/lzero eval model.path=policy:expert tasks.eval=world/sft-expert tasks.hops=[1,2] eval.num_tasks=800 run.dir=runs/nano-demos-expert
	$(BIN)/lzero eval model.path=policy:never_submits tasks.eval=world/sft-wander eval.num_tasks=800 run.dir=runs/nano-demos-wander
	$(BIN)/lzero eval model.path=policy:weak tasks.eval=world/sft-weak eval.num_tasks=4000 run.dir=runs/nano-demos-weak
	$(BIN)/lzero sft recipes/nano-recall.toml run.dir=runs/nano-recall
	$(BIN)/lzero sft recipes/nano-base.toml run.dir=runs/nano-base
	$(BIN)/python recipes/ship_nano.py runs/nano-base/model

clean:  ## remove the virtual environments and caches (runs stay)
	rm -rf $(VENV) .servers .mypy_cache .ruff_cache .pytest_cache .hypothesis
