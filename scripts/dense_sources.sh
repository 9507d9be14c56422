#!/bin/sh
# A dense model as a source of experts (the baseline of the paper's Table 4) beside the same number of experts grown from
# a MoE model and trained from scratch: top-1, the same compute a token, the same tokens. Prints final validation losses.
#
# Usage: scripts/dense_sources.sh [FOLDER [SEED]]
set -eu
out=${1:-runs/dense-sources}
seed=${2:-0}
mkdir -p "$out"
cargo build --release --bins --quiet
bin=${CARGO_TARGET_DIR:-target}/release

for kind in dense moe; do
    sed -e 's/^top_k = .*/top_k = 1/' crates/lab/configs/scales/tiny.toml >"$out/$kind.toml"
done
sed -i -e 's/^name = .*/name = "dense"/' -e 's/^pattern = .*/pattern = "all-dense"/' \
    -e 's/^d_expert = \(.*\)/d_expert = \1\nd_ffn = \1/' "$out/dense.toml"

# train SCALE NAME FLAGS..: prints the final loss.
train() {
    scale=$1 name=$2
    shift 2
    "$bin/train" --scale "$out/$scale.toml" --seed "$seed" --out "$out/$name-$seed" --json "$@" 2>>"$out/log" |
        sed -n 's/^ *"loss": \([0-9.]*\).*/\1/p'
}

before=1024000 after=512000
# All runs have the same schedule: a trunk without decay, then `after` tokens with a decay at their end.
train dense dense-trunk --tokens $before --no-decay >/dev/null
train moe moe-trunk --tokens $before --no-decay >/dev/null
train moe big-trunk --experts 16 --tokens $before --no-decay >/dev/null

# end NAME CHECKPOINT
end() {
    printf '%-32s %s\n' "$1" "$(train moe "$1" --from "$2" --tokens $after)"
}
# grow TRUNK NAME FLAGS..
grow() {
    trunk=$1 name=$2
    shift 2
    [ -d "$out/$name-$seed-grown" ] ||
        "$bin/upcycle" --from "$out/$trunk-$seed" --to "$out/$name-$seed-grown" --experts 16 --seed "$seed" "$@" >>"$out/log" 2>&1
    end "$name" "$out/$name-$seed-grown"
}
end dense "$out/dense-trunk-$seed"
end fixed-8 "$out/moe-trunk-$seed"
end fixed-16 "$out/big-trunk-$seed"
grow moe-trunk moe-exact --recipe exact
grow moe-trunk moe-separated --recipe separated
grow moe-trunk moe-uniform --recipe uniform
grow dense-trunk dense-sparse-upcycling --recipe sparse-upcycling
grow dense-trunk dense-drop-upcycling --recipe drop-upcycling
grow dense-trunk dense-virtual-groups --recipe virtual-groups
