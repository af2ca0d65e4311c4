// Topology::toJson, which is there if jsoncpp's header is.
#include <topology.h>

#include "check.h"

#ifndef TENT_HAS_JSONCPP
#error "the stand-in for jsoncpp was not found"
#endif

int main() {
    mooncake::Topology topology;
    const std::string text = "{\"cpu:0\":[[\"a\",\"b\"],[\"c\"]],\"cuda:1\":[[],[\"c\"]]}";
    CHECK_INT(topology.parse(text), 0);
    CHECK(topology.toJson().text() == text);
    return pass("cxx_json");
}
