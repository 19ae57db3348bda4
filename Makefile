# `make` lists the targets. Everything is installed into .venv, except Debian packages for the tests.
PYTHON ?= python3
PORT ?= $(or $(DANMAKU_PORT),8000)
# The version of the images, as in k8s/ and docker-compose.yml.
TAG ?= $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/__init__.py)
CORPUS ?=
LIVE ?=
GENERAL ?=
WORKDIR ?= runs/danmaku-bert-mini
CONFIG ?= training/configs/chinese-base-v3-8.toml
LENGTH ?= 64
IMAGES ?= gateway worker
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Debian packages that the tests need: a browser, a Chinese font, Redis, and curl for the commands in the documents.
PACKAGES := chromium curl fonts-noto-cjk redis-server

.DEFAULT_GOAL := help
.PHONY: help install install-dev classic clients milvus prometheus serve test lint format dashboards docs images corpus-is-named \
  train-mini tpu-check check-python

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.service ## install the service into .venv (no TensorFlow)

install-dev: .venv/.dev ## also install what tests and training need

classic: .venv-classic/.done ## install the genuine bert-serving-server into .venv-classic (Python 3.11, TensorFlow 2.15)

clients: .venv-clients/.done ## install other programs' clients and sentence-transformers into .venv-clients, for tests/clients

milvus: ## install PyPI's Milvus server into .venv-milvus (Linux on x86-64)
	@tests/milvus.sh

prometheus: ## unpack Debian's Prometheus and promtool into .prometheus, unless they are installed
	@tests/prometheus.sh

serve: .venv/.service ## run the gateway on 127.0.0.1:8000; choose with PORT=8123 or DANMAKU_PORT
	@echo "Starting the gateway. When it is ready, open http://127.0.0.1:$(PORT)/ (Ctrl-C stops it)"
	@exec $(BIN)/danmaku serve --port $(PORT)

test: lint ## lint, then run all tests
	@tests/milvus.sh >/dev/null || echo "tests that need it will be skipped"
	@tests/prometheus.sh >/dev/null || echo "tests that need it will be skipped"
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: attack
attack: .venv/.dev ## send ten times as much hostile input as `make test`; takes minutes
	ATTACKS=10 $(BIN)/pytest -s --durations=10 tests/attacks

.PHONY: locks sbom audit
# For all platforms and Pythons, with the versions of constraints.txt.
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header --upgrade \
  --no-emit-package danmaku-client --no-emit-package danmaku-embedding --python-version 3.11
locks: .venv/.dev ## regenerate locks/, the hashes of what the images install
	echo hatchling | $(LOCK) --constraint constraints.txt --output-file locks/build.txt -
	printf './client\n.[milvus,otel]\n' | $(LOCK) --constraint constraints.txt --output-file locks/service.txt -
	printf './client\n.[milvus,otel,gpu]\n' | $(LOCK) --no-emit-package onnxruntime --constraint constraints.txt --output-file locks/gpu.txt -
	printf './client\n.[training,parquet]\n' | $(LOCK) --constraint constraints.txt --output-file locks/training.txt -

sbom: .venv/.dev ## write sbom.json, a CycloneDX list of the packages in .venv
	$(BIN)/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment $(BIN)/python \
	  --pyproject pyproject.toml --output-reproducible --output-file sbom.json

audit: .venv/.dev ## ask PyPI which pinned versions have known vulnerabilities
	$(BIN)/uv tool run --from pip-audit==2.10.1 pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

lint: .venv/.dev ## run ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=.:client $(BIN)/lint-imports

format: .venv/.dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dashboards: .venv/.dev ## regenerate monitoring/grafana/dashboards
	$(BIN)/python -m monitoring.dashboards

docs: .venv/.dev ## regenerate docs/http.md, the settings table, and the output shown in README and docs
	PYTHONPATH=. $(BIN)/python tests/renew_docs.py
	$(BIN)/python -m docs.settings

corpus-is-named:
	@test -n "$(CORPUS)" || { echo "CORPUS is not set; expected make train-mini CORPUS=path/to/danmaku_dataset"; exit 2; }

