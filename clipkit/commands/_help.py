"""Arrange the help of commands: panels of options, without types and ranges of numbers."""

from __future__ import annotations

import copy
from typing import Any

OTHERS = "What to compute"  # the panel of all options that are not listed
ARGUMENTS = "Arguments"
PANELS = {
    ARGUMENTS: "",
    "Input": (
        "root path_column feature_column id_column label_column split_column split limit classes "
        "split_off prompts labels template column readable table attribute groups group_folder "
        "source captions items ask choices control control_texts unknown result run common "
        "same_rows model untrained thumbnails images"
    ),
    OTHERS: "",
    "How to run": ("device precision batch_size num_workers strict restart part engine replicas"),
    "Output": (
        "output format columns no_header force per_class per_image top scores keep ids title size "
        "dpi help"
    ),
}


class PlainHelp:
    """A command that shows its options in `PANELS`, or a group that shows its own in one."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show copies of the parameters: those that parse a command line keep their ranges."""
        shown: Any = copy.copy(self)
        parameters = [_shown(parameter) for parameter in shown.get_params(ctx)]
        if not hasattr(self, "commands"):
            for parameter in parameters:
                parameter.rich_help_panel = _panel(parameter)
            parameters.sort(key=lambda parameter: list(PANELS).index(parameter.rich_help_panel))
        shown.get_params = lambda _: parameters
        super(PlainHelp, shown).format_help(ctx, formatter)  # type: ignore[misc]


def _shown(parameter: Any) -> Any:
    """Return a copy of a parameter as the help shows it."""
    shown = copy.copy(parameter)
    shown.min = shown.max = None
    if "(default: " in (parameter.help or ""):
        shown.show_default = False
    if parameter.param_type_name == "argument":
        shown.display_type_rich = _no_type
        shown.get_usage_pieces = lambda _: [] if parameter.hidden else [parameter.metavar]
        return shown
    shown.metavar = "" if parameter.is_flag else parameter.metavar or "N"
    if parameter.secondary_opts and parameter.secondary_opts[0].startswith("--no-"):
        shown.opts = [parameter.opts[0].replace("--", "--[no-]")]
        shown.secondary_opts = []
    return shown


def _panel(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return ARGUMENTS
    for panel, names in PANELS.items():
        if parameter.name in names.split():
            return panel
    return OTHERS


def _no_type(ctx: Any) -> None:
    """Return no type of an argument, where Typer has <str>."""
