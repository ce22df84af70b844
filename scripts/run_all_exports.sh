#!/usr/bin/env bash
# Every quantisation mode times every precision; stops at the first failure.
#
# Environment variables, with their defaults:
#   PYTHON=python  NUM_CAMS=8  HEIGHT=518  WIDTH=518  MODEL=facebook/VGGT-1B
#   BASE_OUTPUT=onnx_exports    engines go to $BASE_OUTPUT/<quant_mode>/
#   CALIB_DATA=                 calibration images: folder, glob or .npy; int8 needs it
#   CALIB_BATCHES=32  CALIB_SEED=1337  CALIB_CPU=0
#   PCD_ONLY=0                  1: only depth and cameras
#   EXTRA_ARGS=                 more flags for every call of vggt_to_trt
#   QUANT_MODES="none torch-int8-dynamic ..."  fewer, to leave out what this machine cannot do
#   ONNX_ONLY=0                 1: ONNX graphs instead of TensorRT engines (no GPU needed)
#   SKIP_EXISTING=1             0: make anew what is there
#   BENCHMARK=1  BENCHMARK_ITERS=100  BENCHMARK_WARMUP=20  BENCHMARK_CUDA_EVENTS=0
#   IMAGES_DIR=                 photographs to time with; synthetic images without
#   LOG_DIR=logs                build_*.log, infer_*.log and the rolling summary out.txt
#   OUT_TXT=onnx/logs/out.txt   everything that was printed is added to it
#
# Example:
#   CALIB_DATA=photos PCD_ONLY=1 scripts/run_all_exports.sh
set -euo pipefail

TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")/../tools" && pwd)"
PYTHON="${PYTHON:-python}"
NUM_CAMS="${NUM_CAMS:-8}"
HEIGHT="${HEIGHT:-518}"
WIDTH="${WIDTH:-518}"
MODEL="${MODEL:-facebook/VGGT-1B}"
BASE_OUTPUT="${BASE_OUTPUT:-onnx_exports}"
CALIB_DATA="${CALIB_DATA:-}"
CALIB_BATCHES="${CALIB_BATCHES:-32}"
CALIB_SEED="${CALIB_SEED:-1337}"
CALIB_CPU="${CALIB_CPU:-0}"
PCD_ONLY="${PCD_ONLY:-0}"
ONNX_ONLY="${ONNX_ONLY:-0}"
SKIP_EXISTING="${SKIP_EXISTING:-1}"
BENCHMARK="${BENCHMARK:-1}"
BENCHMARK_ITERS="${BENCHMARK_ITERS:-100}"
BENCHMARK_WARMUP="${BENCHMARK_WARMUP:-20}"
BENCHMARK_CUDA_EVENTS="${BENCHMARK_CUDA_EVENTS:-0}"
IMAGES_DIR="${IMAGES_DIR:-}"
LOG_DIR="${LOG_DIR:-logs}"
OUT_TXT="${OUT_TXT:-onnx/logs/out.txt}"
ALL_MODES="none torch-int8-dynamic bitsandbytes-8bit bitsandbytes-nf4 bitsandbytes-fp4"
ALL_MODES+=" modelopt-fp8 modelopt-nvfp4"
read -r -a MODES <<<"${QUANT_MODES:-$ALL_MODES}"
read -r -a EXTRA <<<"${EXTRA_ARGS:-}"

if ! command -v "$PYTHON" >/dev/null 2>&1; then
    echo "[ERROR] Python executable '$PYTHON' not found; set PYTHON" >&2
    exit 1
fi
if [[ -z "$CALIB_DATA" && " ${EXTRA[*]-} " != *" --allow-synthetic-calib "* ]]; then
    echo "[ERROR] CALIB_DATA is empty: int8 needs calibration images; give a folder, a glob or" \
        "a .npy file, or EXTRA_ARGS=--allow-synthetic-calib" >&2
    exit 1
fi

mkdir -p "$LOG_DIR" "$(dirname "$OUT_TXT")"
STEM="vggt-${NUM_CAMS}x3x${HEIGHT}x${WIDTH}"
[[ "$PCD_ONLY" == 1 ]] && STEM+="-pcd"
SUFFIX=engine
[[ "$ONNX_ONLY" == 1 ]] && SUFFIX=onnx

