# `make` lists what can be made. Everything lives in .venv; nothing else on the machine is touched.
PYTHON ?= python3
PORT ?= 8000
CORPUS ?=
WORKDIR ?= runs/danmaku-bert-mini
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install install-dev serve test lint format train-mini

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/.service ## make .venv with the service (no TensorFlow)

install-dev: .venv/.dev ## add what tests and training need

serve: .venv/.service ## run the gateway on 127.0.0.1; PORT=8123 to choose
	@exec $(BIN)/danmaku serve --port $(PORT)

test: lint ## lint, then run every test
	$(BIN)/pytest

lint: .venv/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev ## put the code into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train-mini: .venv/.dev ## train the bundled model again; CORPUS=DIR of danmaku CSV files
	@test -n "$(CORPUS)" || { echo "say where the danmaku are: make train-mini CORPUS=path/to/danmaku_dataset"; exit 2; }
	$(BIN)/danmaku-train clean --input $(CORPUS) --output $(WORKDIR)/corpus
	$(BIN)/danmaku-train examples --input $(WORKDIR)/corpus --output $(WORKDIR)/examples
	$(BIN)/danmaku-train train training/configs/danmaku-bert-mini.toml --workdir $(WORKDIR)
	$(BIN)/danmaku-train export --workdir $(WORKDIR) --output models/danmaku-bert-mini

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; make PYTHON=/path/to/it …"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "no venv module; on Debian: apt-get install python3-venv"; exit 1; }

.venv/.service: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/.dev: .venv/.service
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -c 'from training.visualise import find_font; find_font()' 2>/dev/null || { \
	  command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] \
	    && apt-get update -qq && apt-get install -y -qq fonts-noto-cjk >/dev/null; } \
	  || { echo "a font for Chinese is needed to draw words; on Debian: apt-get install fonts-noto-cjk"; exit 1; }
	@touch $@
