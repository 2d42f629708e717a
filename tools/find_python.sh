#!/bin/sh
# Prints the first Python that can build and run Klerk. If none can, says what each one lacks.
# Usage: tools/find_python.sh [PYTHON...]
set -u

check='
import os, sys, sysconfig

def lacks():
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):
        return "is version %s; Klerk needs 3.11 or newer" % found
    if sys.implementation.name != "cpython":
        return "is %s; Klerk needs CPython" % sys.implementation.name
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "is a free-threaded build, for which there is no RocksDB wheel yet"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return "has no headers; install its development package (python3-dev, python3-devel)"
    try:
        import ensurepip, venv
    except ImportError:
        return "cannot make virtual environments; install its venv package (python3-venv)"

problem = lacks()
if problem:
    sys.exit(problem)
'

compiler=${CC:-}
for candidate in cc gcc clang; do
    [ -n "$compiler" ] || compiler=$(command -v "$candidate" || true)
done
if [ -z "$compiler" ]; then
    echo "Klerk compiles its core, and there is no C compiler here: install gcc or clang." >&2
    exit 1
fi

[ $# -gt 0 ] || set -- python3 python3.14 python3.13 python3.12 python3.11 python
report=""
for candidate in "$@"; do
    path=$(command -v "$candidate") || { report="$report
  $candidate: not found"; continue; }
    if answer=$("$path" -c "$check" 2>&1); then
        echo "$path"
        exit 0
    fi
    report="$report
  $candidate: $(printf '%s' "$answer" | tail -n 1)"
done
echo "Klerk needs CPython 3.11 or newer. Looked at:$report
Install one, or name one: make PYTHON=/path/to/python3 ..." >&2
exit 1
