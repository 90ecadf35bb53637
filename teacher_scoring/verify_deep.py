"""`signals verify --deep`: a sample scored again with the models that a dataset names."""

from pathlib import Path
from typing import Any

from data.errors import ConfigurationError, ShardError
from data.signal_commands import SignalsVerifyOptions
from data.signals import SignalDataset
from teacher_scoring.assemble import SupportRule
from teacher_scoring.engine_run import EngineRequest
from teacher_scoring.models import FoundModel, find_model
from teacher_scoring.request import Report
from teacher_scoring.verify_sample import (
    describe_differences,
    row_differences,
    sample_rows,
    transformers_request,
)

__all__ = ["rescore_sample"]


def rescore_sample(folder: Path, options: SignalsVerifyOptions, report: Report) -> None:
    """Score some responses of a dataset again and compare probabilities.

    Args:
        folder: the dataset.
        options: how many responses, where the models are, and what difference passes.
        report: takes lines for the user.
    Raises:
        ConfigurationError: models that are not there, or whose weights are not those of the manifest.
        ShardError: a dataset that is no signal dataset, or whose numbers are not the models'.
        ScoringError: an engine that fails.
    """
    dataset = SignalDataset.open(folder)
    request = dataset.manifest.request
    teacher = _find(dataset, "teacher", options.teacher, options.teacher_adapter, options)
    reference = None
    if request.get("reference") is not None:
        reference = _find(dataset, "reference", options.reference, options.reference_adapter, options)

    def engine(model: FoundModel) -> EngineRequest:
        return transformers_request(
            model,
            dtype=request["dtype"],
            trust_remote_code=options.trust_remote_code,
            max_length=request["max_length"],
        )

    rows = sample_rows(dataset, options.deep)
    if not rows:
        report(f"{folder}: carries token ids alone; there is nothing to score again")
        return
    rule = SupportRule(
        top_p=1.0,
        teacher_vocab_size=teacher.vocab_size,
        reference_vocab_size=reference.vocab_size if reference is not None else None,
    )
    found = row_differences(
        rows,
        engine(teacher),
        engine(reference) if reference is not None else None,
        rule,
        rounded=request["precision"] == "rounded",
    )
    largest = {name: max(differences[name] for differences in found) for name in found[0]}
    positions = sum(len(row.response_ids) for row in rows)
    report(
        f"{len(rows):,} responses ({positions:,} positions) scored again with transformers; "
        f"{describe_differences(largest)}"
    )
    wrong = [
        (differences["probability"], row)
        for row, differences in zip(rows, found, strict=True)
        if not differences["probability"] <= options.tolerance
    ]
    if wrong:
        worst, row = max(wrong, key=lambda entry: entry[0])
        raise ShardError(
            f"{folder}: {len(wrong):,} of {len(rows):,} responses differ from their models by more than --tolerance "
            f"{options.tolerance:g}, most the {row.role} one of pair {row.pair_id}: {worst:.2g} in probability; "
            "delete the dataset and the passes that it was made of, and score again"
        )


def _find(
    dataset: SignalDataset, name: str, given: str | None, adapter: str | None, options: SignalsVerifyOptions
) -> FoundModel:
    """A model of the dataset, where the user or the manifest says that it is, with the weights of the manifest."""
    manifest = dataset.manifest
    recorded: dict[str, Any] = manifest.request[name]
    option = f"--{name}"
    place = given or str(manifest.created.get(name) or recorded["source"])
    made_with = recorded.get("adapter")
    if (made_with is None) != (adapter is None):
        told = "had none" if made_with is None else f"had one ({made_with['source']})"
        action = "leave the option out" if made_with is None else "say where it is"
        raise ConfigurationError(f"{option}-adapter: the {name} of {dataset.path} {told}; {action}")
    revision = None if Path(place).exists() else recorded["revision"]
    found = find_model(
        option, place, revision=revision, adapter=adapter, trust_remote_code=options.trust_remote_code
    )
    now = found.describe()
    _compare_weights(option, place, recorded, now)
    if made_with is not None:
        _compare_weights(f"{option}-adapter", str(adapter), made_with, now["adapter"])
    return found


def _compare_weights(option: str, place: str, recorded: dict[str, Any], now: dict[str, Any]) -> None:
    if recorded["weights_sha256"] != now["weights_sha256"]:
        raise ConfigurationError(
            f"{option}: {place} has weights {now['weights_sha256'][:12]}..., the dataset was made with "
            f"{recorded['weights_sha256'][:12]}...; say where those are"
        )
