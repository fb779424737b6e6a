# `make run` and `make test` need Python 3.11 to 3.13 with pip, and a network the first time; nothing else.

# Another Python: make ... PYTHON=python3.12
PYTHON ?= python3
# Plain =, so that a variable of the shell with so common a name changes no study.
RECIPE = recipes/residual_ablation.yaml
PROFILE =
# What `make figures` draws, and figures/README.md tells of: RECIPE for its profile quick, RECIPE:PROFILE for another one.
# RECIPE@SEEDS or RECIPE:PROFILE@SEEDS is a second run with other seeds (4,5,6,7), in figures/...-again. It shares no
# finished job with the first: it has the store AGAIN. figures/README.md says how many CPU hours each takes.
GALLERY = residual_ablation:photos residual_ablation:photos@8,9,10,11 \
    timesteps:photos timesteps:photos@8,9,10,11 event_data:photos event_data:photos@8,9,10 \
    residual_ablation timesteps depth width vgg event_data conversion coding neurons \
    adversarial locality locality_robustness
AGAIN = .sj_cka/again

VENV_PYTHON = .venv/bin/python
VERSION = import sys; print("%d.%d" % sys.version_info[:2])
# --python: Debian's Python cannot put a pip into .venv, so the pip outside installs into it.
PIP = $(PYTHON) -m pip --python $(VENV_PYTHON) --disable-pip-version-check

# Runs in whatever PYTHON is, so it is written for old ones too; an older pip downloads 500 MB before it refuses.
define CHECK
import re, sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit("sj_cka needs Python 3.11, 3.12 or 3.13, but %s is Python %d.%d. Name another one, e.g. PYTHON=python3.12"
             % ((sys.executable,) + sys.version_info[:2]))
try:
    import pip
except ImportError:
    sys.exit("%s has no pip. Install it (Debian: apt install python3-pip) or name another Python, e.g. PYTHON=python3.12"
             % sys.executable)
if [int(x) for x in re.findall("[0-9]+", pip.__version__)[:2]] < [22, 3]:
    sys.exit("The installation needs pip 22.3 or newer, but %s has pip %s. Update it or name another Python, e.g. "
             "PYTHON=python3.12" % (sys.executable, pip.__version__))
endef
export CHECK

.PHONY: help run figures test test-full test-fuzz test-sj2 lint bench clean other-python
.DELETE_ON_ERROR:

help:  ## show this text
	@echo 'make TARGET [RECIPE=$(RECIPE)] [PROFILE=quick] [PYTHON=python3]'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' Makefile

run: .venv/.installed  ## run RECIPE with PROFILE (its own default if not given) to a finished report
	$(VENV_PYTHON) recipes/run.py $(RECIPE) $(if $(PROFILE),--profile $(PROFILE))

figures: .venv/.installed  ## draw the studies of GALLERY from finished jobs, run what is missing, write the ledger
	$(foreach entry,$(GALLERY),$(call draw,$(entry)))
	$(VENV_PYTHON) -m sj_cka ledger $(foreach entry,$(GALLERY),$(call folder,$(entry))) --out figures/README.md

# Of an entry of GALLERY: its words, its folder, and the command that draws it.
study = $(word 1,$(subst @, ,$(1)))
seeds = $(word 2,$(subst @, ,$(1)))
recipe = $(word 1,$(subst :, ,$(study)))
profile = $(word 2,$(subst :, ,$(study)))
folder = figures/$(recipe)$(if $(profile),-$(profile))$(if $(seeds),-again)
define draw
$(VENV_PYTHON) recipes/run.py recipes/$(recipe).yaml$(if $(profile), --profile $(profile)) --out $(folder)$(if \
    $(seeds), --set "seeds=[$(seeds)]" --store $(AGAIN))

endef

test: lint  ## lint, then the tests: units, doctests, the smoke profile of every recipe, a page in a browser
	$(VENV_PYTHON) -m pytest

test-full: lint  ## the same with every member of what `make test` takes samples of
	$(VENV_PYTHON) -m pytest --full

test-fuzz: .venv/.installed  ## thousands of damaged recipes and files: clean errors only
	$(VENV_PYTHON) -m pytest -m fuzz tests/fuzz

test-sj2: .venv/sj2/.installed  ## the tests on SpikingJelly 2.0.0 instead of 2.0.0rc1
	PYTHONPATH=$(CURDIR)/.venv/sj2 $(VENV_PYTHON) -m pytest

lint: .venv/.installed  ## ruff and mypy
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m mypy

bench: .venv/.installed  ## run every script in benchmarks/, one after the other
	@for script in $(sort $(wildcard benchmarks/*.py)); do \
	    echo "== $$script"; $(VENV_PYTHON) $$script || exit 1; \
	done

clean:  ## remove the environment, caches and builds; never results (figures/, .sj_cka/)
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last and holds the version of Python: with it nothing is installed again.
.venv/.installed: setup.cfg pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here. Name a Python 3.11 to 3.13, e.g. PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c "$$CHECK"
	@rm -f $@
	@test "$$($(VENV_PYTHON) -c '$(VERSION)' 2>&1)" = "$$($(PYTHON) -c '$(VERSION)')" || \
	    $(PYTHON) -m venv --clear --without-pip .venv
	@echo 'Installing sj_cka and what it needs into .venv: the first time about 5 GB and 2 minutes ...'
	@$(PIP) install --quiet -c constraints.txt -e '.[test]'
	@$(PYTHON) -c '$(VERSION)' > $@

# Who names a PYTHON of another version than .venv's gets a new .venv.
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) -c '$(VERSION)' 2>&1 || :),$(shell cat .venv/.installed 2>&1))
.venv/.installed: other-python
endif
endif

# Laid over the same environment: seconds, instead of a second 5 GB.
.venv/sj2/.installed: .venv/.installed
	@rm -rf .venv/sj2
	@echo 'Installing SpikingJelly 2.0.0 into .venv/sj2 ...'
	@$(PIP) install --quiet --no-deps --target .venv/sj2 spikingjelly==2.0.0
	@touch $@
