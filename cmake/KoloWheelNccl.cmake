# LibTorch's wheels bring NCCL in a folder beside their own. libtorch_cuda.so finds it there when it is loaded; the linker
# would take another one, maybe an older one that lacks some of its functions, from the folder of CUDA.
set(nccl_folder "${TORCH_INSTALL_PREFIX}/../nvidia/nccl/lib")
if(EXISTS "${nccl_folder}")
  add_link_options("LINKER:-rpath-link,${nccl_folder}")
endif()