common=(--num-cams "$NUM_CAMS" --height "$HEIGHT" --width "$WIDTH" --model-name "$MODEL"
    --calib-batches "$CALIB_BATCHES" --calib-seed "$CALIB_SEED")
[[ "$PCD_ONLY" == 1 ]] && common+=(--pcd-only)
[[ -n "$CALIB_DATA" ]] && common+=(--calib-data "$CALIB_DATA")
[[ "$CALIB_CPU" == 1 ]] && common+=(--calib-cpu)
[[ "$ONNX_ONLY" == 1 ]] && common+=(--onnx-only)

# Prints to the terminal, to the log of this run and to the consolidated log.
say() {
    echo "$@" | tee -a "$OUT_TXT"
}

# run NAME TOOL ARGUMENTS...: one call with its own log; ends the script where it fails.
run() {
    local log="$LOG_DIR/$1.log" tool="$2" code=0
    shift 2
    say ">>> $PYTHON $TOOLS/$tool.py $*"
    "$PYTHON" "$TOOLS/$tool.py" "$@" 2>&1 | tee "$log" | tee -a "$OUT_TXT" || code=$?
    if [[ "$code" != 0 ]]; then
        say "[ERROR] $tool failed with exit code $code; see $log"
        echo "$(date -u +%FT%TZ) FAILED $log" >>"$LOG_DIR/out.txt"
        exit "$code"
    fi
}

made() {
    local prec
    for prec in "$@"; do
        # the exported graph is fp32 already
        if [[ "$ONNX_ONLY$prec" == 1fp32 ]]; then
            [[ -f "$folder/$STEM.onnx.json" ]] || return 1
        else
            [[ -f "$folder/${STEM}_$prec.$SUFFIX" ]] || return 1
        fi
    done
}

for mode in "${MODES[@]}"; do
    folder="$BASE_OUTPUT/$mode"
    mkdir -p "$folder"
    say "=== Quantisation mode: $mode -> $folder"
    flags=(--quant-mode "$mode" --output-dir "$folder" "${common[@]}" ${EXTRA[@]+"${EXTRA[@]}"})
    if [[ "$SKIP_EXISTING" == 1 && -f "$folder/$STEM.onnx" ]] && made fp16 bf16 fp8 int8; then
        say "[INFO] $folder: fp16, bf16, fp8 and int8 are there; skipped"
    else
        run "build_${mode}_all" vggt_to_trt --export --all-precisions "${flags[@]}"
    fi
    if [[ "$SKIP_EXISTING" == 1 ]] && made fp32; then
        say "[INFO] $folder: fp32 is there; skipped"
    else
        run "build_${mode}_fp32" vggt_to_trt --onnx-in "$folder/$STEM.onnx" --precision fp32 \
            "${flags[@]}"
    fi
    echo "$(date -u +%FT%TZ) built $folder: fp16 bf16 fp8 int8 fp32" >>"$LOG_DIR/out.txt"
done
say "All quantisation/precision sweeps completed. Engines live under '$BASE_OUTPUT'."

if [[ "$BENCHMARK" == 1 ]]; then
    bench=(--root "$BASE_OUTPUT" --iters "$BENCHMARK_ITERS" --warmup "$BENCHMARK_WARMUP"
        --json "$LOG_DIR/benchmark.json")
    [[ "$BENCHMARK_CUDA_EVENTS" == 1 ]] && bench+=(--cuda-events)
    [[ "$ONNX_ONLY" == 1 ]] && bench+=(--onnx)
    if [[ -n "$IMAGES_DIR" ]]; then
        bench+=(--images-dir "$IMAGES_DIR")
    else
        bench+=(--use-random)
    fi
    run infer_all benchmark_trt_engines "${bench[@]}"
    {
        date -u +%FT%TZ
        sed -n '/Benchmark Summary/,$p' "$LOG_DIR/infer_all.log"
    } >>"$LOG_DIR/out.txt"
fi
