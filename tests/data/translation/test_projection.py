"""The teacher's distribution on the student's ids: exact where the rule claims it."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data.signals.rounding import round_support
from data.translation.alignment import align
from data.translation.projection import FirstPieces, project_support
from data.translation.token_bytes import TokenBytes, byte_letters

LETTERS = {byte: letter for letter, byte in byte_letters().items()}


def byte_level(words, *, specials=("<end>",), merges=()):
    """A byte-level tokenizer whose vocabulary is the given byte strings in that order, then special tokens."""
    vocab = {"".join(LETTERS[byte] for byte in word): index for index, word in enumerate(words)}
    merges = [tuple("".join(LETTERS[b] for b in part) for part in pair) for pair in merges]
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(specials))
    return core


SINGLE = [bytes([byte]) for byte in range(256)]


@pytest.fixture
def pairs_and_letters():
    """A teacher with tokens of two letters and a student with single bytes."""
    doubled = [b"ab", b"ac", b"bc", b"ca"]
    merges = [(word[:1], word[1:]) for word in doubled]
    teacher = TokenBytes(byte_level([*SINGLE, *doubled], merges=merges), name="teacher")
    student = TokenBytes(byte_level(SINGLE), name="student")
    return teacher, student


def random_support(rng, vocab_size, num_positions, top_k):
    logits = rng.normal(scale=2.0, size=(2, num_positions, vocab_size))
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    ids = np.argsort(-logprobs[0], axis=1, kind="stable")[:, :top_k]
    kept = np.take_along_axis(logprobs, ids[None], axis=2).astype(np.float32)
    mass = 1 - np.exp(kept.astype(np.float64)).sum(-1)
    tails = np.log(np.maximum(mass, 1e-7)).astype(np.float32)
    sizes = np.full(num_positions, top_k, np.uint16)
    return (
        logprobs,
        (sizes, ids.astype(np.int32).ravel(), kept[0].ravel(), (kept[0] - kept[1]).ravel(), *tails),
    )


def test_token_bytes_read_byte_level_and_sentencepiece_spellings():
    byte = TokenBytes(byte_level([*SINGLE, "Ω".encode()]), name="b")
    assert byte.join([0xCE, 0xA9]) == "Ω".encode()
    assert byte[256] == "Ω".encode()
    assert byte[257] == b""
    assert byte.special_ids == {257}
    vocab = {"▁hi": 0, "▁": 1, "h": 2, "<0x0A>": 3, "<unk>": 4}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    piece = TokenBytes(core, name="s")
    assert [piece[i] for i in range(4)] == [b" hi", b" ", b"h", b"\n"]


def test_token_bytes_of_other_families_are_refused():
    core = Tokenizer(models.WordPiece(vocab={"a": 0, "##b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    core.decoder = decoders.WordPiece()
    with pytest.raises(Exception, match="bytes of its tokens cannot be told"):
        TokenBytes(core, name="bert")


def test_alignment_of_equal_pieces_is_one_to_one(pairs_and_letters):
    _, student = pairs_and_letters
    found = align([97, 98, 99, 256], [97, 98, 99, 256], student, student, terminated=True)
    assert found.aligned.tolist() == [0, 1, 2, 3]
    assert found.spans.tolist() == [0, 1, 2, 3]


def test_alignment_marks_student_tokens_inside_a_teacher_token(pairs_and_letters):
    teacher, student = pairs_and_letters
    found = align([256, 99, 260], [97, 98, 99, 256], teacher, student, terminated=True)  # "ab" "c"
    assert found.aligned.tolist() == [0, -1, 1, 2]
    assert found.spans.tolist() == [0, 2, 3]
    found = align([97, 98, 99, 256], [256, 99, 260], student, teacher, terminated=True)
    assert found.aligned.tolist() == [0, 2, 3]
    assert found.spans.tolist() == [0, 0, 1, 2]


def test_alignment_forgives_blanks_around_the_answer_and_nothing_else(pairs_and_letters):
    teacher, student = pairs_and_letters
    found = align([32, 256, 10], [97, 98], teacher, student, terminated=False)  # " " "ab" "\n"
    assert found.aligned.tolist() == [1, -1]
    assert found.spans.tolist() == [0, 0, 0]
    found = align([256], [32, 97, 98], teacher, student, terminated=False)
    assert found.aligned.tolist() == [-1, 0, -1]
    assert found.spans.tolist() == [1]
    assert align([256], [97, 99], teacher, student, terminated=False) is None
    assert align([], [97], teacher, student, terminated=False) is None


def test_projection_through_the_same_pieces_keeps_every_bit():
    rng = np.random.default_rng(0)
    words = [*SINGLE, b"ab", b"cd"]
    order = rng.permutation(len(words))
    teacher = TokenBytes(byte_level(words), name="t")
    student = TokenBytes(byte_level([words[i] for i in order]), name="s")
    place = np.argsort(order)
    _, columns = random_support(rng, len(words), 40, 12)
    out = project_support(FirstPieces(teacher, student, {}), *columns)
    sizes, ids, logprobs, advantages, tail, reference_tail = columns
    assert out.ids.tolist() == place[ids].tolist()
    for new, old in zip(
        (out.sizes, out.teacher_logprobs, out.advantages, out.teacher_tail, out.reference_tail),
        (sizes, logprobs, advantages, tail, reference_tail),
        strict=True,
    ):
        assert new.tobytes() == old.tobytes()


def test_projection_onto_first_pieces_adds_up_teacher_and_reference(pairs_and_letters):
    teacher, student = pairs_and_letters
    rng = np.random.default_rng(1)
    logprobs, columns = random_support(rng, 260, 30, 260)
    out = project_support(FirstPieces(teacher, student, {}), *columns)
    first = np.array([teacher[i][0] for i in range(260)])
    for position in range(30):
        start = int(out.sizes[:position].sum())
        here = slice(start, start + out.sizes[position])
        got = dict(zip(out.ids[here].tolist(), out.teacher_logprobs[here].tolist(), strict=True))
        advantage = dict(zip(out.ids[here].tolist(), out.advantages[here].tolist(), strict=True))
        for byte in range(256):
            sums = [np.log(np.exp(model[position][first == byte]).sum()) for model in logprobs]
            # float32 log-probabilities: 1e-6 relative in each.
            assert got[byte] == pytest.approx(sums[0], abs=2e-5)
            assert advantage[byte] == pytest.approx(sums[0] - sums[1], abs=4e-5)
        assert list(got.values()) == sorted(got.values(), reverse=True)


def test_projection_moves_mass_without_a_place_to_the_tail(pairs_and_letters):
    teacher, student = pairs_and_letters
    rng = np.random.default_rng(2)
    _, columns = random_support(rng, 261, 20, 30)
    sizes, ids, logprobs, advantages, tail, reference_tail = columns
    # The teacher's end of turn has no role here, so that it has no place.
    ids = ids.copy()
    ids[::30] = 260
    out = project_support(
        FirstPieces(teacher, student, {}), sizes, ids, logprobs, advantages, tail, reference_tail
    )
    total = np.exp(out.teacher_tail.astype(np.float64)) + out.placed
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    placed = FirstPieces(teacher, student, {260: 256})
    assert placed(np.array([260, 256, 5000])).tolist() == [256, 97, -1]


def test_projection_equals_the_exact_marginal_of_a_byte_level_model():
    """A Markov chain over teacher tokens; the student's next token by enumerating continuations."""
    rng = np.random.default_rng(3)
    words = [b"a", b"b", b"ab", b"ba", b"c"]
    teacher = TokenBytes(byte_level(words), name="t")
    student_words = [b"a", b"b", b"c", b"cc"]
    student = TokenBytes(byte_level(student_words), name="s")
    logits = rng.normal(size=(len(words), len(words)))
    chain = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    state = 0
    # The student takes the longest match; two further teacher tokens decide every next token of two bytes.
    exact = {}
    for path in itertools.product(range(len(words)), repeat=2):
        probability = chain[state, path[0]] * chain[path[0], path[1]]
        text = words[path[0]] + words[path[1]]
        token = max((w for w in student_words if text.startswith(w)), key=len)
        exact[token] = exact.get(token, 0.0) + probability
    ids = np.argsort(-chain[state]).astype(np.int32)
    logprobs = np.log(chain[state][ids]).astype(np.float32)
    pieces = FirstPieces(teacher, student, {})
    out = project_support(
        pieces,
        np.array([5], np.uint16),
        ids,
        logprobs,
        None,
        np.array([-np.inf], np.float32),
        None,
    )
    claims = dict(zip(range(5), pieces.is_exact(np.arange(5)), strict=True))
    assert claims == {0: True, 1: True, 2: True, 3: True, 4: False}  # only "c" may become "cc"
    got = {student[i]: p for i, p in zip(out.ids.tolist(), np.exp(out.teacher_logprobs), strict=True)}
    for token in (b"a", b"b"):
        assert got[token] == pytest.approx(exact[token], abs=1e-6)
    assert got[b"c"] == pytest.approx(exact[b"c"] + exact[b"cc"], abs=1e-6)
    assert out.exact[0] == pytest.approx(1 - chain[state, 4], abs=1e-6)


