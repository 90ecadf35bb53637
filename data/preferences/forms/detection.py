"""Detection of the rows' form from the first row; every later row must have the same form.

A row that shows several forms is taken for the one that says most (a pair before a conversation before a prompt);
among those that say as much, for the one that reads more of its columns. Where two are left that would say different
things, nobody can tell, and the error lists them.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from data.errors import ConfigurationError
from data.preferences.forms.columns import RowError, given, listed
from data.preferences.forms.content import SYSTEM_COLUMNS, Content, Said
from data.preferences.forms.form import Form, Found
from data.preferences.forms.pairs import PAIR_FORMS
from data.preferences.forms.scored import SCORED_FORMS
from data.preferences.forms.turns import column_kind
from data.preferences.forms.votes import VOTE_FORMS
from data.preferences.messages import as_turns

FORMS: tuple[Form, ...] = (*PAIR_FORMS, *VOTE_FORMS, *SCORED_FORMS)

_COMMON = ("id", *SYSTEM_COLUMNS, "tools", "chat_template_kwargs")

# Columns that are part of the prompt in other tools' data; a prompt without them would be another one.
_CANNOT_BE_READ = {
    **dict.fromkeys(
        ("image", "images", "video", "videos", "audio", "audios"),
        "media, which a language model is not shown",
    ),
    "history": "earlier turns, which this form does not read",
    "documents": "documents, which belong to the prompt",
    "functions": "tools in a form that is no longer used; write them into `tools`",
}

_KNOWN_COLUMNS = {*_COMMON, *(column for form in FORMS for column in form.columns)}


def find_form(name: str) -> Form:
    """The form of a name.

    Raises:
        ConfigurationError: for a name that no form has.
    """
    for form in FORMS:
        if form.name == name:
            return form
    near = difflib.get_close_matches(name, [form.name for form in FORMS], n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ConfigurationError(
        f"form {name!r} is not known{hint}; forms are: {', '.join(form.name for form in FORMS)}"
    )


# --- Columns under other names


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnMap:
    """Columns that rows have under other names, as the user said.

    Attributes:
        paths: for each name that a form reads, the path to its value in a row; empty for a column to leave out.
    """

    paths: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def parse(cls, mappings: Iterable[str]) -> "ColumnMap":
        """Read mappings such as `chosen=answers.0.text`, or `images=` for a column to leave out.

        Raises:
            ConfigurationError: for what is no mapping, a name that no form reads, or one mapped twice.
        """
        paths: dict[str, tuple[str, ...]] = {}
        for mapping in mappings:
            name, equals, path = (part.strip() for part in mapping.partition("="))
            if not equals or not name:
                raise ConfigurationError(f"map {mapping!r} is not NAME=COLUMN, such as chosen=my_column")
            if path and name not in _KNOWN_COLUMNS:
                raise ConfigurationError(
                    f"map {mapping!r}: no form reads {name!r}; names are: {listed(_KNOWN_COLUMNS)}"
                )
            if name in paths:
                raise ConfigurationError(f"map {mapping!r}: {name!r} is mapped twice")
            paths[name] = tuple(path.split(".")) if path else ()
        return cls(tuple(paths.items()))

    @property
    def names(self) -> frozenset[str]:
        """The names that get a value."""
        return frozenset(name for name, path in self.paths if path)

    def check(self, row: Mapping[str, Any]) -> None:
        """Check that a row has every column that is mapped; for the first row, where a typing error shows.

        Raises:
            RowError: for a path that leads nowhere.
        """
        for name, path in self.paths:
            if path and path[0] not in row:
                raise RowError(
                    "mapped column is missing",
                    f"no column {path[0]!r}, which map {name}={'.'.join(path)} asks for; columns are: {listed(row)}",
                )

    def apply(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with every mapped value under its new name, and not under the old one where that is a column."""
        if not self.paths:
            return row
        moved = {path[0] for _, path in self.paths if len(path) == 1}
        kept = {name: value for name, value in row.items() if name not in moved}
        for name, path in self.paths:
            if path:
                kept[name] = _follow(row, path, name)
            else:
                kept.pop(name, None)
        return kept


def _follow(row: Mapping[str, Any], path: tuple[str, ...], name: str) -> Any:
    value: Any = row
    for at, step in enumerate(path):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list | tuple) and step.lstrip("-").isdecimal():
            index = int(step)
            value = value[index] if -len(value) <= index < len(value) else None
        elif value is not None:
            raise RowError(
                "mapped column is missing",
                f"map {name}={'.'.join(path)}: `{'.'.join(path[:at])}` is of type {type(value).__name__}, which has no "
                f"{step!r}",
            )
    return value


# --- Detection


