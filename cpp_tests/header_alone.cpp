// As header_alone.c, in C++17.
#include "header_alone.c"
