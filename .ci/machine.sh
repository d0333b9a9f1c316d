# Sourced by tests/run and examples/demo: what a Debian machine needs, and which Pythons it has.

say() { printf '\n== %s\n' "$*" >&2; }

debian() { # installs what is missing of the given packages
    local missing=() package sudo=()
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq
    # RUNLEVEL=1 keeps services from being started: who needs one starts their own.
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

pythons() { # every usable CPython >= 3.11, newest first: minor version and path
    local minor candidate
    for minor in {19..11}; do
        for candidate in "$(command -v "python3.$minor" || true)" \
            "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python3 /usr/bin/python3."$minor"; do
            # A shim may stand for a version that is not there, and Debian's Python comes without ensurepip.
            if [ -x "$candidate" ] && "$candidate" -c 'import ensurepip, sys
sys.exit(sys.implementation.name != "cpython")' 2>/dev/null; then
                echo "$minor $("$candidate" -c 'import sys; print(sys.executable)')"
                break
            fi
        done
    done
}

find_pythons() { # as pythons; installs Debian's if there is none
    local found
    found="$(pythons)"
    if [ -z "$found" ]; then
        debian python3 python3-venv
        found="$(pythons)"
    fi
    [ -n "$found" ] || { say "no CPython >= 3.11 with venv was found"; return 1; }
    echo "$found"
}

environment() { # minor, interpreter, pip arguments: prints the interpreter of an environment made with them
    local venv=".venvs/3.$1" stamp
    stamp="$(cat pyproject.toml <(printf '%s\n' "${@:2}") | sha256sum | cut -c1-16)"
    if [ "$(cat "$venv/stamp" 2>/dev/null || true)" != "$stamp" ]; then
        rm -rf "$venv"
        "$2" -m venv "$venv" >&2
        # Dependency groups need pip 25.1.
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1' >&2
        "$venv/bin/python" -m pip install -q --disable-pip-version-check "${@:3}" >&2
        echo "$stamp" >"$venv/stamp"
    fi
    echo "$venv/bin/python"
}
