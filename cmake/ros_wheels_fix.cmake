# Mends two include directories that CMake refuses when ROS 2 comes from the wheels of PyPI.
# Include it after project(). On a ROS distribution it finds nothing to change.
#
# 1. The wheels were built in a manylinux container, and their exported
#    <pkg>__rosidl_generator_py targets still name that container's Python headers
#    (/opt/python/cpXY-cpXY/include/pythonX.Y): "imported target includes non-existent path".
# 2. In a virtual environment inside the source tree (.venv), our own exported
#    <pkg>__rosidl_generator_py names the NumPy headers of that environment: "contains path which
#    is prefixed in the source directory".
#
# Both are only known when the directory scope ends, hence the DEFER. It needs CMake 3.19; our
# targets with older ones (none) would only meet distributions.
if(NOT COMMAND _ros_wheels_mend_includes)
  function(_ros_wheels_mend_includes)
    get_property(_imported DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
    foreach(_target IN LISTS _imported)
      get_target_property(_includes ${_target} INTERFACE_INCLUDE_DIRECTORIES)
      if(NOT _includes)
        continue()
      endif()
      set(_kept "")
      foreach(_include IN LISTS _includes)
        if(NOT IS_ABSOLUTE "${_include}" OR EXISTS "${_include}")
          list(APPEND _kept "${_include}")
        endif()
      endforeach()
      if(NOT "${_kept}" STREQUAL "${_includes}")
        set_property(TARGET ${_target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${_kept}")
        message(STATUS "ros wheels: dropped a missing include directory of ${_target}")
      endif()
    endforeach()

    get_property(_built DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" PROPERTY BUILDSYSTEM_TARGETS)
    foreach(_target IN LISTS _built)
      get_target_property(_includes ${_target} INTERFACE_INCLUDE_DIRECTORIES)
      if(NOT _includes)
        continue()
      endif()
      set(_kept "")
      foreach(_include IN LISTS _includes)
        string(FIND "${_include}" "${CMAKE_CURRENT_SOURCE_DIR}/" _position)
        if(_position EQUAL 0)
          list(APPEND _kept "$<BUILD_INTERFACE:${_include}>")
        else()
          list(APPEND _kept "${_include}")
        endif()
      endforeach()
      set_property(TARGET ${_target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${_kept}")
    endforeach()
  endfunction()
  if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.19)
    cmake_language(DEFER DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" CALL _ros_wheels_mend_includes)
  endif()
endif()
