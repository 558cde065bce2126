#!/usr/bin/env bash
# Check and measure the library on a GPU with one command: under 8 minutes on an H100, and nothing is downloaded.
#
#   tests/gpu/run.sh                     everything; writes report.json and report.md to $OUT or results/gpu/
#   tests/gpu/run.sh --wheels DIR        first installs the wheels in DIR into a temporary folder
#   tests/gpu/run.sh --tiny --device cpu the same code in a minute or two, without a GPU
#   tests/gpu/run.sh --help              all options
#
# It needs Python 3.12 with torch 2.11, NumPy, SciPy and pandas ($PYTHON, else .venv of this clone, else python3).
# What else is missing is named in the report, and the parts that need it are skipped there with the reason. The
# wheels for them come from a machine with the package index:
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#       --platform manylinux2014_x86_64 -c constraints.txt -d DIR NAME ...
# A machine image that has torch, transformers, h5py, psutil and filelock wants these NAMEs, 5 MB together:
#   pydantic==2.14.3 pydantic-core annotated-types typing-inspection open-clip-torch ftfy wcwidth
# Without pydantic every part but the list of what is missing is skipped.
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root=$(dirname "$tests")
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=$root/.venv/bin/python
    [ -x "$python" ] || python=python3
fi
export PYTHONPATH="$root:$tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$python" -m gpu.main "$@"
