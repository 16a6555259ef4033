# Everything a fresh machine needs is set up by the targets themselves, in .venv, from PyPI.
# The environment sees the machine's own packages, so an installed torch or detectron2 is used.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
AA_DETECTION = $(VENV)/bin/aa-detection

DEMO_CONFIG = sample/aa_retinanet_R18.yaml
DEMO_OUTPUT = output/demo
ENGINE ?= auto

.PHONY: setup test demo docs gpu

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml setup.py aa_detection/attention/native.cpp
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(RUN) -m pip install --quiet --editable '.[embedded,test]'
	touch $@

# the tests in a process a core, each of 1 to 5 GB
test: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m pytest -q -n logical --maxprocesses 4 --dist worksteal

# Two threads that wait for each other are slower than one beside any other busy process.
demo: export OMP_NUM_THREADS ?= 1
demo: setup
	$(AA_DETECTION) draw-dataset sample
	$(AA_DETECTION) train --engine $(ENGINE) --config-file $(DEMO_CONFIG) OUTPUT_DIR $(DEMO_OUTPUT)
	$(AA_DETECTION) contact-sheet --dataset aa_sample_val \
		--detections $(DEMO_OUTPUT)/inference/coco_instances_results.json --score-threshold 0.4 \
		--output $(DEMO_OUTPUT)/contact_sheet.png
	$(AA_DETECTION) report --engine $(ENGINE) $(DEMO_OUTPUT)

# the documentation site, in output/site
docs: setup
	$(RUN) -m sphinx --fail-on-warning --keep-going --quiet -c docs/site . output/site

# everything tried and measured on this machine's NVIDIA GPU, in eight minutes
gpu: setup
	$(AA_DETECTION) check-cuda
