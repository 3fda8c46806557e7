# Two commands: `make demo` and `make test`. Each does all set-up on a fresh machine, and installs what locks/ pins.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
VENV := .venv
BIN := $(VENV)/bin
LOCK := locks/lzero.txt
NEWEST := .venv-newest
ARGS ?=
SERVERS ?= transformers vllm
MARKS := not slow and not gpu and not reference and not servers and not notebooks
# One file at a time for each worker, in the order of tests/conftest.py: files of long tests first, and those of short ones even out the end.
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder

# An environment that forbids bytecode would have every process of the tests compile lzero anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-newest test-long soak test-gpu test-reference test-servers test-notebooks vllm lint check lock setup nano clean help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: setup  ## train the bundled nano model by reinforcement learning, a few minutes on two cores (ARGS="run.seed=1")
	$(BIN)/lzero train $(ARGS)

test: lint check  ## everything CI runs: lint, types, tests (ARGS="-k repl")
	$(BIN)/pytest -m "$(MARKS)" $(PARALLEL) $(ARGS)

test-newest: $(NEWEST)/.ready  ## the same tests on the newest releases that pyproject.toml allows, every warning an error
	$(NEWEST)/bin/pytest -m "$(MARKS)" $(PARALLEL) -W error $(ARGS)

test-long: setup  ## the bars of docs/benchmarks.md; kills, churn, fuzzing and attacks under load, whole (over an hour)
	$(BIN)/pytest -m slow $(ARGS)

soak: setup  ## an hour of everything that sandboxed sessions do, well or badly (ARGS="--soak-minutes 5")
	$(BIN)/pytest -m soak -s --soak-minutes 60 $(ARGS)

# A GPU machine often has torch and no package registry: an interpreter that is named is used as it is.
ifeq ($(origin PYTHON),file)
test-gpu: setup
test-gpu: GPU_PYTHON := $(BIN)/python
else
test-gpu: GPU_PYTHON := $(PYTHON)
endif
test-gpu:  ## what needs a CUDA device; PYTHON=python3 make test-gpu sets nothing up
	PYTHONPATH=src $(GPU_PYTHON) -m pytest -c tests/gpu/pytest.ini $(ARGS) tests/gpu

test-reference: setup  ## credit and loss against TRL's
	$(BIN)/pip install --quiet --constraint $(LOCK) --no-build-isolation --editable '.[reference]'
	$(BIN)/pytest -m reference $(ARGS)

test-servers: setup $(SERVERS:%=.servers/%/.ready)  ## the agent against real model servers on loopback (SERVERS=transformers for one)
	$(BIN)/pytest -m "servers and not slow" $(ARGS)

test-notebooks: setup  ## whole notebooks, cell by cell, against ipykernel
	$(BIN)/pytest -m notebooks $(ARGS)

# A server is somebody else's program, with requirements of its own: each has an environment to itself.
.servers/transformers/.ready: $(LOCK)
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --constraint $(LOCK) 'transformers[serving]>=5.0'
	touch $@

.servers/vllm/.ready: $(LOCK) locks/install_vllm.py
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python locks/install_vllm.py
	touch $@

vllm: .servers/vllm/.ready  ## vLLM for CPUs in an environment of its own, for engine.kind = "vllm"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: setup
	$(BIN)/mypy

lock:  ## resolve every package again, for each Python of PYTHONS (locks/lock.py)
	$(PYTHON) locks/lock.py $(PYTHONS)

setup: $(VENV)/.ready  ## virtual environment, bubblewrap, kernel environment

# hatchling comes first, from the lock: pip would build lzero with the newest one. Python compiles what it imports; pip would take a minute
# and a half to compile all of torch, transformers and sympy.
$(VENV)/.ready: pyproject.toml $(LOCK) src/lzero/assets/kernel/lock.txt
	$(python-is-new-enough)
	$(PYTHON) -m venv $(VENV) || { echo "python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet --constraint $(LOCK) hatchling editables
	$(BIN)/pip install --quiet --no-compile --constraint $(LOCK) --no-build-isolation --editable '.[dev]'
	$(BIN)/pip install --quiet --no-compile --constraint $(LOCK) 'reasoning-gym>=0.1.25' || echo 'reasoning-gym needs a C compiler: its tests are skipped'
	$(BIN)/pip download --quiet --constraint $(LOCK) --no-build-isolation --dest $(VENV)/wheelhouse .
	$(BIN)/python -m lzero.repl.setup
	touch $@

$(NEWEST)/.ready: pyproject.toml $(LOCK)
	$(python-is-new-enough)
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/pip install --quiet --upgrade pip
	$(NEWEST)/bin/pip install --quiet hatchling editables "$$(grep ^torch== $(LOCK))"
	$(NEWEST)/bin/pip install --quiet --no-build-isolation --editable '.[dev]' "$$(grep ^torch== $(LOCK))"
	$(NEWEST)/bin/pip download --quiet --no-build-isolation --dest $(NEWEST)/wheelhouse .
	$(NEWEST)/bin/python -m lzero.repl.setup --newest
	touch $@

define python-is-new-enough
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
  echo "lzero needs Python 3.11 or newer; $(PYTHON) is older. Name another one: make PYTHON=python3.12 …" >&2; exit 1; }
endef

nano: setup  ## make the bundled nano base model again, from nothing: demonstrations, two stages of fine-tuning (10 minutes)
	rm -rf runs/nano-*
	$(BIN)/lzero eval engine.kind=scripted engine.policy=recall tasks.eval=world/recall eval.num_tasks=5000 run.dir=runs/nano-demos-recall
	$(BIN)/lzero eval engine.kind=scripted engine.policy=expert tasks.eval=world/sft-expert tasks.hops=[1,2] eval.num_tasks=800 run.dir=runs/nano-demos-expert
	$(BIN)/lzero eval engine.kind=scripted engine.policy=never_submits tasks.eval=world/sft-wander eval.num_tasks=800 run.dir=runs/nano-demos-wander
	$(BIN)/lzero eval engine.kind=scripted engine.policy=weak tasks.eval=world/sft-weak eval.num_tasks=4000 run.dir=runs/nano-demos-weak
	$(BIN)/lzero sft recipes/nano-recall.toml run.dir=runs/nano-recall
	$(BIN)/lzero sft recipes/nano-base.toml run.dir=runs/nano-base
	$(BIN)/python recipes/ship_nano.py runs/nano-base/model

clean:  ## remove the virtual environments and caches (runs stay)
	rm -rf $(VENV) $(NEWEST) .servers .mypy_cache .ruff_cache .pytest_cache .hypothesis
