#!/usr/bin/env bash
# Regenerates every figure and table of the companion; `./run_all.sh --help` lists the options.
set -euo pipefail
REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
  cat <<'HELP'
Usage: ./run_all.sh [options]

Runs the notebooks in order and writes figures/<profile>/ and results/<profile>/.
Sets up an environment first if there is none. At the end it writes the latent
browser, one page for a web browser: results/<profile>/browser/index.html.

  --profile NAME      smoke, mini (default), coco, openimages, or the path of
                      a YAML file: a copy of one of them, changed
  --data-root DIR     the data sets coco/ and open_images/ of those profiles
  --fetch             download the profile's images there and stop; can be repeated
  --from NN           start with notebook NN (use it to go on after a failure)
  --only NN           run notebook NN alone
  --force             build cached stages (features, trained models) anew
  --html              also write the executed notebooks as web pages, formulas and
                      all, to results/<profile>/site/
  --offline           never use the network
  --update-notebooks  write the executed outputs back into notebooks/ (mini only)
  --verify            read all cached stages in SPARC_DATA and say which are damaged
  --test              run the tests: formatting, lint, layers, pytest, and nbval
                      over the notebooks; goes with --offline only
  --help              show this text

Environment variables: SPARC_PROFILE (default profile), SPARC_DATA (features,
checkpoints; default data/), SPARC_DATASETS (as --data-root; default datasets/ in
SPARC_DATA), SPARC_OUTPUT (parent of figures/ and results/; default here),
SPARC_NOTEBOOKS (default notebooks/), SPARC_PROFILES (a folder of your own profiles).
Folders may be relative to where you are. Exit code: 0 all done; 1 a notebook or
test failed, or a stage is damaged; 2 wrong use, no environment, or a folder that cannot be written.

Windows: run it inside WSL (wsl --install, then its Ubuntu shell), with the clone
in WSL's own home folder, not under /mnt/c, which is many times slower.
macOS: the system's Python is too old; brew install python@3.12, or micromamba.
Notebooks run on the CPU there, also on Apple silicon.
HELP
}

