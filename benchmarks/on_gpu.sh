#!/usr/bin/env bash
# What adversarial training costs on a GPU, as one table: ResNet-50 at 224 pixels and CIFAR-10's ResNet-18, steps without
# an attack, with PGD-1 and with PGD-3, in float32, TF32 and bfloat16, with XLA and without, and one evaluation.
#
#   bash benchmarks/on_gpu.sh             meant to take about ten minutes on a GPU of a data centre (not timed on any)
#   BATCH=64 bash benchmarks/on_gpu.sh    ResNet-50 on a GPU with less memory
#   bash benchmarks/on_gpu.sh --small     a tiny network, two modes and one round, to try the script on a CPU
#
# The images are the embedded digits, enlarged: no data set is needed, and none is measured. What could not be measured,
# such as a batch that does not fit, is named and left out. Every round is kept in OUT (runs/on_gpu).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=${OUT:-runs/on_gpu}
networks=("resnet50 224 ${BATCH:-256}" "resnet18 32 128")
modes=("float32 --notf32 --nojit" "float32 --tf32 --nojit" "float32 --tf32 --jit"
       "mixed_bfloat16 --tf32 --nojit" "mixed_bfloat16 --tf32 --jit")
rounds=5 evaluation=(--num_images=256 --batch_size=128)
case "${1:-}" in
    "") ;;
    --small)
        networks=("resnet8:width=4 8 16")
        modes=("float32 --notf32 --nojit" "mixed_bfloat16 --notf32 --nojit")
        rounds=1 evaluation=(--num_images=32 --batch_size=32 --attack_steps=5) ;;
    *) echo "on_gpu.sh: $1 is unknown; give --small or nothing" >&2; exit 2 ;;
esac
mkdir -p "$out" || exit 2
files=()
for network in "${networks[@]}"; do
    read -r model size batch <<< "$network"
    for mode in "${modes[@]}"; do
        read -r precision tf32 jit <<< "$mode"
        file="$out/${model//[:=]/_}.${precision#mixed_}.${tf32#--}.${jit#--}.json"
        rm -f "$file"
        echo "== $model, $size pixels, batch $batch: $precision $tf32 $jit"
        "$python" -m benchmarks.train_step --model="$model" --image_size="$size" --batch_size="$batch" \
            --precision="$precision" "$tf32" "$jit" --attack_steps=3 --rounds="$rounds" --nopytorch \
            --json="$file" || { echo "not measured: $model $mode" >&2; continue; }
        files+=("$file")
    done
done
echo "== one evaluation"
"$python" -m benchmarks.evaluate --only=packed "${evaluation[@]}" --json="$out/evaluation.json" ||
    echo "not measured: the evaluation" >&2
[ ${#files[@]} -gt 0 ] || { echo "on_gpu.sh: nothing could be measured" >&2; exit 2; }
echo "== all of it"
"$python" -m benchmarks.train_step --table="$(IFS=,; echo "${files[*]}")"
