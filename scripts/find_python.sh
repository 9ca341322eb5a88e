#!/bin/sh
# Prints the first Python that runs and can make environments: `sh scripts/find_python.sh 3.12 3.11`, best version first.
# It looks in the path, then among those of uv and of pyenv, whose shims lie in the path without running. Ends with
# status 1, and prints nothing, where there is none.

runs() { # python, version
    "$1" -c "import sys, ensurepip, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$2')" >/dev/null 2>&1
}

candidates() { # version
    (
        IFS=:
        for folder in $PATH; do echo "$folder/python$1"; done
    )
    uv python find --no-python-downloads "$1" 2>/dev/null
    ls "$(pyenv root 2>/dev/null || echo "$HOME/.pyenv")/versions/$1".*/bin/python"$1" 2>/dev/null
}

for version in "$@"; do
    candidates "$version" | while read -r python; do
        if [ -x "$python" ] && runs "$python" "$version"; then
            echo "$python"
            break
        fi
    done | grep . && exit 0
done
exit 1
