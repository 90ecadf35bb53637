"""What a model is worth on held-out prompts: rewards at several temperatures, sharpness, distances, preferences."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.map.worlds import ToyWorld
from small_world.judge import matched_temperature
from small_world.sampling import answer_prompts

TEMPERATURES = (1.0, 0.75, 0.5, 0.25, 0.0)

"""At which answers are sampled; 0 is greedy."""

_PROMPTS_FOR_TEMPERATURE = 200


class Measurer:
    """Measures models of one world, all on the same prompts and pairs and under the same sampling noise."""

    def __init__(self, world: ToyWorld, *, num_prompts: int, pairs: list[dict[str, Any]], seed: int) -> None:
        """Take what to measure on.

        Args:
            world: whose held-out prompts and reward.
            num_prompts: of them.
            pairs: held-out preference pairs, for preference accuracy and the distances between distributions.
            seed: of the sampling noise.
        """
        self._world = world
        self._prompts = world.held_out_prompts[:num_prompts]
        self._messages = [world.messages(prompt) for prompt in self._prompts]
        self._seed = seed
        self._tokenizer = world.tokenizer()
        self._rows = [
            self._encode(pair["prompt"], pair[role][0]["content"]) for pair in pairs for role in _ROLES
        ]
        self._logprobs: dict[Path, list[torch.Tensor]] = {}

    def measure(
        self, folder: Path, *, initial: Path | None = None, teacher: Path | None = None
    ) -> dict[str, Any]:
        """Everything about one checkpoint.

        Args:
            folder: the checkpoint.
            initial: the student before training: for its distance and for the implicit preference.
            teacher: for the distance to it.
        Returns:
            `rewards` (by temperature, one for each prompt), `entropy` at temperature 1 in nats, `matched_rewards` and
            `matched_temperature` at the world's common entropy, `length` in words at temperature 1, and, where they
            can be told, `kl_teacher` (teacher || model), `kl_initial` (model || initial), nats per position of
            held-out answers, and `preference_accuracy`.
        """
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        found = {t: self._answer(model, t, len(self._prompts)) for t in TEMPERATURES}
        temperature = matched_temperature(
            lambda t: self._answer(model, t, _PROMPTS_FOR_TEMPERATURE).entropy,
            common=self._world.common_entropy,
        )
        matched = self._answer(model, temperature, len(self._prompts))
        result: dict[str, Any] = {
            "rewards": {f"{t:g}": self._value(answers.texts) for t, answers in found.items()},
            "entropy": round(found[1.0].entropy, 4),
            "matched_temperature": round(temperature, 4),
            "matched_rewards": self._value(matched.texts),
            "length": round(float(np.mean([len(text.split()) for text in found[1.0].texts])), 3),
        }
        own = self._all_logprobs(folder, model)
        if teacher is not None:
            result["kl_teacher"] = _kl(self._all_logprobs(teacher), own)
        if initial is not None:
            before = self._all_logprobs(initial)
            result["kl_initial"] = _kl(own, before)
            result["preference_accuracy"] = self._preference_accuracy(own, before)
        return result

    def best_of(self, folder: Path, count: int) -> list[float]:
        """By prompt, the highest reward of several answers at temperature 1: what a perfect judge makes of a model."""
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        draws = [
            self._value(self._answer(model, 1.0, len(self._prompts), draw=draw).texts)
            for draw in range(count)
        ]
        return np.max(draws, axis=0).tolist()

    def _answer(self, model: Any, temperature: float, count: int, *, draw: int = 0) -> Any:
        return answer_prompts(
            model,
            self._tokenizer,
            self._messages[:count],
            temperature=temperature,
            seed=self._seed + 1000 * draw,
            max_tokens=self._world.max_answer_tokens,
        )

    def _value(self, texts: list[str]) -> list[float]:
        return [round(float(value), 4) for value in self._world.rewards(self._prompts, texts)]

    def _encode(self, prompt: list[dict[str, str]], answer: str) -> tuple[torch.Tensor, int]:
        """Token ids of a conversation with its answer, and how many of them the prompt has."""
        rendered = [
            self._tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False),
            self._tokenizer.apply_chat_template(
                [*prompt, {"role": "assistant", "content": answer}], tokenize=False
            ),
        ]
        before, whole = self._tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return torch.tensor(whole), len(before)

    @torch.inference_mode()
    def _all_logprobs(self, folder: Path, model: Any | None = None) -> list[torch.Tensor]:
        """Log-probabilities over the vocabulary at every position of the held-out answers, shape (T, V) each."""
        if model is None and folder in self._logprobs:
            return self._logprobs[folder]
        loaded = AutoModelForCausalLM.from_pretrained(folder).eval() if model is None else model
        padded = torch.nn.utils.rnn.pad_sequence([ids for ids, _ in self._rows], batch_first=True)
        logits = loaded(input_ids=padded).logits  # padding on the right: causal models do not see it
        found = [
            torch.log_softmax(logits[row, start - 1 : len(ids) - 1].float(), dim=-1)
            for row, (ids, start) in enumerate(self._rows)
        ]
        if model is None:
            self._logprobs[folder] = found
        return found

    def _preference_accuracy(self, own: list[torch.Tensor], before: list[torch.Tensor]) -> float:
        """Share of held-out pairs whose chosen answer gained more log-probability than the rejected one."""
        gains = []
        for (ids, start), now, then in zip(self._rows, own, before, strict=True):
            labels = ids[start:, None]
            gains.append(float((now.gather(1, labels) - then.gather(1, labels)).sum()))
        chosen, rejected = np.array(gains[0::2]), np.array(gains[1::2])
        return round(float(np.mean((chosen > rejected) + 0.5 * (chosen == rejected))), 4)


_ROLES = ("chosen", "rejected")


def _kl(of: list[torch.Tensor], to: list[torch.Tensor]) -> float:
    """KL(of || to), nats, mean over positions."""
    first, second = torch.cat(of).double(), torch.cat(to).double()
    return round(float((first.exp() * (first - second)).sum(dim=-1).mean()), 5)


def mean_rewards(result: dict[str, Any]) -> dict[str, float]:
    """Mean rewards of a result of `Measurer.measure`: `sampled`, `greedy`, `best` over temperatures, `matched`."""
    means = {name: float(np.mean(values)) for name, values in result["rewards"].items()}
    return {
        "sampled": means["1"],
        "greedy": means["0"],
        "best": max(means.values()),
        "matched": float(np.mean(result["matched_rewards"])),
    }
