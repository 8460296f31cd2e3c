"""Which files of clipkit import which, also inside functions, for type checkers and by strings.

`python tests/imports.py` prints the longest chain of imports, of all modules and inside `features`.
"""

import ast
import fnmatch
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

ROOT = Path(__file__).parents[1]


def find_modules():
    """Return the files of clipkit by the names of their modules."""
    modules = {}
    for file in sorted((ROOT / "clipkit").rglob("*.py")):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        modules[name.removesuffix(".__init__")] = file
    return modules


def text_of(string, module, package):
    """Return the text of a string or f-string, with * for what only a run can tell."""
    known = {"__name__": module, "__package__": package}
    text = ""
    for part in getattr(string, "values", [string]):
        if isinstance(part, ast.Constant):
            text += part.value
        else:
            text += known.get(ast.unparse(part.value), "*")
    return text


def names_in(file, module):
    """Yield the full names that a file imports, and its strings that may be such names."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                source = resolve_name("." * node.level + (node.module or ""), package)
                yield from (f"{source}.{alias.name}" for alias in node.names)
            case ast.Constant(value=str()) | ast.JoinedStr():
                text = text_of(node, module, package)
                if text.startswith("clipkit."):
                    yield text


def read_imports():
    """Return the modules that each module imports.

    `from a.b import c` imports a.b.c if that is a module, otherwise a.b, but not the package a.
    """
    modules = find_modules()
    imports = {}
    for module, file in modules.items():
        imports[module] = set()
        for name in names_in(file, module):
            parent = name.rpartition(".")[0]
            imports[module].update(fnmatch.filter(modules, name) or fnmatch.filter(modules, parent))
        imports[module].discard(module)
    return imports


def inside(imports, package):
    """Return the imports of the modules of a package among each other."""
    modules = {module for module in imports if module.startswith(f"{package}.")}
    return {module: imports[module] & modules for module in modules}


def longest_chain(imports):
    """Return the longest chain of modules that import each other; refuse a circle (CycleError)."""
    chains = {}
    for module in TopologicalSorter(imports).static_order():
        below = [chains[other] for other in sorted(imports[module])]
        chains[module] = [module, *max(below, key=len, default=[])]
    return max(chains.values(), key=len)


if __name__ == "__main__":
    read = read_imports()
    for place, imports in (("", read), (" inside features", inside(read, "clipkit.features"))):
        chain = longest_chain(imports)
        print(f"longest chain of imports{place}: {len(chain)} modules: {' '.join(chain)}")
