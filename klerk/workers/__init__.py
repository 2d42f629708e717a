"""Where jobs run."""

from klerk.workers.contract import Executor
from klerk.workers.loop import LoopExecutor
from klerk.workers.threads import ThreadExecutor

__all__ = ["Executor", "LoopExecutor", "ThreadExecutor"]
