#!/usr/bin/env bash
# A real SLURM on this one machine, for the tests: `cluster.sh start [cgroup]`, `cluster.sh stop`. Needs root and
# `apt-get install slurm-wlm munge`.
#
# Without systemd or an accounting database, so that it runs in a container and in CI. Partitions as on many clusters: `main`, the
# default, `gpu`, whose GPU exists only in SLURM's books, and two whose jobs give way to those of `urgent`: in `spare` for good, in
# `spare-requeue` to be started again by SLURM. The CPUs and the memory it offers are more than the machine has.
# A job above its memory is killed by SLURM, which samples it, or with `cgroup` by the kernel, as on most clusters; that needs the memory
# controller of cgroup v1, writable: without it, the start ends with exit code 77.
set -euo pipefail

STATE=${XTALRL_SLURM_STATE:-/tmp/xtalrl-slurm}
# The compiled-in path: inside a job, the plugin keeps no SLURM_* variable but the job's id, so that SLURM_CONF would be lost.
CONF=/etc/slurm/slurm.conf
CGROUPS=/sys/fs/cgroup
MARK="# written by tests/slurm/cluster.sh"
DAEMONS="slurmd slurmctld munged"

fail() { echo "$1" >&2; exit 1; }

alive() {  # a daemon that we started
  local pid
  pid=$(cat "$STATE/$1.pid" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ]
}

can_limit_memory() {
  local probe=$CGROUPS/memory/xtalrl-probe
  mkdir "$probe" 2>/dev/null && rmdir "$probe"
}

write_config() {
  local host memory; host=$(hostname -s)
  if [ "$1" = cgroup ]; then
    memory=$'ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup'
    printf '%s\n' "$MARK" CgroupPlugin=cgroup/v1 CgroupMountpoint=$CGROUPS ConstrainRAMSpace=yes >/etc/slurm/cgroup.conf
  else
    memory=$'ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherParams=OverMemoryKill'
  fi
  cat >"$CONF" <<CONFIG
$MARK; removed by \`cluster.sh stop\`
ClusterName=xtalrl-test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
MpiDefault=none
$memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$STATE/jobs.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=5
GresTypes=gpu
ReturnToService=2
MinJobAge=3600
KillWait=5
OverTimeLimit=0
InactiveLimit=0
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/slurmd
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=64 RealMemory=256000 Gres=gpu:4 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=DEFAULT Nodes=$host MaxTime=2-00:00:00 DefaultTime=10 DefMemPerCPU=500 PreemptMode=OFF State=UP
PartitionName=main Default=YES
PartitionName=gpu
PartitionName=spare PreemptMode=CANCEL
PartitionName=spare-requeue PreemptMode=REQUEUE
PartitionName=urgent PriorityTier=10
CONFIG
  # SLURM wants a device for each GPU, and counts any.
  printf '%s\n' "$MARK" "Name=gpu File=/dev/null" "Name=gpu File=/dev/zero" "Name=gpu File=/dev/full" \
    "Name=gpu File=/dev/random" >/etc/slurm/gres.conf
}

start() {
  for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || fail "$program is not installed: apt-get install slurm-wlm munge"
  done
  [ "$(id -u)" = 0 ] || fail "root is needed"
  if [ "$1" = cgroup ] && ! can_limit_memory; then
    echo "no memory controller of cgroup v1 that can be written in $CGROUPS" >&2
    exit 77
  fi
  [ ! -e "$CONF" ] || grep -qs "^$MARK" "$CONF" || fail "$CONF belongs to another SLURM: this machine is part of a cluster"
  mkdir -p "$STATE"/{ctld,slurmd} /run/munge /etc/slurm
  chmod 755 "$STATE" /run/munge
  if ! munge -n >/dev/null 2>&1; then
    [ -s "$STATE/munge.key" ] || (umask 077; head -c 1024 /dev/urandom >"$STATE/munge.key")
    rm -f /run/munge/munge.socket.2*
    munged --key-file="$STATE/munge.key" --pid-file="$STATE/munged.pid" --log-file="$STATE/munged.log" \
      --seed-file="$STATE/munge.seed" --force 2>/dev/null
  fi
  write_config "$1"
  alive slurmctld || slurmctld -i
  alive slurmd || slurmd
  for _ in $(seq 60); do
    case $(sinfo --noheader --format=%T 2>/dev/null | head -1) in
      idle | mixed | allocated) echo "SLURM $(sinfo --version | cut -d' ' -f2) is up"; return ;;
      down* | drain*) scontrol update nodename="$(hostname -s)" state=resume 2>/dev/null || true ;;
    esac
    sleep 0.5
  done
  tail -n 5 "$STATE"/*.log >&2
  stop
  fail "SLURM did not come up"
}

stop() {
  if alive slurmctld; then
    timeout 10 scancel --user=root 2>/dev/null || true
    for _ in $(seq 20); do [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ] && break; sleep 0.5; done
  fi
  for daemon in $DAEMONS; do
    alive "$daemon" || continue
    pid=$(cat "$STATE/$daemon.pid")
    kill "$pid"
    for _ in $(seq 40); do kill -0 "$pid" 2>/dev/null || break; sleep 0.25; done
    if kill -0 "$pid" 2>/dev/null; then kill -9 "$pid"; fi
  done
  # Left behind, they would make every SLURM client, and so every start of Snakemake, wait for a controller.
  for file in "$CONF" /etc/slurm/{gres,cgroup}.conf; do if grep -qs "^$MARK" "$file"; then rm -f "$file"; fi; done
  rm -rf "$STATE"
}

case $* in
  start) start sampling ;;
  "start cgroup") start cgroup ;;
  stop) stop ;;
  *) fail "usage: $0 start [cgroup] | stop" ;;
esac
