# make demo · make test · make paper · make bench · make lint
PYTHON ?= python3
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
SNAKEMAKE = .venv/bin/snakemake --cores $(CORES)

DEMO = all maps results/figures/pretraining/cdssl-aflow.png results/figures/subsets/aflow.png enz

.PHONY: demo test paper bench lint format
demo: .venv/installed
	$(SNAKEMAKE) --set-threads pretrain=1 --configfile config/demo.yaml -- $(DEMO)
	$(SNAKEMAKE) --configfile config/demo.yaml --report results/report.html -- $(DEMO)
	@cat results/tables/huang2024_table2.md results/tables/huang2024_table4.md
	@echo "Figures: results/figures   Report: results/report.html"

test: .venv/installed
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile

paper: .venv/installed
	$(SNAKEMAKE)

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

.venv/installed: requirements.txt requirements-nodeps.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --disable-pip-version-check -r requirements.txt
	.venv/bin/pip install --disable-pip-version-check --no-deps -r requirements-nodeps.txt
	.venv/bin/pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