say() { printf 'run_all: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

# Can this interpreter run the project? Asked from / so that the current folder
# does not pass for an installation; a copy of sparc_lib elsewhere does not count.
usable() {
  (cd / && "$1" - "$REPO" >/dev/null 2>&1) <<'PY'
import importlib.util, pathlib, sys
import sparc_lib
here = pathlib.Path(sparc_lib.__file__).resolve().parents[1] == pathlib.Path(sys.argv[1]).resolve()
needed = ("torch", "papermill", "ipykernel", "nbformat", "yaml", "psutil", "filelock")
sys.exit(not (here and all(importlib.util.find_spec(name) for name in needed)))
PY
}

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

pins() { cat "$REPO/pyproject.toml" "$REPO/constraints.txt" "$REPO/environment.yml" | cksum; }

# An environment is whole when its stamp, written last, names the current pins.
whole() { [ -f "$1/.sparc-ready" ] && [ "$(cat "$1/.sparc-ready")" = "$(pins)" ]; }

# Before an installation begins, its process id is noted. A note that outlives its
# process means the installation was killed, and pip cannot tell which packages
# are complete: such an environment is thrown away.
begin() {
  local note="$1.installing" pid
  if [ -f "$note" ]; then
    pid="$(cat "$note")"
    if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then
      die "process $pid is setting up $1; wait for it (or delete $note if that is something else)"
    fi
    say "the set-up of $1 was interrupted; starting over"
    rm -rf "$1"
  fi
  echo $$ >"$note"
  rm -f "$1/.sparc-ready"
}
finish() { pins >"$1/.sparc-ready"; rm -f "$1.installing"; }
# The installer reported an error itself: what it left is consistent and can be completed.
abandon() { rm -f "$1.installing"; die "$2"; }

# What a reader on this system ought to know before anything is installed.
note_system() {
  case "$(uname -s 2>/dev/null)" in
    MINGW* | MSYS* | CYGWIN*)
      die "native Windows is not supported; install WSL (wsl --install) and run this in its shell, see --help" ;;
    Darwin) say "macOS: notebooks run on the CPU, also on Apple silicon" ;;
    Linux)
      case "${WSL_DISTRO_NAME:+$REPO}" in
        /mnt/?/*) say "WSL: this clone lies on a Windows drive, which is slow; move it to your WSL home folder" ;;
      esac ;;
  esac
}

# What PYTHONPATH names comes before any installation: another sparc_lib there would run in the place of ours.
refuse_another_library() {
  local place places
  IFS=: read -r -a places <<<"${PYTHONPATH:-}"
  for place in ${places[@]+"${places[@]}"}; do
    if [ "${place:-.}" -ef "$REPO" ]; then return; fi
    if [ -e "${place:-.}/sparc_lib" ]; then
      die "PYTHONPATH: ${place:-.} holds another sparc_lib, which would run in the place of this one; unset PYTHONPATH"
    fi
  done
}

find_python3() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if recent "$name"; then echo "$name"; return; fi
  done
  return 1
}

setup_venv() {  # creates or completes .venv
  local env="$REPO/.venv" base
  begin "$env"
  if ! "$env/bin/python" -m pip --version >/dev/null 2>&1; then
    base="$(find_python3)" ||
      abandon "$env" "no environment, and no Python 3.11 or later; install Python or micromamba (macOS: brew install python@3.12)"
    rm -rf "$env"
    say "creating $env with $base"
    "$base" -m venv "$env" ||
      abandon "$env" "'$base -m venv' failed; on Debian or Ubuntu: apt install python3-venv, then run again"
  fi
  say "installing the pinned packages (a few minutes, several GB)"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c "$REPO/constraints.txt" -e "$REPO" ||
    abandon "$env" "pip could not install the packages; see above, then run again"
  finish "$env"
}

setup_conda() {  # creates .conda with mamba, micromamba or conda
  local env="$REPO/.conda"
  begin "$env"
  rm -rf "$env"
  say "$1: environment.yml into $env (several minutes, several GB)"
  (cd "$REPO" && MAMBA_ALWAYS_YES=true CONDA_ALWAYS_YES=true \
    "$1" env create --prefix "$env" --file environment.yml >&2) ||
    abandon "$env" "$1 could not make the environment; see above, then run again"
  finish "$env"
}

# Sets PYTHON: an active environment, else .venv, else mamba or conda, else python3 -m venv.
choose_python() {
  local name
  for name in python python3; do
    if usable "$name"; then PYTHON="$(command -v "$name")"; return; fi
  done
  for name in .venv .conda; do
    if whole "$REPO/$name" && usable "$REPO/$name/bin/python"; then PYTHON="$REPO/$name/bin/python"; return; fi
  done
  [ "$OFFLINE" = no ] || die "there is no environment, and --offline forbids installing one; run once without it"
  if [ ! -d "$REPO/.venv" ]; then
    for name in mamba micromamba conda; do
      if command -v "$name" >/dev/null 2>&1; then setup_conda "$name"; PYTHON="$REPO/.conda/bin/python"; return; fi
    done
  fi
  setup_venv
  PYTHON="$REPO/.venv/bin/python"
}

main() {
  local options=("$@") OFFLINE=no PYTHON
  while [ $# -gt 0 ]; do
    case "$1" in
      --help | -h) usage; exit 0 ;;
      --profile | --from | --only | --data-root)
        if [ $# -lt 2 ] || [ "${2#--}" != "$2" ]; then die "$1 needs a value; see --help"; fi
        if [ -z "$2" ]; then die "$1 is empty; is the variable unset? Give a value, or leave the option out"; fi
        shift ;;
      --offline) OFFLINE=yes ;;
      --fetch | --force | --html | --update-notebooks | --verify | --test) ;;
      --profile=* | --from=* | --only=* | --data-root=*) die "$1: write ${1%%=*} and its value as two words" ;;
      "") die "an option is empty; is a variable unset? See --help" ;;
      *) die "unknown option $1; see --help" ;;
    esac
    shift
  done
  note_system
  refuse_another_library
  choose_python
  # -P: a folder that holds another sparc_lib (or a yaml.py) must not pass for ours when called from there.
  exec "$PYTHON" -P -m sparc_lib.run.runner ${options[@]+"${options[@]}"}
}

# Sourcing this file defines the functions without running anything.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then main "$@"; fi
