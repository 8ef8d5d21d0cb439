# LibTorch's wheels bring the headers of a fmt of their own, without its library. They would hide those of
# fmt::fmt, which therefore come first, from a folder that holds nothing else.
foreach(directory IN LISTS TORCH_INCLUDE_DIRS)
  if(EXISTS "${directory}/fmt")
    get_target_property(fmt_headers fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
    file(MAKE_DIRECTORY "${CMAKE_BINARY_DIR}/headers")
    file(CREATE_LINK "${fmt_headers}/fmt" "${CMAKE_BINARY_DIR}/headers/fmt" SYMBOLIC)
    include_directories(BEFORE SYSTEM "${CMAKE_BINARY_DIR}/headers")
  endif()
endforeach()
