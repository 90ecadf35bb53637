"""How the rows of a batch become a model's inputs: padded side by side, or packed one behind the other."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from data.schema import ResponseSignals

__all__ = ["model_inputs", "packed_rows", "padded_rows"]

#: What of a batch the model below its head is called with, where the batch has it.
_MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


def model_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The part of a batch that the model below its head takes."""
    return {name: batch[name] for name in _MODEL_INPUTS if name in batch}


def padded_rows(
    rows: Sequence[ResponseSignals], pad_token_id: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every row from the left edge, filled up on the right to the longest.

    Args:
        rows: in the batch's order; none make one row of one filling token, so that the model can still be called.
        pad_token_id: any valid id; masked.
    Returns:
        `input_ids` and `attention_mask`, (B, L) int64; and where each row begins in the flattened (B·L) tokens.
    """
    lengths = _lengths(rows)
    width = int(lengths.max(initial=1))
    input_ids = np.full((max(len(rows), 1), width), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros(input_ids.shape, dtype=np.int64)
    # A row without any visible token would be a softmax over nothing: not a number, in the gradients too.
    attention_mask[:, 0] = 1
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        input_ids[place, : len(row.prompt_ids)] = row.prompt_ids
        input_ids[place, len(row.prompt_ids) : length] = row.response_ids
        attention_mask[place, :length] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}, np.arange(len(rows)) * width


def packed_rows(
    rows: Sequence[ResponseSignals], pad_token_id: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All rows one behind the other in a single sequence without padding.

    Position ids start anew with every row: they, and the absence of a mask, tell transformers which tokens see
    each other.

    Args:
        rows: as for `padded_rows`.
        pad_token_id: stands in where there are no rows.
    Returns:
        `input_ids` and `position_ids`, (1, L) int64; and where each row begins.
    """
    lengths = _lengths(rows)
    pieces = [ids for row in rows for ids in (row.prompt_ids, row.response_ids)]
    input_ids = np.concatenate(pieces) if rows else np.array([pad_token_id])
    starts = np.cumsum(lengths) - lengths
    position_ids = np.arange(len(input_ids)) - np.repeat(starts, lengths) if rows else np.zeros(1)
    inputs = {"input_ids": input_ids, "position_ids": position_ids}
    return {name: ids[None].astype(np.int64) for name, ids in inputs.items()}, starts


def _lengths(rows: Sequence[ResponseSignals]) -> np.ndarray:
    return np.array([len(row.prompt_ids) + len(row.response_ids) for row in rows], dtype=np.int64)
