#!/usr/bin/env bash
# Parity, speed and a profile on a GPU, as one JSON file.
#
#   scripts/gpu_check.sh [--backend cuda|wgpu|vulkan|metal] [--out FILE] [--python PYTHON --torch-script FILE]
#                        [--models s,154m] [--peak-tflops N]
#
# With --python and --torch-script the same steps run in PyTorch (`--device cuda --bf16 --experts-impl grouped`), in turn
# with ours. --peak-tflops is the GPU's dense bf16 peak, for the model FLOPs utilisation (989 for an H100 or H200).
# Without a GPU: `--backend wgpu --models t` runs on a software Vulkan driver, slowly.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; }

backend=cuda out=gpu_check.json python="" script="" models=s,154m peak=""
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --backend | --out | --python | --torch-script | --models | --peak-tflops)
            [ $# -ge 2 ] || { echo "error: $1 needs a value" >&2; exit 2; }
            case $1 in
                --backend) backend=$2 ;;
                --out) out=$2 ;;
                --python) python=$2 ;;
                --torch-script) script=$2 ;;
                --models) models=$2 ;;
                --peak-tflops) peak=$2 ;;
            esac
            shift 2 ;;
        *) echo "error: unknown flag $1" >&2; usage >&2; exit 2 ;;
    esac
done
case $backend in
    cuda | wgpu | vulkan | metal) ;;
    *) echo "error: --backend is cuda, wgpu, vulkan or metal, not $backend" >&2; exit 2 ;;
esac
for value in "$backend" "$models" "$peak"; do
    case $value in *[!a-z0-9.,]*) echo "error: '$value' has characters that no flag here takes" >&2; exit 2 ;; esac
done

features="cpu,wgpu"
[ "$backend" = wgpu ] || features="$features,$backend"
cargo="cargo --color never"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== parity with the CPU" >&2
parity=true
$cargo test --release --package upcycle-experiments --features "$features" --test gpu_parity -- "$backend::" \
    >"$work/parity.log" 2>&1 || parity=false
grep '^test ' "$work/parity.log" >&2 || tail -n 20 "$work/parity.log" >&2

$cargo build --release --package upcycle-programs --features "$features" --bin bench
bench=${CARGO_TARGET_DIR:-target}/release/bench

# One line of JSON or null; what goes wrong is told and does not stop the rest.
measure() {
    local name=$1
    shift
    echo "== $name" >&2
    "$bench" --backend "$backend" --models "$models" --json "$@" >"$work/$name.json" || echo null >"$work/$name.json"
}
peaks=()
[ -n "$peak" ] && peaks=(--peak-tflops "$peak")
torch=()
[ -n "$python" ] && [ -n "$script" ] && torch=(--compare-torch "$python" --torch-script "$script" --torch-impls grouped)

measure steps_f32 --what steps "${torch[@]}" ${torch:+--torch-flags "--device cuda"}
if [ "$backend" != wgpu ]; then
    measure steps_bf16 --what steps --precision bf16 "${peaks[@]}" \
        "${torch[@]}" ${torch:+--torch-flags "--device cuda --bf16"}
else
    echo null >"$work/steps_bf16.json"
fi
measure operations --what operations

echo "== profile" >&2
profile=null
if [ "$backend" = cuda ] && command -v nsys >/dev/null; then
    nsys profile --stats=true --force-overwrite=true -o "$work/profile" \
        "$bench" --backend cuda --models s --what steps --rounds 1 --no-reference >"$work/profile.txt" 2>&1 || true
    cp "$work/profile.txt" "${out%.json}.profile.txt"
    profile="\"${out%.json}.profile.txt\""
else
    echo "no nsys: the times of single operations stand for a profile" >&2
fi

gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '"\\' || true)
{
    printf '{\n"backend": "%s",\n"gpu": "%s",\n"commit": "%s",\n"parity": %s,\n' \
        "$backend" "$gpu" "$(git rev-parse HEAD 2>/dev/null || echo unknown)" "$parity"
    for name in steps_f32 steps_bf16 operations; do
        printf '"%s": ' "$name"
        cat "$work/$name.json"
        echo ,
    done
    printf '"profile": %s\n}\n' "$profile"
} >"$work/all.json"
mv "$work/all.json" "$out"
echo "written: $out" >&2
[ "$parity" = true ] || { echo "error: parity failed, see above" >&2; exit 1; }
