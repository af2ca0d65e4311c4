// As layouts.c, in C++17.
#include "layouts.c"
