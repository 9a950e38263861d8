# make demo: the whole pipeline on embedded crystals.   make test: the test suite.   `make help` lists the rest.
PYTHON ?= python3
CORES ?= $(shell nproc)
SIDE_BY_SIDE := --numprocesses $(CORES)
VENV := .venv
BIN := $(VENV)/bin
VENV_DGL := .venv-dgl
VENV_DOCS := .venv-docs
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo tour campaign test test-slow harness test-dgl engine oracles dgl lint format docs site lock release clean

$(VENV)/.complete: requirements/lock.txt requirements/torch-cpu.txt requirements/torch-cuda.txt pyproject.toml tools/make_venv.py
	@$(PYTHON) tools/make_venv.py

# All of the environment with DGL before it. Of Python there is DGL 1.1.3 for 3.11 and older.
$(VENV_DGL)/.complete: $(VENV)/.complete requirements/dgl.txt
	@test -d $(VENV)/lib/python3.11 || { echo "[make] ERROR: DGL 1.1.3 needs Python 3.11: rm -rf $(VENV); make PYTHON=python3.11 dgl" >&2; exit 1; }
	@rm -rf $(VENV_DGL)
	@python -m venv --without-pip $(VENV_DGL)
	@echo "import site; site.addsitedir('$(CURDIR)/$(VENV)/lib/python3.11/site-packages')" \
		> $(VENV_DGL)/lib/python3.11/site-packages/environment.pth
	@python -m pip --python $(VENV_DGL)/bin/python install --quiet --no-deps --requirement requirements/dgl.txt
	@touch $@

# What builds the site, apart from .venv: it needs none of the project's packages.
$(VENV_DOCS)/.complete: $(VENV)/.complete requirements/docs.txt
	@rm -rf $(VENV_DOCS)
	@python -m venv --without-pip $(VENV_DOCS)
	@python -m pip --python $(VENV_DOCS)/bin/python install --quiet --require-hashes --requirement requirements/docs.txt
	@touch $@

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.complete  ## Run the whole pipeline on the embedded crystals; ends with results/demo/report.html
	@snakemake all --profile profiles/local --configfile config/demo.yaml --cores $(CORES)
	@xtalrl summary --configfile config/demo.yaml

tour: $(VENV)/.complete  ## The demo sooner, with SCFs that were computed elsewhere and ship with xtalrl; ends with results/tour/report.html
	@snakemake all --profile profiles/local --configfile config/demo.yaml config/tour.yaml --cores $(CORES)
	@xtalrl summary --configfile config/demo.yaml config/tour.yaml

campaign: $(VENV)/.complete  ## After `make demo`, search for crystals with a wanted gap on the embedded crystals; minutes
	@snakemake campaign report --profile profiles/local --configfile config/demo.yaml config/campaign.yaml --cores $(CORES)
	@xtalrl summary --configfile config/demo.yaml config/campaign.yaml

test: $(VENV)/.complete  ## Run the test suite
	@python -m pytest -m "not slow" $(SIDE_BY_SIDE)

test-slow: $(VENV)/.complete  ## Run the slow tests: a miniature real run, real pw.x, a browser
	@python -m pytest -m slow $(SIDE_BY_SIDE)

test-dgl: $(VENV_DGL)/.complete  ## Run the tests that need DGL, in an environment with it
	@$(VENV_DGL)/bin/python -c 'import dgl, matgl.layers'  # else they would skip
	@$(VENV_DGL)/bin/python -m pytest tests/test_rl_dgl.py

harness: $(VENV)/.complete  ## Try damaged files, strange configurations, every key, hostile servers and kills at full size
	@XTALRL_KEYS=all XTALRL_FLIPS=400 XTALRL_CONFIGS=5000 XTALRL_CIFS=3000 XTALRL_EXPORTS=1000 XTALRL_RUNS=4 XTALRL_CRYSTALS=47 XTALRL_KILLS=6 python -m pytest \
		tests/test_*_integrity.py tests/test_structures_cif.py tests/test_structures_external_entries.py tests/test_exports.py tests/test_dft_claims.py tests/test_changes.py $(SIDE_BY_SIDE)

engine: $(VENV)/.complete  ## Fetch the embedded pw.x and pseudopotentials that tests and demo use
	@snakemake results/cache/engine/engine.json results/cache/families/pseudo-dojo-0.4-pbe-sr-standard/family.json \
		--profile profiles/local --configfile config/test.yaml

oracles: $(VENV)/.complete  ## Add the implementations that the learner's tests compare with
	@python -m pip install --quiet --no-deps --requirement requirements/oracles.txt

dgl: $(VENV_DGL)/.complete  ## Make .venv-dgl, an environment with DGL for `training.backend: dgl`

lint: $(VENV)/.complete  ## Check style, types and the workflow
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile rules workflow/Snakefile
	snakemake --lint --configfile config/demo.yaml

format: $(VENV)/.complete  ## Format the code
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules workflow/Snakefile

docs: $(VENV)/.complete  ## Write what is generated: config/config.yaml, docs/{configuration,tables,commands}.md, .zenodo.json, codemeta.json
	@xtalrl config-docs

site: $(VENV_DOCS)/.complete  ## Build the documentation as a site that opens offline: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/mkdocs build --quiet
	@python tools/check_site.py site

lock:  ## Renew requirements/{lock,docs,torch-cuda}.txt (needs uv; UV_FIND_LINKS where torch's CPU wheel is on disk)
	printf 'torch==2.13.0+cpu\n' > $(VENV)/override.txt
	uv pip compile pyproject.toml --extra train --extra workflow --group dev --override $(VENV)/override.txt \
		--python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-package torch \
		--no-header --no-annotate --output-file requirements/lock.txt
	uv pip compile --group docs --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
		--no-header --no-annotate --output-file requirements/docs.txt
	echo torch==2.13.0 | uv pip compile - --constraint requirements/lock.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
		--generate-hashes --no-header --no-annotate --output-file requirements/torch-cuda.txt
	sed -i "1i # PyPI's build of PyTorch and all that it imports, CUDA too; where lock.txt has a package, the version is the same. Written by \`make lock\`." \
		requirements/torch-cuda.txt

release: $(VENV)/.complete  ## Pack what is published of a tagged commit into dist/ (docs/releasing.md)
	@python tools/release.py

clean:  ## Remove the results of demo and tour (finished SCFs stay in results/cache)
	rm -rf results/demo results/tour
