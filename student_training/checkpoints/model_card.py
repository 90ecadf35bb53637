"""The README.md of a trained student: what it was made from and how, as far as the run knows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from data.files import write_atomic
from data.signals.dataset import SignalDataset

#: A card that has this line was written by a run, and is written again when the run is extended.
_OWN = "<!-- written by train-student; remove this line to keep your own text -->"

_CARD = """---
{header}# license: fill in what the licences of the base model, the teacher and the data allow
---

# {title}

`{base}`, trained with `adpa train-student`.

## Method

`{method}`: {summary}

| setting | value |
| --- | --- |
{settings}

## Data

{data}

## Results

| metric | first | last |
| --- | --- | --- |
{metrics}

`metrics.jsonl` has every logged step; `adpa explain METRIC` says what a metric means.

## How it was made

`run.toml` has all options, the versions of the libraries and the fingerprints of the inputs;
`adpa train-student --config run.toml` does it again.

Resumable checkpoints under `checkpoints/` are no part of the model; leave them out of an upload:
`hf upload REPOSITORY {folder} --exclude "checkpoints/*"`.

## Licence

- base model `{base}`: *fill in*
- teacher: *fill in*
- data: *fill in*

{own}
"""


def write_model_card(
    out: Path,
    *,
    student: str,
    method: str,
    summary: str,
    settings: Mapping[str, Any],
    signals: Sequence[SignalDataset],
    data: str | None,
    first: Mapping[str, float],
    last: Mapping[str, float],
) -> None:
    """Write the card, unless there is one that the user has edited.

    Args:
        out: the run's folder.
        student: what was trained, as the user named it.
        method: by its name.
        summary: its loss in one line.
        settings: its settings.
        signals: what it was trained on, with a teacher.
        data: what it was trained on, without one.
        first: metrics at the beginning, held-out ones among them (`eval_`).
        last: the same at the end.
    """
    path = out / "README.md"
    if path.exists() and _OWN not in path.read_text(encoding="utf-8"):
        return
    header = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        # A folder of this machine is no model that the hub could link to.
        **({} if Path(student).exists() else {"base_model": student}),
        "tags": ["adpa", method],
    }
    names = [name for name in last if name in first and _is_result(name)]
    card = _CARD.format(
        header=yaml.safe_dump(header, sort_keys=False),
        base=Path(student).name if Path(student).exists() else student,
        title=out.resolve().name,
        method=method,
        summary=summary,
        settings=_rows((f"`{name}`", value) for name, value in settings.items()),
        data=_described(signals, data),
        metrics=_rows((f"`{name}`", f"{first[name]:.4g}", f"{last[name]:.4g}") for name in names),
        folder=out.resolve().name,
        own=_OWN,
    )
    write_atomic(path, card)


def _is_result(name: str) -> bool:
    return name.removeprefix("eval_") not in {"step", "epoch", "learning_rate", "grad_norm", "tokens_per_second",
                                              "data_share", "tflops", "model_flops_utilisation"}  # fmt: skip


def _rows(rows: Any) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _described(signals: Sequence[SignalDataset], data: str | None) -> str:
    if data is not None:
        return f"- preference data `{data}`, without a teacher"
    lines = []
    for dataset in signals:
        models = {
            role: _source(model)
            for role in ("teacher", "reference")
            if (model := dataset.manifest.request.get(role)) is not None
        }
        named = ", ".join(f"{role} `{source}`" for role, source in models.items())
        lines.append(
            f"- signals `{dataset.path.name}` ({dataset.num_pairs:,} pairs, fingerprint "
            f"`{dataset.manifest.fingerprint[:12]}`): {named}"
        )
    return "\n".join(lines)


def _source(model: Any) -> str:
    return str(model.get("source", "unknown")) if isinstance(model, Mapping) else json.dumps(model)