train-mini: .venv/.teacher corpus-is-named $(WORKDIR)/examples/examples.json $(WORKDIR)/language/examples/examples.json ## retrain the bundled model; CORPUS=DIR of videos [LIVE=DIR] [GENERAL=DIR]
	$(BIN)/danmaku-train train training/configs/danmaku-bert-mini.toml --workdir $(WORKDIR)
	$(BIN)/danmaku-train export --workdir $(WORKDIR) --output $(WORKDIR)/masked-lm
	$(BIN)/danmaku-train align training/configs/danmaku-bert-mini-moments.toml --model $(WORKDIR)/masked-lm \
	  --input $(CORPUS) --workdir $(WORKDIR)/moments
	$(BIN)/danmaku-train align training/configs/danmaku-bert-mini-pairs.toml --model $(WORKDIR)/moments \
	  --input $(CORPUS) --workdir $(WORKDIR)/pairs
	$(BIN)/danmaku-train align training/configs/danmaku-bert-mini-tasks.toml --heldout 0.1 \
	  --model $(WORKDIR)/masked-lm $(WORKDIR)/pairs \
	  --input $(CORPUS) $(LIVE) $(if $(GENERAL),--general $(GENERAL)) --workdir $(WORKDIR)/tasks
	$(BIN)/danmaku-train align training/configs/danmaku-bert-mini-last.toml --heldout 0.1 \
	  --model $(WORKDIR)/tasks $(WORKDIR)/pairs \
	  --input $(CORPUS) $(LIVE) $(if $(GENERAL),--general $(GENERAL)) --workdir $(WORKDIR)/last
	$(BIN)/danmaku-train export --workdir $(WORKDIR)/last --mix $(WORKDIR)/pairs --mix-share 0.3 --output $(WORKDIR)/mixed
	$(BIN)/danmaku-train align training/configs/danmaku-bert-mini-long.toml --heldout 0.1 \
	  --model $(WORKDIR)/mixed $(WORKDIR)/pairs \
	  --input $(CORPUS) $(LIVE) $(if $(GENERAL),--general $(GENERAL)) --workdir $(WORKDIR)/long
	$(BIN)/danmaku-train align training/configs/danmaku-bert-mini-ngrams.toml --heldout 0.1 \
	  --model $(WORKDIR)/long $(WORKDIR)/pairs \
	  --input $(CORPUS) $(LIVE) $(if $(GENERAL),--general $(GENERAL)) --workdir $(WORKDIR)/ngrams
	$(BIN)/danmaku-train train training/configs/danmaku-bert-mini-language.toml --workdir $(WORKDIR)/language \
	  --set init_checkpoint=$(WORKDIR)/ngrams/model.ckpt-2000
	$(BIN)/danmaku-train export --workdir $(WORKDIR)/language --output models/danmaku-bert-mini
	$(BIN)/danmaku-train sameness --model models/danmaku-bert-mini
	$(MAKE) question-head

.PHONY: question-head
question-head: .venv/.dev ## train the bundled head again, for the bundled model; CORPUS=DIR of videos
	@test -n "$(CORPUS)" || { echo "CORPUS is not set; expected make question-head CORPUS=path/to/danmaku_dataset"; exit 2; }
	@mkdir -p $(WORKDIR)
	$(BIN)/python -m training.heads.questions $(CORPUS) $(WORKDIR)/questions.csv
	$(BIN)/danmaku-train classify --input $(WORKDIR)/questions.csv --output models/danmaku-bert-mini/heads/question

tpu-check: .venv/.dev .venv-tpu/.done ## compile the recipe's step for a TPU v3-8, without a TPU; CONFIG=FILE, LENGTH=128
	$(BIN)/danmaku-train tpu-check $(CONFIG) --max-seq-length $(LENGTH)

images: ## build and tag the images with Docker; TAG=0.2.0, IMAGES="gateway worker worker-gpu training classic"
	@for target in $(IMAGES); do \
	  echo "Building danmaku-embedding-$$target:$(TAG)"; \
	  docker build --target $$target --tag danmaku-embedding-$$target:$(TAG) \
	    --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null) . || exit 1; \
	done