def expected_masses(teacher, student, logprobs, ids):
    """By brute force: each model's mass on each student token, and elsewhere."""
    known = {student[token]: token for token in range(student.vocab_size)}
    placed = [{}, {}]
    for token in ids.tolist():
        text = teacher[token]
        starts = [text[:length] for length in range(len(text), 0, -1)]
        # The student has no d: it cannot write a text with one.
        if b"d" not in text:
            found = known[next(start for start in starts if start in known)]
            for model in (0, 1):
                placed[model][found] = placed[model].get(found, 0.0) + np.exp(logprobs[model][token])
    return placed, [1 - sum(masses.values()) for masses in placed]


@given(st.data())
def test_projection_conserves_the_mass_of_both_models(data):
    """Random vocabularies and distributions: support and tail add up to 1, advantages are log-ratios of masses."""
    texts = [st.text(letters, min_size=1, max_size=3).map(str.encode) for letters in ("abcd", "abc")]
    words = data.draw(st.lists(texts[0], min_size=2, max_size=12, unique=True))
    longer = data.draw(st.lists(texts[1], max_size=8))
    known = sorted({b"a", b"b", b"c", b"\n", *longer})
    top_k = data.draw(st.integers(1, len(words)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    teacher, student = TokenBytes(byte_level(words), name="t"), TokenBytes(greedy(known), name="s")
    logprobs, columns = random_support(rng, len(words), 1, top_k)
    out = project_support(FirstPieces(teacher, student, {}), *columns)
    (teacher_masses, reference_masses), tails = expected_masses(teacher, student, logprobs[:, 0], columns[1])
    # float32 log-probabilities of size 10, and tails no smaller than 1e-7.
    close = functools.partial(pytest.approx, abs=2e-6)
    assert dict(zip(out.ids.tolist(), np.exp(out.teacher_logprobs), strict=True)) == close(teacher_masses)
    ratios = np.exp(out.teacher_logprobs - out.advantages)
    assert dict(zip(out.ids.tolist(), ratios, strict=True)) == close(reference_masses)
    assert [np.exp(out.teacher_tail[0]), np.exp(out.reference_tail[0])] == close(tails)
    # Rounded for storage, entries are off by half a grid each: 1/1024 of a probable token, 6% of the least.
    rounded, _ = round_support(out.teacher_logprobs, out.advantages)
    assert np.exp(rounded.astype(np.float64)).sum() + np.exp(out.teacher_tail[0]) == pytest.approx(
        1, abs=0.01
    )


def greedy(words):
    """A tokenizer that takes the longest match."""
    vocab = {"".join(LETTERS[byte] for byte in word): index for index, word in enumerate(words)}
    vocab |= {"?": len(words)}
    core = Tokenizer(models.WordPiece(vocab=vocab, unk_token="?", continuing_subword_prefix=""))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return core


def test_projection_of_a_cut_support_is_short_of_the_marginal_by_the_tail_at_most(pairs_and_letters):
    teacher, student = pairs_and_letters
    logprobs, columns = random_support(np.random.default_rng(4), 260, 30, 20)
    out = project_support(FirstPieces(teacher, student, {}), *columns)
    first = np.array([teacher[i][0] for i in range(260)])
    ends = np.cumsum(out.sizes)
    lacking = []
    for position, (start, stop) in enumerate(zip(ends - out.sizes, ends, strict=True)):
        for token, value in zip(out.ids[start:stop], out.teacher_logprobs[start:stop], strict=True):
            exact = np.exp(logprobs[0][position][first == token]).sum()
            lacking.append((exact - np.exp(value)) / np.exp(out.teacher_tail[position]))
    # float32; the tail is some tenth.
    assert -1e-5 < min(lacking) < max(lacking) <= 1
    assert max(lacking) > 0.01


def test_projection_adds_up_probabilities_that_no_float_can_hold(pairs_and_letters):
    teacher, student = pairs_and_letters
    out = project_support(
        FirstPieces(teacher, student, {}),
        np.array([3], np.uint16),
        np.array([98, 256, 257], np.int32),  # b, and ab and ac, which begin with a
        np.array([0.0, -800.0, -800.0], np.float32),
        np.array([0.0, 100.0, 100.0], np.float32),
        np.array([-900.0], np.float32),
        np.array([-900.0], np.float32),
    )
    assert out.ids.tolist() == [98, 97]
    assert out.teacher_logprobs[1] == pytest.approx(-800 + np.log(2))
    assert out.advantages[1] == pytest.approx(100)


def test_projection_never_exceeds_a_probability_of_one(pairs_and_letters):
    teacher, student = pairs_and_letters
    third = np.float32(-562 / 512)  # log 1/3 on the grid that storage rounds to
    assert 3 * np.exp(third) > 1
    columns = [np.array(values, np.float32) for values in ([third] * 3, [0] * 3, [-20], [-20])]
    for ids in ([97, 256, 257], [260, 261, 262]):  # all begin with a; none has a place
        out = project_support(
            FirstPieces(teacher, student, {}), np.array([3], np.uint16), np.array(ids, np.int32), *columns
        )
        assert (out.teacher_logprobs <= 0).all()
        assert out.teacher_tail[0] <= 0
        assert out.reference_tail[0] <= 0


@given(st.data())
def test_alignment_lays_two_tokenizations_of_any_text_over_each_other(data):
    """Where a token is aligned both have read the same bytes, and between two spans they read the same."""
    text = data.draw(st.text("abé😀 ", min_size=1, max_size=20)).encode()
    pieces = [_cut(data, text), _cut(data, text)]
    words = sorted({piece for side in pieces for piece in side} | {b"-"})
    tokens = TokenBytes(byte_level(words), name="t")
    teacher_ids, student_ids = ([words.index(piece) for piece in side] for side in pieces)
    found = align(teacher_ids, student_ids, tokens, tokens, terminated=False)
    starts = [np.cumsum([0, *map(len, side)]) for side in pieces]
    common = set(starts[0][:-1]) & set(starts[1][:-1])
    assert [student for student in range(len(student_ids)) if found.aligned[student] >= 0] == [
        student for student, start in enumerate(starts[1][:-1]) if start in common
    ]
    for student, teacher in enumerate(found.aligned.tolist()):
        assert teacher < 0 or starts[1][student] == starts[0][teacher]
    begins = sorted(set(found.spans.tolist()))
    assert {starts[1][begin] for begin in begins} == common
    for begin, end in itertools.pairwise([*begins, len(student_ids)]):
        spelled = b"".join(piece for piece, span in zip(pieces[0], found.spans, strict=True) if span == begin)
        assert spelled == b"".join(pieces[1][begin:end])


def _cut(data, text):
    """Any cut of a text into tokens, inside characters, too."""
    places = data.draw(st.sets(st.integers(1, max(1, len(text) - 1))))
    edges = [0, *sorted(place for place in places if place < len(text)), len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(edges)]
