# Everything runs from a bare clone: each target makes .venv first and skips that when nothing changed.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export NO_MKDOCS_2_WARNING := 1
unexport VIRTUAL_ENV PYTHONHOME
STAMP := .venv/.installed
EXTRAS := pipeline,engines,serve,dask,s3,postgres,dev,docs
COMMA := ,
BENCHMARKS = $(wildcard benchmarks/*.py)

# What these start ends with make, however that ends.
repro flow schedules ui: export QUEE_SUPERVISED := 1

.DEFAULT_GOAL := help
.PHONY: help install repro test types tests test-all lint flow schedules ui bench constraints docs fashion-mnist cluttered-fashion street-characters reference readme

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## make .venv with the pinned packages

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; set PYTHON=/path/to/python (3.11 or newer)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old; set PYTHON=/path/to/python (3.11 or newer)" >&2; exit 2; }
	@test -x .venv/bin/python || { rm -rf .venv && $(PYTHON) -m venv .venv; }
	@test -x .venv/bin/uv || .venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt uv
	.venv/bin/uv pip install -q --compile-bytecode --python .venv/bin/python -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

repro: $(STAMP) ## compute the results on the embedded data, track them, say what they are
	@quee run --track

test: $(STAMP) ## lint, types, tests
	ruff check
	ruff format --check
	@$(MAKE) --no-print-directory -j 2 types tests

# mypy takes one core for minutes where it has no cache; tests use the others meanwhile.
types:
	mypy

tests:
	pytest -q -n auto --dist loadfile -m "not slow"

test-all: $(STAMP) ## the same with the slow tests
	ruff check
	ruff format --check
	mypy
	pytest -q -n auto --dist loadfile

docs: $(STAMP) ## the documentation site, into build/site; broken links and anchors fail
	@python -m tasks.verbs.settings_page && mkdocs build --strict && echo "open build/site/index.html"

flow: $(STAMP) ## the pipeline as a Prefect flow, no server needed
	@python -m flows.pipeline

schedules: $(STAMP) ## Prefect server and the scheduled deployments, on this machine only; Ctrl-C ends them
	@python -m flows.schedules

ui: $(STAMP) ## MLflow's pages, on this machine only; Ctrl-C ends them
	@quee ui

fashion-mnist: $(STAMP) ## import Fashion-MNIST from Debian's package dataset-fashion-mnist, or from FASHION_MNIST=/folder
	@sh data/fashion-mnist.sh fashion_mnist "$(FASHION_MNIST)"

cluttered-fashion: $(STAMP) ## draw cluttered_fashion from the same source
	@sh data/fashion-mnist.sh cluttered_fashion "$(FASHION_MNIST)"

street-characters: $(STAMP) ## draw street_characters from the glyphs in the embedded remote
	@if test -f data/street_characters/train-00000-of-00001.parquet; then echo "data/street_characters is there"; \
	else dvc pull -q data/sources/street_glyphs.npz.dvc && quee data add street_characters data/sources/street_glyphs.npz; fi

reference: $(STAMP) ## publish the small results of EXPERIMENT=name in reference/ and the embedded remote
	@python -m tasks.verbs.reference "$(EXPERIMENT)"

readme: $(STAMP) ## write README's results from artifacts/ and reference/
	@python -m tasks.verbs.readme

bench: $(STAMP) ## the benchmarks
	@for file in $(BENCHMARKS); do echo "== $$file"; python "$$file" || exit 1; done

constraints: $(STAMP) ## refresh constraints.txt from the newest releases allowed
	uv pip compile pyproject.toml $(foreach extra,$(subst $(COMMA), ,$(EXTRAS)),--extra $(extra)) --no-header --no-annotate --no-emit-index-url --python-version 3.11 --upgrade -q -o constraints.txt
