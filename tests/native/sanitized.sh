#!/usr/bin/env bash
# `make check-native`, given the interpreter and arguments for pytest: tests of operations, with kernels and binding built with
# the address and undefined-behaviour sanitizers. Any report ends the process and so fails the check.
#
# The package with the sanitized module goes to build/sanitized/package; the module in use for work stays as it is.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
package=$PWD/build/sanitized/package

rm -rf "$package"
"$python" -m pip install --quiet --no-deps --target "$package" . \
    -C build-dir=build/sanitized/cmake -C cmake.define.HEADRACE_SANITIZE=ON

# Their libraries must be there before Python is, and libstdc++ with them, or they cannot follow exceptions.
compiler=${CXX:-c++}
libraries=$(for name in libasan.so libubsan.so libstdc++.so; do "$compiler" -print-file-name="$name"; done)
export LD_PRELOAD=${libraries//$'\n'/:}
# Python frees little at its end, which would be reported as leaks.
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1
# -S leaves out .pth files, and with them the editable install of this checkout.
site=$(LD_PRELOAD='' "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
export PYTHONPATH=$package:$site
"$python" -S -c "import headrace._core as core; assert core.__file__.startswith('$package'), core.__file__"
# Reports go past pytest, which would keep them to itself.
# Left out: a test of resident memory, to which the sanitizer adds its own.
"$python" -S -m pytest --capture=sys tests/ops --deselect tests/ops/test_attention.py::test_a_cache_costs_what_is_written "${@:2}"
