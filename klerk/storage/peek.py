"""Print one value of a store, in hexadecimal: a script, run by path in a process of its own, never imported.

The store may be open elsewhere, and may be damaged: see `glance.py`.

Arguments: the directory that rocksdict is imported from, a copy of the database's directory, its families by
name with a comma between them, the family and the key of the value.
"""

import os
import sys


def main(packages: str, database: str, families: str, family: str, key: str) -> int:
    """Read the value; return the exit code."""
    sys.path.insert(0, packages)
    from rocksdict import AccessType, DBRecoveryMode, Options, Rdict

    options = Options(raw_mode=True)
    options.create_if_missing(False)
    # The end of the log may be in the middle of being written.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    columns = {name: Options(raw_mode=True) for name in families.split(",")}
    try:
        opened = Rdict(database, options, columns, AccessType.read_only(False))
        value = opened.get_column_family(family).get(key.encode())
    except Exception as error:  # rocksdict raises nothing more specific
        print(error, file=sys.stderr, flush=True)
        return 1
    print("none" if value is None else value.hex(), flush=True)
    return 0


if __name__ == "__main__":
    # Without taking the database down in good order: it belongs to someone else.
    os._exit(main(*sys.argv[1:]))
