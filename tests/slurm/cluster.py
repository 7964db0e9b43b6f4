"""A Slurm cluster of two nodes on this machine: a GPU node with two (fake) devices, and one without.

Debian's slurm-wlm and munge, no database: `squeue` is asked for the state of jobs. Everything lies in one folder, to which
CONFIGURED points (the executor plugin hides SLURM_CONF from srun), and ends with `Cluster.stop`.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

CONFIGURED = Path("/run/slurm/conf")  # where Slurm's programs look for a configuration if there is none in SYSTEM
SYSTEM = Path("/etc/slurm/slurm.conf")
NAME = "matpretrain-test"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
CPUS, MEMORY = 4, 100000  # of a node; more than this machine may have, which Slurm is told to believe
PATIENCE = 60.0  # seconds for a daemon to come up, or for a state to be reached

CONFIGURATION = """\
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
TaskPluginParam=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
KillWait=2
MinJobAge=7200
GresTypes=gpu
NodeName=gpus NodeHostname={host} NodeAddr=127.0.0.1 Port={port_gpus} CPUs={cpus} RealMemory={memory} Gres=gpu:2 Weight=2
NodeName=plain NodeHostname={host} NodeAddr=127.0.0.1 Port={port_plain} CPUs={cpus} RealMemory={memory} Weight=1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def install():
    """Install Debian's packages where that is possible; returns why there can be no cluster here, or None."""
    if os.geteuid() != 0:
        return "a Slurm cluster needs root"
    if SYSTEM.exists() or CONFIGURED.exists():
        return f"this machine belongs to a Slurm cluster: there is {SYSTEM if SYSTEM.exists() else CONFIGURED}"
    if all(map(shutil.which, PROGRAMS)):
        return None
    if not shutil.which("apt-get"):
        return "there is no apt-get to install slurm-wlm and munge with"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
        done = subprocess.run(["apt-get", "-q", *arguments], env=environment, capture_output=True, text=True)
        if done.returncode:
            return f"apt-get {arguments[0]} failed: {done.stderr.strip()[-200:]}"
    return None


def wait_for(condition, what, patience=PATIENCE):
    """The first true value of `condition()`; TimeoutError naming `what` after `patience` seconds."""
    end = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {patience:.0f} s: {what}")
        time.sleep(0.5)
    return value


def processes(variable):
    """Ids of the processes with NAME=value in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (folder / "environ").read_text(errors="replace").split("\0"):
                found.append(int(folder.name))
        except OSError:
            continue  # it has ended
    return found


def free_ports():
    """The first of three free ports in a row."""
    for port in range(17000, 18000, 3):
        try:
            for k in range(3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + k))
        except OSError:
            continue
        return port
    raise OSError("there are no three free ports in a row between 17000 and 18000")


class Cluster:
    """Two nodes, `gpus` and `plain`."""

    def __init__(self, folder):
        self.folder, port = Path(folder), free_ports()
        (self.folder / "munge").mkdir(mode=0o755)
        (self.folder / "state").mkdir()
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o400)
        for k, device in enumerate(("null", "zero")):  # a GPU must be a device file, whichever
            (self.folder / f"device{k}").symlink_to(f"/dev/{device}")
        host = os.uname().nodename.split(".")[0]
        ports = {"port": port, "port_gpus": port + 1, "port_plain": port + 2}
        text = CONFIGURATION.format(name=NAME, folder=self.folder, host=host, cpus=CPUS, memory=MEMORY, **ports)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(f"NodeName=gpus Name=gpu File={self.folder}/device[0-1]\n")

    def start(self):
        CONFIGURED.unlink(missing_ok=True)  # of a cluster whose folder is gone
        CONFIGURED.parent.mkdir(parents=True, exist_ok=True)
        CONFIGURED.symlink_to(self.folder)
        munge = self.folder / "munge"
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self.run("munged", "--force", *(f"--{option}={munge / name}" for option, name in files.items()))
        self.run("slurmctld", "-f", self.folder / "slurm.conf")
        for node in ("gpus", "plain"):
            self.run("slurmd", "-f", self.folder / "slurm.conf", "-N", node)
        wait_for(
            lambda: self.run("sinfo", "-h", "-o", "%T %D", check=False).stdout == "idle 2\n",
            f"two idle nodes, see {self.folder}",
        )

    def stop(self):
        """Cancel all jobs and end all daemons."""
        if (self.folder / "slurmctld.pid").exists():
            self.run("scancel", "--full", "--user=root", check=False)
        for name in ("gpus.pid", "plain.pid", "slurmctld.pid", "munge/pid"):
            path = self.folder / name
            if path.exists():
                self._end(int(path.read_text()))
        for pid in processes(f"SLURM_CLUSTER_NAME={NAME}"):
            os.kill(pid, signal.SIGKILL)
        CONFIGURED.unlink(missing_ok=True)

    @staticmethod
    def _end(pid):
        try:
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), f"end of process {pid}", patience=10)
        except ProcessLookupError:
            pass
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)

    @staticmethod
    def run(*command, check=True):
        """Run one of Slurm's commands."""
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 or not check, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"
        return done

    def jobs(self, rule):
        """{id: {"comment" (rule and wildcards), "state", "node", "limit" (time), "memory", "restarts"}} of a rule's jobs, ended or not."""
        fields = ("JobID", "Comment", "State", "NodeList", "TimeLimit", "MinMemory", "RestartCnt")
        layout = ",".join(f"{field}:|" for field in fields)
        lines = self.run("squeue", "-h", "--states=all", "-O", layout).stdout.splitlines()
        rows = [line.split("|")[: len(fields)] for line in lines]
        keys = ("comment", "state", "node", "limit", "memory", "restarts")
        return {
            int(job): dict(zip(keys, about, strict=True))
            for job, *about in rows
            if about[0].split("_wildcards_")[0] == f"rule_{rule}"
        }

    def running(self, rule):
        """Id of a running job of a rule; waits for one."""
        return wait_for(
            lambda: next((job for job, about in self.jobs(rule).items() if about["state"] == "RUNNING"), None),
            f"a running job of {rule}",
            patience=300,
        )

    def freeze(self, job):
        """Stop the processes of a job, so that it cannot end by itself."""
        for pid in wait_for(lambda: processes(f"SLURM_JOB_ID={job}"), f"processes of job {job}"):
            os.kill(pid, signal.SIGSTOP)