.PHONY: image-check k8s-rules
k8s-rules: ## regenerate k8s/components/monitoring/prometheus-rules.yaml from monitoring/rules
	@$(PYTHON) k8s/components/monitoring/rules.py >k8s/components/monitoring/prometheus-rules.yaml

image-check: ## build and start the images without a Docker engine (root, Debian); IMAGES="gateway worker training classic"
	@tests/image.sh $(IMAGES)

$(WORKDIR)/examples/examples.json: $(WORKDIR)/corpus/report.json
	$(BIN)/danmaku-train examples --input $(WORKDIR)/corpus --output $(WORKDIR)/examples

$(WORKDIR)/corpus/report.json: | .venv/.dev corpus-is-named
	$(BIN)/danmaku-train clean --input $(CORPUS) --output $(WORKDIR)/corpus

$(WORKDIR)/language/examples/examples.json: $(WORKDIR)/corpus/report.json
	$(BIN)/danmaku-train clean --input $(CORPUS) $(LIVE) --vocab $(WORKDIR)/corpus/vocab.txt --heldout 0.1 \
	  --output $(WORKDIR)/language/corpus
	$(BIN)/danmaku-train examples --input $(WORKDIR)/language/corpus --output $(WORKDIR)/language/examples

# An existing .venv keeps its Python, so a different PYTHON= would be ignored silently.
check-python:
	@test '$(origin PYTHON)' = file -a -x $(BIN)/python || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "invalid PYTHON: $(PYTHON); expected Python 3.11 or newer, as in make PYTHON=/path/to/python3.12 install"; exit 1; }; \
	  version='import sys; print(sys.version.split()[0])'; asked=$$($(PYTHON) -c "$$version"); \
	  test ! -x $(BIN)/python || has=$$($(BIN)/python -c "$$version"); \
	  test "$${has:-$$asked}" = "$$asked" \
	    || { echo "invalid PYTHON: $(PYTHON) is $$asked, but .venv has $$has; remove .venv to change it"; exit 1; }; }

.venv/bin/pip: | check-python
	@echo "Creating .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv \
	  || { rm -rf .venv; echo "$(PYTHON) has no venv module; on Debian: apt-get install python3-venv"; exit 1; }

.venv/.service: pyproject.toml client/pyproject.toml constraints.txt | check-python .venv/bin/pip
	@echo "Installing the service and its dependencies into .venv (about 400 MB; a minute or two)"
	@$(PIP) --editable ./client --editable .
	@echo "Installed: $$($(BIN)/danmaku --version 2>/dev/null | sed 's/^/danmaku /')"
	@touch $@

.venv-classic/.done: pyproject.toml constraints-classic.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "invalid PYTHON: $(PYTHON); expected Python 3.11 for TensorFlow 2.15: make classic PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv-classic
	.venv-classic/bin/pip install --quiet --disable-pip-version-check --constraint constraints-classic.txt \
	  --editable ./client --editable '.[classic]'
	@touch $@

.venv-clients/.done: tests/clients/requirements.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt
	@touch $@

.venv/.dev: .venv/.service
	@echo "Installing what tests and training need into .venv (about 3 GB, TensorFlow among it; some minutes)"
	@$(PIP) --editable ./client --editable '.[dev]'
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq $(PACKAGES) >/dev/null; } \
	  || echo "some tests need Debian packages: apt-get install $(PACKAGES)"
	@tests/milvus.sh >/dev/null || echo "tests that need it will be skipped"
	@tests/prometheus.sh >/dev/null || echo "tests that need it will be skipped"
	@touch $@

.venv/.teacher: .venv/.dev
	$(PIP) --editable '.[dev,teacher]'
	@touch $@

.venv-tpu/.done: training/tpu/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "invalid PYTHON: $(PYTHON); expected Python 3.11 for tensorflow-tpu 2.19: make tpu-check PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
