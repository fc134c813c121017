# shellcheck shell=bash
# Sourced by the scripts beside it, in the repository's root.

train() {  # train OUT RECIPE SETTINGS...: begin a run, or go on with what is there
    begin_or_go_on ".venv/bin/vilg train" "$@"
}

experiment() {  # the same with a recipe of experiments.py
    begin_or_go_on ".venv/bin/python runs/experiments.py" "$@"
}

begin_or_go_on() {
    local command=$1
    shift
    local out=$1 recipe=$2 resume=()
    shift 2
    [ -e "$out/config.json" ] && resume=(--resume)
    # shellcheck disable=SC2086  # a command of two words
    $command "$recipe" --out "$out" ${resume[@]+"${resume[@]}"} --set "$@"
}
