"""Package the folder prompts/ as clipkit.prompt_sets; pyproject.toml holds all other settings."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["clipkit*"]), "clipkit.prompt_sets"],
    package_dir={"clipkit.prompt_sets": "prompts"},
)
