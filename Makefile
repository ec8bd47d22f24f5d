# `make demo` and `make test` need Python 3.10 to 3.13 and make; they set up .venv once and re-use it.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
MODULES := .venv-modules
PEERS   := .peers
RUNS    ?= runs/demo
GOLDEN  ?= runs/golden.json

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint fast test-property test-modules test-studies gallery bench bench-quick bench-alerts bench-advice golden golden-compare peers clean constraints images

demo: $(READY)
	$(BIN)/curvwatch demo --dir $(RUNS)

# docs/images/dashboard.png from the logs of `make demo`, with Chromium; edges.png, some 5 minutes
images: $(READY)
	$(BIN)/python docs/images/make.py $(RUNS)
	$(BIN)/python docs/images/edges.py

# under 8 minutes on two cores; tests that start processes of their own come last, one file at a time on
# either core, so that what a file starts is started once; to look into all other files takes 20 s
test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not processes and not study"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "processes and not study" \
	  $$(grep -rl --include='*.py' mark.processes tests)

# everything but the runs that take over 30 s
fast: lint
	$(BIN)/python -m pytest -m "not slow and not study"

# 200 random runs instead of the 10 of `make test`, some 2 minutes
test-property: $(READY)
	CURVWATCH_DRAWS=200 $(BIN)/python -m pytest tests/property

# modules of transformers and pytorch-forecasting, in an environment of their own; nothing is downloaded
test-modules: $(MODULES)/.ready
	HF_HUB_OFFLINE=1 $(MODULES)/bin/python -m pytest tests/real_modules

# networks that are trained until they show what the literature says, standard errors that fall as they
# should, examples that train as the demo does, and the cases that `make test` leaves out: of products of
# networks, optimizers and options, and those that are like another one. Some 14 minutes
test-studies: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m study

# findings of the literature, run anew: docs/gallery; `make gallery ONLY=outliers` runs one
gallery: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m gallery $(ONLY)

# what readings cost, beside other tools: docs/performance.md, under an hour on an idle machine;
# `make bench ONLY=memory` measures one part anew: sharpness, steps, scale, memory, budget or gpu
bench: $(READY) peers
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(ONLY)

# small versions, some 2 minutes, to runs/benchmarks
bench-quick: $(READY) peers
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks --quick $(ONLY)

# 200 short runs, some 30 minutes, to runs/alerts: which alerts come before a run is lost; docs/alerts.md
bench-alerts: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.alerts

# probe runs, their advice on the learning rate, and runs at multiples of it, under 15 minutes on an idle
# machine: docs/advice.md
bench-advice: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.advice

# all readings of 18 short runs, some 90 s, to GOLDEN; `make golden-compare` at a later commit, on the same
# machine, tells whether each is the same bit for bit. `make golden-compare WORDS=--ignore-words` lets texts
# differ: a move of files or names that are private changes no number, even where messages change
golden: $(READY)
	mkdir -p $(dir $(GOLDEN))
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.golden record $(GOLDEN)

golden-compare: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.golden compare $(GOLDEN) $(WORDS)

# the other tools, in a folder of their own; the benchmarks do without what cannot be had
peers: $(READY)
	test -e $(PEERS)/.ready -a ! pyproject.toml -nt $(PEERS)/.ready || \
	  { $(BIN)/python -m pip install -q --no-deps --upgrade --target $(PEERS) --group bench && \
	    touch $(PEERS)/.ready; } || echo "benchmarks: the peers cannot be installed"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(READY): GROUPS = dev
$(MODULES)/.ready: GROUPS = dev modules

$(READY) $(MODULES)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else f"curvwatch needs Python 3.10 to 3.13, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -q -c constraints.txt pip hatchling editables
	$(@D)/bin/python -m pip install -c constraints.txt --no-build-isolation -e '.[all]' $(GROUPS:%=--group %)
	touch $@

# needs uv; keeps torch where it is pinned
constraints:
	echo "torch==2.13.0" > .constraints.in
	{ echo '# Every version that the Makefile installs, on Python 3.10 to 3.13. Made by `make constraints`.'; \
	  uv pip compile pyproject.toml --all-extras --group dev --group modules --universal --python-version 3.10 \
	    --no-annotate --no-header -c .constraints.in; } > constraints.txt
	rm .constraints.in

clean:
	rm -rf $(VENV) $(MODULES) $(PEERS) .mypy_cache .ruff_cache .pytest_cache
