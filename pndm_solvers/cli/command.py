"""How every command reads: its help in sections, and the library's messages with the names of its options."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Any

from typer.core import TyperCommand

__all__ = ["COMPUTED", "DRAWN", "INTERRUPTED", "MEASURED", "SINGLE", "SOLVED", "WRITTEN", "Command", "in_options"]

# The sections of --help, in their order. The options of single methods are many and come last.
DRAWN, MEASURED, SOLVED = "What is drawn", "What is measured", "How it is solved"
WRITTEN, COMPUTED, SINGLE = "What is written", "How it is computed", "Options of single methods"
SECTIONS = ("Arguments", DRAWN, MEASURED, SOLVED, WRITTEN, COMPUTED, SINGLE, "Options")

INTERRUPTED = 130  # the exit status after Ctrl-C, also where a part is finished and written

# The library's parameters whose options have another name.
RENAMED = {"num_inference_steps": "steps", "max_model_calls": "calls", "batch_size": "batch"}

# The options of the command that runs, by the names of their parameters.
NAMES: ContextVar[dict[str, str]] = ContextVar("NAMES")


class Command(TyperCommand):
    """A command whose help has sections, by the `rich_help_panel` of its options."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. From here on messages of the library have the names of its options."""
        options = {param.name: param.opts[0] for param in self.params if param.opts[0].startswith("--")}
        NAMES.set(options | {name: options[own] for name, own in RENAMED.items() if own in options})
        return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in their sections."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in SECTIONS}
        for param in self.get_params(ctx):
            default = "Arguments" if param.param_type_name == "argument" else "Options"
            record = param.get_help_record(ctx)
            if record is not None:
                sections[getattr(param, "rich_help_panel", None) or default].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def in_options(message: object) -> str:
    """A message of the library in which the parameters of the command's options have the names of the options.

    A parameter is the first word before a verb, `name=value`, or a name that is no English word.
    """
    names = NAMES.get({})

    def option(found: re.Match[str]) -> str:
        name, value = found["name"], (found.groupdict().get("value") or "").strip("'\"")
        if name not in names:
            return found[0]
        return f"{names[name]} {value}" if value else names[name]

    text = re.sub(r"^(?P<name>\w+)(?= (?:is|are|has|holds|names|belongs|must) | = )", option, str(message))
    text = re.sub(r"\b(?P<name>[a-z]\w*)=(?P<value>'[^']*'|[\w.+-]*\w)?", option, text)
    text = re.sub(rf"\b(?P<name>{'|'.join(RENAMED)})\b", option, text)
    if "model" in names and re.search(r"\bdata_(mean|range)=", text):
        text += (
            ". On the command line pass --model module:function, which returns Network(…, data_mean=…, data_range=…)"
        )
    return text
