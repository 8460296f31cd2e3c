"""Run the code cells of a notebook, but that of the installation, and print what each shows.

`python run_notebook.py kernel NOTEBOOK` runs them in a kernel of Jupyter. `plain` in place of
`kernel` runs them in this process, which needs only Python, and asks what the last expression of a
cell shows as a notebook asks. The output is JSON: for each cell, a list of "html" and "png".
"""

import ast
import json
import sys
from pathlib import Path


def run_in_kernel(cells):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return [forms_of(cell.outputs) for cell in notebook.cells]


def forms_of(outputs):
    """Return the pictures among outputs, and the form of the result. Other outputs are progress."""
    forms = []
    for output in outputs:
        if output.output_type == "stream":
            sys.stderr.write(output.text)
        elif "image/png" in output.data:
            forms.append("png")
        elif output.output_type == "execute_result" and "text/html" in output.data:
            forms.append("html")
    return forms


def run_here(cells):
    namespace = {"__name__": "__main__"}
    shown = []
    for cell in cells:
        tree = ast.parse(cell)
        last = tree.body.pop()
        exec(compile(tree, "cell", "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)
        shown.append([form for form in ("html", "png") if shows(value, form)])
    return shown


def shows(value, form):
    show = getattr(value, f"_repr_{form}_", None)
    return show is not None and show() is not None


def code_of(path):
    """Return the code of each cell, but that of the installation."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    return [
        "".join(cell["source"])
        for cell in cells
        if cell["cell_type"] == "code" and cell["id"] != "install"
    ]


if __name__ == "__main__":
    run = {"kernel": run_in_kernel, "plain": run_here}[sys.argv[1]]
    print(json.dumps(run(code_of(sys.argv[2]))))
