// The GPUs that this build has machine code for; newer ones compile its PTX when they load it.
extern "C" __attribute__((visibility("default"))) const char* ttune_cuda_architectures() {
  return TTUNE_CUDA_ARCHITECTURE_NAMES;
}
