#!/usr/bin/env bash
# One configuration in several precisions: export once, build, time each; stops at the first
# failure. Settings are environment variables or key=value arguments (num_cams=4 precs=fp16,bf16):
#
#   PYTHON=python  NUM_CAMS=8  HEIGHT=518  WIDTH=518  MODEL=facebook/VGGT-1B  QUANT_MODE=none
#   PRECS="fp32 fp16 bf16 fp8 int8"
#   EXPORT=1                    0: take ONNX_IN
#   ONNX_IN=                    graph to take instead of an export
#   NO_SIMPLIFY=0  FORCE_SIMPLIFY=   0: never simplify, 1: at any size
#   ENGINE_DIR=onnx_exports/$QUANT_MODE
#   CALIB_DATA=  CALIB_BATCHES=32  CALIB_SEED=1337  CALIB_CPU=0  PCD_ONLY=0
#   WORKSPACE_GB=32  ITERS=100  WARMUP=20  CUDA_EVENTS=0
#   IMAGES_DIR=                 photographs to time with; synthetic images without
#   ONNX_ONLY=0                 1: ONNX graphs instead of TensorRT engines (no GPU needed)
#   EXTRA_ARGS=                 more flags for every call of vggt_to_trt
#   LOG_DIR=logs                build_<precision>.log, infer_<precision>.log
#   OUT_TXT=$LOG_DIR/out.txt    rolling summary; onnx/logs/out.txt gets everything
#
# Example:
#   scripts/run_all_precisions.sh precs=fp16,int8 calib_data=photos pcd_only=1
set -euo pipefail

TOOLS="$(cd "$(dirname "${BASH_SOURCE[0]}")/../tools" && pwd)"
KEYS=(PYTHON NUM_CAMS HEIGHT WIDTH MODEL QUANT_MODE PRECS EXPORT ONNX_IN NO_SIMPLIFY FORCE_SIMPLIFY
    ENGINE_DIR CALIB_DATA CALIB_BATCHES CALIB_SEED CALIB_CPU PCD_ONLY WORKSPACE_GB ITERS WARMUP
    CUDA_EVENTS IMAGES_DIR ONNX_ONLY EXTRA_ARGS LOG_DIR OUT_TXT)

for argument in "$@"; do
    key="${argument%%=*}"
    key="${key^^}"
    if [[ "$argument" != *=* || " ${KEYS[*]} " != *" $key "* ]]; then
        echo "[ERROR] '$argument': expected key=value with a key of: ${KEYS[*],,}" >&2
        exit 2
    fi
    printf -v "$key" '%s' "${argument#*=}"
done

PYTHON="${PYTHON:-python}"
NUM_CAMS="${NUM_CAMS:-8}"
HEIGHT="${HEIGHT:-518}"
WIDTH="${WIDTH:-518}"
MODEL="${MODEL:-facebook/VGGT-1B}"
QUANT_MODE="${QUANT_MODE:-none}"
PRECS="${PRECS:-fp32 fp16 bf16 fp8 int8}"
ONNX_IN="${ONNX_IN:-}"
if [[ -n "$ONNX_IN" ]]; then EXPORT="${EXPORT:-0}"; fi
EXPORT="${EXPORT:-1}"
NO_SIMPLIFY="${NO_SIMPLIFY:-0}"
ENGINE_DIR="${ENGINE_DIR:-onnx_exports/$QUANT_MODE}"
CALIB_DATA="${CALIB_DATA:-}"
CALIB_BATCHES="${CALIB_BATCHES:-32}"
CALIB_SEED="${CALIB_SEED:-1337}"
CALIB_CPU="${CALIB_CPU:-0}"
PCD_ONLY="${PCD_ONLY:-0}"
WORKSPACE_GB="${WORKSPACE_GB:-32}"
ITERS="${ITERS:-100}"
WARMUP="${WARMUP:-20}"
CUDA_EVENTS="${CUDA_EVENTS:-0}"
IMAGES_DIR="${IMAGES_DIR:-}"
ONNX_ONLY="${ONNX_ONLY:-0}"
LOG_DIR="${LOG_DIR:-logs}"
OUT_TXT="${OUT_TXT:-$LOG_DIR/out.txt}"
read -r -a PRECISIONS <<<"${PRECS//,/ }"
read -r -a EXTRA <<<"${EXTRA_ARGS:-}"
if [[ -n "${FORCE_SIMPLIFY:-}" ]]; then export FORCE_SIMPLIFY; fi
ALL_TXT=onnx/logs/out.txt

