#!/usr/bin/env bash
# What each stage and the IoU loss are worth (docs/model-card.md): students of one size, scored on three test lists.
#   configs/promptable/ablation.sh DATA OUT [kirie]      goes on where it was stopped
set -euo pipefail
data=$1 out=$2 kirie=${3:-kirie} here=$(dirname "$0")
mkdir -p "$out"

# train NAME CONFIG [--set ...]
train() {
  local run=$out/$1 config=$here/$2.toml
  shift 2
  [ -e "$run/model.safetensors" ] && return
  if [ -e "$run/config.toml" ]; then
    "$kirie" train promptable --resume "$run" --threads 1
  else
    "$kirie" train promptable --config "$config" --data "$data" --threads 1 -o "$run" "$@"
  fi
}

# Is distillation worth its steps? 500 in all; the teacher's decoder under a new encoder is what one step of it takes over.
train decoder student-1 --set plan.steps=1 --set plan.optimizer.lr=1e-9
train distilled-200 student-1 --set plan.steps=200
from_200=(--set plan.steps=300 --set model.init="$out/distilled-200/model.safetensors")
train two-stages student-2 "${from_200[@]}"
train no-iou-loss student-2 "${from_200[@]}" --set task.loss.iou_weight=0
train end-to-end student-2
train end-to-end-no-iou-loss student-2 --set task.loss.iou_weight=0
train end-to-end-decoder student-2 --set model.init="$out/decoder/model.safetensors"
# Is the second stage, after longer distillation and at smaller rates?
train distilled student-1
train distilled-800 student-1 --set plan.steps=800
from_500=(--set plan.steps=300 --set plan.optimizer.lr=2e-4 --set model.init="$out/distilled/model.safetensors")
train two-stages-800 student-2 "${from_500[@]}"
train no-iou-loss-800 student-2 "${from_500[@]}" --set task.loss.iou_weight=0
train two-stages-1100 student-2 --set plan.steps=300 --set plan.optimizer.lr=1e-4 \
  --set model.init="$out/distilled-800/model.safetensors"

for run in end-to-end end-to-end-no-iou-loss end-to-end-decoder two-stages no-iou-loss distilled distilled-800 \
  two-stages-800 no-iou-loss-800 two-stages-1100; do
  for set in ecssd:test coco_subset:test davis480p:val; do
    score=$out/$run-${set%:*}.json
    [ -e "$score" ] && continue
    "$kirie" evaluate promptable --data "$data/${set%:*}" --split "${set#*:}" --prompt box --prompt points:1 \
      --weights "$out/$run/model.safetensors" --mask-choice best-of-three --threads 1 --limit 60 --json > "$score.part"
    mv "$score.part" "$score"
  done
done
