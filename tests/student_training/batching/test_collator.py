"""Batches: every number lands at its own position, whether supports are full or ragged."""

import numpy as np
import pytest

from data.signals.schema import ResponseSignals
from student_training.batching.collator import PairCollator
from student_training.methods import Needs

ALL = frozenset({"chosen", "rejected", "student"})


def response(generator, role, length, sizes, *, last=2, sample_index=0):
    total = int(np.sum(sizes))
    draw = generator.normal
    ids = generator.integers(3, 60, size=length).astype(np.int32)
    ids[-1] = last
    return ResponseSignals(
        pair_id="p",
        role=role,
        sample_index=sample_index,
        prompt_ids=generator.integers(3, 60, size=4).astype(np.int32),
        response_ids=ids,
        support_sizes=np.asarray(sizes, np.uint16),
        topk_ids=np.concatenate([generator.permutation(64)[:size] for size in sizes]).astype(np.int32),
        teacher_logprobs=draw(size=total).astype(np.float32),
        advantages=draw(size=total).astype(np.float32),
        teacher_tail_logprobs=draw(size=length).astype(np.float32),
        reference_tail_logprobs=draw(size=length).astype(np.float32),
        teacher_token_logprobs=draw(size=length).astype(np.float32),
        reference_token_logprobs=draw(size=length).astype(np.float32),
    )


@pytest.mark.parametrize("sizes", [[4, 4, 4], [1, 4, 2], [0, 4, 4]], ids=["full", "ragged", "empty"])
def test_every_support_token_lands_at_its_position(sizes):
    generator = np.random.default_rng(0)
    pairs = [
        (7, [response(generator, "chosen", 3, sizes), response(generator, "student", 2, [4, 4])]),
        (2, [response(generator, "chosen", 3, [4, 4, 4])]),
    ]
    batch = PairCollator(Needs(roles=ALL, signals=ALL, advantages=True), vocab_size=64, pad_token_id=0)(pairs)
    assert batch["pair_index"].tolist() == [7, 2]
    rows = [pairs[0][1][0], pairs[1][1][0], pairs[0][1][1]]  # by role, then by pair
    place = 0
    for number, row in enumerate(rows):
        start = 0
        for position, size in enumerate(row.support_sizes.tolist()):
            assert batch["support_mask"][place].tolist() == [True] * size + [False] * (4 - size)
            for column, flat in (
                ("support_ids", row.topk_ids),
                ("teacher_logprobs", row.teacher_logprobs),
                ("advantages", row.advantages),
            ):
                assert batch[column][place, :size].tolist() == flat[start : start + size].tolist(), column
            assert batch["teacher_tail"][place] == row.teacher_tail_logprobs[position]
            assert batch["labels"][place] == row.response_ids[position]
            # The hidden state one before the token.
            flat_ids = batch["input_ids"].flatten()
            before = batch["position_index"][place].item()
            assert flat_ids[before + 1] == row.response_ids[position]
            assert batch["position_row"][place] == number
            start, place = start + size, place + 1
    assert place == len(batch["labels"])


def test_a_response_that_was_cut_has_no_terminator_and_sums_stay_within_a_response():
    generator = np.random.default_rng(1)
    rows = [
        response(generator, "chosen", 2, [4, 4]),
        response(generator, "student", 3, [4] * 3, last=9),
        response(generator, "student", 2, [4] * 2, sample_index=1),
    ]
    batch = PairCollator(Needs(roles=ALL, signals=ALL, advantages=True), vocab_size=64, pad_token_id=0)(
        [(0, rows)]
    )
    assert batch["terminator"].tolist() == [False, True, False, False, False, False, True]
    sums = [float((row.teacher_token_logprobs - row.reference_token_logprobs).sum()) for row in rows]
    expected = np.repeat(sums, [2, 3, 2])
    np.testing.assert_allclose(batch["response_advantage"], expected, rtol=1e-5)  # float32 sums


def test_known_log_probabilities_are_joined_by_pair_role_and_sample():
    generator = np.random.default_rng(2)
    rows = [response(generator, "student", 2, [4, 4], sample_index=number) for number in (0, 1)]
    known = {
        (5, "student", 1): np.array([-1.0, -2.0], np.float32),
        (5, "chosen", 0): np.array([-9.0], np.float32),
    }
    needs = Needs(roles=frozenset({"student"}), signals=frozenset({"student"}), behavior=True)
    batch = PairCollator(needs, vocab_size=64, pad_token_id=0, behavior=known)([(5, rows)])
    assert batch["behavior_token"].tolist() == [0, 0, -1, -2]
    assert batch["initial_token"].tolist() == [0, 0, 0, 0]
