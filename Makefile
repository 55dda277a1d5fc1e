# Each target is enough by itself on a bare Debian or Ubuntu with python3 and make.
#   make serve CONFIG=millpond.yaml       make test ARGS="tests/settings -x"       make install PYTHON=python3.12
#   NO_APT=1 keeps a root user's machine as it is: nothing is installed outside .venv

# Most tests wait for programs, so some files at a time take less time, on any number of processors.
JOBS ?= 4
BIN := .venv/bin
STAMP := .venv/.installed
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" pyproject.toml

# A machine-wide PIP_USER would send the packages past the virtual environment.
export PIP_USER = 0

.DEFAULT_GOAL := help
.PHONY: help install serve test check bench soak lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: $(STAMP) ## .venv with .venv/bin/millpond

serve: install ## run Millpond on port 5000; CONFIG=file.yaml for a configuration
	@exec $(BIN)/millpond serve $(if $(CONFIG),--config $(CONFIG)) $(ARGS)

test: install ## run every test; as root, missing client programs are installed first
	@.ci/programs containerd dockerd podman skopeo umoci docker-registry nginx runc openssl haproxy promtool \
		systemd-analyze docker-compose chromium
	@.ci/helm
	@.ci/conformance
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

check: install ## lint, format, types, layers, audit of the dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/python -m tests.audit

bench: install ## compare with nginx and registry on this machine
	@.ci/programs nginx docker-registry wrk
	@$(BIN)/python -m tests.bench $(ARGS)

soak: install ## ten minutes of pulls, faults, evictions and restarts; ARGS="--seconds 3600" for longer
	@.ci/programs skopeo
	@$(BIN)/python -m tests.soak $(ARGS)

lock: install ## write the lock files anew from pyproject.toml; ARGS=--upgrade for newer versions
	$(UV_COMPILE) $(ARGS) --output-file requirements.lock
	$(UV_COMPILE) $(ARGS) --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean: ## remove what the other targets made
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Hashes are checked for every package; only our own tree is installed without one, built by the locked backend.
$(STAMP): requirements-dev.lock pyproject.toml
	@.ci/venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
