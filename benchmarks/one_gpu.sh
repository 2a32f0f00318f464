#!/usr/bin/env bash
# Everything worth eight minutes of one GPU: the `gpu` tests, attention by length, and the train steps of B/16, L/14 and
# B/32 beside compiled open_clip, with the time of the device by class of kernel; then other settings of B/16.
#
#   benchmarks/one_gpu.sh [--dry-run]
#
# Each result is written to OUT/results.jsonl at once, what was told besides to OUT/PART.out and PART.err, and the
# figures to RECORD at the end. A part that takes longer than its limit is stopped; parts for which no time is left are
# left out, and all of it ends within LIMIT seconds. Programs are compiled anew, so compile times are those of a first
# run. Where RECORD is lost with the machine, keep OUT, and elsewhere:
#   python benchmarks/record.py OUT/results.jsonl --append=docs/benchmarks.md
#
# PYTHON  that has jax with CUDA, torch, torchvision, open_clip_torch, pytest and what mmjax needs (default: python3)
# OUT     folder of the results (default: runs/one_gpu); what an earlier run left there is replaced
# RECORD  Markdown file that gets the figures (default: docs/benchmarks.md)
# LIMIT   seconds for all of it (default: 470)
# LEAST   seconds that a part is not begun with (default: 20)
# WHEELS  folder of wheels that PYTHON lacks, for a machine without a network (default: .whl, where there is one)
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${OUT:-runs/one_gpu} limit=${LIMIT:-470} least=${LEAST:-20} wheels=${WHEELS:-.whl}
record=${RECORD:-docs/benchmarks.md}
dry=
case "${1-}" in
  '') ;;
  --dry-run) dry=1 ;;
  *) echo "error: $1: one_gpu.sh knows --dry-run only" >&2; exit 2 ;;
esac
results=$out/results.jsonl

# part NAME SECONDS COMMAND...: runs it for so long at most; lines of JSON go to the results.
part() {
  local name=$1 seconds=$2 left=$((limit - SECONDS)) started=$SECONDS status
  shift 2
  if [ -n "$dry" ]; then printf '%q ' timeout "$seconds" "$@"; echo; return; fi
  if [ "$left" -lt "$least" ]; then tell "$name" 0 124 "left out: $left s were left"; return; fi
  if [ "$seconds" -gt "$left" ]; then seconds=$left; fi
  echo "== $name, at most $seconds s"
  timeout -k 3 "$seconds" "$@" 2>"$out/$name.err" | tee "$out/$name.out" | while IFS= read -r line; do
    printf '%s\n' "$line"
    case "$line" in '{'*) printf '%s\n' "$line" >>"$results" ;; esac
  done
  status=${PIPESTATUS[0]}
  if [ "$status" -eq 0 ]; then
    tell "$name" $((SECONDS - started)) 0 "$(grep -v '^{' "$out/$name.out" | tail -n 1)"
  elif [ "$status" -ge 124 ]; then
    tell "$name" $((SECONDS - started)) "$status" "stopped after its $seconds s"
  else
    tell "$name" $((SECONDS - started)) "$status" "$(tail -n 1 "$out/$name.err")"
  fi
}

# tell NAME SECONDS STATUS TEXT: how a part went, as a line of the results.
tell() {
  "$python" -c 'import json, sys
name, seconds, status, text = sys.argv[1:]
print(json.dumps({"part": name, "seconds": int(seconds), "status": int(status), "says": text.strip()[:200]}))' \
    "$@" | tee -a "$results"
}

# step NAME SECONDS FLAGS...: benchmarks/train_step.py
step() {
  local name=$1 seconds=$2
  shift 2
  part "$name" "$seconds" "$python" benchmarks/train_step.py "$@"
}

if [ -z "$dry" ]; then
  mkdir -p "$out"
  rm -f "$out"/*.out "$out"/*.err
  : >"$results"
  temporary=$(mktemp -d)
  trap 'rm -rf "$temporary"' EXIT
  export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
  if [ -d "$wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$temporary/site" \
      "$wheels"/*.whl
    export PYTHONPATH=$temporary/site:$PYTHONPATH
  fi
  # Parts share what they compile and tune, and nothing from before.
  export XDG_CACHE_HOME=$temporary/cache TORCHINDUCTOR_CACHE_DIR=$temporary/inductor
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,power.limit --format=csv,noheader | tee "$out/device.txt"
fi

part attention 40 "$python" benchmarks/attention.py
# shellcheck disable=SC2046  # one word a file
part tests 60 env JAX_PLATFORMS=cuda "$python" -m pytest -q -p no:cacheprovider -m gpu \
  $(grep -rlE 'mark\.gpu' --include='test_*.py' tests)
step b16 170 --models=B/16 --batch=256 --trace --peer=open_clip --peer-compile=yes
step l14 130 --models=L/14 --batch=96 --trace --beside=none --peer=open_clip --peer-compile=yes
step b32 110 --models=B/32 --batch=512 --trace --beside=none --peer=open_clip --peer-compile=yes
step b16_settings 120 --models=B/16 --batch=256 --rounds=3 --beside=attention=xla --beside=data.pack_texts=off \
  --beside=model.image.remat=dots,model.text.remat=dots
step large 90 --models=L/14,B/16 --batch=256,1024 --rounds=3 --beside=none

set -- "$python" benchmarks/record.py "$results" "--append=$record"
if [ -n "$dry" ]; then printf '%q ' "$@"; echo; else "$@"; fi