@dataclasses.dataclass(frozen=True, slots=True)
class DetectedForm:
    """The form that rows have.

    Attributes:
        form: the form.
        description: what the rows look like, in words.
        location: where the row was read that showed it.
        unread: columns of that row that hold something and are not read.
    """

    form: Form
    description: str
    location: str
    unread: tuple[str, ...]

    def read(self, row: Mapping[str, Any], pairing: str) -> Iterable[Said]:
        """What a row says, given which pairs a list of scored answers gives.

        Raises:
            RowError: for a row of another form, one that cannot be used, or columns that would have to be read.
        """
        found = self.form.read(row)
        if found is None or found.description != self.description:
            seen = detect_form(row).description if found is None else found.description
            raise RowError(
                "another form",
                f"{seen}, unlike {self.location} ({self.description}); all rows must have one form",
            )
        for column in row.keys() & _CANNOT_BE_READ.keys():
            if column not in self.form.columns and given(row, column) and row[column] != "":
                raise RowError(
                    f"`{column}` cannot be used",
                    f"`{column}` holds {_CANNOT_BE_READ[column]}; remove the row, or leave the column out with "
                    f"map {column}=",
                )
        return found.said(pairing)


def detect_form(
    row: Mapping[str, Any],
    *,
    location: str = "",
    mapped: frozenset[str] = frozenset(),
    name: str | None = None,
) -> DetectedForm:
    """Tell which form a row has from the columns that hold something (null and empty lists are nothing).

    Args:
        row: the row, mapped columns under their new names.
        location: where it was read.
        mapped: those names; the form has to read them.
        name: the form that the user says it is.
    Raises:
        RowError: for a row of no form, or of several that say different things.
    """
    if name is not None:
        form = find_form(name)
        as_named = form.read(row)
        if as_named is None:
            raise RowError(
                "another form",
                f"not of the form {name}, which reads {', '.join(form.columns[:6])}; columns with content: "
                f"{listed(column for column in row if given(row, column))}",
            )
        return DetectedForm(form, as_named.description, location, _unread(row, form))
    readable = [form for form in FORMS if mapped <= {*form.columns, *_COMMON}]
    found = [(form, as_form) for form in readable if (as_form := form.read(row)) is not None]
    if not found:
        raise RowError("another form", _no_form(row))
    most = min(form.kind for form, _ in found)
    found = [(form, as_form) for form, as_form in found if form.kind == most]
    read = {form.name: {column for column in form.columns if given(row, column)} for form, _ in found}
    found = [
        (form, as_form)
        for form, as_form in found
        if not any(read[form.name] < read[other.name] for other, _ in found)
    ]
    form, first = found[0]
    if len(found) > 1 and len({_essence(as_form) for _, as_form in found}) > 1:
        names = ", ".join(f"{candidate.name} ({as_form.description})" for candidate, as_form in found)
        raise RowError(
            "several forms",
            f"this may be any of these forms: {names}; say which by form, or name columns by map",
        )
    return DetectedForm(form, first.description, location, _unread(row, form))


def _essence(found: Found) -> str:
    """What a form finds in a row, text and a single user turn being the same; an error's text where it finds none."""
    try:
        said = next(iter(found.said("best-worst")), None)
    except RowError as error:
        return str(error)
    content = said if isinstance(said, Content) else getattr(said, "content", None)
    if content is None:
        return repr(said)
    return repr(
        [
            None if part is None else as_turns(part, role)
            for part, role in zip(content[:3], ("user", "assistant", "assistant"), strict=True)
        ]
    )


def _unread(row: Mapping[str, Any], form: Form) -> tuple[str, ...]:
    known = {*form.columns, *_COMMON}
    return tuple(name for name in row if name not in known and given(row, name) and row[name] != "")


def _no_form(row: Mapping[str, Any]) -> str:
    has = {name for name in row if given(row, name)}
    if "chosen" in has:
        what = f"`chosen` is {column_kind(row, 'chosen')} and there is no `prompt`"
    elif "rejected" in has:
        what = "no `chosen`"
    elif "stepwise" in has or {"completions", "labels"} <= has:
        what = "answers in steps with a label each, which say nothing of whole answers"
    else:
        what = "no known form"
    wrapped = [
        name for name in has if isinstance(row[name], list) and row[name] and isinstance(row[name][0], dict)
    ]
    if len(has) == 1 and wrapped:
        return (
            f"one object whose only column `{wrapped[0]}` is a list of objects; if those are the rows, write them into "
            f"a separate file (`jq -c '.{wrapped[0]}[]'`)"
        )
    return (
        f"{what}; columns with content: {listed(has)}; forms are: {', '.join(form.name for form in FORMS)} "
        "(docs/data.md shows each; map NAME=COLUMN names a column, form NAME picks one)"
    )
