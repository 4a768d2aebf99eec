#!/usr/bin/env bash
# Makes .venv on first use, installs the requirements, and runs one of the programs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

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
  study --config=experiments/<study>.py:<args> --workdir=<dir>
                                                   students x seeds against one teacher pass
  data.check <folder> [--layout=folder|camvid]     every problem of images and labels of your own
  data.prepare <name> --manual_dir=<archives> --data_dir=<dir>
                                                   a public data set from its downloaded archives
  test [pytest options]                            installs what the tests need and runs them all

Every field of a config can be overridden: --config.train.steps=1000. --require_accelerator refuses
to run on the CPU. `./launch.sh <command> --helpfull` lists the options of a command.

Environment:
  PYTHON=python3.12     the Python that makes .venv (3.11 or later; default: python3)
  JAX_EXTRA=tpu|cuda13  installs jax[tpu] or jax[cuda13] instead of jax for the CPU
  KDSEG_DATA=<dir>      folder of data sets, where config.data.root is not set
TEXT
}

# Installs the given requirement files into .venv unless that was already done.
install() {
  local python=${PYTHON:-python3} extra=${JAX_EXTRA:-} stamp
  case "$extra" in ''|tpu|cuda13) ;; *) echo "ERROR: JAX_EXTRA=$extra is unknown; use tpu or cuda13." >&2; exit 2 ;; esac
  if [ ! -x .venv/bin/python ]; then
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "ERROR: Python 3.11 or later is needed, and '$python' is not. Set PYTHON=<path of one>." >&2
      exit 2
    fi
    "$python" -m venv .venv
  fi
  stamp=.venv/installed-$(cat "$@" requirements.lock <(echo "$extra") | cksum | tr ' ' '-')
  if [ ! -e "$stamp" ]; then
    echo "Installing into .venv ..." >&2
    local arguments=(--quiet --disable-pip-version-check --constraint requirements.lock)
    for file in "$@"; do arguments+=(--requirement "$file"); done
    if [ -n "$extra" ]; then arguments+=("jax[$extra]"); fi
    .venv/bin/python -m pip install "${arguments[@]}" >&2
    touch "$stamp"
  fi
}

command=${1:-}
case "$command" in
  quickstart|train|evaluate|predict|study|data.check|data.prepare)
    shift
    install requirements.txt
    exec .venv/bin/python -m "kdseg_jax.$command" "$@"
    ;;
  test)
    shift
    install requirements.txt tests/requirements.txt
    exec .venv/bin/python -m pytest "$@"
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
