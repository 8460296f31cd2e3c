"""Run a command with noise in every kernel: python tests/noise SEED make test-quick.

A kernel promises a result within some units in the last place. Which bits it gives depends on the
processor, the library, the batch and the address of its inputs. Here the last bits of each result
of PyTorch, NumPy and SciPy change, in the command and in all that it starts: sitecustomize.py has
the noise of PyTorch, and blas.c that of the products of NumPy and SciPy.

The noise depends on the SEED, the kernel, the shapes of its inputs, their addresses (PyTorch's
alone, as with OpenBLAS) and the result. Repeated calls give the same bits; anything else may
differ. NOISE_ULPS is its size in units in the last place, by default 4. Results that are exact,
such as sums of whole numbers, stay exact.

Without gcc, the products of NumPy and SciPy stay as they are.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def compile_blas() -> Path | None:
    """Compile blas.c, unless it was compiled before, and return the library."""
    code = (FOLDER / "blas.c").read_bytes()
    library = Path(tempfile.gettempdir(), f"noise-{hashlib.sha256(code).hexdigest()[:16]}.so")
    if not library.exists():
        partial = library.with_suffix(f".{os.getpid()}")
        command = ["gcc", "-O2", "-shared", "-fPIC", "-o", partial, FOLDER / "blas.c", "-lm"]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no noise in NumPy and SciPy: {error}", file=sys.stderr)
            return None
        partial.rename(library)
    return library


def prepend(variable: str, value: object, separator: str) -> None:
    """Put a value before those of an environment variable."""
    before = os.environ.get(variable)
    os.environ[variable] = f"{value}{separator}{before}" if before else str(value)


if __name__ == "__main__":
    seed, *command = sys.argv[1:]
    os.environ["NOISE_SEED"] = str(int(seed))
    os.environ.setdefault("NOISE_ULPS", "4")
    prepend("PYTHONPATH", FOLDER, os.pathsep)
    if library := compile_blas():
        prepend("LD_PRELOAD", library, " ")
    os.execvpe(command[0], command, os.environ)
