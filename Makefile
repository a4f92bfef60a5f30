# Two commands matter: `make reproduce` and `make test`. Each installs what it needs into .venv.
PROFILE ?= quick
KITTI_ROOT ?=
SPLIT ?=
CORES ?= all
GPUS ?=
CLUSTER ?=
CLAIM ?=
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
TESTED := tests/workflow tests/ubnlib tests/experiments tests/data_scripts tests/test_golden.py \
  ubnlib experiments data_scripts

define HELP
make reproduce    make all runs, run the notebooks, and write results/PROFILE/report.html
                    PROFILE=quick      a file in profiles/: quick, standard, paper
                    KITTI_ROOT=        folder of KITTI Raw; without it, synthetic drives
                    SPLIT=             paper_standin, eigen or by_drive; else the profile's
                    CORES=all          processor cores to use
                    GPUS=              graphics processors to use; all, if nothing is said
                    CLUSTER=           slurm, kubernetes, generic, or a folder of your own
make plan         say what make reproduce would run, and what that costs; same knobs
make prepare      pack the frames, write each run's configuration, train nothing; same knobs
make claim        make the runs behind one claim once more, beside the others; same knobs
                    CLAIM=             its id in claims.yaml
make test         check style, code and notebooks, in minutes
make test-all     the same, and what is slow: browsers, torch.compile, clusters, fuzzing
                    KITTI_SAMPLE=      folder of real KITTI files, for the tests that need some
                    RGBD_ROOT=         folder of real RGB-D frames, likewise
make lab          open the notebooks in JupyterLab
make notebooks    run the committed notebooks again, in place
make numbers      fill the numbers of README, docs and notebooks from the committed records
make site         build a website of notebooks, docs and reference into build/site
make lock         write requirements.lock anew from pyproject.toml
make clean        remove .venv and everything temporary; results and data stay
endef

.PHONY: help reproduce plan prepare claim test test-all FORCE lab notebooks numbers site lock clean
# The inline backend must be free to show the notebooks' figures; kernels are those of .venv.
unexport MPLBACKEND
export JUPYTER_PREFER_ENV_PATH := 1

help:
	$(info $(HELP))
	@:

# Written last, so that an interrupted installation is not taken for done.
$(INSTALLED): requirements.lock pyproject.toml experiments/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, and $(PYTHON) is %d.%d; name another one: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -r requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e . -e experiments
	@touch $@

# By the environment, since a folder's name may hold any sign.
export PROFILE KITTI_ROOT SPLIT CORES GPUS CLUSTER CLAIM
RUNS = --profile "$$PROFILE" --kitti-root "$$KITTI_ROOT" --split "$$SPLIT" --cores "$$CORES" --gpus "$$GPUS" \
  --cluster "$$CLUSTER"
reproduce: $(INSTALLED)
	$(BIN)/python workflow/reproduce.py $(RUNS)

plan: $(INSTALLED)
	$(BIN)/python workflow/reproduce.py --plan $(RUNS)

prepare: $(INSTALLED)
	$(BIN)/python workflow/reproduce.py --prepare $(RUNS)

claim: $(INSTALLED)
	$(BIN)/python workflow/reproduce.py --claim "$$CLAIM" $(RUNS)

# With tensors this small, more threads only wait for each other.
test test-all notebooks: export OMP_NUM_THREADS := 1
# A file's tests stay in one process, so that its fixtures are made once; the longest come first, as named.
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
NBVAL = --nbval --nbval-current-env --nbval-cell-timeout 300 --nbval-sanitize-with tests/nbval.cfg

test: $(INSTALLED) build/nbval
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(PYTEST) $(NBVAL) build/nbval/notebooks $(TESTED)

test-all: TESTED += tests/slow
test-all: test

# nbval runs a copy of the notebooks, so that no record or figure of an earlier run is used.
build/nbval: $(INSTALLED) FORCE
	rm -rf $@
	mkdir -p $@/results
	cp -R notebooks profiles claims.yaml statements.yaml $@
	cp -R results/standard $@/results
	$(BIN)/python data_scripts/make_synthetic_kitti.py $@/data/quick/synthetic

lab: $(INSTALLED)
	$(BIN)/jupyter lab notebooks

notebooks: $(INSTALLED)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False notebooks/*.ipynb

numbers: $(INSTALLED)
	$(BIN)/python workflow/prose.py

site: $(INSTALLED)
	$(BIN)/python site/build.py build/site

# One lock for Python 3.11 to 3.14, which keeps what it can of the last one. Torch is held at the
# version the results were made with; what its builds for CUDA bring along is left to them, so that
# the CPU's build installs none of it.
lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install uv
	echo 'torch==2.13.0' > build/lock/constraints.txt
	cp requirements.lock build/lock/requirements.lock
	build/lock/bin/uv pip compile --universal --python-version 3.11 --no-header --no-annotate \
	  --constraint build/lock/constraints.txt --extra site --extra test --no-emit-package ubnlib \
	  --output-file build/lock/requirements.lock pyproject.toml experiments/pyproject.toml
	{ echo '# Every transitive version of the companion, pinned: `make lock` writes this file.'; \
	  grep -vE '^(cuda-|nvidia-|triton)' build/lock/requirements.lock; } > requirements.lock

clean:
	rm -rf .venv build .snakemake .pytest_cache .ruff_cache .hypothesis *.egg-info
	find ubnlib experiments workflow site tests data_scripts benchmarks examples -name __pycache__ -prune -exec rm -rf {} +
