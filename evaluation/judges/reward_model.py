"""A reward model as a judge: a sequence classifier with one output, on the conversation with its answer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data.errors import ConfigurationError
from data.model_identity import resolve_model, unusable_tokenizer
from data.preferences.messages import PreferenceRow
from evaluation.answers import Answer
from evaluation.judges.scorers import AnswerEncoder, ScoredAnswer, Scorer, answer_key
from evaluation.judgments import JudgeIdentity
from evaluation.line_cache import LineCache

_ANSWERS_AT_ONCE = 32


class RewardModel(Scorer):
    """A sequence classifier with one output, on the chat-templated conversation with its answer."""

    scale = 1.0

    def __init__(
        self, name: str, *, option: str = "--judge-reward-model", trust_remote_code: bool = False
    ) -> None:
        """Find the model; its weights are loaded when the first answer has to be scored.

        Raises:
            ConfigurationError: for a folder or name that is not such a model.
        """
        from transformers import AutoConfig, AutoTokenizer  # noqa: PLC0415  (slow, and this judge's alone)

        self._folder, identity = resolve_model(name, option=option)
        self._option, self._name, self._trust = option, name, trust_remote_code
        config = AutoConfig.from_pretrained(self._folder, trust_remote_code=trust_remote_code)
        classifies = any("SequenceClassification" in entry for entry in config.architectures or ())
        if not classifies or config.num_labels != 1:
            found = ", ".join(config.architectures or ()) or "no architecture"
            outputs = f" with {config.num_labels} outputs" if classifies else ""
            raise ConfigurationError(
                f"{option}: {name} is a {found}{outputs}; a reward model is a sequence classifier with one output"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._folder, trust_remote_code=trust_remote_code)
        except Exception as error:
            # A damaged file can raise anything.
            raise unusable_tokenizer(self._folder, option, error) from error
        limit = getattr(config.get_text_config(), "max_position_embeddings", None)
        self._encoder = AnswerEncoder(tokenizer, limit)
        self._pads = config.get_text_config().pad_token_id is not None
        self.identity = JudgeIdentity(
            kind="reward-model",
            name=name,
            details={
                "model": identity.as_dict(),
                "tokenizer": self._encoder.encoder.tokenizer_hash,
                "chat_template": self._encoder.encoder.template_hash,
            },
        )
        self._cache = LineCache("scores", {"reward_model": dict(self.identity.details)})
        self._model: Any = None

    def score(self, items: Sequence[tuple[PreferenceRow, Answer]]) -> Iterator[tuple[int, ScoredAnswer]]:
        """See `Scorer.score`."""
        keys = [answer_key(row, answer) for row, answer in items]

        def ask(missing: Mapping[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
            sequences: dict[str, np.ndarray] = {}
            for key, place in missing.items():
                ids = self._encoder.encode(*items[place])
                if isinstance(ids, str):
                    yield key, {"score": None, "problem": ids}
                else:
                    sequences[key] = np.concatenate(ids)
            order = sorted(sequences, key=lambda key: len(sequences[key]))
            step = _ANSWERS_AT_ONCE if self._pads else 1
            for start in range(0, len(order), step):
                batch = order[start : start + step]
                for key, value in zip(batch, self._rewards([sequences[key] for key in batch]), strict=True):
                    is_finite = math.isfinite(value)
                    problem = "" if is_finite else f"a reward of {value}"
                    yield key, {"score": value if is_finite else None, "problem": problem}

        return ((index, ScoredAnswer(**found)) for index, found in self._cache.results(keys, ask))

    def _rewards(self, sequences: Sequence[np.ndarray]) -> list[float]:
        import torch  # noqa: PLC0415  (slow, and this judge's alone)

        if self._model is None:
            self._model = self._load()
        width = max(map(len, sequences))
        device = next(self._model.parameters()).device
        # The classifier finds the last token by the id that pads, so that is what the right has to be filled with.
        pad = self._model.config.get_text_config().pad_token_id or 0
        ids = torch.full((len(sequences), width), pad, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
            mask[row, : len(sequence)] = 1
        with torch.inference_mode():
            logits = self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        return logits[:, 0].float().cpu().tolist()

    def _load(self) -> Any:
        import torch  # noqa: PLC0415  (slow, and this judge's alone)
        from transformers import AutoModelForSequenceClassification  # noqa: PLC0415

        try:
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                self._folder, dtype="auto", trust_remote_code=self._trust, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConfigurationError(
                f"{self._option}: {self._name} does not load as a sequence classifier: {reason}"
            ) from error
        model, found = loaded
        if missing := sorted(found["missing_keys"]):
            raise ConfigurationError(
                f"{self._option}: {self._name} lacks {len(missing)} of its weights, the first {missing[0]}, which "
                "would be random"
            )
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")

    def close(self) -> None:
        """See `Scorer.close`."""
        self._model = None
