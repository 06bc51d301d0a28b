"""A SLURM on this machine, for tests: two nodes, no munge, no accounting, no cgroups; root, since SLURM asks for it.

Debian's packages slurmctld, slurmd and slurm-client. Several daemons `slurmd` on one machine are nodes of their own names and
ports (`slurmd -N`), which SLURM offers for tests.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

NODES = ("node1", "node2")
TOOLS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
_START_S = 120.0
_CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmdTimeout=15
KillWait=5
InactiveLimit=0
MinJobAge=60
{nodes}
PartitionName=tests Nodes={names} Default=YES State=UP MaxTime=INFINITE
"""


def missing() -> str:
    """Why SLURM cannot be started here; empty if it can."""
    absent = [tool for tool in TOOLS if shutil.which(tool, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)} on this machine: apt-get install slurmctld slurmd slurm-client"
    return "" if os.geteuid() == 0 else "SLURM's daemons are started as root, this is another user"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Cluster:
    """The running daemons; `environment` is what SLURM's commands need to find them."""

    def __init__(self, folder: Path, memory_mib: int) -> None:
        self.folder = folder
        (folder / "state").mkdir(parents=True)
        host, ports = socket.gethostname(), _free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory={memory_mib} State=UNKNOWN"
            for name, port in zip(NODES, ports[1:], strict=True)
        )
        self._conf = folder / "slurm.conf"
        self._conf.write_text(_CONF.format(host=host, ports=ports, folder=folder, nodes=nodes, names=",".join(NODES)))
        self.environment = os.environ | {"SLURM_CONF": str(self._conf), "PATH": _path()}
        self._daemons = {"slurmctld": self._started("slurmctld", "-D", "-i")}
        for name in NODES:
            (folder / f"spool.{name}").mkdir()
            self._daemons[name] = self._started("slurmd", "-D", "-N", name)

    def _started(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{command[0]}-{command[-1]}.out").open("wb") as out:
            return subprocess.Popen(command, env=self.environment, stdout=out, stderr=out, start_new_session=True)

    def wait(self) -> None:
        """Wait until both nodes are idle. Raises TimeoutError with what the daemons said."""
        end = time.monotonic() + _START_S
        while time.monotonic() < end:
            if self.states() == dict.fromkeys(NODES, "idle"):
                return
            time.sleep(0.5)
        said = "".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log"))
        raise TimeoutError(f"nodes are {self.states()}: {said}")

    def states(self) -> dict[str, str]:
        """The state of each node, as `sinfo` gives it."""
        return dict(line.split() for line in self.tell("sinfo", "-h", "-N", "-o", "%N %t").splitlines())

    def jobs(self) -> dict[str, tuple[str, str]]:
        """State and node of each job by its id."""
        lines = self.tell("squeue", "-h", "-r", "-o", "%i %T %N").splitlines()
        return {words[0]: (words[1], words[2] if len(words) > 2 else "") for line in lines if (words := line.split())}

    def tell(self, *command: str) -> str:
        """Run one of SLURM's commands and return what it prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout

    def take_away(self, node: str) -> None:
        """The node is gone from one moment to the next: its daemon, and what ran there."""
        daemon = self._daemons.pop(node)
        for pid in (daemon.pid, *_below(daemon.pid), *_steps(node)):  # who could still tell first
            _kill(pid)
        daemon.wait()
        self.tell("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=taken")

    def close(self) -> None:
        """End the daemons and what they started."""
        self.tell("scancel", "--user=root")
        for name in NODES:
            for pid in _steps(name):
                _kill(pid)
        for daemon in self._daemons.values():
            for pid in (*_below(daemon.pid), daemon.pid):
                _kill(pid)
            daemon.wait()


def _steps(node: str) -> list[int]:
    """The processes of all jobs on `node`, the daemons `slurmstepd` that they are below first."""
    daemons, others = [], []
    for process in psutil.process_iter(["environ", "pid"]):
        if (process.info["environ"] or {}).get("SLURMD_NODENAME") == node:
            others.append(process.info["pid"])
            parent = process.parent()
            if parent and parent.name().startswith("slurmstepd"):
                daemons.append(parent.pid)
    return list(dict.fromkeys((*daemons, *others)))


def _below(pid: int) -> list[int]:
    try:
        return [process.pid for process in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@contextmanager
def slurm(folder: Path, memory_mib: int) -> Iterator[Cluster]:
    """A cluster that is ready, below `folder`."""
    cluster = Cluster(folder, memory_mib)
    try:
        cluster.wait()
        yield cluster
    finally:
        cluster.close()
