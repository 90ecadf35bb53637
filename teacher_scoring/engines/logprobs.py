"""Log-probabilities from logits: of the top-k, of given ids, of the token itself."""

from collections.abc import Iterator

import torch

# Measured at V = 32,000: 8 to 32 MB at a time are a fifth faster than 256 MB.
_CPU_BYTES = 1 << 24

_GPU_BYTES = 1 << 30

# Tokens that are represented by their maximum in a first look. At k = 50, 64 makes top-k on a CPU twice as fast at
# V = 32,000 and three times at 152,000.
_BLOCK = 64


def support_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The most probable tokens of each row, in a fixed order.

    Args:
        logits: shape (N, V), any float type.
        token_ids: the token that was there, shape (N,), int64, each below V.
        top_k: how many, 1 to V.

    Returns:
        ids int32 (N, K) in falling probability, equal ones with the lower id first; their log-probabilities
        float32 (N, K); those of `token_ids` float32 (N,). Nats, normalised over all V.
    """

    def of_rows(rows: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logprobs = torch.log_softmax(logits[rows], dim=-1, dtype=torch.float32)
        values, ids = _top_k_lower_ids_first(logprobs, top_k)
        return ids.int(), values, logprobs.gather(-1, token_ids[rows].unsqueeze(-1)).squeeze(-1)

    ids, values, token_logprobs = zip(*map(of_rows, _row_slices(logits)), strict=True)
    return torch.cat(ids), torch.cat(values), torch.cat(token_logprobs)


def given_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probabilities of given ids in each row.

    Args:
        logits: shape (N, V), any float type.
        token_ids: the token that was there, shape (N,), int64, each below V.
        ids: shape (N, K), int64; those outside 0 to V - 1 have no logit here.

    Returns:
        Log-probabilities float32 (N, K), -inf for ids that have no logit; those of `token_ids` float32 (N,).
        Nats, normalised over all V.
    """
    missing = (ids < 0) | (ids >= logits.shape[-1])
    known_ids = ids.masked_fill(missing, 0)

    def of_rows(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = torch.log_softmax(logits[rows], dim=-1, dtype=torch.float32)
        values = logprobs.gather(-1, known_ids[rows])
        return values, logprobs.gather(-1, token_ids[rows].unsqueeze(-1)).squeeze(-1)

    values, token_logprobs = zip(*map(of_rows, _row_slices(logits)), strict=True)
    return torch.cat(values).masked_fill(missing, float("-inf")), torch.cat(token_logprobs)


def _row_slices(logits: torch.Tensor) -> Iterator[slice]:
    """Rows whose log-softmax is made at once: it is as large as the logits, and on a CPU has to fit its cache."""
    num_rows, vocab_size = logits.shape
    step = max(1, (_CPU_BYTES if logits.device.type == "cpu" else _GPU_BYTES) // (4 * vocab_size))
    return (slice(start, start + step) for start in range(0, num_rows, step))


def _top_k_lower_ids_first(values: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`torch.topk` with a fixed order among equal values, which it leaves open."""
    top, ids = _top_k(values, min(top_k + 1, values.shape[-1]))
    # Rows with equal values among their first K + 1 are rare; only those are sorted again.
    tied = (top[:, 1:] == top[:, :-1]).any(dim=-1).nonzero().squeeze(-1)
    if len(tied):
        top[tied], ids[tied] = _sort_from(values[tied], top[tied, -1], top.shape[1])
    return top[:, :top_k], ids[:, :top_k]


def _top_k(values: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`torch.topk` of each row; on a CPU only of the blocks with the largest maxima, which hold the same values."""
    num_rows, width = values.shape
    num_blocks = width // _BLOCK
    if values.device.type != "cpu" or num_blocks < 4 * top_k:
        return values.topk(top_k, dim=-1)
    in_blocks = values[:, : num_blocks * _BLOCK].reshape(-1, _BLOCK)
    blocks = in_blocks.amax(dim=-1).view(num_rows, num_blocks).topk(top_k, dim=-1, sorted=False).indices
    flat = blocks + torch.arange(num_rows).unsqueeze(-1) * num_blocks
    chosen = in_blocks.index_select(0, flat.flatten()).view(num_rows, -1)
    # What is left at the end of a row fills no block and is looked at in any case.
    top, places = torch.cat([chosen, values[:, num_blocks * _BLOCK :]], dim=-1).topk(top_k, dim=-1)
    blocks = torch.nn.functional.pad(blocks, (0, 1), value=num_blocks)
    return top, blocks.gather(-1, places // _BLOCK) * _BLOCK + places % _BLOCK


def _sort_from(values: torch.Tensor, least: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `top_k` largest of each row, equal ones with the lower id first; `least` is the smallest of them."""
    rows, ids = (values >= least.unsqueeze(-1)).nonzero(as_tuple=True)
    counts = rows.bincount(minlength=len(values))
    places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    shape = (len(values), int(counts.max()))
    kept = values.new_full(shape, float("-inf")).index_put((rows, places), values[rows, ids])
    kept_ids = ids.new_zeros(shape).index_put((rows, places), ids)
    ordered, order = kept.sort(dim=-1, descending=True, stable=True)
    return ordered[:, :top_k], kept_ids.gather(-1, order[:, :top_k])
