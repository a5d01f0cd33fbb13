#!/bin/sh
# From the first domain to a rollback, as docs/adapters.md goes: learns two small domains and takes them through a registry; prints every
# command and what it answers.
#
#   configs/continual/registry.sh KIRIE SETS OUT
#
# KIRIE is the program, SETS the folder with crack_cfd and retina_vessels, OUT a new folder.
set -u
[ $# -eq 3 ] || { echo "usage: $0 KIRIE SETS OUT" >&2; exit 2; }
program=$(realpath "$1") sets=$(realpath "$2") configs=$(realpath "$(dirname "$0")")
mkdir -p "$3" && cd "$3" || exit 1
[ -e adapters ] && { echo "$0: $3/adapters is there already" >&2; exit 1; }

# Runs a command line of kirie and shows both; one that fails is part of the story.
kirie() {
    printf '$ kirie'
    for word in "$@"; do
        case $word in *[[:space:]\"\'{]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac
    done
    echo
    "$program" "$@" 2>&1
}

cracks="data.domains=[{name=\"cracks\",path=\"crack_cfd\",foreground=[\"crack\"]}]"
vessels="data.domains=[{name=\"vessels\",path=\"retina_vessels\",foreground=[\"vessel\"]}]"
learn() { kirie train continual --config "$configs/stream8.toml" --data "$sets" --set "data.natural=[]" --set "data.reference=[]" \
    --set data.test_limit=10 --set plan.steps=30 "$@"; }

learn --set "$cracks" -o runs/cracks
learn --set "$vessels" -o runs/vessels
learn --set "$cracks" --set "seeds=[1]" -o runs/cracks-2
cracks=runs/cracks/runs/moda-given-s0/steps/00-cracks/domain
vessels=runs/vessels/runs/moda-given-s0/steps/00-vessels/domain
cracks2=runs/cracks-2/runs/moda-given-s1/steps/00-cracks/domain

kirie adapters add adapters "$cracks"
kirie adapters list adapters
kirie adapters show adapters cracks
kirie adapters add adapters "$vessels"
kirie adapters add adapters "$cracks2"
kirie adapters add adapters "$cracks2" --new-version
kirie adapters rollback adapters cracks
kirie adapters list adapters
kirie adapters list adapters --history
kirie adapters rollback adapters --to-index 2
kirie adapters disable adapters cracks --reason "new lamps"
kirie adapters list adapters
kirie adapters enable adapters cracks
kirie adapters verify adapters
kirie adapters export adapters cracks -o cracks.zip
kirie adapters import plant2 cracks.zip
kirie adapters import plant2 cracks.zip --as cracks-again
kirie adapters report adapters -o pages
kirie adapters remove adapters vessels
kirie adapters gc adapters --keep 1
