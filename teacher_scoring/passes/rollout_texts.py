"""Rollouts of a student with another tokenizer, as the teacher's tokenizer and template write their text.

A teacher can only score its own tokens. So the text of each answer is taken from the bytes of the student's tokens, put
after the prompt by the teacher's template, and cut by the teacher's tokenizer. Whether both tokenizations spell the
same bytes is checked here, before anything is scored, so that what is scored can be put back on the student's ids.
"""

from collections import Counter
from typing import Any

import numpy as np

from data.errors import DataError
from data.preferences.messages import PreferenceRow
from data.signals.rollouts import Rollout, RolloutDataset, RolloutIndex
from data.signals.schema import ResponseIds
from data.tokens.encoder import EncodedPair, PairEncoder
from data.translation.alignment import align
from data.translation.token_bytes import TokenBytes
from teacher_scoring.passes.rollouts_by_pair import describe_dropped


class RolloutTexts:
    """Rollouts as text for the teacher.

    Attributes:
        dropped: how many rollouts `rows` has left out so far, by reason.
    """

    def __init__(
        self,
        rollouts: RolloutDataset,
        student_tokenizer: Any,
        teacher_tokenizer: Any,
        teacher_encoder: PairEncoder,
    ) -> None:
        """Index the rollouts and read the bytes of both tokenizers' tokens.

        Args:
            rollouts: the student's samples.
            student_tokenizer: that they were sampled with.
            teacher_tokenizer: of the models that will score.
            teacher_encoder: writes conversations for the teacher and stores them; used for nothing else, because it
                counts what it drops.
        Raises:
            DataError: for a tokenizer whose tokens do not determine bytes.
        """
        request = rollouts.manifest.request
        self.dropped: Counter[str] = Counter()
        self._index = RolloutIndex(rollouts)
        self._path = rollouts.path
        self._teacher_encoder = teacher_encoder
        self._student_encoder = PairEncoder(
            student_tokenizer,
            template_args=request.get("template_args"),
            thinking=request.get("thinking", "auto"),
        )
        self._student = TokenBytes(student_tokenizer, name=str(rollouts.tokenizer_folder))
        self._teacher = TokenBytes(teacher_tokenizer, name="--teacher")

    def __contains__(self, pair_id: str) -> bool:
        return pair_id in self._index

    def rows(self, row: PreferenceRow, pair: EncodedPair) -> list[ResponseIds]:
        """The rollouts of one pair in the teacher's ids; see `RolloutRows`."""
        found = self._index.of(pair.pair_id)
        if not found:
            return []
        asked = self._student_encoder.encode(row._replace(chosen=None, rejected=None))
        for rollout in found:
            if asked is None or not np.array_equal(rollout.prompt_ids, asked.prompt_ids):
                raise DataError(
                    f"{self._path}: the rollouts of pair {pair.pair_id} were sampled from another prompt than --data "
                    "gives with the student's tokenizer and chat template, or from a prompt that was cut; sample again "
                    "from the same --data, without --truncate"
                )
        written = (self._written(row, rollout) for rollout in found)
        return [given for given in written if given is not None]

    def describe(self) -> str | None:
        """One line for the output, when something was dropped."""
        return describe_dropped(self._path, self.dropped)

    def _written(self, row: PreferenceRow, rollout: Rollout) -> ResponseIds | None:
        """One answer in the teacher's ids; None, and counted, where that cannot be the same text."""
        ids = rollout.response_ids
        is_ended = rollout.finish_reason == "stop"
        if is_ended and ids[-1] != self._student_encoder.terminator_id:
            return self._drop("ends with another token than the end of a turn")
        said = ids[:-1] if is_ended else ids
        if not len(said):
            return self._drop("empty answer")
        if not self._student.lengths_of(said).all():
            return self._drop("holds a special token, which is no text")
        try:
            text = self._student.join(said).decode("utf-8")
        except UnicodeDecodeError:
            return self._drop("cut inside a character, or holds bytes that are no text")
        encoded = self._teacher_encoder.encode(
            row._replace(chosen=text, rejected=None, is_conversation=False)
        )
        if encoded is None:
            return self._drop(f"teacher's rendering: {self._teacher_encoder.last_dropped}")
        if len(encoded.chosen) != 1:
            return self._drop("the teacher's template cuts it into several turns")
        (response,) = encoded.chosen
        # The template ends every answer; one that was cut at the limit has no end to score.
        stop = len(response.ids) - (not is_ended)
        mask = None if response.mask is None else response.mask[:stop]
        scored_ids = response.ids[:stop] if mask is None else response.ids[:stop][mask]
        if align(scored_ids, ids, self._teacher, self._student, terminated=is_ended) is None:
            return self._drop("the teacher's tokens do not spell the same bytes")
        return ResponseIds(
            rollout.pair_id,
            "student",
            rollout.sample_index,
            response.prompt_ids,
            response.ids[:stop],
            response_mask=mask,
            conversation=response.conversation,
        )

    def _drop(self, reason: str) -> None:
        self.dropped[reason] += 1
