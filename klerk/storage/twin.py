"""A copy of a store that nobody uses, to try out on it what must not happen to the store."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from klerk.errors import StorageError
from klerk.storage import layout

# Tables are written once and never changed, so the copy can share them.
_TABLES = ".sst"


@contextlib.contextmanager
def twin_of(path: str | os.PathLike[str], app: str) -> Iterator[Path]:
    """Copy a store beside it for as long as the ``with`` block runs, and keep everyone else out meanwhile.

    Its tables are shared by hard links where the file system has them, so the copy takes little space. Where
    nothing can be made beside the store, everything is copied to the directory for temporary files.

    Raises:
        NotAStore, WrongStore, NewerStore: it is not one that this application can use.
        StoreLocked: it is in use.
        StorageError: it could not be copied.
    """
    directory = Path(os.path.abspath(path))
    layout.check_directory(directory, create=False)
    layout.check_marker(directory, app)
    owner = layout.Owner(directory)
    try:
        beside = directory.parent if os.access(directory.parent, os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix=f"{directory.name}.check-", dir=beside) as copy:
            try:
                _copy(directory, Path(copy))
            except OSError as error:
                raise StorageError(f"{directory} cannot be copied: {error}") from error
            yield Path(copy)
    finally:
        owner.release()


def _copy(source: Path, target: Path) -> None:
    (target / layout.DATABASE).mkdir()
    for name in (layout.MARKER, layout.WITNESS):
        shutil.copyfile(source / name, target / name)
    for file in (source / layout.DATABASE).iterdir():
        copy = target / layout.DATABASE / file.name
        if file.suffix == _TABLES:
            try:
                os.link(file, copy)
                continue
            except OSError:
                pass  # Another file system, or one without links.
        shutil.copyfile(file, copy)
