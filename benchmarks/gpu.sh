#!/usr/bin/env bash
# All that needs a CUDA device, in at most 9 minutes: bash benchmarks/gpu.sh [FOLDER OF LOGS]
# Each stage has a time of its own and may fail alone; what they print comes last. PYTHON names another interpreter.
set -u
cd "$(dirname "$0")/.."
logs=${1:-gpu-logs}
python=${PYTHON:-python3}
mkdir -p "$logs"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

stage() { # NAME SECONDS COMMAND ...
    local name=$1 seconds=$2 began=$SECONDS
    shift 2
    timeout "$seconds" "$@" >"$logs/$name.log" 2>&1
    echo "$name: exit status $?, $((SECONDS - began)) s" | tee -a "$logs/stages.log"
}

: >"$logs/stages.log"
stage launch 60 "$python" benchmarks/cupy_launch.py
stage cka 60 "$python" benchmarks/cka_gpu.py
stage batch32 90 "$python" benchmarks/training.py --without-scripts --batch-size 32 --images 3200 --rounds 2
stage training 270 "$python" benchmarks/training.py --rounds 2
if [ -n "${SJ2:-}" ]; then # a folder with SpikingJelly 2.0.0, laid over the other
    stage sj2 60 env PYTHONPATH="$SJ2:$PYTHONPATH" "$python" benchmarks/training.py --without-scripts --images 12800 --rounds 2
fi
for log in launch cka batch32 training sj2; do
    if [ -f "$logs/$log.log" ]; then
        echo "== $log"
        tail -n 45 "$logs/$log.log"
    fi
done
cat "$logs/stages.log"
