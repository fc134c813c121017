# shellcheck shell=bash
# Sourced by the scripts beside it, in the repository's root.

# glibc otherwise hands every large tensor's memory back, and has its pages mapped anew: 10 to 30% of the time.
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000

train() {  # train OUT RECIPE SETTINGS...: begin a run, or go on with what is there
    local out=$1 recipe=$2 resume=()
    shift 2
    [ -e "$out/config.json" ] && resume=(--resume)
    .venv/bin/vilg train "$recipe" --out "$out" ${resume[@]+"${resume[@]}"} --set "$@"
}
