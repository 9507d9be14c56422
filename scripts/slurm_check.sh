#!/usr/bin/env bash
# Runs a small sweep on a real Slurm of one node, made for the purpose in a temporary folder: kills one of its jobs in the
# middle, has Slurm begin another again, as after the loss of a node, and compares results and scores with those of the same sweep without Slurm.
# Then a sweep whose stages are each computed by two tasks of a job.
# Needs root and Debian's packages slurm-wlm and munge. Some minutes.
#
# Usage: scripts/slurm_check.sh [SWEEP]     SWEEP: the program, by default target/release/sweep, built first
set -euo pipefail

sweep=${1:-}
if [ -z "$sweep" ]; then
    cargo build --release --bin sweep
    sweep=${CARGO_TARGET_DIR:-target}/release/sweep
fi
sweep=$(realpath "$sweep")
export PATH=$PATH:/usr/sbin:/sbin
for tool in munged slurmctld slurmd sbatch; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install slurm-wlm munge" >&2; exit 2; }
done
# Nothing of a Slurm that this runs in.
for name in $(compgen -e | grep -E '^(SLURM|SBATCH|SQUEUE)'); do unset "$name"; done

dir=$(mktemp -d /tmp/slurm.XXXXXX) # a short path: sockets are in it
export SLURM_CONF=$dir/slurm.conf
daemons=()
stop() {
    status=$?
    trap - EXIT
    scancel --me 2>/dev/null || true
    kill "${daemons[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    if [ "$status" -ne 0 ]; then
        tail -n 30 "$dir"/*.log "$dir"/runs/*/slurm/*.log 2>/dev/null || true
    fi >&2
    rm -rf "$dir"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT TERM

fail() { echo "slurm_check: $*" >&2; exit 1; }
# until SECONDS COMMAND..: waits until the command succeeds.
until_true() {
    local end=$((SECONDS + $1)); shift
    until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}

# ---- munge and Slurm --------------------------------------------------------------------------------------------------
mkdir "$dir/munge" "$dir/state" "$dir/spool"
chmod 755 "$dir" "$dir/munge"
head -c 128 /dev/urandom >"$dir/munge/key"
chmod 400 "$dir/munge/key"
munged --foreground --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
    --log-file="$dir/munged.log" --seed-file="$dir/munge/seed" </dev/null >"$dir/munged.out" 2>&1 &
daemons+=($!)
until_true 20 munge -n -S "$dir/munge/socket" >/dev/null 2>&1 || fail "munged did not start"

host=$(hostname -s 2>/dev/null || uname -n)
memory=$(awk '/^MemTotal:/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
port=$((20000 + RANDOM % 10000))
cat >"$SLURM_CONF" <<CONF
ClusterName=check
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that begins again waits for as long as credentials live.
AuthInfo=socket=$dir/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobRequeue=1
KillWait=2
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP
CONF
# Control groups can be turned off, and have to be in a container, since version 23.
case $(slurmd -V) in *\ 1[0-9].*|*\ 2[0-2].*) ;; *) echo CgroupPlugin=disabled >"$dir/cgroup.conf" ;; esac
slurmctld -D -c -f "$SLURM_CONF" </dev/null >"$dir/slurmctld.out" 2>&1 &
daemons+=($!)
slurmd -D -f "$SLURM_CONF" </dev/null >"$dir/slurmd.out" 2>&1 &
daemons+=($!)
node_is_idle() { [ "$(sinfo -h -o %T 2>/dev/null)" = idle ]; }
until_true 60 node_is_idle || fail "Slurm did not start"

# ---- the sweep --------------------------------------------------------------------------------------------------------
flags=(--scale tiny --tokens 700k --seeds 2 --cpt 0.5,1.0 --recipes exact --backend cpu --checkpoint-seconds 1 --name check
    --data knowledge:50 --tasks knowledge:50 --task-limit 50)
"$sweep" "${flags[@]}" --out "$dir/runs" --launcher slurm --slurm-args=--cpus-per-task=1 >"$dir/table" 2>"$dir/sweep.log" &
follower=$!

# running STEPS: key, process and job of a stage that is running and has come so far.
running() {
    "$sweep" status "$dir/runs/check" --json 2>/dev/null | python3 -c '
import json, sys
for stage in json.load(sys.stdin)["stages"]:
    if stage["state"] == "running" and stage["step"] >= int(sys.argv[1]):
        print(stage["key"], stage["pid"], stage["job"])
        break
else:
    sys.exit(1)' "$1" 2>/dev/null
}
found=$(until_true 120 running 50) || fail "no stage ever ran"
read -r victim pid job <<<"$found"
echo "killing the process of stage $victim (job $job)"
kill -KILL "$pid"
another() { found=$(running 0) && read -r key _ job <<<"$found" && [ "$key" != "$victim" ]; }
until_true 120 another || fail "no other stage ran"
echo "beginning stage $key again (job $job)"
scontrol requeue "$job"

wait "$follower" || fail "the sweep did not finish"
grep -q "lost .*(job " "$dir/sweep.log" || fail "the lost job was not noticed"
"$sweep" status "$dir/runs/check" | head -n 1
grep -lq "^resumed" "$dir"/runs/check/slurm/*.log || fail "no job went on from a checkpoint"

# ---- the same without Slurm -------------------------------------------------------------------------------------------
"$sweep" "${flags[@]}" --out "$dir/local" >"$dir/local.table" 2>"$dir/local.log"
# All columns but the times.
columns() {
    python3 -c '
import csv, sys
for row in csv.DictReader(open(sys.argv[1])):
    print({name: value for name, value in row.items() if not name.startswith("wall_seconds")})' "$1"
}
diff <(columns "$dir/runs/check/results.csv") <(columns "$dir/local/check/results.csv") || fail "the results differ"
diff "$dir"/{runs,local}/check/tasks.csv || fail "the scores differ"
cat "$dir/table"

# ---- scores are kept, and a missing one is computed by a job ----------------------------------------------------------
scores=("$dir"/runs/stages/*/tasks/*.json)
rm "${scores[0]}"
"$sweep" "${flags[@]}" --out "$dir/runs" --launcher slurm --slurm-args=--cpus-per-task=1 >"$dir/table" 2>"$dir/sweep.log"
grep -qx "submitted 1 job" "$dir/sweep.log" || fail "not the one missing score was computed"
diff "$dir"/{runs,local}/check/tasks.csv || fail "the scores differ"

# ---- two tasks for each stage -----------------------------------------------------------------------------------------
if [ "$(nproc)" -lt 2 ]; then
    echo "slurm_check: the same results, with a job killed and another begun again; two tasks need two cores: skipped"
    exit
fi
flags=(--scale tiny --tokens 100k --seeds 1 --cpt 1.0 --recipes exact --backend cpu --threads 1 --name team)
"$sweep" "${flags[@]}" --out "$dir/runs" --launcher slurm --nodes 1 --tasks-per-node 2 >"$dir/team" 2>"$dir/team.log"
grep -lq "^2 processes meet at localhost:" "$dir"/runs/team/slurm/*.log || fail "no two tasks met"
"$sweep" "${flags[@]}" --out "$dir/local" >"$dir/team.table" 2>"$dir/local.log"
python3 - "$dir"/{runs,local}/team/results.csv <<'PYTHON' || fail "two tasks train other models"
import csv, sys
runs = [list(csv.DictReader(open(path))) for path in sys.argv[1:]]
names = [name for name in runs[0][0] if name.startswith("loss_")]
largest = max(abs(float(a[name]) - float(b[name])) for a, b in zip(*runs) for name in names)
print(f"largest difference of losses {largest:.1e}")
sys.exit(largest > 0.01)
PYTHON
cat "$dir/team"
echo "slurm_check: the same results, with a job killed and another begun again, and with two tasks for each stage"
