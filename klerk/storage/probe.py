"""Open a store in a process of its own: a script, run by path and never imported.

A damaged write-ahead log or manifest can make RocksDB spin for ever with the interpreter lock held, or
crash. Opening the store read-only reads both just as opening it for writing does, and changes none of the
data, so what would befall the application befalls this process instead.

Arguments: the directory that rocksdict is imported from, the database, its families by name.
Prints the name of the first recovery mode that accepts the log, or, with exit code 1, what is wrong.
"""

import os
import sys


def main(packages: str, database: str, *families: str) -> int:
    """Try each recovery mode, the strict one first; return the exit code."""
    sys.path.insert(0, packages)
    # Whoever started this must know a Python that cannot run it from one that RocksDB brought down.
    print("started", flush=True)
    from rocksdict import AccessType, DBRecoveryMode, Options, Rdict

    modes = {
        "absolute": DBRecoveryMode.absolute_consistency,
        "tolerant": DBRecoveryMode.tolerate_corrupted_tail_records,
    }
    for name, mode in modes.items():
        options = Options(raw_mode=True)
        options.create_if_missing(False)
        options.set_wal_recovery_mode(mode())
        try:
            Rdict(
                database,
                options,
                {family: Options(raw_mode=True) for family in families},
                AccessType.read_only(False),
            )
        except Exception as error:  # rocksdict raises nothing more specific
            failure = str(error)
        else:
            print(name, flush=True)
            return 0
    print(failure, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    # Without taking the database down in good order: that is no part of the trial.
    os._exit(main(*sys.argv[1:]))
