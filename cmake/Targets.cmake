# One line a target in every folder: espalier_library, espalier_binary, espalier_test, espalier_benchmark.

# espalier_library(NAME SRCS a.cc … DEPS lib …): static library espalier_NAME. Without SRCS it is header-only.
function(espalier_library name)
  cmake_parse_arguments(arg "" "" "SRCS;DEPS" ${ARGN})
  if(arg_SRCS)
    add_library(espalier_${name} STATIC ${arg_SRCS})
    target_include_directories(espalier_${name} PUBLIC ${CMAKE_SOURCE_DIR})
    target_link_libraries(espalier_${name} PUBLIC ${arg_DEPS})
  else()
    add_library(espalier_${name} INTERFACE)
    target_include_directories(espalier_${name} INTERFACE ${CMAKE_SOURCE_DIR})
    target_link_libraries(espalier_${name} INTERFACE ${arg_DEPS})
  endif()
endfunction()

# espalier_binary(NAME SRCS … DEPS …): build/release/bin/NAME.
function(espalier_binary name)
  cmake_parse_arguments(arg "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${arg_SRCS})
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${arg_DEPS})
endfunction()

# espalier_test(NAME LABEL unit SRCS … DEPS … [ARGS …] [TIMEOUT seconds] [SERIAL]): GoogleTest program tests/bin/NAME,
# registered with CTest under its label, run in the source folder. SERIAL: runs alone (it needs both cores or a quiet machine).
function(espalier_test name)
  cmake_parse_arguments(arg "SERIAL" "LABEL;TIMEOUT" "SRCS;DEPS;ARGS" ${ARGN})
  add_executable(${name} ${arg_SRCS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests/bin)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${arg_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  add_test(NAME ${name} COMMAND ${name} ${arg_ARGS} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT} RUN_SERIAL ${arg_SERIAL}
                       ENVIRONMENT "ESPALIER_BIN=${CMAKE_BINARY_DIR}/bin")
endfunction()

# espalier_script_test(NAME LABEL e2e COMMAND … [TIMEOUT seconds] [SERIAL]): a test that is a program of another language.
function(espalier_script_test name)
  cmake_parse_arguments(arg "SERIAL" "LABEL;TIMEOUT" "COMMAND" ${ARGN})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  add_test(NAME ${name} COMMAND ${arg_COMMAND} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES LABELS ${arg_LABEL} TIMEOUT ${arg_TIMEOUT} RUN_SERIAL ${arg_SERIAL}
                       ENVIRONMENT "ESPALIER_BIN=${CMAKE_BINARY_DIR}/bin")
endfunction()

# espalier_benchmark(NAME SRCS … DEPS …): build/release/bin/NAME with Google Benchmark.
function(espalier_benchmark name)
  cmake_parse_arguments(arg "" "" "SRCS;DEPS" ${ARGN})
  espalier_binary(${name} SRCS ${arg_SRCS} DEPS ${arg_DEPS} benchmark::benchmark)
endfunction()
