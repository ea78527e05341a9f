# The daily habits. `make venv` once, then any of the others; `make check` is the first part of .ci/run.

VENV   ?= .venv
PYTHON ?= $(VENV)/bin/python
OUT    ?= runs/tiny-tales-gpt2
TRAIN  ?= 00 01 02 04 05 06 07 08 09 11

.DEFAULT_GOAL := help
.PHONY: help venv lab test faults kills lint types check run quick pretrain record recorded methods clinic benchmark notebooks bands bugs stops wheel clean

help:       ## show this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 14

venv:       ## a virtual environment with everything in requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install -r requirements.txt

lab:        ## JupyterLab, opened on the first notebook
	$(VENV)/bin/jupyter lab notebooks/00_the_map.ipynb

test:       ## README's test command: everything but what is marked faults
	$(PYTHON) -m pytest

faults:     ## kills, power cuts, many processes, and a quick run that is stopped, at full length
	$(PYTHON) -m pytest -m faults

kills:      ## kill whole runs five hundred times, at every call that writes a file too, and compare their numbers
	PYTHONPATH=. OMP_NUM_THREADS=1 $(PYTHON) tests/kills.py --kills 500 --every-call

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

record:     ## record anew what is out of date in assets/ and notebooks/, or ONLY="run-3 seeds" (hours; stop as you like)
	$(PYTHON) assets/record/record.py $(if $(JOBS),--jobs $(JOBS)) $(ONLY)

recorded:   ## what is up to date and what is not, and why
	$(PYTHON) assets/record/record.py --list $(ONLY)

methods:    ## record the comparison of methods that 11 draws, where it is out of date (an hour and a half; stop as you like)
	$(PYTHON) assets/record/record.py seeds methods_tuning methods

clinic:     ## record the runs with one fault each that 10 shows, where they are out of date (a quarter of an hour)
	$(PYTHON) assets/record/record.py clinic

benchmark:  ## each stage beside its ideal, a naive loop, generate and TRL, into assets/benchmark.json; or ONLY="sft sampling"
	PYTHONPATH=. $(PYTHON) tests/benchmarks/main.py $(if $(ONLY),--only $(ONLY),--out assets/benchmark.json)

notebooks:  ## run the notebooks that are out of date, and store what they show (a quarter of an hour)
	$(PYTHON) assets/record/record.py notebooks

bands:      ## how far the numbers of the notebooks in TRAIN move when they train again (an hour and a half)
	PYTHONPATH=. $(PYTHON) assets/record/bands.py $(foreach n,$(TRAIN),$(wildcard notebooks/$(n)_*.ipynb))

bugs:       ## put bugs into the package, one at a time, and see a notebook notice each (an hour)
	PYTHONPATH=. $(PYTHON) tests/seed_bugs.py

stops:      ## press stop early in every live picture, and see the notebook run on (ten minutes)
	PYTHONPATH=. $(PYTHON) tests/stop_early.py

wheel:      ## a wheel with the checkpoint inside, into dist/
	$(PYTHON) -m build --wheel

clean:      ## remove caches and builds; runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
