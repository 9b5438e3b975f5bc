# libqjob-cuda.so: code for Hopper (90a has its tensor core instructions), and PTX for every card from compute capability 8.0 on.
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-virtual 90a-real)
endif()
set(CMAKE_CUDA_STANDARD 17)
enable_language(CUDA)
file(GLOB cuda_sources CONFIGURE_DEPENDS kernels/cuda/*.c kernels/cuda/*.cu)
add_library(qjob-cuda MODULE ${cuda_sources} kernels/codes.c)
target_link_libraries(qjob-cuda PRIVATE flags CUDA::cudart CUDA::cublas CUDA::cublasLt CUDA::cusolver CUDA::cuda_driver OpenMP::OpenMP_C)
target_compile_options(qjob-cuda PRIVATE $<$<COMPILE_LANGUAGE:C>:-O3>
  $<$<COMPILE_LANGUAGE:CUDA>:-O3 --fmad=true -Xcompiler=-Wall,-Wextra,-fvisibility=hidden -Wno-deprecated-gpu-targets
  $<$<BOOL:${QJOB_WERROR}>:--Werror=all-warnings>>)
list(APPEND backends qjob-cuda)
