#!/usr/bin/env bash
# A Slurm of one node for the tests: `single-node.sh start`, `stop`, and `run COMMAND...`, which starts one if no Slurm
# answers, and stops it after the command. Needs root and Debian's or Ubuntu's packages (apt-get install
# --no-install-recommends slurm-wlm munge); no systemd, no cgroups, no accounting database.
#
# The configuration is in /etc/slurm: Snakemake's plugin takes SLURM_CONF out of the environment of its jobs. It refuses
# to run if another Slurm is configured. A job that exceeds its requested memory or time is ended. The node advertises
# two fake GPUs (device nodes like /dev/null): requesting them can be tested, computing on them cannot. It offers twice
# the cores that exist, so that tests that mostly wait run beside others.
set -euo pipefail

PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH
CONF=/etc/slurm/slurm.conf
STATE=/var/lib/nested-reft-slurm
MARK="# Written by single-node.sh of nested-reft's tests."
HOST=$(hostname -s)

fail() {
  echo "single-node.sh: $*" >&2
  exit 1
}

running() { # the process of a daemon, if the one in its PID file is alive and is it
  local pid
  pid=$(cat "$STATE/$1.pid" 2>/dev/null) && grep -qs "$1" "/proc/$pid/comm" && echo "$pid"
}

wait_for() { # seconds, command: until it succeeds
  local last=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$last" ] || return 1
    sleep 0.2
  done
}

idle() { [ "$(sinfo --noheader --format %T 2>/dev/null)" = idle ]; }

ended() { ! kill -0 "$1" 2>/dev/null; }

configure() {
  mkdir -p /etc/slurm "$STATE"/spool "$STATE"/controller
  local memory gpu
  memory=$(awk '/^MemTotal:/ {print int($2 / 1024 * 3 / 4)}' /proc/meminfo)
  for gpu in 0 1; do
    [ -c "$STATE/gpu$gpu" ] || mknod --mode 666 "$STATE/gpu$gpu" c 1 3
  done
  cat >"$CONF" <<CONFIG
$MARK
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
SlurmdUser=root
AuthInfo=socket=$STATE/munge.socket
StateSaveLocation=$STATE/controller
SlurmdSpoolDir=$STATE/spool
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
SlurmdParameters=config_overrides
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Memory is looked at every second, and a job above its limit is ended.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
# Without a database squeue is the only one to ask for finished jobs: they stay listed.
MinJobAge=86400
GresTypes=gpu
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$((2 * $(nproc))) RealMemory=$memory Gres=gpu:2
PartitionName=main Nodes=$HOST Default=YES DefaultTime=60
CONFIG
  printf '%s\nName=gpu File=%s\n' "$MARK" "$STATE/gpu[0-1]" >/etc/slurm/gres.conf
  # Used by nothing here; left to itself, slurmd looks for a systemd and gives up without.
  printf '%s\nCgroupPlugin=cgroup/v1\n' "$MARK" >/etc/slurm/cgroup.conf
}

start() {
  [ "$(id -u)" = 0 ] || fail "only root can start a Slurm: the daemon runs jobs as any user"
  command -v munged slurmctld slurmd sbatch >/dev/null \
    || fail "Slurm is not installed: apt-get install --no-install-recommends slurm-wlm munge"
  if [ -e "$CONF" ] && ! grep -qF "$MARK" "$CONF"; then
    fail "$CONF is that of another Slurm; use it, or move it away"
  fi
  if idle; then return; fi
  configure
  [ -s "$STATE/munge.key" ] || (umask 077 && head --bytes 128 /dev/urandom >"$STATE/munge.key")
  chmod 755 "$STATE"
  running munged >/dev/null || munged --force --socket "$STATE/munge.socket" --key-file "$STATE/munge.key" \
    --pid-file "$STATE/munged.pid" --log-file "$STATE/munged.log" --seed-file "$STATE/munge.seed"
  # Output away from the caller's, or a pipe would wait for the daemons.
  running slurmctld >/dev/null || slurmctld -c </dev/null >"$STATE/slurmctld.out" 2>&1
  running slurmd >/dev/null || slurmd -c </dev/null >"$STATE/slurmd.out" 2>&1
  wait_for 30 idle || {
    tail --lines 20 "$STATE"/slurm*.log >&2
    fail "the node is not idle after 30 s"
  }
}

stop() {
  local daemon pid
  if running slurmctld >/dev/null; then
    squeue --noheader --format %A | xargs --no-run-if-empty scancel || true
  fi
  for daemon in slurmd slurmctld munged; do
    if pid=$(running "$daemon"); then
      kill "$pid"
      wait_for 30 ended "$pid" || kill -KILL "$pid"
    fi
  done
  # A configuration without a controller would cost every later start of Snakemake seconds.
  if [ -e "$CONF" ] && grep -qF "$MARK" "$CONF"; then
    rm -f "$CONF" /etc/slurm/gres.conf /etc/slurm/cgroup.conf
  fi
}

run() {
  command -v sbatch >/dev/null \
    || fail "no Slurm here: apt-get install --no-install-recommends slurm-wlm munge"
  if ! sinfo >/dev/null 2>&1; then
    trap stop EXIT
    start
  fi
  "$@"
}

case ${1:-} in
  start) start ;;
  stop) stop ;;
  run) run "${@:2}" ;;
  *) fail "start, stop, or run COMMAND?" ;;
esac
