"""Turn pairs into tensors: model inputs padded or packed, response positions flat.

A batch has two layouts. The student reads rows (B, L), padded or concatenated. The head and the losses read N response
positions, concatenated over all rows and sorted by role: `position_index` finds each one's hidden state, prompts and
padding never reach the head, and the positions of a role are one slice. A flat layout costs an index; it saves every
term its mask, and padding its share of the head's work. The columns of positions are those of `methods.Positions`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from data.signals.schema import ROLES, ResponseIds, ResponseSignals
from student_training.batching.reward_means import RewardMeans
from student_training.batching.transport import Batch
from student_training.inputs.initial_supports import InitialSupports
from student_training.inputs.pairs import PairSource, TokenLogprobs
from student_training.methods.base import Needs

#: What a batch counts, in the order of its `counts` tensor; losses are divided by these, summed over the step.
COUNT_NAMES = (*(f"positions/{role}" for role in ROLES), *(f"responses/{role}" for role in ROLES), "pairs")


class PairDataset(torch.utils.data.Dataset):
    """Pairs by index, each as (index, rows of the roles that the method needs)."""

    def __init__(self, source: PairSource, roles: frozenset[str]) -> None:
        """Choose what of a source to see.

        Args:
            source: where the pairs come from.
            roles: rows of other roles are left out.
        """
        self._source = source
        self._roles = roles

    def __len__(self) -> int:
        return self._source.num_pairs

    def __getitem__(self, index: int) -> tuple[int, list[ResponseIds]]:
        return index, [row for row in self._source.pair(index) if row.role in self._roles]

    def pair_id(self, index: int) -> str:
        """The id of a pair, by its index in the source."""
        return self._source.pair(index)[0].pair_id


class PairCollator:
    """Build one batch.

    Rows are ordered by role (chosen, rejected, student), so that the positions of one role are one contiguous
    range and each term of a loss is computed on its own range only. Log-probabilities are read from the
    hidden state one before each response token, so padding and prompts never reach the LM head.
    """

    def __init__(
        self,
        needs: Needs,
        *,
        vocab_size: int,
        pad_token_id: int,
        packed: bool = False,
        initial: TokenLogprobs | None = None,
        initial_supports: InitialSupports | None = None,
        behavior: TokenLogprobs | None = None,
        means: RewardMeans | None = None,
    ) -> None:
        """Prepare a collator.

        Args:
            needs: what the method reads.
            vocab_size: width of the student's logits; teacher ids beyond it fold into the tail.
            pad_token_id: any valid id; padded places are masked.
            packed: one sequence of all rows without padding, see `packed_rows`, instead of padded rows.
            initial: log-probabilities of response tokens under the initial student.
            initial_supports: log-probabilities of the support and its tail under the initial student.
            behavior: those of response tokens under the student that sampled the rollouts.
            means: of the rewards of all sampled responses.
        """
        self._needs = needs
        self._vocab_size = vocab_size
        self._pad_token_id = pad_token_id
        self._lay_out = packed_rows if packed else padded_rows
        self._means = means or RewardMeans(0.0, 0.0)
        self._initial_supports = initial_supports
        self._token_columns = {"initial_token": initial, "behavior_token": behavior}

    def __call__(self, pairs: Sequence[tuple[int, list[ResponseIds]]]) -> Batch:
        """Collate pairs.

        Returns:
            The model's inputs, from `padded_rows` or `packed_rows`; `position_index` (N,) int64 into the
            flattened hidden states; `position_row` (N,) int64, the response of each; `row_pair`, `row_role` and
            `row_length` (positions) of the responses, (R,); `row_tokens` (all tokens) of the rows, (B,), of which a
            response whose turns are separate has several; `pair_index` (P,), the pairs' indices in the source;
            `counts` in the order of `COUNT_NAMES`; and the columns of `Positions`, (N,) or (N, K), support ids as
            int32, and what is the same everywhere once: baselines (1,). No pairs make a batch whose loss is 0.
        """
        rows = [
            (pair, index, row)
            for role in ROLES
            for pair, (index, responses) in enumerate(pairs)
            for row in responses
            if row.role == role
        ]
        lengths = np.array([row.num_scored for _, _, row in rows], dtype=np.int64)
        prompt_lengths = np.array([len(row.prompt_ids) for _, _, row in rows], dtype=np.int64)
        inputs, starts = self._lay_out([row for _, _, row in rows], self._pad_token_id)
        # One before each response token that is trained, wherever its row begins.
        first = np.repeat(starts + prompt_lengths - 1, lengths)
        first += _concatenate([row.scored_places for _, _, row in rows], np.int64)
        begins = _response_starts(rows)
        responses = [rows[place] for place in begins]
        response_lengths = np.add.reduceat(lengths, begins) if rows else lengths
        role_numbers = np.array([ROLES.index(row.role) for _, _, row in responses], dtype=np.int64)
        counts = [
            *(int(response_lengths[role_numbers == number].sum()) for number in range(len(ROLES))),
            *(int((role_numbers == number).sum()) for number in range(len(ROLES))),
            sum({"chosen", "rejected"} <= {row.role for row in of_pair} for _, of_pair in pairs),
        ]
        batch = {
            **inputs,
            "position_index": first,
            "position_row": np.repeat(np.arange(len(responses)), response_lengths),
            "row_pair": np.array([pair for pair, _, _ in responses], dtype=np.int64),
            "row_role": role_numbers,
            "row_length": response_lengths,
            "row_tokens": _lengths([row for _, _, row in rows]),
            "pair_index": np.array([index for index, _ in pairs], dtype=np.int64),
            "counts": np.array(counts, dtype=np.int64),
            "labels": _concatenate([row.scored_ids for _, _, row in rows], np.int64),
            "terminator": _terminators(rows, lengths),
            **self._signal_columns([row for _, _, row in rows], int(lengths.sum())),
        }
        batch |= self._initial_columns(rows, batch["support_mask"].shape)
        batch["response_advantage"] = _response_sums(
            batch["teacher_token"] - batch["reference_token"], response_lengths
        )
        for name in ("token", "response"):
            # Once, not for every position: what a batch holds is copied several times on its way.
            batch[f"{name}_baseline"] = np.array([getattr(self._means, name)], dtype=np.float32)
        for name, known in self._token_columns.items():
            batch[name] = np.zeros(int(lengths.sum()), dtype=np.float32)
            if known is not None:
                places = np.concatenate([[0], np.cumsum(lengths)])
                for place, (_, index, row) in enumerate(rows):
                    values = known.get((index, row.role, row.sample_index))
                    if values is not None:
                        batch[name][places[place] : places[place + 1]] = values
        return Batch({name: torch.from_numpy(array) for name, array in batch.items()})

    def _signal_columns(self, rows: Sequence[ResponseIds], num_positions: int) -> dict[str, np.ndarray]:
        """Scatter the flat support of every row into (N, K) arrays and fold ids that the student lacks."""
        scored = [row for row in rows if row.role in self._needs.signals]
        width = max(
            (int(row.support_sizes.max(initial=0)) for row in scored if isinstance(row, ResponseSignals)),
            default=0,
        )
        # Half of the int64 that torch indexes with: they are most of what a loader process sends.
        support_ids = np.zeros((num_positions, max(width, 1)), dtype=np.int32)
        support_mask = np.zeros(support_ids.shape, dtype=bool)
        values = {
            name: np.zeros(support_ids.shape, np.float32) for name in ("teacher_logprobs", "advantages")
        }
        names = ("teacher_tail", "reference_tail", "teacher_token", "reference_token")
        scalars = {name: np.zeros(num_positions, np.float32) for name in names}
        offset = 0
        for row in rows:
            here = slice(offset, offset + row.num_scored)
            offset = here.stop
            if row.role not in self._needs.signals or not isinstance(row, ResponseSignals):
                continue
            flat = {"teacher_logprobs": row.teacher_logprobs}
            if row.advantages is not None:
                flat["advantages"] = row.advantages
            columns = [
                (support_ids, row.topk_ids),
                *((values[name], column) for name, column in flat.items()),
            ]
            if (row.support_sizes == width).all():
                # No slot stays empty, as in every dataset with top_p 1: whole blocks, several times faster.
                support_mask[here] = True
                for target, column in columns:
                    target[here] = column.reshape(-1, width)
            else:
                mask = np.arange(support_ids.shape[1]) < row.support_sizes[:, None]
                support_mask[here] = mask
                for target, column in columns:
                    target[here][mask] = column
            for name in names:
                column = getattr(row, f"{name}_logprobs")
                if column is not None:
                    scalars[name][here] = column
        if (support_ids >= self._vocab_size).any():
            self._fold(support_ids, support_mask, values, scalars)
        return {"support_ids": support_ids, "support_mask": support_mask, **values, **scalars}

    def _initial_columns(
        self, rows: Sequence[tuple[int, int, ResponseIds]], shape: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """The initial student's log-probabilities at the support (N, K) and of its tail (N,); zeros once if unknown."""
        known = self._initial_supports
        if known is None:
            return {"initial_support": np.zeros((1, 1), np.float32), "initial_tail": np.zeros(1, np.float32)}
        support, tail = np.zeros(shape, np.float32), np.zeros(shape[0], np.float32)
        end = 0
        for _, index, row in rows:
            here = slice(end, end + row.num_scored)
            end = here.stop
            if row.role not in self._needs.signals or not isinstance(row, ResponseSignals):
                continue
            values, tail[here] = known.row(index, row.role, row.sample_index)
            support[here][np.arange(shape[1]) < row.support_sizes[:, None]] = values
        return {"initial_support": support, "initial_tail": tail}

    def _fold(self, support_ids, support_mask, values, scalars) -> None:
        """Move the mass of ids beyond the student's vocabulary into both tails, in place."""
        beyond = support_mask & (support_ids >= self._vocab_size)
        teacher = np.where(beyond, values["teacher_logprobs"], -np.inf)
        # The reference's log-probability of a token is the teacher's minus the advantage.
        reference = np.where(beyond, values["teacher_logprobs"] - values["advantages"], -np.inf)
        for name, folded in (("teacher_tail", teacher), ("reference_tail", reference)):
            scalars[name][:] = np.logaddexp(scalars[name], np.logaddexp.reduce(folded, axis=1))
        support_mask &= ~beyond
        support_ids[beyond] = 0


