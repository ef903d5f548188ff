"""`import cupy` gives the stand-in, its kernels run on the CPU: in processes that have the folder above on PYTHONPATH.

For commands that start processes of their own, none of which then knows that there is no GPU.
"""

import sys

from tests import strict_cupy
from tests.strict_cupy import quick_timing
from tests.strict_cupy.device_kernels import device_kernels

strict_cupy.strict.__spec__ = __spec__  # importlib.util.find_spec finds it
strict_cupy.install()
assert sys.modules["cupy"] is strict_cupy.strict
kernels = device_kernels(90)
strict_cupy.strict.__dict__["_kernels"] = kernels  # this module is forgotten; a forgotten generator would end
kernels.__enter__()  # for the rest of the process
for setting in quick_timing.settings():
    setattr(*setting)
