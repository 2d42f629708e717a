"""How a forked child leaves: without the native destructors of the libraries that its parent used.

RocksDB's destructors join threads at the end of the process. A forked child has copies of their handles and
none of the threads, and can crash while it joins them, after everything of its own is done.
"""

import ctypes


def leave_without_destructors() -> None:
    """Let this process end as soon as Python has finished, with its exit code.

    Only where the C library has ``on_exit``, as glibc does.
    """
    try:
        libc = ctypes.CDLL(None)
        on_exit, leave = libc.on_exit, libc._exit
    except (OSError, AttributeError, TypeError):
        return
    on_exit(ctypes.cast(leave, ctypes.c_void_p), None)
