# make demo · make test · make test-slurm · make paper DIR=... · make mirror DIR=... · make verify · make faults · make bench · make lint
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
SNAKEMAKE = .venv/bin/snakemake --cores $(CORES)

DEMO = all maps results/figures/pretraining/cdssl-aflow.png results/figures/subsets/aflow.png enz

.PHONY: demo test test-slurm paper mirror verify faults bench lint format
demo: .venv/installed
	$(SNAKEMAKE) --set-threads pretrain=1 finetune=1 fit_baseline=1 --prioritize maps enz --configfile config/demo.yaml -- $(DEMO)
	$(SNAKEMAKE) --configfile config/demo.yaml --report results/report.html -- $(DEMO)
	@cat results/tables/huang2024_table2.md results/tables/huang2024_table4.md
	@echo "Figures: results/figures   Report: results/report.html"

test: .venv/installed
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile

# Two Slurm nodes on this machine; installs slurm-wlm and munge, for which it must be root. SLURM='-k walltime': without the demo.
test-slurm: .venv/installed
	.venv/bin/python -m pytest tests/slurm $(SLURM)

# DIR: folder with the files that no loader offers (README, Ways to run).
paper: .venv/installed
	@test -n "$(DIR)" || { echo "usage: make paper DIR=FOLDER [ARGS='--resources gpu=2']"; exit 1; }
	$(SNAKEMAKE) --config mirror="$(DIR)" $(ARGS)

verify: .venv/installed
	.venv/bin/python -m matpretrain.verify

faults: .venv/installed
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --faults=docs/faults.md

# Raw files that TARGETS need, downloaded into the folder DIR and verified, for --config mirror=DIR where there is no network.
TARGETS ?= all
mirror: .venv/installed
	@test -n "$(DIR)" || { echo "usage: make mirror DIR=FOLDER [TARGETS='all maps'] [CONFIG='key=value'] [ARGS='--configfile my.yaml']"; exit 1; }
	mkdir -p "$(DIR)"
	$(SNAKEMAKE) --config mirror="$(DIR)" fill_mirror=True $(CONFIG) --until fetch_file --forcerun fetch_file $(ARGS) -- $(TARGETS)

bench: .venv/installed
	.venv/bin/python benchmark/run.py

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow
	.venv/bin/snakemake --lint

format: .venv/installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/snakefmt Snakefile workflow

# What torch's wheel asks for differs by platform (CUDA's libraries); everything else is in the list. Compiled afterwards on all cores, as
# pip does it on one; it only saves time, so that files which do not compile (packages hold templates) do not matter.
.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --disable-pip-version-check --no-compile --constraint requirements.txt torch
	.venv/bin/pip install --disable-pip-version-check --no-compile --no-deps -r requirements.txt
	.venv/bin/pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	.venv/bin/python -m compileall -qq -j 0 .venv/lib || true
	touch $@
