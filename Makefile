# `make help` lists the targets. Everything is installed into .venv; only python3 (3.11 or newer) is needed beforehand.
PYTHON ?= python3
OUT ?= out
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Scripts write their pictures to a folder and never open a window.
export MPLBACKEND := Agg
export PARAREAL_OUT := $(OUT)

.DEFAULT_GOAL := help
.PHONY: help demo test nightly venv lint prose format types docs examples bench reliability dist clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP) ## diffusion sampling, serial against parallel in time: a table and a picture
	@mkdir -p "$(OUT)"
	$(BIN)/python examples/quickstart.py

test: $(STAMP) ## the test suite, a worker on each core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup -q --durations=25 $(ARGS)

nightly: $(STAMP) ## the same with all combinations of parameters and many times as many random examples: hours
	HYPOTHESIS_PROFILE=nightly OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup -q --durations=25 $(ARGS)

venv: $(STAMP) ## set up .venv with the package and all that tests and checks need

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed: make venv PYTHON=python3.11' >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[files,plot,progress]' --group dev
	@touch $@

lint: $(STAMP) ## ruff: rules and formatting; import-linter: which rooms may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

prose: $(STAMP) ## spelling, and words that only this project would understand, in pages and docstrings
	$(BIN)/codespell README.md CONTRIBUTING.md CHANGELOG.md docs parareal diffusion_adapters examples
	$(BIN)/python scripts/check_prose.py

format: $(STAMP) ## ruff: apply the fixes and the formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## pyright, strict on parareal/
	$(BIN)/pyright

docs: $(STAMP) ## the documentation, into site/: a warning is an error; and every snippet of its pages is run
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -q scripts/check_snippets.py

examples: $(STAMP) ## every script in examples/, results into out/, their counts held to docs/gallery.md
	@mkdir -p "$(OUT)"
	@set -e; for script in examples/*.py; do \
		[ -e "$$script" ] || continue; \
		echo "== $$script"; said="$(OUT)/$$(basename "$$script" .py).txt"; \
		start="$(BIN)/python"; \
		case "$$script" in examples/distributed_*) \
			start="env OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node=2";; esac; \
		$$start "$$script" > "$$said" || { cat "$$said"; exit 1; }; cat "$$said"; \
	done
	$(BIN)/python scripts/check_gallery.py "$(OUT)"

bench: $(STAMP) ## every script in benchmarks/: the tables that the docs quote; the paper's experiments in short
	@mkdir -p "$(OUT)"
	@set -e; for script in benchmarks/*.py; do \
		[ -e "$$script" ] || continue; \
		case "$$script" in benchmarks/domains.py) continue;; benchmarks/srds.py) form=--quick;; *) form=;; esac; \
		echo "== $$script"; $(BIN)/python "$$script" $$form; \
	done

reliability: $(STAMP) ## what is tried to break it, all of it: hours; make reliability ARGS="--share 0.1" for less
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability.py --nightly $(ARGS)

dist: $(STAMP) ## sdist and wheel, into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist

clean: ## remove all that was built, .venv included
	rm -rf $(VENV) site dist build .pytest_cache .ruff_cache .hypothesis "$(OUT)"
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
