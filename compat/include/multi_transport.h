// Copyright 2026 the tent authors
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

// Upstream's table of transports. Here the runtime chooses; what programs name is in transport.h.
#ifndef TENT_MOONCAKE_MULTI_TRANSPORT_H
#define TENT_MOONCAKE_MULTI_TRANSPORT_H

#include "transport/transport.h"

#endif  // TENT_MOONCAKE_MULTI_TRANSPORT_H
