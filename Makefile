# `make` lists what can be made. Everything lives in .venv, except Debian packages for the tests.
PYTHON ?= python3
PORT ?= 8000
CORPUS ?=
WORKDIR ?= runs/danmaku-bert-mini
CONFIG ?= training/configs/chinese-base-v3-8.toml
LENGTH ?= 64
IMAGES ?= gateway worker
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Debian packages of the tests: a browser, a font that has Chinese, a Redis, and what the commands of the documents use.
PACKAGES := chromium curl fonts-noto-cjk redis-server

.DEFAULT_GOAL := help
.PHONY: help install install-dev classic redis8 prometheus serve test lint format dashboards docs corpus-is-named train-mini tpu-check

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.service ## make .venv with the service (no TensorFlow)

install-dev: .venv/.dev ## add what tests and training need

classic: .venv-classic/.done ## make .venv-classic with the genuine bert-serving-server (Python 3.11, TensorFlow 2.15)

redis8: ## make .redis8 with a Redis 8 (Debian's own packages), unless one is installed
	@tests/redis8.sh

prometheus: ## make .prometheus with a Prometheus and promtool (Debian's own package), unless they are installed
	@tests/prometheus.sh

serve: .venv/.service ## run the gateway on 127.0.0.1; PORT=8123 to choose
	@exec $(BIN)/danmaku serve --port $(PORT)

test: lint ## lint, then run every test
	@tests/redis8.sh >/dev/null || echo "tests that need it are skipped"
	@tests/prometheus.sh >/dev/null || echo "tests that need it are skipped"
	$(BIN)/pytest -n 2 --dist loadfile

lint: .venv/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev ## put the code into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dashboards: .venv/.dev ## generate monitoring/grafana/dashboards anew
	$(BIN)/python -m monitoring.dashboards

docs: .venv/.dev ## write anew what README and docs show of the gateway's answers, and docs/http.md
	PYTHONPATH=. $(BIN)/python tests/renew_docs.py
	$(BIN)/python -m docs.settings

corpus-is-named:
	@test -n "$(CORPUS)" || { echo "say where the danmaku are: make train-mini CORPUS=path/to/danmaku_dataset"; exit 2; }

train-mini: corpus-is-named $(WORKDIR)/examples/examples.json ## train the bundled model again; CORPUS=DIR of danmaku CSV files
	$(BIN)/danmaku-train train training/configs/danmaku-bert-mini.toml --workdir $(WORKDIR)
	$(BIN)/danmaku-train export --workdir $(WORKDIR) --output $(WORKDIR)/masked-lm
	$(BIN)/danmaku-train align training/configs/danmaku-bert-mini-align.toml --model $(WORKDIR)/masked-lm \
	  --input $(CORPUS) --workdir $(WORKDIR)/moments
	$(BIN)/danmaku-train align training/configs/danmaku-bert-mini-pairs.toml --model $(WORKDIR)/moments \
	  --input $(CORPUS) --workdir $(WORKDIR)/pairs
	$(BIN)/danmaku-train export --workdir $(WORKDIR)/pairs --output models/danmaku-bert-mini

tpu-check: .venv/.dev .venv-tpu/.done ## compile the recipe's step for a TPU v3-8, without one; CONFIG=FILE, LENGTH=128
	$(BIN)/danmaku-train tpu-check $(CONFIG) --max-seq-length $(LENGTH)

.PHONY: image-check k8s-rules
k8s-rules: ## write the rules of monitoring/ anew as k8s/components/monitoring/prometheus-rules.yaml
	@$(PYTHON) k8s/components/monitoring/rules.py >k8s/components/monitoring/prometheus-rules.yaml

image-check: ## build the images without a Docker engine and start them (root, Debian); IMAGES="gateway worker training classic"
	@tests/image.sh $(IMAGES)

$(WORKDIR)/examples/examples.json: $(WORKDIR)/corpus/report.json
	$(BIN)/danmaku-train examples --input $(WORKDIR)/corpus --output $(WORKDIR)/examples

$(WORKDIR)/corpus/report.json: | .venv/.dev corpus-is-named
	$(BIN)/danmaku-train clean --input $(CORPUS) --output $(WORKDIR)/corpus

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; make PYTHON=/path/to/it …"; exit 1; }
	@$(PYTHON) -m venv .venv \
	  || { rm -rf .venv; echo "no venv module; on Debian: apt-get install python3-venv"; exit 1; }

.venv/.service: pyproject.toml client/pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP) --editable ./client --editable .
	@touch $@

.venv-classic/.done: pyproject.toml constraints-classic.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "TensorFlow 2.15 needs Python 3.11; make classic PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv .venv-classic
	.venv-classic/bin/pip install --quiet --disable-pip-version-check --constraint constraints-classic.txt \
	  --editable ./client --editable '.[classic]'
	@touch $@

.venv/.dev: .venv/.service
	$(PIP) --editable ./client --editable '.[dev]'
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq $(PACKAGES) >/dev/null; } \
	  || echo "the tests need Debian packages: apt-get install $(PACKAGES)"
	@tests/redis8.sh >/dev/null || echo "tests that need it are skipped"
	@tests/prometheus.sh >/dev/null || echo "tests that need it are skipped"
	@touch $@

.venv-tpu/.done: training/tpu/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "tensorflow-tpu 2.19 and its pins were tried with Python 3.11; make tpu-check PYTHON=/path/to/it"; exit 1; }
	@$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@
