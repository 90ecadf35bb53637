"""What a checkpoint says of held-out signals: one forward pass, figures of every response, no gradient.

The evaluation is handed `measure_signals`; this room has what the pass needs (the sparse LM head, the objectives).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from data.errors import DataError
from data.model_identity import refuse_adapter, resolve_model
from data.progress import Progress
from data.signals.dataset import SignalDataset
from data.signals.schema import ROLES, ResponseIds, ResponseSignals
from data.tokens.vocabulary import Vocabulary, check_agreement
from student_training.batching.collator import PairCollator, model_inputs
from student_training.head.fused import SparseLogprobs, sparse_logprobs
from student_training.head.lm_head import read_head, split_model
from student_training.methods.base import Needs
from student_training.model.loading import load_student, load_tokenizer
from student_training.objectives import expected_advantage, forward_kl

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldOutFigures:
    """Sums over the positions of each response, one array element for a response.

    Attributes:
        identity: what identifies the checkpoint.
        pair_ids: the pairs' ids.
        roles: `chosen`, `rejected` or `student`.
        sample_indices: which of several samples.
        positions: how many positions.
        sums: float64 arrays by name: `nll`, `entropy`; of rows with signals `kl`, `coverage`; with advantages
            `expected_advantage` and `teacher_expected_advantage`. Nats (coverage: mass), nan where a row has none.
    """

    identity: Mapping[str, Any]
    pair_ids: tuple[str, ...]
    roles: tuple[str, ...]
    sample_indices: tuple[int, ...]
    positions: np.ndarray
    sums: Mapping[str, np.ndarray]


def measure_signals(
    name: str,
    dataset: SignalDataset,
    *,
    option: str = "--model",
    limit: int | None = None,
    batch_size: int = 16,
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> HeldOutFigures:
    """Run a checkpoint over the responses of a signal dataset.

    Args:
        name: a checkpoint folder or a hub name.
        dataset: held-out signals.
        option: the option that named the checkpoint, for messages.
        limit: pairs to use, from the first on; None for all.
        batch_size: pairs that go through the model at once.
        dtype: arithmetic, `float32` or `bfloat16`.
        trust_remote_code: whether code that comes with the checkpoint may run.
    Raises:
        ConfigurationError: for a folder or name that is not a language model.
        DataError: for a checkpoint that has not the dataset's token ids.
    """
    folder, identity = resolve_model(name, option=option)
    refuse_adapter(folder, option)
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    teacher = Vocabulary.from_folder(dataset.tokenizer_folder)
    student = Vocabulary.from_tokenizer(tokenizer)
    for note in check_agreement(
        teacher, student, teacher_name=f"{dataset.path} (teacher)", student_name=name
    ):
        logger.info("note: %s", note)
    transformers_logging.disable_progress_bar()  # one bar for each checkpoint that is loaded
    model = load_student(Path(folder), trust_remote_code=trust_remote_code).eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)  # pyright: ignore[reportArgumentType]
    scored = frozenset(dataset.roles)
    needs = Needs(roles=frozenset(ROLES), signals=scored, advantages=dataset.has_advantages)
    collator = PairCollator(
        needs, vocab_size=read_head(model).weight.shape[0], pad_token_id=tokenizer.pad_token_id or 0
    )
    embeddings: Any = model.get_input_embeddings()
    num_embeddings = embeddings.weight.shape[0]
    rows: list[ResponseIds] = []
    parts: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    indices = range(dataset.num_pairs if limit is None else min(limit, dataset.num_pairs))
    starts = range(0, len(indices), batch_size)
    with Progress(Path(name).name, unit="pairs", total=len(indices)) as progress:
        for start in starts:
            pairs = [(index, dataset.pair(index)) for index in indices[start : start + batch_size]]
            # As the collator orders them: by role, then by pair.
            batch_rows = [row for role in ROLES for _, found in pairs for row in found if row.role == role]
            largest = max(int(ids.max()) for row in batch_rows for ids in (row.prompt_ids, row.response_ids))
            if largest >= num_embeddings:
                raise DataError(
                    f"{option}: {name} has {num_embeddings:,} embeddings, and {dataset.path} holds token {largest:,}; "
                    "measure a checkpoint that has the teacher's tokens"
                )
            batch = {key: tensor.to(device) for key, tensor in collator(pairs).items()}
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"),
            ):
                values = _position_values(model, batch, scored, dataset.has_advantages, batch_rows)
            rows += batch_rows
            parts.append(values)
            progress.update(len(pairs))
    del model
    return HeldOutFigures(
        identity=identity.as_dict(),
        pair_ids=tuple(row.pair_id for row in rows),
        roles=tuple(row.role for row in rows),
        sample_indices=tuple(row.sample_index for row in rows),
        positions=np.concatenate([lengths for lengths, _ in parts]),
        sums={key: np.concatenate([sums[key] for _, sums in parts]) for key in parts[0][1]},
    )


def _position_values(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    scored: frozenset[str],
    has_advantages: bool,
    rows: Sequence[ResponseIds],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(positions of each row, sums of each figure over them)."""
    backbone, head = split_model(model)
    hidden = backbone(**model_inputs(batch)).flatten(0, 1)[batch["position_index"]]
    mask = batch["support_mask"]
    student = sparse_logprobs(hidden, head, batch["labels"], batch["support_ids"].long(), mask)
    values = {"nll": -student.token, "entropy": student.entropy}
    with_signals = np.array([row.role in scored and isinstance(row, ResponseSignals) for row in rows])
    if with_signals.any():
        values["kl"] = forward_kl(
            student.support, student.tail, batch["teacher_logprobs"], batch["teacher_tail"], support_mask=mask
        )
        values["coverage"] = student.support.exp().masked_fill(~mask, 0.0).sum(-1)
        if has_advantages:
            values["expected_advantage"] = _expected_advantage(student, batch)
            teacher = SparseLogprobs(
                token=batch["teacher_token"],
                support=batch["teacher_logprobs"],
                tail=batch["teacher_tail"],
                entropy=torch.zeros_like(batch["teacher_tail"]),
            )
            values["teacher_expected_advantage"] = _expected_advantage(teacher, batch)
    row_of_position = batch["position_row"].cpu().numpy()
    lengths = np.bincount(row_of_position, minlength=len(rows))
    sums = {}
    for key, column in values.items():
        weights = column.double().cpu().numpy()
        sums[key] = np.bincount(row_of_position, weights=weights, minlength=len(rows))
        if key not in ("nll", "entropy"):
            sums[key][~with_signals] = np.nan
    empty = np.full(len(rows), np.nan)
    names = ("nll", "entropy", "kl", "coverage", "expected_advantage", "teacher_expected_advantage")
    return lengths, {key: sums.get(key, empty) for key in names}


def _expected_advantage(distribution: SparseLogprobs, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Unclipped, the tail counted as worth nothing: as docs/objectives.md has it before any method's clipping."""
    return expected_advantage(
        distribution.support, distribution.tail, batch["advantages"], support_mask=batch["support_mask"]
    )
