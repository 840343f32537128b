# Two commands do everything on a fresh Debian machine with python3 and pip: `make demo`, `make test`.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers
PYTEST := $(BIN)/python -m pytest

.PHONY: demo test lint bench scale fuzz kill-loop simulate simulate-teeth crash-states nth-operation screenshots bench-dashboard install need clean

demo: $(STAMP)
	$(BIN)/chunkq demo

test: $(STAMP) need lint
	$(PYTEST) -n 3 --dist loadgroup

lint: $(STAMP)
	$(BIN)/ruff check chunkq workers tests
	$(BIN)/ruff format --check chunkq workers tests
	$(BIN)/mypy
	$(BIN)/lint-imports

# The full sizes of what `make test` does in slices: a 16 GiB file, a sparse one of 100 GiB.
scale: $(STAMP) need
	CHUNKQ_TEST_SCALE_LARGE_GIB=16 CHUNKQ_TEST_SCALE_SPARSE_GIB=100 $(PYTEST) -s tests/e2e/test_scale.py

bench: $(STAMP) need $(PEERS)
	$(BIN)/python -m tests.bench all

# A peer that cannot be had here is named in the tables: the others are measured.
$(PEERS): pyproject.toml .ci/bench-need | $(STAMP)
	if .ci/bench-need $(VENV); then touch $(PEERS); fi

# Coverage-guided campaigns on every parser, SECONDS each, or so many EXECUTIONS, two at once;
# `make test` has a slice of them.
SECONDS := 60
EXECUTIONS := 0
fuzz: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check --group fuzz
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --executions $(EXECUTIONS)

# Requester, workers and a private RabbitMQ as real processes; kills, stops, bad networks, full disks.
# N rounds; the seed is printed, and SEED repeats it.
N := 200
SEED :=
kill-loop: $(STAMP) need
	$(BIN)/python -m tests.killloop --rounds $(N) $(if $(SEED),--seed $(SEED))

# SEEDS worlds of the simulator, on all cores: 20,000 take some 13 minutes on two.
SEEDS := 1000
simulate: $(STAMP)
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

# The simulator's teeth: bugs planted into the product one at a time, each of which it must find.
simulate-teeth: $(STAMP)
	$(BIN)/python -m tests.simulation.teeth

# Every state of the disk that a crash may leave, and every call failing; `make test` has a slice.
crash-states: $(STAMP)
	CHUNKQ_TEST_CRASH_STATES_EVERY=1 $(PYTEST) -s -n 2 tests/simulation/test_crash_states.py

nth-operation: $(STAMP)
	CHUNKQ_TEST_NTH_OPERATION_EVERY=1 $(PYTEST) -s -n 2 tests/simulation/test_nth_operation.py

# The pictures of the README, of a site with forty transfers.
screenshots: $(STAMP) need
	$(BIN)/python -m tests.dashboard.screenshots docs/images

# What 10,000 transfers cost the page, in CPU time.
bench-dashboard: $(STAMP)
	$(BIN)/python -m tests.dashboard.cost

install: $(STAMP)

# RabbitMQ from Debian's packages, unless CHUNKQ_TEST_AMQP_URL names a broker.
need:
	.ci/need

$(STAMP): pyproject.toml .ci/venv
	.ci/venv $(VENV)
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
