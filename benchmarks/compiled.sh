#!/usr/bin/env bash
# Compiles full sizes for devices that are not here and writes what `mmjax plan` reads off them into RECORD.
#
#   benchmarks/compiled.sh [--dry-run] [TOPOLOGY=MODEL@BATCH[,MODEL@BATCH...] ...]
#
# The default is one H100 with B/32, B/16 and L/14 at 256 pairs, and four chips of a TPU v5e with B/16 at 512, which
# compile for many minutes. Texts are packed, captions of 18 tokens on average.
#
# PYTHON  with the compiler: pip install 'mmjax[plan-gpu]' or 'mmjax[tpu]' (default: python3)
# OUT     folder of the plans (default: runs/compiled)
# RECORD  Markdown file that gets the tables (default: docs/benchmarks.md)
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${OUT:-runs/compiled} length=18
record=${RECORD:-docs/benchmarks.md}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
dry=
if [ "${1-}" = --dry-run ]; then dry=1; shift; fi
for argument in "$@"; do
  [[ $argument =~ ^[a-z0-9]+:[0-9x]+=[^@=,]+@[0-9]+(,[^@=,]+@[0-9]+)*$ ]] && continue
  echo "error: $argument: wants TOPOLOGY=MODEL@BATCH,..., such as h100:1=B/16@256" >&2
  exit 2
done
[ $# -eq 0 ] && set -- h100:1=B/32@256,B/16@256,L/14@256 v5e:2x2=B/16@512

status=0
plans=()
[ -z "$dry" ] && mkdir -p "$out"
for argument in "$@"; do
  topology=${argument%%=*}
  for size in $(tr , ' ' <<<"${argument#*=}"); do
    model=${size%@*} batch=${size#*@}
    file=$out/${topology/:/_}_${model//\//}_$batch.json
    command=("$python" -c 'import sys; from mmjax.cli.main import main; sys.exit(main())' plan "--config=clip:variant=$model"
      "--topology=$topology" "--text-length=$length" "--output=$file" "--config.batch_size=$batch")
    if [ -n "$dry" ]; then printf '%q ' "${command[@]}"; echo; plans+=("$file"); continue; fi
    rm -f "$file"
    "${command[@]}" | tee "${file%.json}.txt"
    # A plan that does not fit ends with 1 and is written as well.
    if [ -f "$file" ]; then plans+=("$file"); else status=1; fi
  done
done
if [ ${#plans[@]} -gt 0 ]; then
  set -- "$python" benchmarks/record.py "${plans[@]}" "--append=$record" \
    "--note=By \`benchmarks/compiled.sh\`; packed texts, captions of $length tokens on average."
  if [ -n "$dry" ]; then printf '%q ' "$@"; echo; else "$@" || status=1; fi
fi
exit $status
