#!/usr/bin/env bash
# Makes .venv on first use, installs the requirements, and runs one of the programs, whose paths are
# those of the folder that it is called from.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd)

usage() {
  cat <<'TEXT'
usage: ./launch.sh <command> [options]

  quickstart [--workdir=<dir>]                     teacher, student and distilled student on the
                                                   built-in data, from end to end in minutes
  train --config=configs/<file>.py:<args> --workdir=<dir>
                                                   trains; goes on where the directory's run stopped
  evaluate --workdir=<dir> [--split=<split>] [--data_root=<dir>] [--json=<file>]
           [--confusion=<file>.png]
  predict --workdir=<dir> [--output=<dir>] [--compare=<name>=<dir>,...]
          <images or folders> | --split=<split>
  predict --exported=<dir> --output=<dir> <images or folders>
  study --config=experiments/<study>.py:<args> --workdir=<dir>
                                                   students x seeds against one teacher pass
  profile --config=configs/<file>.py:<args> --output=<dir> [--teacher=configs/<file>.py:<args>]
                                                   where time and memory of a train step go, and a
                                                   trace for TensorBoard and Perfetto
  data.check <folder> [--layout=folder|camvid|class_folder|npz|cifar10|cifar100|voc_boxes|coco]
                                                   every problem of data of your own
  data.prepare <name> --manual_dir=<archives> --data_dir=<dir>
                                                   a public data set from its downloaded archives
  import --source=<file, address or name> --model=<name> --workdir=<dir>
                                                   published PyTorch weights as a work directory
  export --workdir=<dir> --format=stablehlo|onnx|safetensors --output=<dir>
         [--size=<height>,<width>] [--push_to=<user>/<name>]
                                                   the trained model for other programs
  test [pytest options]                            installs what the tests need and runs them all

Every field of a config can be overridden: --config.train.steps=1000. --require_accelerator refuses
to run on the CPU. `./launch.sh <command> --help` lists the options of a command, --print_config its
fields. Paths are those of the folder that you are in; a recipe that is not there is looked for
beside launch.sh.

Environment:
  PYTHON=<python>       the Python that makes .venv (default: the newest of 3.11 to 3.13 that is
                        found); a .venv that is there is kept, whatever made it
  VENV=<dir>            another virtual environment than .venv beside launch.sh
  JAX_EXTRA=tpu|cuda13  installs jax[tpu] or jax[cuda13] instead of jax for the CPU
  KDSEG_DATA=<dir>      folder of data sets, where config.data.root is not set
  JAX_COMPILATION_CACHE_DIR=<dir>
                        folder of compiled programs, without a bound (default: one a kind of CPU in
                        kdseg_jax/compiled of $XDG_CACHE_HOME or ~/.cache, at most 2 GB each);
                        JAX_ENABLE_COMPILATION_CACHE=false keeps none
TEXT
}

fail() {
  echo "ERROR: $1" >&2
  exit 2
}

# Whether a Python can make the environment.
is_usable() {
  "$1" -c 'import ensurepip, ssl, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Prints $PYTHON, else the newest Python on the path or of pyenv.
find_python() {
  if [ -n "${PYTHON:-}" ]; then
    is_usable "$PYTHON" || fail "PYTHON=$PYTHON is no Python 3.11 or later that can make virtual environments."
    echo "$PYTHON"
    return
  fi
  local version candidate
  for version in 3.13 3.12 3.11; do
    for candidate in "python$version" "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$version".*/bin/python; do
      if is_usable "$candidate"; then
        echo "$candidate"
        return
      fi
    done
  done
  is_usable python3 || fail 'Python 3.11 or later with venv is needed and was not found (Debian, Ubuntu: apt install python3-venv). Set PYTHON=<path of one>.'
  echo python3
}

# Installs the given requirement files into the environment unless that was already done.
install() {
  local extra=${JAX_EXTRA:-} stamp chosen
  case "$extra" in ''|tpu|cuda13) ;; *) fail "JAX_EXTRA=$extra is unknown; use tpu or cuda13." ;; esac
  stamp=$venv/installed-$(cat "$@" "$root/requirements.lock" <(echo "$extra") | cksum | tr ' ' '-')
  if [ -e "$stamp" ] && [ -x "$venv/bin/python" ]; then return; fi
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then  # none, or one half made
    if [ -n "$(ls -A -- "$venv" 2>/dev/null)" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
      fail "$venv holds files and is no virtual environment: it would be emptied. Choose another VENV."
    fi
    if ! "$venv/bin/python" -m ensurepip >/dev/null 2>&1; then
      chosen=$(find_python)
      "$chosen" -m venv --clear "$venv"
    fi
  fi
  echo "Installing into $venv ..." >&2
  local arguments=(--quiet --disable-pip-version-check --constraint "$root/requirements.lock")
  for file in "$@"; do arguments+=(--requirement "$file"); done
  if [ -n "$extra" ]; then arguments+=("jax[$extra]"); fi
  "$venv/bin/python" -m pip install "${arguments[@]}" >&2
  touch "$stamp"
}

# Runs a module; its imports come from here first, then from where the caller is.
run() {
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}:$PWD
  exec "$venv/bin/python" -P -m "$@"
}

# Prints <file>:<args> of a recipe: of the caller's folder, else of this one.
find_recipe() {
  if [ ! -e "${1%%:*}" ] && [ -e "$root/${1%%:*}" ]; then echo "$root/$1"; else echo "$1"; fi
}

# Sets `arguments` to those given, with the recipe found.
find_recipes() {
  local previous=''
  arguments=()
  for argument in "$@"; do
    case "$argument" in
      --config=*|-config=*) argument=${argument%%=*}=$(find_recipe "${argument#*=}") ;;
      *) case "$previous" in --config|-config) argument=$(find_recipe "$argument") ;; esac ;;
    esac
    arguments+=("$argument")
    previous=$argument
  done
}

# Sets `arguments` to those given, with tests and files of the caller's folder as absolute paths.
find_tests() {
  local previous=''
  arguments=()
  for argument in "$@"; do
    case "$argument" in
      /*) ;;
      --junitxml=*|--junit-xml=*|--basetemp=*|--ignore=*|--log-file=*)
        argument=${argument%%=*}=$(absolute "${argument#*=}") ;;
      -*) ;;
      *) case "$previous" in
           -[ckmnoprW]) ;;  # the value of an option
           *) if [ -e "${argument%%::*}" ]; then argument=$(absolute "$argument"); fi ;;
         esac ;;
    esac
    arguments+=("$argument")
    previous=$argument
  done
}

absolute() {
  case "$1" in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac
}

venv=$(absolute "${VENV:-$root/.venv}")
command=${1:-}
case "$command" in
  quickstart|train|evaluate|predict|study|profile|data.check|data.prepare|import|export)
    shift
    install "$root/requirements.txt"
    find_recipes "$@"
    if [ "$command" = import ]; then command=interop.import_torch; fi
    run "kdseg_jax.$command" ${arguments[@]+"${arguments[@]}"}
    ;;
  test)
    shift
    install "$root/requirements.txt" "$root/tests/requirements.txt"
    find_tests "$@"
    cd -- "$root"
    # Neighbours, which share what they compiled, go to one process.
    run pytest -n logical --maxprocesses 8 --dist worksteal ${arguments[@]+"${arguments[@]}"}
    ;;
  ''|-h|--help|help)
    usage
    ;;
  *)
    echo "ERROR: unknown command '$command'." >&2
    usage >&2
    exit 2
    ;;
esac
