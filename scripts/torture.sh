#!/usr/bin/env bash
# torture.sh BIN STOPS FAULTS CUTS ROUNDS PULLS INPUTS SEED: try to break the promises, each for so many times. All of it runs,
# whatever fails; the figures are told again at the end.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$1 stops=$2 faults=$3 cuts=$4 rounds=$5 pulls=$6 inputs=$7 seed=$8

cfsctl=$(scripts/cfsctl.sh)
PATH=$(dirname "$cfsctl"):$PATH
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0 figures=()

# run WHAT MODULE ARGUMENT...
run() {
    printf '\n== %s: python -m %s\n' "$1" "${*:2}"
    "$bin/python" -m "${@:2}" 2>&1 | tee "$log" || status=1
    figures+=("$1: $(tail -n 1 "$log")")
}

run "stops at random system calls" tests.torture.stops --count "$stops" --seed "$seed"
if [ "$faults" = every ]; then
    run "stops around every call that changes files" tests.torture.stops --every
    run "faults at every call" tests.torture.faults --every
    run "no descriptor left, at every open" tests.torture.faults --every --all --kind EMFILE
else
    run "faults at random calls" tests.torture.faults --count "$faults" --seed "$seed"
fi
run "power cuts" tests.torture.powercuts --count "$cuts" --seed "$seed"
run "races" tests.torture.races --rounds "$rounds" --seed "$seed"
run "pulls that are interrupted" tests.torture.interruptions --count "$pulls" --seed "$seed"
scripts/fuzz-tools.sh "$bin"
run "inputs" tests.fuzz --count "$inputs" --seed "$seed"

printf '\n== all of it\n'
printf '%s\n' "${figures[@]}"
exit "$status"
