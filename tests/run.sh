#!/usr/bin/env bash
# Every test of the repository, or only the layers named; see ./x.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../x" test "$@"
