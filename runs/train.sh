# shellcheck shell=bash
# Sourced by the scripts beside it, in the repository's root.

train() {  # train OUT RECIPE SETTINGS...: begin a run, or go on with what is there
    local out=$1 recipe=$2 resume=()
    shift 2
    [ -e "$out/config.json" ] && resume=(--resume)
    .venv/bin/vilg train "$recipe" --out "$out" ${resume[@]+"${resume[@]}"} --set "$@"
}
