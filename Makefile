# make quickstart: install, draw a plate, train, judge, report.   make test: run the tests.   make lint: ruff and mypy.
# TORCH_INDEX=URL takes torch from another package index, for example https://download.pytorch.org/whl/cpu
PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin

.PHONY: quickstart test lint clean

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints.txt torch
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

quickstart: .venv/installed
	$(BIN)/python train.py experiment=quickstart
	$(BIN)/python eval.py ckpt_path=runs/quickstart/seed_0/best.ckpt

test: .venv/installed
	$(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs build dist *.egg-info
