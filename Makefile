# The daily habits. `make venv` once, then any of the others; `make check` is the first part of .ci/run.

VENV   ?= .venv
PYTHON ?= $(VENV)/bin/python
OUT    ?= runs/tiny-tales-gpt2
SEEDS  ?= 3 4 5 6 7

.DEFAULT_GOAL := help
.PHONY: help venv test faults lint types check run quick pretrain seeds benchmark labels sweep taste notebooks bugs stops wheel clean

help:       ## show this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 14

venv:       ## a virtual environment with everything in requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -r requirements.txt

test:       ## README's test command: everything but what is marked faults
	$(PYTHON) -m pytest

faults:     ## kills, power cuts, many processes, and a quick run that is stopped, at full length
	$(PYTHON) -m pytest -m faults

lint:       ## ruff
	$(PYTHON) -m ruff check .

types:      ## mypy
	$(PYTHON) -m mypy

check: lint types test  ## lint, types and tests

run:        ## the whole loop
	$(PYTHON) -m rlhf_mini run

quick:      ## a rough pass of the loop
	$(PYTHON) -m rlhf_mini run --quick

pretrain:   ## rebuild the embedded checkpoint into OUT (an hour and a half, or more)
	$(PYTHON) -m rlhf_mini pretrain --out $(OUT)

seeds:      ## the five seeds of the README table, into assets/seeds.json (over an hour; finished ones are kept)
	$(PYTHON) -m rlhf_mini seeds --seeds $(SEEDS) --out runs/seeds
	cp runs/seeds/seeds.json assets/seeds.json

benchmark:  ## a PPO iteration beside a naive one, into assets/benchmark.json
	PYTHONPATH=. $(PYTHON) tests/benchmarks/ppo_iteration.py --out assets/benchmark.json

labels:     ## accuracy against the number of labels, into assets/label_efficiency.json (over an hour)
	test -s runs/3/metrics.json || $(PYTHON) -m rlhf_mini run --seed 3 --out runs/3
	PYTHONPATH=. $(PYTHON) assets/record/label_efficiency.py --run runs/3 --out assets/label_efficiency.json

sweep:      ## the coefficients and the second rounds of notebook 07, into assets/sweep.json (an hour and a half)
	PYTHONPATH=. $(PYTHON) assets/record/sweep.py --run assets/run-3 --out assets/sweep.json --work runs/sweep

taste:      ## the tastes and seeds of notebook 08, into assets/taste.json (half an hour)
	PYTHONPATH=. $(PYTHON) assets/record/taste.py --run assets/run-3 --out assets/taste.json

notebooks:  ## run every notebook and store what it shows (a quarter of an hour)
	$(PYTHON) notebooks/execute.py

bugs:       ## put bugs into the package, one at a time, and see a notebook notice each (a quarter of an hour)
	$(PYTHON) tests/seed_bugs.py

stops:      ## press stop early in every live picture, and see the notebook run on (ten minutes)
	$(PYTHON) tests/stop_early.py

wheel:      ## a wheel with the checkpoint inside, into dist/
	$(PYTHON) -m build --wheel

clean:      ## remove caches and builds; runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
