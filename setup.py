"""The one thing pyproject.toml cannot say: how the core is compiled."""

import sys
from pathlib import Path

from setuptools import Extension, setup

# Indexes into lists are checked, because a wrong one would read memory that is not there; they never count
# from the end, which a test of the source makes sure of, so the core's loops need not ask.
DIRECTIVES = {
    "language_level": "3",
    "wraparound": False,
    "initializedcheck": False,
    "autotestdict": False,
    "cdivision": True,
    "embedsignature": True,
    "embedsignature.format": "python",
}

COMPILE_ARGS = ["/O2"] if sys.platform == "win32" else ["-O3", "-g0"]

# A change to any of these compiles a module again.
SHARED = [*sorted(path.as_posix() for path in Path("klerk").glob("*.pxd")), "setup.py"]

setup(
    ext_modules=[
        Extension(f"klerk.{path.stem}", [path.as_posix()], depends=SHARED, extra_compile_args=COMPILE_ARGS)
        for path in sorted(Path("klerk").glob("*.pyx"))
    ],
    # The generated C stays in the build folder: it is neither source nor part of a distribution.
    options={"build_ext": {"cython_c_in_temp": True, "cython_directives": DIRECTIVES}},
)
