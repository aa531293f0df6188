# Versions 0.x serve programs that ask for the same x; later ones those that ask for the same first number.
set(PACKAGE_VERSION "@VERSION@")
set(calltable_compatible "@COMPATIBLE@")

string(REGEX MATCH "^0\\.[0-9]+|^[0-9]+" calltable_asked "${PACKAGE_FIND_VERSION}")
if(NOT PACKAGE_FIND_VERSION OR
        (calltable_asked STREQUAL calltable_compatible AND NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION))
    set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
endif()
if(CMAKE_SIZEOF_VOID_P AND NOT CMAKE_SIZEOF_VOID_P EQUAL @POINTER@)
    set(PACKAGE_VERSION "${PACKAGE_VERSION}, for another width")
    set(PACKAGE_VERSION_UNSUITABLE TRUE)
endif()
unset(calltable_asked)
unset(calltable_compatible)
