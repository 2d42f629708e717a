"""What the job manager asks of whatever runs jobs."""

import abc


class Executor(abc.ABC):
    """Fetches jobs that are ready and runs them.

    An executor is given two functions: one to take the next job, and one to run it, which never raises and
    reports to the job manager by itself.
    """

    @abc.abstractmethod
    def start(self) -> None:
        """Begin to take jobs."""

    @abc.abstractmethod
    def wake(self) -> None:
        """Look for jobs again: some became ready."""

    @abc.abstractmethod
    def resize(self, count: int) -> None:
        """Run at most so many jobs at once from now on; those that run already go on to their end."""

    @abc.abstractmethod
    def runs_here(self) -> bool:
        """Return whether the caller runs in one of this executor's threads."""

    @abc.abstractmethod
    def stop(self, wait_s: float) -> bool:
        """Take no more jobs and wait for those that run.

        Parameters:
            wait_s: seconds to wait at most.

        Returns:
            Whether all of them ended.
        """
