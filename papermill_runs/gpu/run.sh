#!/usr/bin/env bash
# Usage: run.sh BUNDLE BACK SECONDS [RUNS] [cpu|gpu]: on the rented machine.
set -u
began=$(date +%s)
[ $# -ge 3 ] || { echo "usage: $0 BUNDLE BACK SECONDS [RUNS] [cpu|gpu]" >&2; exit 2; }
back=$(realpath "$2"); runs=${4:-8}; device=${5:-gpu}
work=$(mktemp -d)
tar -xzf "$1" -C "$work" || exit 2
cd "$work" || exit 2
python=${PYTHON:-python3}
if ! "$python" -c "import keras, sklearn, jax; jax.devices('$device')" 2>/dev/null; then
  "$python" -m venv there && python=$work/there/bin/python
  extra=$([ "$device" = gpu ] && echo 'jax[cuda13]' || echo jax)
  "$python" -m pip install -q "$extra" ./code || exit 2
fi
export KERAS_BACKEND=jax GNSMALL_DATA=$work/data PYTHONPATH=$work/code
export JAX_COMPILATION_CACHE_DIR=$work/runs-gpu/jax-cache
# Half the time to compile, of which the H100 had enough (docs/log.md).
if [ "$device" = gpu ]; then
  export XLA_FLAGS=${XLA_FLAGS:-"--xla_gpu_enable_triton_gemm=false \
--xla_gpu_experimental_enable_fusion_autotuner=false --xla_gpu_autotune_level=2"}
fi
{ date; nvidia-smi; "$python" -m pip list; } > runs-gpu/machine.txt 2>&1
left=$(($3 - ($(date +%s) - began)))
timeout --signal=TERM --kill-after=25 "$left" \
  "$python" code/papermill_runs/gpu/rented.py code/papermill_runs/gpu/quarter.toml \
  runs-gpu "$left" "$runs" "$device" 2>&1 | tee runs-gpu/rented.log
status=${PIPESTATUS[0]}
tar -czf "$back" runs-gpu
echo "status $status (75: to be continued); $back"
exit "$status"
