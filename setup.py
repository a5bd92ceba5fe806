"""What the wheel holds; all else about the project stands in pyproject.toml.

The settings stand in `configs/`, where a reader of the repository looks for them, and are installed
as `torchrl_td/configs/`.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["torchrl_td*"]), "torchrl_td.configs"],
    package_dir={"torchrl_td.configs": "configs"},
    package_data={
        "torchrl_td": ["py.typed"],
        "torchrl_td.configs": ["**/*.yaml"],
        "torchrl_td.demo": ["README.md", "checkpoint/**/*"],
    },
)
