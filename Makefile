# One command each. `make up` needs Python 3.11 or newer, git and make: no Docker, no root, no Redis.
#
# Passed on to the fleet by the environment: MODEL_ID DEVICE DTYPE WORKERS NUM_SHARD QUANTIZE REDIS_URL PORT,
# as in `make up MODEL_ID=./my-model PORT=9000`.

# Where torch comes from. If it cannot be reached, pip's own configuration decides.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH       ?= torch==2.13.0
TORCHVISION ?= torchvision==0.28.0
# Clients that come without what they ask for: pyproject.toml says why.
CLIENTS     ?= text-generation==0.7.0 langchain-huggingface==1.2.3
VENV        ?= .venv
# The first Python that is new enough.
PYTHON      ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python3.14,\
  $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))

export MODEL_ID DEVICE DTYPE WORKERS NUM_SHARD QUANTIZE REDIS_URL PORT
# Unset is not the same as empty.
$(foreach v,MODEL_ID DEVICE DTYPE WORKERS NUM_SHARD QUANTIZE REDIS_URL PORT,$(if $($(v)),,$(eval unexport $(v))))

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
RUN := $(VENV)/bin/python -m

# transformers 4.55, which Intel's stack pins, beside the newest: the models' tests run under both.
OLD         := $(VENV)-transformers-4.55
# The same where optimum-habana, whose calls of Habana's kernels ours are compared with, can be imported: with
# torchvision, which transformers could not bear elsewhere if only a build for CUDA is to be had.
HABANA      := $(VENV)-optimum-habana
REPORT      ?= docs/test-all.txt

# torch's threads must not spin while they wait: tests share the processors with the fleets they start.
export OMP_WAIT_POLICY ?= PASSIVE

# Tests wait for processes much of their time: two cores are busy with three at once. A file stays together, for its
# tests share a fleet; the files come in the order of their names, for xdist's own leaves the longest tests to the end.
PARALLEL ?= -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: help install up test test-all chaos images compose-check lint format bench clean
.DEFAULT_GOAL := help

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.dev ## Everything that developing and testing needs, in .venv

up: $(VENV)/.app ## Serve: embedded Redis, a worker, the gateway; Ctrl-C drains
	@exec $(VENV)/bin/sagrada up

test: $(VENV)/.dev ## Everything that needs no card, within 12 minutes on 2 cores
	$(RUN) pytest tests $(PARALLEL)

test-all: $(VENV)/.dev $(OLD)/.dev $(HABANA)/.dev ## The full matrix, both transformers; writes docs/test-all.txt
	bash tests/report.sh $(VENV) $(OLD) $(HABANA) $(REPORT)

chaos: $(VENV)/.dev ## A storm of clients and faults, frozen workers, an overload: make chaos MINUTES=10 SEED=1
	$(RUN) tests.chaos.storm --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1)
	$(RUN) tests.chaos.frozen --jobs 1000 --seed $(or $(SEED),1)
	$(RUN) tests.chaos.overload --seconds 60 --times 5

images: ## The one container that has everything, on the CPU: docker run -p 8080:80 sagrada --model-id demo
	docker build -f deploy/worker-cpu.Dockerfile --build-arg TORCH_INDEX='$(TORCH_INDEX)' -t sagrada-worker-cpu .
	docker build -f deploy/sagrada.Dockerfile -t sagrada .

compose-check: ## docker compose up; then kill, scale and restart parts of it, and count what was lost; down
	docker compose up --build --detach --wait
	tests/deploy/check.sh; status=$$?; docker compose down; exit $$status

lint: $(VENV)/.dev ## ruff, and mypy --strict over the rooms, tests and bench
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

format: $(VENV)/.dev ## Put the code into its one form
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

bench: $(VENV)/.dev ## What we claim, measured beside peers; prints hardware and versions
	$(RUN) bench.queue
	$(RUN) bench.engine --minutes 30
	$(RUN) bench.step
	$(RUN) bench.masks
	$(RUN) bench.differences
	$(RUN) bench.deterministic
	$(RUN) bench.gap
	$(RUN) bench.serve
	$(RUN) bench.fleet
	$(RUN) bench.recovery
	$(RUN) bench.start
	$(RUN) bench.padding

clean: ## Remove .venv and caches; data under ~/.local/share/sagrada stays
	rm -rf $(VENV) $(OLD) $(HABANA) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# Each stamp stands for one step that need not be done again until what it depends on has changed.
$(VENV)/.made $(OLD)/.made $(HABANA)/.made: %/.made:
	@test -n "$(PYTHON)" || { echo "Sagrada needs Python 3.11 or newer, and none was found on PATH. \
	Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $* || { echo "This Python cannot make a virtual environment; \
	on Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $*; exit 1; }
	@touch $@

# torch first: what follows is satisfied by the build chosen here and does not replace it.
$(VENV)/.torch $(OLD)/.torch $(HABANA)/.torch: %/.torch: %/.made
	@if $(PYTHON) -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1] + "/torch/", timeout=5)' \
	  '$(TORCH_INDEX)' 2>/dev/null; then \
	  echo "torch from $(TORCH_INDEX)"; $*/bin/python -m pip --disable-pip-version-check install --index-url '$(TORCH_INDEX)' '$(TORCH)'; \
	else \
	  echo "$(TORCH_INDEX) cannot be reached: torch by pip's own configuration"; $*/bin/python -m pip --disable-pip-version-check install '$(TORCH)'; \
	fi
	@touch $@

$(VENV)/.app: pyproject.toml $(VENV)/.torch
	$(PIP) install -e '.[worker,cpu,embedded]'
	@touch $@

$(VENV)/.dev: $(VENV)/.app
	$(PIP) install -e '.[worker,cpu,embedded,dev,conformance]'
	$(PIP) install --no-deps $(CLIENTS)
	@touch $@

$(OLD)/.dev: pyproject.toml $(OLD)/.torch
	$(OLD)/bin/python -m pip --disable-pip-version-check install -e '.[gaudi,embedded,dev]'
	@touch $@

# torchvision, which optimum-habana imports and does not name, is of the release that belongs to torch, and brings none.
$(HABANA)/.dev: pyproject.toml $(HABANA)/.torch
	$(HABANA)/bin/python -m pip --disable-pip-version-check install --no-deps --index-url '$(TORCH_INDEX)' '$(TORCHVISION)' || \
	  $(HABANA)/bin/python -m pip --disable-pip-version-check install --no-deps '$(TORCHVISION)'
	$(HABANA)/bin/python -m pip --disable-pip-version-check install -e '.[gaudi,embedded,dev]'
	@touch $@
