# Two commands do all set-up: `make run` (the main job on real input) and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install run test test-slow lint test-peers test-tpu test-llm-server test-browser compare-saelens compare-probes clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Evaluate the SAE that ships with SmolLM2-135M in the real LM, over real text.
run: install
	$(BIN)/jsaeval run

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not peers and not tpu and not slow and not llm_server and not browser'

# The long form of what `make test` runs in short, and the TPU compiler.
test-slow: install $(VENV)-tpu/.installed
	$(BIN)/python -m pytest -m 'slow or tpu' -s

# Parity with torch and transformers, SAELens, SAEBench, the libraries of other SAE formats, scikit-learn and sae-probes,
# each in an environment of its own.
PEERS := peers saelens saebench formats dictionaries probes
test-peers: install $(PEERS:%=$(VENV)-%/.installed)
	$(BIN)/python -m pytest -m peers -s

# The step through the TPU compiler, on a machine without a TPU. libtpu has an environment of its own.
test-tpu: install $(VENV)-tpu/.installed
	$(BIN)/python -m pytest -m tpu -s

$(VENV)-tpu/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-tpu
	$(VENV)-tpu/bin/python -m pip install --quiet --constraint constraints.txt --editable . libtpu==0.0.42.1
	@touch $@

# Explanations and simulations over llama.cpp's server and SmolLM2. Its installation compiles for a quarter of an hour.
test-llm-server: install $(VENV)-llmserver/.installed
	$(BIN)/python -m pytest -m llm_server -s

# Rating by keyboard in Chromium, which the system has to have (Debian: apt-get install chromium).
test-browser: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,browser]'
	$(BIN)/python -m pytest -m browser -s

# Speed and numbers beside SAELens. About ten minutes.
compare-saelens: install $(VENV)-saelens/.installed
	$(BIN)/python experiments/compare_saelens.py

# Speed and numbers of probes beside scikit-learn and sae-probes.
compare-probes: install $(VENV)-probes/.installed
	$(BIN)/python experiments/compare_probes.py

$(VENV)-%/.installed: constraints-%.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --requirement $<
	@touch $@

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) $(PEERS:%=$(VENV)-%) $(VENV)-tpu $(VENV)-llmserver
