"""Run the examples of README.md and docs/ page by page, and write down what they print.

A block marked `console` holds commands after `$ ` and, below each, its output. The commands of a
page run in a new folder that sees `prompts/`. The pages of docs/commands/ share one folder, since
each uses the files of those before it. A picture that the page shows (docs/images/NAME) is what its
commands make under that name. The table of models is written, too, and into docs/versions.txt the
versions of the libraries that computed the numbers.

    python docs/examples.py            # run every page, write the outputs into it
    python docs/examples.py README.md  # one page, or all pages of commands if it is one of them
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent
# The pages of commands, in the order in which their examples run
COMMANDS = (
    "embed embed-inputs embed-layers embed-models textembed logits entropy probe predict zeroshot "
    "nearest retrieve choose calibrate threshold cluster split concat relabel importance variance "
    "attributes describe compare mistakes align run null plot report info list convert start"
)
COMMAND_PAGES = [ROOT / "docs" / "commands" / f"{name}.md" for name in COMMANDS.split()]
OTHER_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*OTHER_PAGES, *COMMAND_PAGES]
# Pages whose examples run in one folder
SESSIONS = [*([page] for page in OTHER_PAGES), COMMAND_PAGES]
MODELS = re.compile(r"^<!-- models -->\n(?:.+\n)*", re.MULTILINE)
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A command, which a backslash continues on the next line, and the lines that it prints.
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
# Long work writes its progress into a log; how often depends on the machine.
PROGRESS = re.compile(
    r"^clipkit: .*(?: left| in \d+ s|running for \d+ s|/s|images with .* to .*)\n", re.MULTILINE
)
# Libraries on which printed numbers and digests depend
LIBRARIES = "h5py numpy pillow scikit-learn scipy torch torchvision transformers"
VERSIONS = ROOT / "docs" / "versions.txt"
PROGRAM = re.compile(r"^```py\n(# (\w+\.py)\n.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"\]\((?:docs/|\.\./)?images/([\w.-]+)\)")


def examples(block: str) -> list[tuple[str, str]]:
    """Return each command of a block and its output."""
    return COMMAND.findall(block)


def run(command: str, folder: Path, programs: Path = PROGRAMS) -> str:
    """Run a command that must succeed; return what it prints, standard error included.

    `clipkit` is that of the folder `programs`, `python` that of this process. It computes on the
    CPU, whose numbers are equal on all machines.
    """
    path = os.pathsep.join((str(programs), str(PROGRAMS), os.environ["PATH"]))
    env = {**os.environ, "PATH": path, "COLUMNS": "100", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stdout}exit code {done.returncode}")
    return PROGRESS.sub("", done.stdout)


def versions() -> str:
    """Return a line for each of LIBRARIES: its name, and its version without a local part."""
    lines = [f"{name} {version(name).partition('+')[0]}" for name in LIBRARIES.split()]
    return "\n".join([*lines, ""])


def models() -> str:
    """Return the table of the kinds of models that clipkit reads."""
    from clipkit.models.families import FAMILIES
    from clipkit.models.libraries import EXTRAS

    embeddings = {"image_embeds": "projection", "text_embeds": "projection"}
    embeddings["pooler_output"] = "pooler"
    rows = ["| kind | for | for example | embedding | library |", "|---|---|---|---|---|"]
    for kind, family in FAMILIES.items():
        inputs = ", ".join(f"{tower}s" for tower in family.towers)
        example = f"`{family.example}`" if family.example else ""
        output = next(iter(family.outputs.values()))
        library = "transformers"
        if family.since:
            library += f" {family.since} or newer"
        cells = [f"`{kind}`", inputs, example, embeddings.get(output, output), library]
        rows.append(f"| {' | '.join(cells)} |")
    others = [
        ("`open_clip_config.json`", "images, texts", "`laion/CLIP-ViT-B-16-laion2B-s34B-b88K`"),
        ("`architecture` in config.json", "images", "`timm/vit_base_patch16_224.augreg_in21k`"),
    ]
    for library, cells in zip(("open_clip", "timm"), others, strict=True):
        extra = f"{library}, by `pip install 'clipkit-vl[{EXTRAS[library]}]'`"
        row = [*cells, "the library's", extra]
        rows.append(f"| {' | '.join(row)} |")
    return "<!-- models -->\n" + "\n".join(rows) + "\n"


def write_programs(page: Path, folder: Path) -> None:
    """Write the Python files that a page shows: blocks that begin with `# NAME.py`."""
    for block, name in PROGRAM.findall(page.read_text()):
        (folder / name).write_text(block)


def refresh(page: Path, folder: Path) -> str:
    """Return the page with its commands' current output, and copy its pictures to docs/images."""
    write_programs(page, folder)
    text = MODELS.sub(lambda _: models(), page.read_text())

    def again(match: re.Match[str]) -> str:
        shown = [f"$ {line}\n{run(line, folder)}" for line, _ in examples(match[1])]
        return f"```console\n{''.join(shown)}```"

    text = BLOCK.sub(again, text)
    for picture in set(PICTURE.findall(text)):
        if (folder / picture).exists():
            shutil.copyfile(folder / picture, ROOT / "docs" / "images" / picture)
    return text


def main() -> None:
    """Refresh the pages named on the command line, all by default."""
    (ROOT / "docs" / "images").mkdir(exist_ok=True)
    chosen = {ROOT / name for name in sys.argv[1:]} or set(PAGES)
    for session in SESSIONS:
        if not chosen.intersection(session):
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "prompts").symlink_to(ROOT / "prompts")
            for page in session:
                if BLOCK.search(page.read_text()) or MODELS.search(page.read_text()):
                    print(page.relative_to(ROOT), file=sys.stderr)
                    page.write_text(refresh(page, folder))
    if not sys.argv[1:]:  # other pages keep the numbers of other versions
        VERSIONS.write_text(versions())


if __name__ == "__main__":
    main()
