from setuptools import find_namespace_packages, find_packages, setup

# In the checkout configs/ and tools/ stand at the top, as detectron2's do; installed, they are in
# the package, and the places that one of them gives relative to the other stay right.
BESIDE = {"aa_detection.configs": "configs", "aa_detection.tools": "tools"}

setup(
    packages=[
        *find_packages(include=["aa_detection*"]),
        *BESIDE,
        *(f"aa_detection.configs.{name}" for name in find_namespace_packages("configs")),
    ],
    package_dir=BESIDE,
)
