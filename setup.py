"""Build the C extension; everything else about the package stands in pyproject.toml."""

import sysconfig

from setuptools import setup

# A free-threaded Python has no stable ABI before 3.15, and setuptools refuses the tag there.
FREE_THREADED = sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=["csrc/build_cffi.py:ffibuilder"],
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
