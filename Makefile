# make repro and make test need git, make and Python >= 3.11; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
# Paths may have spaces: make splits its own functions' arguments there, so none of them is given a path.
BIN := $(if $(filter /%,$(VENV)),$(VENV),$(CURDIR)/$(VENV))/bin
# Test files at a time. Most tests wait for single-threaded processes, and files share what they prepare.
TEST_JOBS ?= 2
PYTEST_IN_PARALLEL := "$(BIN)/python" -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder
EMPTY :=
INSTALLED := $(subst $(EMPTY) ,\ ,$(VENV))/.installed
# Of make ui and make tensorboard; empty is each program's own.
PORT ?=
# Of a benchmark: make bench-codec ARGS=--help
ARGS ?=
BENCHMARK := "$(BIN)/python" benchmarks
PREPARED := "$(BIN)/dvc" repro --quiet prepare_data
# The stages are started as `python -m stages.x` and must find this environment's interpreter.
export PATH := $(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true

.PHONY: help setup repro test test-fast lint format soak ui tensorboard lock clean
.PHONY: bench-checkpoints bench-clip-codecs bench-codec bench-comparison-mistakes bench-data-index bench-gpu
.PHONY: bench-manifest bench-pipeline bench-tracking bench-train-step bench-trainings bench-world-sizes
.DEFAULT_GOAL := help

help: ## Show this list
	@echo "Targets (VENV=$(VENV) chooses where the environment goes):"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-25s %s\n", $$1, $$2}'

setup: $(INSTALLED) .dvc/.set-up ## Install everything that requirements.lock pins

$(INSTALLED): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python >= 3.11 is needed, this is " + sys.version.split()[0] + "; choose one with make PYTHON=python3.12 ...")'
	@echo "Installing into $(VENV): about 6.5 GB, 3-5 minutes on the first run"
	@test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)"
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch "$@"

# A downloaded archive is not a git repository; DVC then works without one, but experiments need git.
.dvc/.set-up: $(INSTALLED)
	@git rev-parse --git-dir >/dev/null 2>&1 || "$(BIN)/dvc" config --local core.no_scm true
	@mkdir -p .dvc && touch $@

repro: setup ## Run the whole pipeline; what is up to date is not run again
	@"$(BIN)/python" -m taehv.launch

test: setup lint ## Lint, then all tests but the long ones, including one real pipeline run
	@$(PYTEST_IN_PARALLEL) -m "not soak"

test-fast: setup ## The tests that take seconds (no pipeline run)
	@"$(BIN)/python" -m pytest -m "not pipeline and not slow and not soak"

lint: setup ## Formatting, lint and types
	@"$(BIN)/ruff" format --check --quiet .
	@"$(BIN)/ruff" check --quiet .
	@"$(BIN)/mypy"

format: setup ## Format and fix what can be fixed
	@"$(BIN)/ruff" format .
	@"$(BIN)/ruff" check --fix .

soak: setup ## Long tests: many seeds, kills and fuzz examples
	@$(PYTEST_IN_PARALLEL) -m soak

ui: setup ## MLflow UI on http://127.0.0.1:5000 (make ui PORT=5001: on another port)
	@"$(BIN)/python" -m taehv.tracking.ui $(if $(PORT),--port $(PORT))

tensorboard: setup ## TensorBoard on http://127.0.0.1:6006, finished and running trainings
	@mkdir -p runs .work
	@"$(BIN)/tensorboard" --logdir_spec finished:runs,running:.work --host 127.0.0.1 $(if $(PORT),--port $(PORT))

# Each makes tables of benchmarks/RESULTS.md or docs/losses.md; the file says how. ARGS="..." are its options.
bench-checkpoints: setup ## What checkpoints cost a training step
	@$(PREPARED) && $(BENCHMARK)/checkpoints.py $(ARGS)

bench-clip-codecs: setup ## Codecs of stored clips: size, PSNR, clips/s
	@$(BENCHMARK)/clip_codecs.py $(ARGS)

bench-codec: setup ## Encode and decode: plain against the fast paths
	@$(BENCHMARK)/codec.py $(ARGS)

bench-comparison-mistakes: setup ## What PSNR a wrong comparison shows
	@$(PREPARED) && $(BENCHMARK)/comparison_mistakes.py $(ARGS)

bench-data-index: setup ## Opening and drawing from an index of 10^3 to 10^7 clips
	@$(BENCHMARK)/data_index.py $(ARGS)

bench-gpu: setup ## What only a GPU can show (ARGS="--part step")
	@PYTHON="$(BIN)/python" benchmarks/gpu.sh $(ARGS)

bench-manifest: setup ## Lists of millions of videos, and taehv manifest over many files
	@$(BENCHMARK)/manifest.py $(ARGS)

bench-pipeline: setup ## The whole pipeline in fresh clones: minutes, memory, PSNR
	@$(BENCHMARK)/pipeline.py $(ARGS)

bench-tracking: setup ## What tracking costs a training step, by state of the server (15 min)
	@$(BENCHMARK)/tracking.py $(ARGS)

bench-train-step: setup ## Speed of a training step: plain against as built, term by term
	@$(BENCHMARK)/train_step.py $(ARGS)

bench-trainings: setup ## Many trainings: ARGS=seeds, founding-story, unseen-source or tune (hours)
	@$(PREPARED) && $(BENCHMARK)/trainings.py $(ARGS)

bench-world-sizes: setup ## How far 1, 2 and 3 processes drift apart by rounding
	@$(PREPARED) && $(BENCHMARK)/world_sizes.py $(ARGS)

lock: ## Resolve requirements.in into requirements.lock again
	@"$(PYTHON)" -m venv "$(VENV)-lock" && "$(VENV)-lock/bin/python" -m pip install --quiet uv
	@"$(VENV)-lock/bin/python" -m uv pip compile --universal --python-version 3.11 --no-header --no-annotate requirements.in -o requirements.lock

clean: ## Delete the pipeline's outputs and unfinished work (not the tracking store, not DVC's cache)
	@rm -rf data/clips data/teacher data/quarantine.csv data/dataset.json data/params.resolved.yaml runs reports .work
