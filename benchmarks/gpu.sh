#!/usr/bin/env bash
# Build for the GPU at hand, test, check memory accesses, measure: one call, at most eight minutes, no network.
#
#   benchmarks/gpu.sh                          # everything, the most telling first
#   benchmarks/gpu.sh --stages triton,graphs   # some stages (the build is kept); two calls, where one is too short
#   benchmarks/gpu.sh --built                  # with the libraries that are in ttune/lib: nothing is built
#   benchmarks/gpu.sh --device cpu --quick     # a rehearsal where there is no GPU: the same stages, what needs one is skipped
#
# Stages: tests memcheck kernels throughput triton graphs racecheck initcheck.
#
# PYTHON         whose torch is used (python3); it needs numpy, msgspec, tqdm and safetensors (and pybind11 for ttune.numpy), for the
#                tests pytest, hypothesis and scipy; pytest-xdist makes those faster, diffusers is measured as a rival
# TTUNE_WHEELS   a folder of wheels for what it lacks; they are installed into build/gpu/venv alone, without their dependencies
# OUT            where the log of everything and the figures go (build/gpu/logs and benchmarks/results; of a rehearsal build/gpu/results)
# SECONDS_MAX    for all of it (480; a rehearsal, on whatever machine, has four times as long, and so have its stages)
#
# Exit status: 0 all stages passed; 1 one failed or ran out of time; 2 none failed, but some could not run here.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

device=cuda
quick=()
built=
slowness=1
stages=tests,memcheck,kernels,throughput,triton,graphs,racecheck,initcheck
while (($#)); do
  case $1 in
    --device) device=${2:?--device needs cpu or cuda}; shift 2 ;;
    --stages) stages=${2:?--stages needs names with commas between}; shift 2 ;;
    --quick) quick=(--quick); shift ;;
    --built) built=yes; shift ;;
    *) sed -n '2,20s/^# \{0,1\}//p' "$0"; exit 1 ;;
  esac
done
case $device in cpu) slowness=4 ;; cuda) ;; *) echo "--device must be cpu or cuda, got $device" >&2; exit 1 ;; esac

python=${PYTHON:-python3}
work=$PWD/build/gpu
logs=$work/logs
results=${OUT:-benchmarks/results}
# What a rehearsal measures must not take the place of a measurement.
if [[ -z ${OUT:-} ]] && { [[ $device == cpu ]] || ((${#quick[@]})); }; then results=$work/results; fi
mkdir -p "$work" "$logs" "$results"
rm -f "$logs"/*.log "$logs/stages.txt"
# cmake and ninja may be installed beside Python and not be on the PATH.
PATH=$("$python" -c 'import os, sys; print(os.path.dirname(sys.executable))'):$PATH:/usr/local/cuda/bin
export PATH PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
deadline=$((SECONDS + ${SECONDS_MAX:-$((480 * slowness))}))
table=()
failed=0
absent=0

# One file of everything, also where this is stopped: some places bring back only a few.
trap 'if [[ -n ${OUT:-} ]]; then for log in "$logs"/*; do echo "==== ${log##*/}"; cat "$log"; done >"$OUT/gpu.log"; fi' EXIT

note() { # name, outcome, seconds
  table+=("$(printf '%-12s %-8s %5ss  %s' "$1" "$2" "$3" "${4:-}")")
  echo "== ${table[-1]}"
}

# name, log, most seconds, command...: run it with its output at the end of the log. Its last lines are shown where it fails.
stage() {
  local name=$1 log=$logs/$2.log most=$(($3 * slowness)) begun=$SECONDS left status
  shift 3
  left=$((deadline - SECONDS))
  ((left < most)) && most=$left
  if ((most < 5)); then
    failed=1
    note "$name" FAILED 0 "no time left"
    return 1
  fi
  # SIGINT, at which pytest still says what it found.
  timeout --signal=INT --kill-after=8 "$most" "$@" >>"$log" 2>&1
  status=$?
  case $status in
    0) note "$name" passed $((SECONDS - begun)) "$(tail -n 1 "$log")" ;;
    124 | 130 | 137) failed=1; note "$name" FAILED $((SECONDS - begun)) "stopped after $most s" ;;
    *) failed=1; note "$name" FAILED $((SECONDS - begun)) "exit status $status" ;;
  esac
  ((status)) && tail -n 25 "$log"
  return "$status"
}

skip() { # name, why
  absent=1
  note "$1" absent 0 "$2"
}

# An environment that has the wheels and, after them, all that $PYTHON has. Not PYTHONPATH: tests start Python with their own.
wheels() {
  set -e
  "$python" -m venv --without-pip --clear "$work/venv"
  local site
  site=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$TTUNE_WHEELS"/*.whl
  "$python" -c 'import site
for folder in site.getsitepackages():
    print(f"import site; site.addsitedir({folder!r})")' >"$site/zz_parent.pth"
  "$work/venv/bin/python" -c 'import torch; print("beside torch", torch.__version__)'
}

build() {
  set -e
  local generator=() cuda=(-DTTUNE_CUDA=OFF)
  command -v ninja >/dev/null && generator=(-G Ninja)
  if [[ $device == cuda ]]; then
    nvcc --version
    # For this GPU alone: machine code of others would take the time of the build, and is compiled in the tests.
    local architecture
    architecture=$("$python" -c 'import torch; print("%d%d-real" % torch.cuda.get_device_capability())')
    cuda=("-DTTUNE_CUDA=ON" "-DTTUNE_CUDA_ARCHITECTURES=$architecture")
  fi
  cmake -S . -B "$work/cmake" "${generator[@]}" "-DPYTHON=$python" "-DCMAKE_INSTALL_PREFIX=$PWD/ttune" "${cuda[@]}"
  cmake --build "$work/cmake" --parallel
  cmake --install "$work/cmake"
}

