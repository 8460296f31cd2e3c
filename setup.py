"""Package the folder prompts/ as clipkit.prompt_sets, and README.md as a package index shows it.

pyproject.toml holds all other settings. CITATION.cff says where the repository is, once it has an
address.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup


def from_anywhere(text: str, repository: str) -> str:
    """Make the links and pictures of README.md lead into the repository."""

    def absolute(link: re.Match[str]) -> str:
        folder = "raw" if link[1].startswith("!") else "blob"
        return f"{link[1]}({repository}/{folder}/HEAD/{link[2]})"

    return re.sub(r"(!?\[[^]]+\])\((?!\w+:)([^)]+)\)", absolute, text)


description = Path("README.md").read_text(encoding="utf-8")
citation = Path("CITATION.cff").read_text(encoding="utf-8")
urls = {}
if found := re.search(r"^repository-code: *(\S+)", citation, re.MULTILINE):
    urls["Repository"] = found[1]
    description = from_anywhere(description, found[1])

setup(
    packages=[*find_packages(include=["clipkit*"]), "clipkit.prompt_sets"],
    package_dir={"clipkit.prompt_sets": "prompts"},
    long_description=description,
    long_description_content_type="text/markdown",
    project_urls=urls,
)
