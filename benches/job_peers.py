"""Other job queues, each with workers in this process: what they offer is a function that enqueues a job."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benches.harness import Missing

Enqueue = Callable[[int], object]
Function = Callable[[int], None]
Queue = Callable[[Path, Function, int, Callable[[], object]], AbstractContextManager[Enqueue]]
"""From a directory, the job, the number of workers, and what to call after each completion: what enqueues."""

POSTGRES_VARIABLE = "KLERK_BENCH_POSTGRES"
STOP_S = 10


@contextmanager
def huey(
    directory: Path, function: Function, workers: int, completed: Callable[[], object]
) -> Iterator[Enqueue]:
    """huey on SQLite with fsync, results stored.

    Parameters:
        function: the job.
        workers: threads.
        completed: called after each completion.
    """
    from huey import SqliteHuey
    from huey.signals import SIGNAL_COMPLETE

    queue = SqliteHuey(filename=str(directory / "huey.sqlite"), fsync=True, store_none=True)
    task = queue.task()(function)
    queue.signal(SIGNAL_COMPLETE)(lambda signal, task: completed())
    stopping = threading.Event()

    # What huey's own worker does, less its pause of 0.1 s or more whenever the queue was empty.
    def work() -> None:
        while not stopping.is_set():
            queued = queue.dequeue()
            if queued is None:
                stopping.wait(0.001)
            else:
                queue.execute(queued)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield task
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        queue.storage.close()


@contextmanager
def procrastinate(
    directory: Path, function: Function, workers: int, completed: Callable[[], object]
) -> Iterator[Enqueue]:
    """procrastinate on PostgreSQL with its defaults; parameters as for `huey`.

    The environment names the server, in a database made for this: KLERK_BENCH_POSTGRES=postgresql://...
    """
    server = os.environ.get(POSTGRES_VARIABLE)
    if server is None:
        raise Missing(f"no PostgreSQL server is named by {POSTGRES_VARIABLE}")
    from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

    connector = SyncPsycopgConnector(conninfo=server)
    enqueuing = App(connector=connector)
    task = enqueuing.task(name="job")(function)
    ready, stop = threading.Event(), threading.Event()

    async def work() -> None:
        app = App(connector=PsycopgConnector(conninfo=server))

        @app.task(name="job")
        async def job(number: int) -> None:
            function(number)
            completed()

        async with app.open_async():
            worker = asyncio.create_task(
                app.run_worker_async(concurrency=workers, install_signal_handlers=False, delete_jobs="always")
            )
            ready.set()
            await asyncio.to_thread(stop.wait)
            worker.cancel()
            await asyncio.wait([worker], timeout=STOP_S)

    with enqueuing.open():
        if not enqueuing.check_connection():
            enqueuing.schema_manager.apply_schema()
        thread = threading.Thread(target=asyncio.run, args=(work(),))
        thread.start()
        ready.wait()
        try:
            yield lambda number: task.defer(number=number)
        finally:
            stop.set()
            thread.join()
