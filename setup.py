"""The one thing pyproject.toml cannot say: how the core is compiled."""

import sys
from pathlib import Path

from setuptools import Extension, setup

# The core indexes by C integers that it has bounded itself, so nothing is checked again in its loops;
# what a caller passes is checked before it gets there.
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
