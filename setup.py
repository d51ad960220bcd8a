"""A wheel carries the CPU kernels compiled, if a C++ compiler is at hand when it is built; everything else is in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
compiler = runpy.run_path(str(HERE / "flowkit" / "kernels" / "cpu" / "compiler.py"))


class BuildWithKernels(build_py):
    """Compile the kernels into the tree that becomes the wheel; an editable install compiles at first use instead."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        try:
            compiler["carry"](Path(self.build_lib) / "flowkit" / "kernels" / "cpu" / "carried")
        except compiler["CompilerError"] as error:
            self.warn(f"the wheel carries no compiled kernels: {error}")


class PlatformWheel(bdist_wheel):
    """A wheel for one kind of machine and every Python: the libraries know neither Python nor torch."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class WithLibraries(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(distclass=WithLibraries, cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel})
