# ESPALIER_STATIC: programs that bring their libraries with them, for machines where Debian's packages are not: all that Debian
# ships as an archive is linked from it, libstdc++ and libgcc too. libc and its family stay shared (CUDA's libraries are opened
# at run time), and so do the few libraries without an archive (prometheus-cpp, civetweb, benchmark): tests/gpu/pack lays those
# into ../lib, where the programs look.
option(ESPALIER_STATIC "Link all libraries but libc's statically" OFF)
if(NOT ESPALIER_STATIC)
  return()
endif()

# The archive beside a shared library (or beside its package's own place), in `out`; `path` itself where there is none.
function(espalier_archive_of path out)
  set(${out} "${path}" PARENT_SCOPE)
  get_filename_component(folder "${path}" DIRECTORY)
  get_filename_component(name "${path}" NAME)
  string(REGEX REPLACE "\\.so(\\..*)?$" ".a" archive "${name}")
  if(NOT archive STREQUAL name AND EXISTS "${folder}/${archive}")
    set(${out} "${folder}/${archive}" PARENT_SCOPE)
  endif()
endfunction()

function(espalier_archives_in target property)
  get_target_property(values ${target} ${property})
  if(NOT values)
    return()
  endif()
  set(rewritten)
  foreach(value ${values})
    if(value MATCHES "^/.*\\.so(\\.[0-9.]+)?$")
      espalier_archive_of("${value}" value)
    endif()
    list(APPEND rewritten "${value}")
  endforeach()
  set_property(TARGET ${target} PROPERTY ${property} "${rewritten}")
endfunction()

get_directory_property(imported IMPORTED_TARGETS)
foreach(target ${imported})
  get_target_property(type ${target} TYPE)
  espalier_archives_in(${target} INTERFACE_LINK_LIBRARIES)
  if(NOT type STREQUAL "INTERFACE_LIBRARY" AND NOT type STREQUAL "EXECUTABLE")
    espalier_archives_in(${target} IMPORTED_LOCATION)
    get_target_property(configurations ${target} IMPORTED_CONFIGURATIONS)
    foreach(configuration ${configurations})
      espalier_archives_in(${target} IMPORTED_LOCATION_${configuration})
    endforeach()
  endif()
endforeach()

# What the archives need and their shared twins carried themselves.
function(espalier_also target)
  set_property(TARGET ${target} APPEND PROPERTY INTERFACE_LINK_LIBRARIES ${ARGN})
endfunction()
function(espalier_find_archive name out)
  find_library(ESPALIER_ARCHIVE_${name} NAMES lib${name}.a REQUIRED)
  set(${out} ${ESPALIER_ARCHIVE_${name}} PARENT_SCOPE)
endfunction()
function(espalier_find_compiler_archive name out)
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=lib${name}.a OUTPUT_VARIABLE path
                  OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT EXISTS "${path}")
    message(FATAL_ERROR "ESPALIER_STATIC=ON, but the compiler has no lib${name}.a (Debian: gcc, gfortran)")
  endif()
  set(${out} "${path}" PARENT_SCOPE)
endfunction()

espalier_find_compiler_archive(gfortran gfortran)
espalier_find_compiler_archive(quadmath quadmath)
espalier_also(PkgConfig::OPENBLAS ${gfortran} ${quadmath} m)
foreach(name snappy z bz2 lz4 zstd gflags unwind lzma)
  espalier_find_archive(${name} ${name})
endforeach()
espalier_also(RocksDB::rocksdb-shared ${snappy} ${z} ${bz2} ${lz4} ${zstd} ${gflags} dl)
# libunwind brings the functions that unwind exceptions as well; libgcc's come first, so that they are the ones taken.
espalier_find_compiler_archive(gcc_eh gcc_eh)
espalier_also(PkgConfig::GLOG ${gflags} ${gcc_eh} ${unwind} ${lzma})
espalier_also(PkgConfig::MPFR PkgConfig::GMP)
espalier_also(OpenSSL::Crypto dl)

# pkg-config's way of naming it.
if(TARGET re2::re2)
  espalier_find_archive(re2 re2)
  set_property(TARGET re2::re2 PROPERTY INTERFACE_LINK_LIBRARIES ${re2} Threads::Threads)
endif()

# A program has one libstdc++: beside a shared C++ library it is the shared one, named here because the archive comes last.
foreach(target prometheus-cpp::core prometheus-cpp::pull benchmark::benchmark)
  espalier_also(${target} -l:libstdc++.so.6 -l:libgcc_s.so.1)
endforeach()

# Debian's libunwind.a is not position-independent. The old kind of RPATH also holds for what shared libraries need.
add_link_options(-static-libstdc++ -static-libgcc -no-pie -Wl,--disable-new-dtags)
set(CMAKE_BUILD_RPATH "$ORIGIN/../lib")
