"""Runs CMake, nothing else: metadata is in pyproject.toml, sources are listed in CMakeLists.txt."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PURE = "or set TTUNE_SKIP_BUILD=1 to install the slower pure-Python backend"


class CMakeBuild(build_ext):
    def run(self) -> None:
        compilers = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
        if not any(map(shutil.which, compilers)):
            sys.exit(f"ttune needs a C++ compiler and found none of {compilers}: install g++ >= 11 or clang++ >= 14, {PURE}.")
        # A fixed folder, so that builds are incremental; cmake and ninja may be in the environment and not on the PATH.
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-{sysconfig.get_platform()}"
        package = (ROOT if self.inplace or self.editable_mode else Path(self.build_lib).resolve()) / "ttune"
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        cmake = shutil.which("cmake", path=path) or sys.exit(f"ttune needs CMake and found none: pip install cmake ninja, {PURE}.")
        configure = ["-S", ROOT, "-B", build, "-G", "Ninja", f"-DPYTHON={sys.executable}", f"-DCMAKE_INSTALL_PREFIX={package}"]
        for arguments in (configure, ["--build", build], ["--install", build]):
            if subprocess.call([cmake, *arguments], env={**os.environ, "PATH": path}):
                sys.exit(f"ttune's native build failed, see CMake's message above: correct that, {PURE}.")

    def get_outputs(self) -> list[str]:
        return []  # CMake installs; setuptools has no file of its own to copy or to look for

    def get_output_mapping(self) -> dict[str, str]:
        return {}


# The extension without sources makes a platform wheel. Libraries come from CMake alone, never from an old source tree.
native = [] if os.environ.get("TTUNE_SKIP_BUILD") == "1" else [Extension("ttune.lib", sources=[])]
setup(ext_modules=native, cmdclass={"build_ext": CMakeBuild}, exclude_package_data={"ttune": ["lib/*.so"]})
