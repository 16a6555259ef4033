from setuptools import find_namespace_packages, find_packages, setup

# In the checkout configs/ stands at the top, as detectron2's does; installed, it is in the package.
# aa_detection.config.configs_folder() finds either.
CONFIGS = "aa_detection.configs"

setup(
    packages=[
        *find_packages(include=["aa_detection*"]),
        CONFIGS,
        *(f"{CONFIGS}.{name}" for name in find_namespace_packages("configs")),
    ],
    package_dir={CONFIGS: "configs"},
)
