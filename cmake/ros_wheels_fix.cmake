# The ROS 2 wheels of PyPI were built in a manylinux container, and their exported
# <pkg>__rosidl_generator_py targets still name that container's Python headers
# (/opt/python/cpXY-cpXY/include/pythonX.Y). CMake refuses an imported target whose include
# directory does not exist. So, when the directory scope ends, take every absolute path that
# does not exist out of the imported targets. On a ROS distribution nothing is dropped.
# Include it after project().
if(NOT COMMAND _ros_wheels_drop_missing_includes)
  function(_ros_wheels_drop_missing_includes)
    get_property(_targets DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
    foreach(_target IN LISTS _targets)
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
  endfunction()
  # DEFER needs CMake 3.19; older ones (none of our targets) only meet distributions.
  if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.19)
    cmake_language(DEFER DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}" CALL _ros_wheels_drop_missing_includes)
  endif()
endif()
