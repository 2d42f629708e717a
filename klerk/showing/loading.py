"""Finding the app in a file, for commands that describe or check its design.

Python has no way to learn what a file declares but to run it. It is run as a module, so that whatever stands
under ``if __name__ == "__main__"`` is left out, and no further than to its first ``app.open(...)``, which
ends it: no store is opened or made. So a file that calls its main function on its own can be read, too; what
it does before it opens the app is done.
"""

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from klerk.errors import ConfigError, KlerkError
from klerk.opening import App

_FRAMES_SHOWN_MAX = 5


class DesignNotFound(KlerkError, LookupError):
    """There is no app at the place that was named, or the file failed before it was declared."""

    code = "design_not_found"
    status = 404


def load_app(where: str) -> App:
    """Run a file up to where it opens its app, and return the app.

    What the file prints goes to standard error.

    Parameters:
        where: a file or an importable module, with the app's name when there are several: ``app.py``,
            ``app.py:library``, ``company.library``, ``company.library:app``.

    Raises:
        ConfigError: something is declared wrongly.
        DesignNotFound: there is no such file or app, or the file raised another error.
    """
    target, name = _split(where)
    with _kept_interpreter(), _opening_ends_it() as opened:
        module, path = _named_module(target)
        if module is None:
            module = _run(path[0], path[1], opened)
    if name:
        return _app_named(module, name, opened)
    if opened:
        return opened[0]
    return _only_app(module)


def _split(where: str) -> tuple[str, str]:
    """Return file or module, and the name of the app. The colon of a Windows drive is part of the path."""
    target, _, name = where.rpartition(":")
    if len(target) > 1 and all(part.isidentifier() for part in name.split(".")):
        return target, name
    return where, ""


@contextlib.contextmanager
def _kept_interpreter() -> Iterator[None]:
    """Let the file be run as if alone, without traces: no bytecode beside it, none of Klerk's arguments."""
    kept = sys.path, sys.argv, sys.dont_write_bytecode
    sys.path, sys.dont_write_bytecode = list(sys.path), True
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path, sys.argv, sys.dont_write_bytecode = kept


@contextlib.contextmanager
def _opening_ends_it() -> Iterator[list[App]]:
    """Make `App.open` end the program instead; yield the list that the app is added to."""
    opened: list[App] = []

    def end(self: App, *_: object, **__: object) -> NoReturn:
        opened.append(self)
        # An exit passes through event loops, ends threads silently, and is not caught with other errors.
        raise SystemExit(0)

    kept = App.open
    App.open = end  # type: ignore[method-assign]
    try:
        yield opened
    finally:
        App.open = kept  # type: ignore[method-assign]


def _named_module(target: str) -> tuple[ModuleType | None, tuple[str, Path]]:
    """Return the module if it was imported before, and its name and file."""
    path = Path(target)
    if path.is_dir():
        raise DesignNotFound(f"{target} is a directory", hint="Name the file that declares the app.")
    if path.suffix == ".py" or path.exists():
        if not path.exists():
            raise DesignNotFound(f"there is no file {target}")
        name, folder = _dotted(path.resolve())
        sys.path.insert(0, str(folder))
        path = path.resolve()
    else:
        sys.path.insert(0, "")
        name, path = target, _file_of_module(target)
    sys.argv = [str(path)]
    known = sys.modules.get(name)
    if known is None:
        return None, (name, path)
    if "." in name and getattr(known, "__file__", None) == str(path):
        return known, (name, path)
    # Another module has the name, such as one of Python's own: the path is a name that nobody has.
    return None, (str(path).replace(".", "_"), path)


def _dotted(path: Path) -> tuple[str, Path]:
    """Return the name of a file's module, in its packages, and the folder that it is imported from."""
    names, folder = [] if path.stem == "__init__" else [path.stem], path.parent
    while (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names), folder


def _file_of_module(name: str) -> Path:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError) as error:
        raise DesignNotFound(f"there is no file or module {name}: {error}") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise DesignNotFound(
            f"there is no file or module {name}",
            hint="Name a file, as in app.py, or a module, as in company.app.",
        )
    return Path(spec.origin)


def _run(name: str, path: Path, opened: list[App]) -> ModuleType:
    """Run a file as a module, to its end or to where it opens an app."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, f"{path} is no Python file"
    assert spec.loader is not None, f"{path} has no loader"
    module = importlib.util.module_from_spec(spec)
    try:
        if "." in name:
            importlib.import_module(name.rpartition(".")[0])
        # It stays there, where annotations that were written as strings are looked up.
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except ConfigError:
        raise
    except SystemExit:
        # What it declared until then is what there is.
        pass
    except Exception as error:
        if not opened:
            raise DesignNotFound(
                _failure(path, error), hint="It has to run up to where it opens its app."
            ) from error
    return module


def _failure(path: Path, error: Exception) -> str:
    """Return why a file failed, with the lines of the application on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith("<frozen")
    ]
    lines = [
        f"{Path(frame.filename).name}:{frame.lineno}  {frame.line}" for frame in own[-_FRAMES_SHOWN_MAX:]
    ]
    reason = [line for text in traceback.format_exception_only(error) for line in text.rstrip().splitlines()]
    return "\n  ".join([f"{path.name} failed before it opened an app:", *lines, *reason])


def _app_named(module: ModuleType, name: str, opened: list[App]) -> App:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, App):
        return found
    because = "what it is called is no App" if found is not None else "it has no such name"
    if found is None and opened:
        because = f"it was read to where it opens the app '{opened[0].name}', and has no such name by then"
    raise DesignNotFound(f"{module.__name__} has no app '{name}': {because}")


def _only_app(module: ModuleType) -> App:
    """Return the one app among a module's names."""
    apps = {id(value): (name, value) for name, value in vars(module).items() if isinstance(value, App)}
    if len(apps) == 1:
        return next(iter(apps.values()))[1]
    if not apps:
        raise DesignNotFound(
            f"{module.__name__} declares no App and opens none",
            hint="Assign it to a name in the file: app = klerk.App('library').",
        )
    names = ", ".join(name for name, _ in apps.values())
    raise DesignNotFound(
        f"{module.__name__} has several apps: {names}", hint="Name one, as in app.py:library."
    )
