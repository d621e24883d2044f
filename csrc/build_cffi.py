"""Describe the extension `composefs._cfs` to cffi; setup.py and the build backend run this from the project's root."""

from pathlib import Path

from cffi import FFI

CSRC = Path(__file__).parent

ffibuilder = FFI()
ffibuilder.cdef((CSRC / "cfs_api.h").read_text(encoding="utf-8"))
ffibuilder.set_source(
    "composefs._cfs",
    '#include "cfs.h"',  # prototypes included: C that differs from what Python sees does not compile
    sources=sorted(f"csrc/{source.name}" for source in CSRC.glob("*.c")),
    depends=sorted(str(header) for header in CSRC.glob("**/*.h")),
    include_dirs=["csrc"],
    # The environment's CFLAGS replaces Python's own flags, so what matters stands here.
    extra_compile_args=["-O3", "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", "-D_FILE_OFFSET_BITS=64"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
