// What this build has: machine code (sm_90) and PTX (compute_90), which newer GPUs compile when they load it.
extern "C" __attribute__((visibility("default"))) const char* ttune_cuda_architectures() {
  return TTUNE_CUDA_ARCHITECTURE_NAMES;
}
