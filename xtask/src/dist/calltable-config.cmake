# find_package(calltable) gives calltable::calltable, the static library, and calltable::shared where there is one.
get_filename_component(calltable_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT TARGET calltable::calltable)
    add_library(calltable::calltable STATIC IMPORTED)
    set_target_properties(calltable::calltable PROPERTIES
        IMPORTED_LOCATION "${calltable_prefix}/lib/@STATIC@"
        IMPORTED_LINK_INTERFACE_LANGUAGES C
        INTERFACE_INCLUDE_DIRECTORIES "${calltable_prefix}/include"
        INTERFACE_LINK_LIBRARIES "@LIBRARIES@")
endif()

set(calltable_shared "@SHARED@")
if(calltable_shared AND NOT TARGET calltable::shared)
    add_library(calltable::shared SHARED IMPORTED)
    set_target_properties(calltable::shared PROPERTIES
        IMPORTED_LOCATION "${calltable_prefix}/${calltable_shared}"
        INTERFACE_COMPILE_DEFINITIONS CALLTABLE_SHARED
        INTERFACE_INCLUDE_DIRECTORIES "${calltable_prefix}/include")
    if(WIN32)
        set_target_properties(calltable::shared PROPERTIES
            IMPORTED_IMPLIB "${calltable_prefix}/lib/@IMPORT@")
    endif()
endif()
unset(calltable_shared)
unset(calltable_prefix)