if ! command -v "$PYTHON" >/dev/null 2>&1; then
    echo "[ERROR] Python executable '$PYTHON' not found; set PYTHON" >&2
    exit 1
fi
if [[ "$EXPORT" != 1 && -z "$ONNX_IN" ]]; then
    echo "[ERROR] EXPORT=$EXPORT: give the graph to take: ONNX_IN=model.onnx" >&2
    exit 1
fi

mkdir -p "$LOG_DIR" "$(dirname "$OUT_TXT")" "$(dirname "$ALL_TXT")" "$ENGINE_DIR"
STEM="vggt-${NUM_CAMS}x3x${HEIGHT}x${WIDTH}"
[[ "$PCD_ONLY" == 1 ]] && STEM+="-pcd"
SUFFIX=engine
[[ "$ONNX_ONLY" == 1 ]] && SUFFIX=onnx

common=(--num-cams "$NUM_CAMS" --height "$HEIGHT" --width "$WIDTH" --model-name "$MODEL"
    --quant-mode "$QUANT_MODE" --output-dir "$ENGINE_DIR" --workspace-gb "$WORKSPACE_GB"
    --calib-batches "$CALIB_BATCHES" --calib-seed "$CALIB_SEED")
[[ "$PCD_ONLY" == 1 ]] && common+=(--pcd-only)
[[ -n "$CALIB_DATA" ]] && common+=(--calib-data "$CALIB_DATA")
[[ "$CALIB_CPU" == 1 ]] && common+=(--calib-cpu)
[[ "$NO_SIMPLIFY" == 1 ]] && common+=(--no-simplify)
[[ "$ONNX_ONLY" == 1 ]] && common+=(--onnx-only)

# run NAME TOOL ARGUMENTS...: one call with its own log; ends the script where it fails.
run() {
    local log="$LOG_DIR/$1.log" tool="$2" code=0
    shift 2
    echo ">>> $PYTHON $TOOLS/$tool.py $*" | tee -a "$ALL_TXT"
    "$PYTHON" "$TOOLS/$tool.py" "$@" 2>&1 | tee "$log" | tee -a "$ALL_TXT" || code=$?
    if [[ "$code" != 0 ]]; then
        echo "[ERROR] $tool failed with exit code $code; see $log" | tee -a "$ALL_TXT" >&2
        echo "$(date -u +%FT%TZ) FAILED $log" >>"$OUT_TXT"
        exit "$code"
    fi
}

graph=(--export)
[[ "$EXPORT" == 1 ]] || graph=(--onnx-in "$ONNX_IN")
for prec in "${PRECISIONS[@]}"; do
    run "build_$prec" vggt_to_trt "${graph[@]}" --precision "$prec" "${common[@]}" \
        ${EXTRA[@]+"${EXTRA[@]}"}
    # one export serves all
    [[ "$EXPORT" == 1 ]] && graph=(--onnx-in "$ENGINE_DIR/$STEM.onnx")
    engine="$ENGINE_DIR/${STEM}_$prec.$SUFFIX"
    # the exported graph is fp32 already
    [[ "$ONNX_ONLY$prec" == 1fp32 ]] && engine="$ENGINE_DIR/$STEM.onnx"
    timing=(--engine "$engine" --iters "$ITERS" --warmup "$WARMUP")
    [[ "$CUDA_EVENTS" == 1 ]] && timing+=(--cuda-events)
    if [[ -n "$IMAGES_DIR" ]]; then
        timing+=(--images-dir "$IMAGES_DIR")
    else
        timing+=(--use-random)
    fi
    run "infer_$prec" trt_inference "${timing[@]}"
    mean="$(awk -F': *' '/ mean_ms:/ {print $2}' "$LOG_DIR/infer_$prec.log")"
    fps="$(awk -F': *' '/ fps:/ {print $2}' "$LOG_DIR/infer_$prec.log")"
    echo "$(date -u +%FT%TZ) $engine: ${mean:-?} ms, ${fps:-?} FPS" | tee -a "$OUT_TXT"
done