# What is there, and whether what is wanted runs.
check() {
  "$python" - "$device" <<'PY'
import sys

import torch

from ttune import ops

print("torch", torch.__version__, "cuda", torch.version.cuda)
for name, state in ops.backends().items():
    print(f"{name}: {state['detail'] or state['reason']}: {', '.join(state['operators'])}")
wanted = "cuda" if sys.argv[1] == "cuda" else "cpu"
if not ops.backends()[wanted]["available"]:
    sys.exit(f"the library in ttune/lib does not run: {ops.backends()[wanted]['reason']}")
print("backends:", ", ".join(name for name, state in ops.backends().items() if state["available"]))
PY
}

lacking() { # modules...: those that this Python does not have
  "$python" -c 'import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))' "$@"
}

wanted() { [[ ,$stages, == *",$1,"* ]]; }

tested() { # name, most seconds, arguments of pytest...
  local name=$1 most=$2 missing spread=()
  shift 2
  wanted "$name" || return
  missing=$(lacking pytest hypothesis scipy)
  if [[ -n $missing ]]; then
    skip "$name" "this Python lacks: $missing"
    return
  fi
  [[ $device == cuda && -z $(lacking xdist) ]] && spread=(-p xdist -n 6)
  # Without the options of pyproject.toml: they belong to plugins that may not be here.
  stage "$name" tests "$most" "$python" -m pytest -o addopts= -q -p no:cacheprovider "${spread[@]}" -m "not slow and not huge" "$@"
}

sanitize() { # tool, most seconds, options...: every kernel once, on small tensors; each allocation its own, so that bounds are known
  local tool=$1 most=$2
  shift 2
  wanted "$tool" || return
  if [[ $device != cuda ]] || ! command -v compute-sanitizer >/dev/null; then
    skip "$tool" "needs a GPU and compute-sanitizer"
    return
  fi
  # torch asks the driver for things that may fail, and goes on: those are no errors of a kernel.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage "$tool" sanitizers "$most" compute-sanitizer --tool "$tool" --error-exitcode 9 "$@" \
    "$python" -m benchmarks kernels --device cuda --backend cuda --check --shape 1,3,32,32 --shape 1,4,128,128 --shape 16,320
}

{
  date -u
  if [[ $device == cuda ]]; then nvidia-smi; fi
} 2>&1 | head -n 30

export -f build check wheels
export python work device
if [[ -n ${TTUNE_WHEELS:-} ]] && stage wheels build 30 bash -c wheels; then python=$work/venv/bin/python; fi
missing=$(lacking torch numpy msgspec tqdm safetensors)
if [[ -n $missing ]]; then # before a compiler works for nothing
  failed=1
  note build FAILED 0 "this Python lacks: $missing; TTUNE_WHEELS may name a folder of wheels"
elif [[ -n $built ]] || stage build build 120 bash -c build; then
  stage check build 30 bash -c check || stages=
  if [[ $device == cuda ]]; then
    # What runs on the GPU; the rest runs everywhere, ahead-of-time compilation and the interpreter take minutes, and were tested elsewhere.
    tested tests 90 tests/kernels/test_backend.py tests/kernels/test_cuda.py tests/kernels/test_embedding_lookup.py \
      tests/kernels/test_timestep_embedding.py -k "backend or cuda"
    sanitize memcheck 60 --kernel-name kns=ttune --report-api-errors no
    if wanted kernels; then
      stage kernels kernels 150 "$python" -m benchmarks kernels --device cuda --backend cuda "${quick[@]}" \
        --output "$results/kernels-cuda.json"
    fi
    if wanted throughput; then # without torch.compile, whose compilers would take the time of everything else
      stage throughput throughput 90 "$python" -m benchmarks throughput --device cuda --quiet --no-compile --network none bundled \
        --steps 1 8 --dtype float32 --rounds 7 --quality-samples 256 "${quick[@]}" --output "$results/throughput-cuda.json"
    fi
    if wanted triton; then
      tested triton 60 tests/kernels/test_triton.py -k "gpu"
      # Beyond the cache and within it: all shapes would not fit the time.
      stage triton triton 80 "$python" -m benchmarks kernels --device cuda --backend triton --dtype float32 \
        --shape 64,16,256,256 --shape 16,4,64,64 --shape 16,320 --output "$results/kernels-cuda-triton.json"
    fi
    tested graphs 60 tests/sampling/test_cuda_graph.py
  else
    tested tests 150 tests/kernels/test_backend.py tests/kernels/test_direct.py tests/kernels/test_linear_update_bits.py tests/kernels/test_philox.py
    sanitize memcheck 60
    if wanted kernels; then stage kernels kernels 170 "$python" -m benchmarks kernels "${quick[@]}" --output "$results/kernels-cpu.json"; fi
    if wanted throughput; then
      stage throughput throughput 90 "$python" -m benchmarks throughput --quiet --no-compile --network none --no-quality "${quick[@]}" \
        --output "$results/throughput-cpu.json"
    fi
    tested graphs 60 tests/sampling/test_cuda_graph.py
  fi
  sanitize racecheck 60 --kernel-name kns=ttune --report-api-errors no
  # No filter: what other kernels wrote would count as never written.
  sanitize initcheck 60 --report-api-errors no
  cat "$logs"/{kernels,triton,throughput}.log 2>/dev/null
fi

printf '%s\n' "" "${table[@]}" | tee "$logs/stages.txt"
if ((failed)); then exit 1; fi
if ((absent)); then exit 2; fi
