# Two commands set up all they need: `make grade` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
LESSON ?=
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 4 ? n : 4)))
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: help setup lock starter handouts zips course release grade check test test-fast mutants costs flaky idle test-gpu test-thorough test-hostile fuzz lint format bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## make .venv with the pinned packages and this one

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "no python3.11 to 3.13 on the PATH: install one"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

lock: setup  ## pin what is installed now (after a change of pyproject.toml)
	@{ echo '# Every package of the project'"'"'s environment, pinned. Made by `make lock`; environment.yaml installs from it.'; \
	   $(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools --exclude wheel \
	   | sed -E 's/\+cpu$$//; s/^(pyseccomp==.*)$$/\1 ; sys_platform == "linux"/'; } > requirements.lock.part
	@mv requirements.lock.part requirements.lock && touch $(READY)

starter: setup  ## cut the starters from the solutions
	$(BIN)/autograder starter $(LESSON)

handouts: setup  ## the zips that students get, in dist/
	$(BIN)/autograder handouts $(LESSON)

zips: setup  ## the zips that grade on Gradescope and with Otter, in dist/
	$(BIN)/autograder zips $(LESSON)

course: setup  ## the course folder for nbgrader, in dist/course
	$(BIN)/autograder course $(LESSON)

release: handouts zips  ## every handout and gradable zip

grade: zips  ## grade solution, stub and a wrong sample of every lesson through the zips
	$(BIN)/autograder rehearse $(LESSON)

test: setup  ## all tests, file by file, on JOBS= cores
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

check: setup  ## all that must hold of LESSON=, public tests and handout included
	@$(BIN)/python tests/check_lesson.py $(LESSON)

test-fast: setup  ## the tests that take a moment
	$(BIN)/python -m pytest -q -m "not slow and not hostile and not thorough"

mutants: setup  ## systematic mutants of LESSON= must fail its suites; writes docs/proof.md
	$(BIN)/autograder mutants $(LESSON) $(if $(MODULE),--module $(MODULE))

costs: setup  ## what each wrong sample of LESSON= costs, by whole suites; writes docs/proof.md
	$(BIN)/autograder costs $(LESSON) $(if $(MODULE),--module $(MODULE))

flaky: setup  ## LESSON= under N= seeds: correct work loses no point; with WRONG=1 each wrong sample fails as it says
	$(BIN)/autograder flaky $(LESSON) -n $(or $(N),30) $(if $(MODULE),--module $(MODULE)) $(if $(WRONG),--wrong)

idle: setup  ## what of LESSON= carries no weight: tests, and mistakes that nobody is told
	$(BIN)/autograder idle $(LESSON)

test-gpu: setup  ## grade solution and GPU tests of every lesson where there is a GPU
	@$(BIN)/python -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "torch finds no GPU here"; exit 2; }
	@for lesson in $(or $(LESSON),$(notdir $(wildcard assignments/??-*))); do $(BIN)/autograder grade solutions/$$lesson --lesson $$lesson --gpu-only --out results/gpu/$$lesson || exit 1; done

test-thorough: setup  ## all of what `make test` tries a random part of
	$(BIN)/python -m pytest -q -m thorough

test-hostile: setup  ## attacks on the box, in three modes
	$(BIN)/python -m pytest -q tests/hostile -m hostile

fuzz: setup  ## hostile bytes through the decoder, the ranks' broker and the intake, five minutes each
	$(BIN)/python tests/fuzz_codec.py --seconds 300
	$(BIN)/python tests/fuzz_ranks.py --seconds 300
	$(BIN)/python tests/fuzz_intake.py --seconds 300

lint: setup  ## ruff: lint and format; mypy: the types of the package; and how messages read
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_messages.py

format: setup  ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## the figures in README, as ratios of one run; of LESSON= alone
	$(BIN)/python benchmarks/bench.py $(LESSON)

clean:  ## remove what is made, but not .venv
	rm -rf dist build results
