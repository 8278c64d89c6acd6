# shellcheck shell=bash
# Set-up of a fresh Debian 12: system packages and cargo. To be sourced.

# Prints a message that stops the script.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

is_root() { [[ "$(id -u)" == 0 ]]; }

# Debian packages of the commands that are missing. Arguments: COMMAND=PACKAGE ...
missing_packages() {
    local pair packages=()
    # Commands for root may be outside of the path of others.
    local PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
    done
    ((${#packages[@]})) || return 0
    printf '%s\n' "${packages[@]}" | sort -u | tr '\n' ' '
}

# Installs the packages of missing commands, as root; otherwise says what is to be installed and fails.
# Arguments: COMMAND=PACKAGE ...
ensure_commands() {
    local packages
    packages=$(missing_packages "$@")
    [[ -n "$packages" ]] || return 0
    if ! is_root; then
        printf 'missing packages; as root: apt-get install -y --no-install-recommends %s\n' "$packages" >&2
        return 1
    fi
    # Services that the packages bring (a web server on port 80) are not to start on this machine.
    local policy=/usr/sbin/policy-rc.d made=
    if [[ ! -e "$policy" ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=$policy
    fi
    local status=0
    # shellcheck disable=SC2086 # a list of words
    {
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -y -qq --no-install-recommends $packages </dev/null >/dev/null 2>&1 ||
            { apt-get update -qq </dev/null && apt-get install -y -qq --no-install-recommends $packages </dev/null; }
    } >&2 || status=1
    [[ -z "$made" ]] || rm -f "$made"
    ((status == 0)) || printf 'could not install: %s\n' "$packages" >&2
    return "$status"
}

# Finds cargo, also where rustup put it without the shell knowing.
ensure_cargo() {
    command -v cargo >/dev/null || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
    command -v cargo >/dev/null || die "cargo is missing: install Rust with https://rustup.rs"
    # Rust links with the system's C compiler.
    ensure_commands cc=build-essential || exit 1
}

# DPDK as the system's packages bring it, with its headers; installed where that is possible.
ensure_dpdk() {
    local is_there=(pkg-config --exists 'libdpdk >= 22.11')
    ! "${is_there[@]}" 2>/dev/null || return 0
    command -v apt-get >/dev/null || { echo "no DPDK 22.11 or newer with its headers (libdpdk.pc)" >&2 && return 1; }
    ensure_commands libdpdk-of-this-machine=libdpdk-dev dpdk-devbind.py=dpdk pkg-config=pkg-config || return 1
    "${is_there[@]}"
}

# A virtual environment with a package from PyPI, made where there is none. Arguments: DIRECTORY PACKAGE==VERSION
ensure_python_package() {
    [[ ! -e "$1/$2" ]] || return 0
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        # The module is a package of its own, and no command tells that it is there.
        ensure_commands python3-venv-of-this-machine=python3-venv || return 1
    fi
    rm -rf "$1"
    python3 -m venv "$1" && "$1/bin/pip" install --quiet --disable-pip-version-check "$2" >&2 && touch "$1/$2"
}
