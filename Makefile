# Both commands of the README start from a bare Linux machine with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# UCI power-plant if it is at hand, scikit-learn's bundled digits otherwise
DEMO := configs/$(if $(wildcard $(FLOWKIT_DATA)/uci/power-plant.txt),uci_power_plant,digits).yaml

.PHONY: demo test lint bench docs stubs slow clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	touch $(STAMP)

demo: $(STAMP)  ## train on real data; prints where checkpoint, samples and report are
	$(BIN)/python -m flowkit.experiment.demo $(DEMO)

# a process per core, each with one thread: spinning threads of several processes would stand in each other's way
test: lint  ## everything CI runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

slow: $(STAMP)  ## long reproductions
	$(BIN)/python -m pytest -m slow

bench: $(STAMP)  ## regenerate the committed tables
	for suite in ops density sampling fit growth; do $(BIN)/flowkit bench --suite $$suite --threads 2 --out benchmarks/results || exit 1; done
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

docs: $(STAMP)  ## regenerate docs/reference.md and docs/coverage.md from the registries
	$(BIN)/python -m flowkit.experiment.reference docs/reference.md
	$(BIN)/python docs/make_coverage.py

stubs: $(STAMP)
	$(BIN)/python -m flowkit.core.build.stubs

clean:
	rm -rf $(VENV) build dist *.egg-info
