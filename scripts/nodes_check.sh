#!/usr/bin/env bash
# Trains one model on two hosts, which are network namespaces of this machine with a cable between them: compares the losses
# with those of one process, kills a process, goes on, and at last pulls the cable out.
# Needs root and iproute2. Some two minutes.
#
# Usage: scripts/nodes_check.sh [TRAIN]     TRAIN: the program, by default target/release/train, built first
set -euo pipefail

train=${1:-}
if [ -z "$train" ]; then
    cargo build --release --bin train
    train=${CARGO_TARGET_DIR:-target}/release/train
fi
train=$(realpath "$train")
scale=$(realpath "$(dirname "$0")/../tests/micro.toml")
export PATH=$PATH:/usr/sbin:/sbin
command -v ip >/dev/null || { echo "ip is missing: apt-get install iproute2" >&2; exit 2; }
# Nothing of a launcher that this runs in.
for name in $(compgen -e | grep -E '^(SLURM|RANK$|WORLD_SIZE$|LOCAL_RANK$)'); do unset "$name"; done

dir=$(mktemp -d)
hosts=("one-$$" "two-$$")
stop() {
    status=$?
    trap - EXIT
    # Only what this shell has started.
    jobs -p | xargs -r kill -KILL 2>/dev/null || true
    wait 2>/dev/null || true
    for host in "${hosts[@]}"; do ip netns delete "$host" 2>/dev/null || true; done
    if [ "$status" -ne 0 ]; then tail -n 30 "$dir"/*.log || true; fi >&2
    rm -rf "$dir"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT TERM
fail() { echo "nodes_check: $*" >&2; exit 1; }

# ---- two hosts and a cable ----------------------------------------------------------------------------------------------
for host in "${hosts[@]}"; do
    ip netns add "$host"
    ip -n "$host" link set lo up
done
ip link add cable netns "${hosts[0]}" type veth peer name cable netns "${hosts[1]}"
for place in 0 1; do
    ip -n "${hosts[$place]}" address add "10.197.0.$((place + 1))/24" dev cable
    ip -n "${hosts[$place]}" link set cable up
done

# ---- processes ------------------------------------------------------------------------------------------------------------
flags=(--scale "$scale" --tokens 100k --backend cpu --threads 1 --ui plain --no-sample --checkpoint-seconds 0)
pids=()
# start RUN: a process on each host.
start() {
    for rank in 0 1; do
        ip netns exec "${hosts[$rank]}" env RANK=$rank WORLD_SIZE=2 "$train" "${flags[@]}" --out "$dir/$1" \
            --meet 10.197.0.1:29500 >"$dir/$1.$rank.log" 2>&1 &
        pids[rank]=$!
    done
}
# succeed RUN: both end well.
succeed() {
    for rank in 0 1; do wait "${pids[$rank]}" || fail "the process with rank $rank of $1 failed"; done
}
has_checkpoint() { compgen -G "$dir/$1/checkpoints/step-*" >/dev/null; }
# until_true SECONDS COMMAND..: waits until the command succeeds.
until_true() {
    local end=$((SECONDS + $1)); shift
    until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}
# loses RUN RANK OTHER SECONDS: the process of a rank ends in time, because it has lost the other.
loses() {
    ended() { ! kill -0 "${pids[$1]}" 2>/dev/null; }
    until_true "$4" ended "$2" || fail "the process with rank $2 goes on without the other"
    local code=0
    wait "${pids[$2]}" || code=$?
    [ $code = 2 ] || fail "the process with rank $2 ended with $code"
    grep -q "device $3 of the team is lost" "$dir/$1.$2.log" || fail "nobody said that rank $3 is lost"
    has_checkpoint "$1" || fail "no checkpoint is kept"
}
# compare RUN RUN TOLERANCE
compare() {
    python3 - "$dir/$1/metrics.jsonl" "$dir/$2/metrics.jsonl" "$3" <<'PYTHON'
import json, sys
one, other = ([json.loads(line)["loss"] for line in open(path)] for path in sys.argv[1:3])
largest = max(abs(a - b) for a, b in zip(one, other))
print(f"{len(one)} losses, largest difference {largest:.1e}")
sys.exit(len(one) != len(other) or largest > float(sys.argv[3]))
PYTHON
}

echo "one process, and one on each of two hosts"
"$train" "${flags[@]}" --out "$dir/alone" >"$dir/alone.log" 2>&1
start whole
succeed whole
[ ! -s "$dir/whole.1.log" ] || fail "the process with rank 1 has something to say"
compare alone whole 1e-3 || fail "two hosts train another model"

echo "a killed process"
start killed
until_true 60 has_checkpoint killed || fail "no checkpoint was written"
kill -KILL "${pids[1]}"
loses killed 0 1 10
start killed
succeed killed
grep -q "resumed at step" "$dir/killed.0.log" || fail "it did not go on from a checkpoint"
compare whole killed 0 || fail "what went on ends with other losses"

echo "a cable that is pulled out: both notice after a minute"
start cut
until_true 60 has_checkpoint cut || fail "no checkpoint was written"
ip -n "${hosts[0]}" link set cable down
loses cut 0 1 120
loses cut 1 0 120
echo "nodes_check: two hosts train as one process does, and lose each other in time"
