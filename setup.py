from setuptools import Extension, find_namespace_packages, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# In the checkout configs/ stands at the top, as detectron2's does; installed, it is in the package.
# aa_detection.config.configs_folder() finds either.
CONFIGS = "aa_detection.configs"


class SharedLibrary(build_ext):
    """Builds libraries for ctypes: their names and contents have nothing of Python in them."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return ext.export_symbols  # without the function that Python's modules begin with


class WheelOfLibrary(bdist_wheel):
    """A wheel for any Python on one platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    packages=[
        *find_packages(include=["aa_detection*"]),
        CONFIGS,
        *(f"{CONFIGS}.{name}" for name in find_namespace_packages("configs")),
    ],
    package_dir={CONFIGS: "configs"},
    ext_modules=[
        Extension(
            "aa_detection.attention.libnative",
            ["aa_detection/attention/native.cpp"],
            language="c++",
            extra_compile_args=["-std=c++17", "-O3", "-g0", "-Wno-psabi"],
            optional=True,  # without a compiler the package is whole, and slower on CPUs
        )
    ],
    cmdclass={"build_ext": SharedLibrary, "bdist_wheel": WheelOfLibrary},
)
