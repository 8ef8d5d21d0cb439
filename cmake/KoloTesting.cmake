# Tests in ctest: in one process, or under mpirun.

set(KOLO_TEST_SUPPORT_DIR "${CMAKE_CURRENT_LIST_DIR}/../test/support")

# For sanitizer builds: Open MPI keeps memory, and hides how its threads synchronise; a test asks for more than there
# is.
set(_kolo_sanitizer_environment
  "ASAN_OPTIONS=allocator_may_return_null=1"
  "LSAN_OPTIONS=suppressions=${KOLO_TEST_SUPPORT_DIR}/lsan.supp:print_suppressions=0"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "TSAN_OPTIONS=suppressions=${KOLO_TEST_SUPPORT_DIR}/tsan.supp:ignore_noninstrumented_modules=1:halt_on_error=1:print_suppressions=0")

# More ranks than cores, as root, without pinning, and giving way to each other. With PMIx's tables in shared
# memory an mpirun of Open MPI 4.1 may not end when a rank was killed while it started.
set(_kolo_mpi_environment
  "OMPI_ALLOW_RUN_AS_ROOT=1"
  "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
  "OMPI_MCA_rmaps_base_oversubscribe=1"
  "PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe"
  "OMPI_MCA_mpi_yield_when_idle=1"
  "PMIX_MCA_gds=hash")

# Tests are of the CPU, also where there is a GPU, apart from those in test/gpu.
if(KOLO_CUDA)
  set(_kolo_no_gpu "CUDA_VISIBLE_DEVICES=")
endif()

# kolo_add_test(NAME TARGET [ARGS ...]): one process.
function(kolo_add_test name target)
  cmake_parse_arguments(PARSE_ARGV 2 ARG "" "" "ARGS")
  add_test(NAME ${name} COMMAND ${target} ${ARG_ARGS})
  set(environment ${_kolo_no_gpu})
  if(KOLO_SANITIZE)
    list(APPEND environment ${_kolo_sanitizer_environment} "KOLO_TEST_TIMEOUT=240")
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT 600 ENVIRONMENT "${environment}")
endfunction()

# kolo_set_mpi_environment(NAME): for a test that calls mpirun itself.
function(kolo_set_mpi_environment name)
  set(environment ${_kolo_mpi_environment} ${_kolo_no_gpu})
  set_tests_properties(${name} PROPERTIES TIMEOUT 600 ENVIRONMENT "${environment}")
endfunction()

# kolo_add_hosts_test(NAME COMMAND ...): on two emulated hosts of two ranks each, where they are permitted.
function(kolo_add_hosts_test name)
  add_test(NAME ${name}
    COMMAND "${KOLO_TEST_SUPPORT_DIR}/../hosts/emulated_hosts" --hosts 2 --slots 2 -- ${ARGN})
  set_tests_properties(${name} PROPERTIES TIMEOUT 600 PROCESSORS 4 SKIP_RETURN_CODE 77)
endfunction()

# kolo_add_mpi_test(NAME TARGET NP 1 2 ... [ARGS ...] [ENVIRONMENT ...]): NAME.np1, NAME.np2, ..., each under
# mpirun.
function(kolo_add_mpi_test name target)
  cmake_parse_arguments(PARSE_ARGV 2 ARG "" "" "NP;ARGS;ENVIRONMENT")
  set(environment ${_kolo_mpi_environment} ${_kolo_no_gpu} ${ARG_ENVIRONMENT})
  if(KOLO_SANITIZE)
    list(APPEND environment ${_kolo_sanitizer_environment} "KOLO_TEST_TIMEOUT=240"
         "KOLO_TEST_SEEDS=25")
  endif()
  if(KOLO_SANITIZE MATCHES "thread")
    list(APPEND environment "OMPI_MCA_btl=self,vader")
  endif()
  # With the names of such folders in the environment LeakSanitizer crashes in one of the tests: which it does by where
  # things lie.
  set(in_own_folder "${KOLO_TEST_SUPPORT_DIR}/in_own_folder")
  if(KOLO_SANITIZE MATCHES "address")
    set(in_own_folder "")
  endif()
  foreach(ranks IN LISTS ARG_NP)
    add_test(NAME ${name}.np${ranks}
      COMMAND ${in_own_folder}
              ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} --bind-to none
              $<TARGET_FILE:${target}> ${ARG_ARGS})
    set_tests_properties(${name}.np${ranks} PROPERTIES
      TIMEOUT 600 PROCESSORS ${ranks} ENVIRONMENT "${environment}")
  endforeach()
endfunction()
