/* A public header compiles as the first and only one, twice, under the host's strictest warnings.
 * TENT_HEADER is the header; this file is also compiled as C++ (header_alone.cpp). */
#include TENT_HEADER
#include TENT_HEADER

int main(void) { return 0; }
