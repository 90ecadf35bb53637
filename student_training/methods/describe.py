"""Methods in words, from their own declarations: for `train-student --help-method` and docs/methods.md."""

import dataclasses
import typing
from collections.abc import Iterable
from typing import Any

from data.options.fields import flag_name, option_type
from student_training.methods.base import MethodSpec, Needs
from student_training.methods.settings import PRESETS, display


def describe_method(spec: MethodSpec[Any]) -> str:
    """What a method minimises, what it reads and each of its settings, as lines for a terminal."""
    lines = [f"{spec.name}: {spec.summary}", f"reads {_reads(_needs(spec))}", ""]
    fields = dataclasses.fields(spec.settings)
    if not fields:
        return "\n".join([*lines, "It has no settings."])
    flags = {field.name: f"{', '.join(_spellings(field))} {_kind(spec, field)}" for field in fields}
    width = max(map(len, flags.values())) + 2
    for field in fields:
        meaning = field.metadata.get("help", "")
        lines.append(f"  {flags[field.name]:<{width}}{meaning}  [default: {display(field.default)}]")
        for preset, value in field.metadata.get("presets", {}).items():
            lines.append(f"  {'':<{width}}with --preset {preset}: {display(value)}")
    return "\n".join(lines)


def methods_table(specs: Iterable[MethodSpec[Any]]) -> str:
    """A row for each method: its name, its loss, what it reads, its settings with their defaults."""
    lines = ["| `--method` | loss | reads | own settings (defaults) |", "| --- | --- | --- | --- |"]
    for spec in specs:
        own = ", ".join(f"`{flag_name(name)}` {display(default)}" for name, default in spec.defaults.items())
        lines.append(f"| `{spec.name}` | {spec.summary} | {_reads(_needs(spec))} | {own or 'none'} |")
    return "\n".join(lines) + "\n"


def settings_tables(specs: Iterable[MethodSpec[Any]]) -> str:
    """A table of settings for each class of them, under the names of the methods that share it."""
    shared: dict[type, list[MethodSpec[Any]]] = {}
    for spec in specs:
        if dataclasses.fields(spec.settings):
            shared.setdefault(spec.settings, []).append(spec)
    parts = []
    for settings, owners in shared.items():
        names = ", ".join(f"`{spec.name}`" for spec in owners)
        parts += [f"\n**{names}**\n", "| setting | default | meaning |", "| --- | --- | --- |"]
        for field in dataclasses.fields(settings):
            flags = ", ".join(f"`{flag}`" for flag in _spellings(field))
            kind = _kind(owners[0], field).replace("|", "\\|")
            parts.append(f"| {flags} {kind} | {display(field.default)} | {field.metadata['help']} |")
    return "\n".join(parts) + "\n"


def presets_table(specs: Iterable[MethodSpec[Any]]) -> str:
    """What each preset sets, by method."""
    lines = ["| `--preset` | method | sets |", "| --- | --- | --- |"]
    specs = list(specs)
    for preset, normalize in PRESETS.items():
        for spec in specs:
            values = {
                field.name: field.metadata["presets"][preset]
                for field in dataclasses.fields(spec.settings)
                if preset in field.metadata["presets"]
            }
            if values:
                values["normalize"] = normalize
                named = ", ".join(f"`{flag_name(name)}` {display(value)}" for name, value in values.items())
                lines.append(f"| `{preset}` | `{spec.name}` | {named} |")
    return "\n".join(lines) + "\n"


def _needs(spec: MethodSpec[Any]) -> Needs:
    return spec.build(spec.settings()).needs


def _reads(needs: Needs) -> str:
    """The rows and columns that a method needs: `chosen ids, student signals with advantages, --rollouts`."""
    parts = []
    if ids := needs.roles - needs.signals:
        parts.append(f"{_listed(ids)} ids")
    if needs.signals:
        advantages = " with advantages" if needs.advantages else ""
        parts.append(f"{_listed(needs.signals)} signals{advantages}")
    if needs.behavior:
        parts.append("`--rollouts`")
    if needs.initial or needs.initial_support:
        parts.append("one pass over the student first")
    return ", ".join(parts)


def _listed(roles: frozenset[str]) -> str:
    *others, last = sorted(roles)
    return f"{', '.join(others)} and {last}" if others else last


def _spellings(field: dataclasses.Field) -> list[str]:
    return [flag_name(field.name), *field.metadata.get("aliases", ())]


def _kind(spec: MethodSpec[Any], field: dataclasses.Field) -> str:
    """What a setting takes: its choices, or its type with the smallest value."""
    if choices := field.metadata.get("choices"):
        return "|".join(choices)
    scalar, _, _ = option_type(typing.get_type_hints(spec.settings)[field.name])
    if scalar is bool:
        return "on|off"
    minimum = field.metadata.get("minimum")
    return scalar.__name__.upper() + ("" if minimum is None else f" >= {minimum:g}")