def _terminators(rows: Sequence[tuple[int, int, ResponseIds]], lengths: np.ndarray) -> np.ndarray:
    """Which positions hold the token that ends a response, shape (N,), bool.

    Chosen and rejected responses end with it; a sampled one that was cut at its limit does not, which its last
    token tells when it is compared with that of a chosen one.
    """
    ends = {int(row.scored_ids[-1]) for _, _, row in rows if row.role != "student"}
    last = np.cumsum(lengths) - 1
    found = np.zeros(int(lengths.sum()), dtype=bool)
    for place, (_, _, row) in zip(last, rows, strict=True):
        found[place] = row.role != "student" or int(row.scored_ids[-1]) in ends
        if row.response_mask is not None:
            # A masked response may hold several turns, each with its end.
            found[place + 1 - row.num_scored : place + 1] |= np.isin(row.scored_ids, list(ends))
    return found


def _response_starts(rows: Sequence[tuple[int, int, ResponseIds]]) -> np.ndarray:
    """The first row of every response: those of a chosen or rejected one whose turns are separate follow each other."""
    keys = [(pair, row.role, row.sample_index if row.role == "student" else 0) for pair, _, row in rows]
    return np.array(
        [place for place, key in enumerate(keys) if not place or key != keys[place - 1]], np.int64
    )


def _response_sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Give every position the sum over its response, shape (N,), float32."""
    if not len(values):
        return values
    starts = np.cumsum(lengths) - lengths
    # In float64, as the sum over a long response would lose digits.
    return np.repeat(np.add.reduceat(values.astype(np.float64), starts), lengths).astype(np.float32)


def _concatenate(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype=dtype)


#: What of a batch the model below its head is called with, where the batch has it.
_MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


def model_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The part of a batch that the model below its head takes."""
    return {name: batch[name] for name in _MODEL_INPUTS if name in batch}


def padded_rows(rows: Sequence[ResponseIds], pad_token_id: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
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


def packed_rows(rows: Sequence[ResponseIds], pad_token_id: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All rows concatenated in a single sequence without padding.

    Position ids start at 0 again with every row: they, and the absence of a mask, tell transformers which tokens see
    each other.

    Args:
        rows: as for `padded_rows`.
        pad_token_id: used where there are no rows.
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


def _lengths(rows: Sequence[ResponseIds]) -> np.ndarray:
    return np.array([len(row.prompt_ids) + len(row.response_ids) for row in rows], dtype=np.int64)
