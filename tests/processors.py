"""Run a command as on another processor: python tests/processors.py avx2 make test-quick.

PyTorch, oneDNN and OpenBLAS choose their kernels by these variables. They can only choose kernels
that the processor has.
"""

import os
import sys

PROCESSORS = {
    # most laptops: no AVX-512, no bfloat16
    "avx2": {
        "OPENBLAS_CORETYPE": "Haswell",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    # what PyTorch runs on processors that it knows nothing of
    "sse4": {
        "OPENBLAS_CORETYPE": "Nehalem",
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
}

if __name__ == "__main__":
    processor, *command = sys.argv[1:]
    os.execvpe(command[0], command, {**os.environ, **PROCESSORS[processor]})
