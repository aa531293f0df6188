# find_package(calltable) gives calltable::calltable, the static library, and calltable::shared where there is one.
get_filename_component(calltable_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(calltable_bindir "${calltable_prefix}/bin")
set(calltable_libdir "${calltable_prefix}/lib")
set(calltable_includedir "${calltable_prefix}/include")

if(NOT TARGET calltable::calltable)
    add_library(calltable::calltable STATIC IMPORTED)
    set_target_properties(calltable::calltable PROPERTIES
        IMPORTED_LOCATION "${calltable_libdir}/@STATIC@"
        IMPORTED_LINK_INTERFACE_LANGUAGES C
        INTERFACE_INCLUDE_DIRECTORIES "${calltable_includedir}"
        INTERFACE_LINK_LIBRARIES "@LIBRARIES@")
endif()

set(calltable_shared "@SHARED@")
if(calltable_shared AND NOT TARGET calltable::shared)
    add_library(calltable::shared SHARED IMPORTED)
    set_target_properties(calltable::shared PROPERTIES
        INTERFACE_COMPILE_DEFINITIONS CALLTABLE_SHARED
        INTERFACE_INCLUDE_DIRECTORIES "${calltable_includedir}")
    if(WIN32)
        set_target_properties(calltable::shared PROPERTIES
            IMPORTED_LOCATION "${calltable_bindir}/${calltable_shared}"
            IMPORTED_IMPLIB "${calltable_libdir}/@IMPORT@")
    else()
        set_target_properties(calltable::shared PROPERTIES
            IMPORTED_LOCATION "${calltable_libdir}/${calltable_shared}"
            IMPORTED_SONAME "@SONAME@")
    endif()
endif()
unset(calltable_shared)
unset(calltable_includedir)
unset(calltable_libdir)
unset(calltable_bindir)
unset(calltable_prefix)
