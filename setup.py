"""Which packages are built: those found below `minilm/`, and those below `kernels/` under the name minilm.kernels.

Everything else is said in pyproject.toml, which can't rename the packages that it finds.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["minilm", "minilm.*"]),
        "minilm.kernels",
        *(f"minilm.kernels.{name}" for name in find_packages("kernels")),
    ],
    package_dir={"minilm.kernels": "kernels"},
)
