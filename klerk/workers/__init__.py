"""Where jobs run."""

from klerk.workers.contract import Executor, Patience, Stoppable, stop
from klerk.workers.loop import LoopExecutor
from klerk.workers.processes import ProcessExecutor, WorkerProcess
from klerk.workers.threads import ThreadExecutor

__all__ = [
    "Executor",
    "LoopExecutor",
    "Patience",
    "ProcessExecutor",
    "Stoppable",
    "ThreadExecutor",
    "WorkerProcess",
    "stop",
]
