# make help lists the targets.
.DELETE_ON_ERROR:
.SUFFIXES:
SHELL = /bin/bash
.SHELLFLAGS = -euo pipefail -c

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install test lint format docs bench fuzz clean
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z0-9%.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## Make .venv and install clipkit with what its tests need

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

test: lint  ## Run the linters and the tests
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## Check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED)  ## Mend style and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(INSTALLED)  ## Run the examples in README.md and docs/ again and write down what they print
	$(BIN)/python docs/examples.py

clean:  ## Remove the environment and every made file
	rm -rf $(VENV) build results .pytest_cache .mypy_cache .ruff_cache
