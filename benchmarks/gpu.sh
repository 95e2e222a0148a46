#!/usr/bin/env bash
# Build for the GPU at hand, test, check memory accesses, measure: one call, at most eight minutes, no network.
#
#   benchmarks/gpu.sh                          # everything
#   benchmarks/gpu.sh --device cpu --quick     # a rehearsal where there is no GPU: the same stages, what needs one is skipped
#
# PYTHON         whose torch is used (python3); it needs numpy, msgspec, tqdm and safetensors, and for the tests pytest,
#                hypothesis, scipy and tyro; diffusers, if there, is measured as a rival
# TTUNE_WHEELS   a folder of wheels for what it lacks; they are installed into build/gpu/venv alone, without their dependencies
# OUT            where logs and figures go (logs: build/gpu/logs; figures: benchmarks/results)
# SECONDS_MAX    for all of it (480)
#
# Exit status: 0 all stages passed; 1 one failed or ran out of time; 2 none failed, but some could not run here.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

device=cuda
quick=()
while (($#)); do
  case $1 in
    --device) device=${2:?--device needs cpu or cuda}; shift 2 ;;
    --quick) quick=(--quick); shift ;;
    *) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 1 ;;
  esac
done
case $device in cpu | cuda) ;; *) echo "--device must be cpu or cuda, got $device" >&2; exit 1 ;; esac

python=${PYTHON:-python3}
work=$PWD/build/gpu
logs=${OUT:-$work/logs}
results=${OUT:-benchmarks/results}
mkdir -p "$work" "$logs" "$results"
rm -f "$logs"/{build,tests,sanitizers,kernels,throughput}.log "$logs/stages.txt"
# cmake and ninja may be installed beside Python and not be on the PATH.
PATH=$("$python" -c 'import os, sys; print(os.path.dirname(sys.executable))'):$PATH:/usr/local/cuda/bin
export PATH PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
deadline=$((SECONDS + ${SECONDS_MAX:-480}))
table=()
failed=0
absent=0

note() { # name, outcome, seconds
  table+=("$(printf '%-12s %-8s %5ss  %s' "$1" "$2" "$3" "${4:-}")")
  echo "== ${table[-1]}"
}

# name, log, most seconds, command...: run it with its output at the end of the log. Its last lines are shown where it fails.
stage() {
  local name=$1 log=$logs/$2.log most=$3 begun=$SECONDS left status
  shift 3
  left=$((deadline - SECONDS))
  ((left < most)) && most=$left
  if ((most < 5)); then
    failed=1
    note "$name" FAILED 0 "no time left"
    return 1
  fi
  timeout --kill-after=5 "$most" "$@" >>"$log" 2>&1
  status=$?
  case $status in
    0) note "$name" passed $((SECONDS - begun)) "$(tail -n 1 "$log")" ;;
    124 | 137) failed=1; note "$name" FAILED $((SECONDS - begun)) "stopped after $most s" ;;
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
  "$python" -c 'import torch; print("torch", torch.__version__, "cuda", torch.version.cuda)'
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
  "$python" - "$device" <<'PY'
import sys

from ttune import ops

for name, state in ops.backends().items():
    print(f"{name}: {state['detail'] or state['reason']}: {', '.join(state['operators'])}")
wanted = "cuda" if sys.argv[1] == "cuda" else "cpu"
if not ops.backends()[wanted]["available"]:
    sys.exit(f"built, and does not run: {ops.backends()[wanted]['reason']}")
print("backends:", ", ".join(name for name, state in ops.backends().items() if state["available"]))
PY
}

lacking() { # modules...: those that this Python does not have
  "$python" -c 'import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))' "$@"
}

sanitize() { # tool, most seconds, options...: every kernel once, on small tensors; each allocation its own, so that bounds are known
  local tool=$1 most=$2
  shift 2
  if [[ $device != cuda ]] || ! command -v compute-sanitizer >/dev/null; then
    skip "$tool" "needs a GPU and compute-sanitizer"
    return
  fi
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage "$tool" sanitizers "$most" compute-sanitizer --tool "$tool" --error-exitcode 9 "$@" \
    "$python" -m benchmarks kernels --device cuda --backend cuda --check --shape 1,3,32,32 --shape 1,4,128,128 --shape 16,320
}

{
  date -u
  if [[ $device == cuda ]]; then nvidia-smi; fi
} 2>&1 | head -n 30

export -f build wheels
export python work device
if [[ -n ${TTUNE_WHEELS:-} ]] && stage wheels build 30 bash -c wheels; then python=$work/venv/bin/python; fi
if stage build build 150 bash -c build; then
  missing=$(lacking pytest hypothesis scipy tyro)
  if [[ -n $missing ]]; then
    skip tests "this Python lacks: $missing"
  else
    # Without the options of pyproject.toml: they belong to plugins that may not be here.
    stage tests tests 120 "$python" -m pytest -o addopts= -q -p no:cacheprovider -m "not slow and not huge" tests/kernels
  fi
  sanitize memcheck 50
  if [[ $device == cuda ]]; then
    stage kernels kernels 150 "$python" -m benchmarks kernels --device cuda --backend cuda "${quick[@]}" \
      --output "$results/kernels-cuda.json"
    # Beyond the cache and within it: all shapes would not fit the time.
    stage triton kernels 80 "$python" -m benchmarks kernels --device cuda --backend triton --dtype float32 \
      --shape 64,16,256,256 --shape 16,4,64,64 --shape 16,320 --output "$results/kernels-cuda-triton.json"
    # Whole samplings; without torch.compile, whose compilers would take the time of everything else.
    stage throughput throughput 75 "$python" -m benchmarks throughput --device cuda --quiet --no-compile --network none bundled \
      --steps 1 4 8 32 --dtype float32 --quality-samples 256 "${quick[@]}" --output "$results/throughput-cuda.json"
  else
    stage kernels kernels 170 "$python" -m benchmarks kernels "${quick[@]}" --output "$results/kernels-cpu.json"
    stage throughput throughput 75 "$python" -m benchmarks throughput --quiet --no-compile --network none --no-quality "${quick[@]}" \
      --output "$results/throughput-cpu.json"
  fi
  sanitize racecheck 45 --kernel-name kns=ttune
  sanitize initcheck 45 --kernel-name kns=ttune
  cat "$logs/kernels.log" "$logs/throughput.log"
fi

printf '%s\n' "" "${table[@]}" | tee "$logs/stages.txt"
if ((failed)); then exit 1; fi
if ((absent)); then exit 2; fi
