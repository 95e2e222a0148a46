# The CUDA kernels and their PyTorch module. Included where there is a CUDA compiler.

# Machine code for A100, H100/H200 and B100/B200 and their kin, PTX for what comes later; in CMake's words. Beside a torch without
# CUDA the module is built to see that it builds: one architecture does, in a third of the time.
set(TTUNE_CUDA_ARCHITECTURES "$ENV{TTUNE_CUDA_ARCHITECTURES}" CACHE STRING "GPU architectures, empty: 80-real;90-real;100 as far as the compiler knows them, or beside a CPU torch 90-real")
set(CMAKE_CUDA_ARCHITECTURES "${TTUNE_CUDA_ARCHITECTURES}")
if(CMAKE_CUDA_ARCHITECTURES STREQUAL "")
  set(CMAKE_CUDA_ARCHITECTURES 80-real)  # any that is known will do to ask for the version
endif()
enable_language(CUDA)
find_package(CUDAToolkit)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 11.8 OR NOT TARGET CUDA::cudart_static)
  set(TTUNE_TOO_LITTLE "the CUDA kernels need CUDA >= 11.8 with its static runtime, found ${CMAKE_CUDA_COMPILER_VERSION}")
  if(TTUNE_CUDA)
    message(FATAL_ERROR "${TTUNE_TOO_LITTLE}")
  endif()
  message(WARNING "${TTUNE_TOO_LITTLE}: they are left out")
  return()
endif()
if(TTUNE_CUDA_ARCHITECTURES STREQUAL "")
  if(NOT EXISTS "${TORCH_FOLDER}/lib/libtorch_cuda.so")
    set(CMAKE_CUDA_ARCHITECTURES 90-real)
  elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  else()
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100)
  endif()
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)

# What a GPU is held against: sm_90 is machine code, compute_90 is PTX. In CMake's words "90-real" is the one, "90-virtual" the other,
# "90" both.
set(NAMES "")
foreach(ARCHITECTURE IN LISTS CMAKE_CUDA_ARCHITECTURES)
  string(REGEX REPLACE "-(real|virtual)$" "" NUMBER "${ARCHITECTURE}")
  if(NOT NUMBER MATCHES "^[0-9]+[a-z]?$")
    message(FATAL_ERROR "TTUNE_CUDA_ARCHITECTURES must be numbers such as 80-real;90, got ${ARCHITECTURE}")
  endif()
  if(NOT ARCHITECTURE MATCHES "-virtual$")
    list(APPEND NAMES "sm_${NUMBER}")
  endif()
  if(NOT ARCHITECTURE MATCHES "-real$")
    list(APPEND NAMES "compute_${NUMBER}")
  endif()
endforeach()
list(JOIN NAMES ", " NAMES)

# No torch headers here: with them a file takes 80 s or does not compile.
add_library(ttune_cuda OBJECT
  csrc/cuda/architectures.cpp
  csrc/cuda/embedding_lookup.cu
  csrc/cuda/inner_products.cu
  csrc/cuda/linear_update.cu
  csrc/cuda/timestep_embedding.cu
  csrc/cuda/trajectory_loss.cu)
target_include_directories(ttune_cuda PUBLIC csrc)
target_compile_definitions(ttune_cuda PRIVATE "TTUNE_CUDA_ARCHITECTURE_NAMES=\"${NAMES}\"")
target_compile_options(ttune_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>")

# PyTorch operators on CUDA devices. libtorch_cuda is not linked: where it is loaded, torch/cuda_launch.h finds it.
add_library(_ops_cuda MODULE
  csrc/torch/embedding_lookup_cuda.cpp
  csrc/torch/inner_products_cuda.cpp
  csrc/torch/linear_update_cuda.cpp
  csrc/torch/timestep_embedding_cuda.cpp
  csrc/torch/trajectory_loss_cuda.cpp)
target_link_libraries(_ops_cuda PRIVATE ttune_cuda CUDA::cudart_static "${TORCH_FOLDER}/lib/libtorch_cpu.so")
target_include_directories(_ops_cuda SYSTEM PRIVATE "${TORCH_FOLDER}/include" ${CUDAToolkit_INCLUDE_DIRS})
target_compile_options(_ops_cuda PRIVATE -Wall -Wextra)
target_compile_definitions(_ops_cuda PRIVATE TORCH_TARGET_VERSION=0x020b000000000000)
# The runtime in this library must not be mistaken for torch's own.
target_link_options(_ops_cuda PRIVATE "LINKER:--exclude-libs,ALL")
set_target_properties(_ops_cuda PROPERTIES PREFIX "" LINKER_LANGUAGE CXX)
install(TARGETS _ops_cuda LIBRARY DESTINATION lib)
