#!/usr/bin/env bash
# What contrastive pre-training is worth where labels are few (docs/contrastive.md): CamVid from every twentieth of its labelled pictures, by
# an encoder from scratch, by two that learned without labels, and, to see where labelled masks get, by the weights in the program.
#   configs/contrastive/label-share.sh DATA OUT [kirie]      goes on where it was stopped
set -euo pipefail
data=$1 out=$2 kirie=${3:-kirie} here=$(dirname "$0")
mkdir -p "$out"
out=$(cd "$out" && pwd)

# encoder NAME [--set ...]: kirie-small's encoder, begun from random weights, the same for all
encoder() {
  local run=$out/$1
  shift
  [ -e "$run/encoder.safetensors" ] && return
  if [ -e "$run/config.toml" ]; then
    "$kirie" train contrastive --resume "$run" --threads 1
  else
    "$kirie" train contrastive --config "$here/kirie-small.toml" --data "$data" --threads 1 -o "$run" \
      --set 'encoder={kind="sam",model="kirie-small"}' --set "regions.cache=$out/regions" --set data.cache_mib=3000 \
      --set plan.steps=1500 "$@"
  fi
}

# Learns nothing (the rate is lost in rounding), but its norms see the pictures as those of the others do.
encoder scratch --set plan.steps=100 --set plan.optimizer.lr=1e-12 --set plan.schedule.warmup=0 \
  --set 'regions.source={kind="whole"}'
encoder simclr --set 'regions.source={kind="whole"}'
encoder samclr

methods=
for name in scratch simclr samclr; do
  methods+="{name=\"$name\",model={weights=\"$out/$name/encoder.safetensors\"}},"
done
"$kirie" train semantic --sweep "$here/label-share.toml" --data "$data" --threads 1 -o "$out/sweep" \
  --set "methods=[$methods{name=\"built-in\"}]"
