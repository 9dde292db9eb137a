#!/bin/bash
# A cluster of one node on this machine, in the folder $1; needs root, and Debian's slurm-wlm and munge.
set -euo pipefail
folder=$1
mkdir -p "$folder"/{state,spool} /run/munge
if [ ! -s /etc/munge/munge.key ]; then dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none; fi
chown -R munge: /etc/munge /run/munge; chmod 400 /etc/munge/munge.key; chmod 755 /run/munge
pgrep -x munged > /dev/null || runuser -u munge -- /usr/sbin/munged
cat > "$folder/slurm.conf" <<EOF
ClusterName=local
SlurmctldHost=$(hostname -s)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
NodeName=$(hostname -s) CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
export SLURM_CONF=$folder/slurm.conf
pgrep -x slurmctld > /dev/null || slurmctld -c
pgrep -x slurmd > /dev/null || slurmd -c
for _ in $(seq 30); do
  sinfo -h -o %T 2> /dev/null | grep -q idle && exit 0
  sleep 1
done
sinfo; tail -5 "$folder"/slurm*.log; exit 1
