# shellcheck shell=bash
# Sourced by tests/run, examples/demo and examples/monitoring/run, in the checkout: what a Debian machine needs, which
# Pythons it has, and environments made with them.

# A folder of the caller's would hide from pip what an environment lacks, and from a test what it tests. What is compiled
# is kept: the tests start Python a thousand times.
unset PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

say() { printf '\n== %s\n' "$*" >&2; }

debian() { # installs what is missing of the given packages
    local missing=() package sudo=()
    if ! command -v apt-get >/dev/null; then
        say "no Debian here: what needs $* will fail without"
        return
    fi
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get update -qq
    # RUNLEVEL=1 keeps services from being started: a test that needs one starts its own.
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

pythons() { # every usable CPython >= 3.11, newest first: minor version and path; `pythons installed`: but those fetched
    local minor candidate found fetched="$PWD/.venvs/debian/usr/bin"
    [ "${1:-}" != installed ] || fetched=""
    for minor in {19..11}; do
        for candidate in "$(command -v "python3.$minor" || true)" \
            "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3."$minor".*/bin/python3 /usr/bin/python3."$minor" \
            ${fetched:+"$fetched/python3.$minor"}; do
            # A shim may stand for a version that is not there, Debian's Python comes without ensurepip, and builds
            # without the GIL are not what is tested. The one below an environment outlives it.
            if [ -x "$candidate" ] && found="$("$candidate" -c '
import ensurepip, sys, sysconfig
assert sys.implementation.name == "cpython" and sys.version_info[:2] == (3, int(sys.argv[1]))
assert not sysconfig.get_config_var("Py_GIL_DISABLED")
print(sys._base_executable)' "$minor" 2>/dev/null </dev/null)"; then
                echo "$minor $found"
                break
            fi
        done
    done
}

find_pythons() { # as pythons; installs Debian's if there is none
    local found
    found="$(pythons)"
    if [ -z "$found" ] && command -v apt-get >/dev/null; then
        debian python3 python3-venv
        found="$(pythons)"
    fi
    [ -n "$found" ] || { say "no CPython >= 3.11 with venv was found"; return 1; }
    echo "$found"
}

fetch_pythons() { # minor versions: has .venvs/debian hold those of them that are not installed, if that can be done
    local minor missing=() installed
    installed="$(pythons installed)"
    for minor in "$@"; do
        grep -q "^$minor " <<<"$installed" || missing+=("$minor")
    done
    [ ${#missing[@]} -eq 0 ] || .ci/fetch-pythons .venvs/debian "$(head -n 1 <<<"$installed" | cut -d ' ' -f 2-)" "${missing[@]}"
}

with_seconds() { # command: and on a terminal, how many seconds it takes so far
    local ticking="" status=0
    if [ -t 2 ]; then
        # In the background, as the command is to get Ctrl-C; it ends with us, however we end.
        (while sleep 1 && kill -0 "$$" 2>/dev/null; do printf '\r   %s s ' "$SECONDS" >&2; done) </dev/null 9>&- &
        ticking=$!
    fi
    "$@" || status=$?
    [ -z "$ticking" ] || { kill "$ticking" 2>/dev/null && wait "$ticking" 2>/dev/null; printf '\r%12s\r' '' >&2; } || true
    return "$status"
}

is_active() { # an environment's folder: whether a shell or Python is in it, as far as that can be seen
    local folder process first
    folder="$(cd "$1" && pwd -P)"
    [ -z "${VIRTUAL_ENV:-}" ] || [ "$(cd "$VIRTUAL_ENV" 2>/dev/null && pwd -P)" != "$folder" ] || return 0
    for process in /proc/[0-9]*; do
        # By the name it was started with: what runs is the interpreter that the environment was made with.
        first=""
        { IFS= read -r -d '' first <"$process/cmdline"; } 2>/dev/null || continue
        case "$first" in
        */*) ! [ "$(cd "$process/cwd" && cd "${first%/*}" && pwd -P)" = "$folder/bin" ] || return 0 ;;
        *) ! grep -qzxF "VIRTUAL_ENV=$folder" "$process/environ" || return 0 ;;
        esac 2>/dev/null
    done
    return 1
}

environment() ( # minor or name, interpreter, pip arguments: prints the interpreter of an environment made with them
    case "$1" in
    [0-9]*) venv=".venvs/3.$1" ;;
    *) venv=".venvs/$1" ;;
    esac
    # The checkout's path is in it too, burned in.
    wanted="$(cat pyproject.toml <(printf '%s\n' "$(pwd -P)" "${@:2}") | cksum)"
    is_made() { [ "$(cat "$venv/stamp" 2>/dev/null)" = "$wanted" ]; }
    refuse() {
        echo "$PWD/$venv $1" >&2
        exit 2
    }
    if ! is_made; then
        mkdir -p .venvs
        if command -v flock >/dev/null; then
            exec 9>"$venv.lock"
            flock -n 9 || { say "another command makes $venv: waiting for it" && flock 9; }
        fi
    fi
    if ! is_made; then
        if [ -e "$venv" ]; then
            [ -e "$venv/stamp" ] || refuse "is in the way, and was not made by this command: remove or rename it"
            ! is_active "$venv" || refuse "is out of date, and cannot be made again while it is in use: deactivate it, or end what runs from it"
            rm -rf "$venv"
        fi
        say "making $venv with $("$2" -V), once: downloads and installs $([ "$1" = demo ] &&
            echo "for about half a minute" || echo "for a minute or two")"
        # From here on it is ours, finished or not. `set -e` does not hold in a function whose output is taken.
        mkdir "$venv" && echo unfinished >"$venv/stamp" || exit
        pip=("$venv/bin/python" -m pip install -q --disable-pip-version-check)
        # Dependency groups need pip 25.1. In an environment a user's `user = true` is an error.
        export PIP_USER=0
        SECONDS=0
        { "$2" -m venv "$venv" && with_seconds "${pip[@]}" --upgrade 'pip>=25.1' && with_seconds "${pip[@]}" "${@:3}"; } \
            >&2 </dev/null 9>&- || exit
        echo "$wanted" >"$venv/stamp"
    fi
    echo "$venv/bin/python"
)
