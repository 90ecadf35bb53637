"""This project's training command and TRL's trainers, set up equally: student, pairs, batch and training arguments."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from student_training.run import TrainOptions, train_student
from teacher_scoring.score import ScoreOptions, score_teacher

PAD, END = 0, 1
FIRST_WORD = 2
SHAPES: dict[str, dict[str, Any]] = {
    "student": {
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 10,
        "num_attention_heads": 6,
    },
    "teacher": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 14,
        "num_attention_heads": 12,
    },
}
"""Llama shapes of 30 and 124 million weights, the tied embedding of 32,000 tokens included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every trainer is given. All rows have the same length, so that padding and packing make no difference.

    Attributes:
        folder: of models, pairs and signals; trainers write into it.
        steps: optimizer steps of a run.
        vocabulary, prompt, response, support: V, prompt and response tokens of each row, K.
        batch_pairs: pairs in a batch; each is two rows.
        num_pairs: pairs in the data.
    """

    folder: Path
    steps: int = 3
    vocabulary: int = 32_000
    prompt: int = 64
    response: int = 136
    support: int = 50
    batch_pairs: int = 4
    num_pairs: int = 16

    def prepare(self) -> dict[str, int]:
        """Make both models (random weights, float32), the pairs, and the teacher's signals.

        Returns:
            How many weights each model has, shared ones once.
        """
        torch.manual_seed(0)
        weights = {}
        for name, shape in SHAPES.items():
            config = LlamaConfig(
                vocab_size=self.vocabulary,
                tie_word_embeddings=True,
                pad_token_id=PAD,
                eos_token_id=END,
                **shape,
            )
            model = LlamaForCausalLM(config)
            model.save_pretrained(self.folder / name)
            self.tokenizer().save_pretrained(self.folder / name)
            weights[name] = model.num_parameters()
        self.texts().to_json(self.folder / "pairs.jsonl")
        # From a folder, TRL finds the reference's log-probabilities of an earlier turn again.
        self.texts().save_to_disk(self.folder / "pairs")
        scoring = ScoreOptions(
            teacher=str(self.folder / "teacher"),
            data=str(self.folder / "pairs.jsonl"),
            out=str(self.folder / "signals"),
            top_k=self.support,
            engine="transformers",
            pass_cache=str(self.folder / "passes"),
        )
        score_teacher(scoring)
        return weights

    def arguments(self, *, batch_size: int) -> dict[str, Any]:
        """Arguments of TRL's trainers: float32, AdamW, clipped gradients, nothing recomputed, saved or logged."""
        return {
            "output_dir": str(self.folder / "trl"),
            "per_device_train_batch_size": batch_size,
            "max_steps": self.steps,
            "learning_rate": 1e-5,
            "lr_scheduler_type": "constant",
            "optim": "adamw_torch",
            "max_grad_norm": 1.0,
            "bf16": False,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }

    def ids(self) -> dict[str, np.ndarray]:
        """Random token ids of prompts, chosen and rejected responses, (pairs, length); responses end."""
        generator = np.random.default_rng(0)
        lengths = {"prompt": self.prompt, "chosen": self.response, "rejected": self.response}
        ids = {
            name: generator.integers(FIRST_WORD, self.vocabulary, (self.num_pairs, length))
            for name, length in lengths.items()
        }
        ids["chosen"][:, -1] = ids["rejected"][:, -1] = END
        return ids

    def texts(self) -> Dataset:
        """The pairs as text without the end of the responses, which every trainer adds itself."""
        words, ids = self._words(), self.ids()
        columns = {
            "prompt": ids["prompt"],
            "chosen": ids["chosen"][:, :-1],
            "rejected": ids["rejected"][:, :-1],
        }
        texts = {
            name: [" ".join(words[number] for number in row) for row in rows]
            for name, rows in columns.items()
        }
        # Prompt and response are joined as they are.
        return Dataset.from_dict(texts | {"prompt": [prompt + " " for prompt in texts["prompt"]]})

    def responses(self) -> Dataset:
        """Chosen and rejected responses as separate rows, as ids."""
        ids = self.ids()
        answers = np.stack([ids["chosen"], ids["rejected"]], axis=1).reshape(2 * self.num_pairs, -1)
        columns = {"prompt_ids": np.repeat(ids["prompt"], 2, axis=0), "answer_ids": answers}
        # TRL wants a column named `prompt`; what is trained on are the ids.
        return Dataset.from_dict({"prompt": [""] * len(answers), **columns})

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """One word per id, so that text and ids are the same thing."""
        words = self._words()
        tokenizer = Tokenizer(
            models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[PAD])
        )
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=words[PAD], eos_token=words[END])

    def _words(self) -> list[str]:
        return ["<pad>", "</s>", *(f"w{number}" for number in range(FIRST_WORD, self.vocabulary))]


def adpa_dckd(task: Task) -> None:
    """DCKD from the signals: `adpa train-student`, reading shards, writing metrics and a checkpoint at the end."""
    runs = task.folder / "runs"
    runs.mkdir(exist_ok=True)
    options = TrainOptions(
        method="dckd",
        student=str(task.folder / "student"),
        signals=(str(task.folder / "signals"),),
        out=str(runs / str(len(list(runs.iterdir())))),
        batch_size=task.batch_pairs,
        max_steps=task.steps,
        learning_rate=1e-5,
        lr_scheduler="constant",
        dtype="float32",
    )
    train_student(options)


def trl_dpo(task: Task) -> None:
    """TRL's DPO; the reference's log-probabilities are computed before the first step."""
    trl = _trl("trl")
    trl.DPOTrainer(
        str(task.folder / "student"),
        args=trl.DPOConfig(**task.arguments(batch_size=task.batch_pairs), precompute_ref_log_probs=True),
        train_dataset=load_from_disk(task.folder / "pairs"),
        processing_class=task.tokenizer(),
    ).train()


def trl_gkd(task: Task) -> None:
    """TRL's GKD on given answers (lmbda 0), forward KL (beta 0), with a live teacher and all the logits of both."""
    gkd = _trl("trl.experimental.gkd")
    arguments = task.arguments(batch_size=2 * task.batch_pairs)
    gkd.GKDTrainer(
        str(task.folder / "student"),
        str(task.folder / "teacher"),
        args=gkd.GKDConfig(**arguments, lmbda=0.0, beta=0.0, temperature=1.0),
        train_dataset=task.responses(),
        processing_class=task.tokenizer(),
        data_collator=_with_labels,
    ).train()


def trl_distillation(task: Task) -> None:
    """TRL's DistillationTrainer, forward KL in chunks, live teacher; given answers instead of sampled ones.

    It knows on-policy training only. Handing it the answers spares it the sampling, most of its step.
    """
    trl = _trl("trl")

    class OnGivenAnswers(trl.DistillationTrainer):
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            prompts, answers = (
                torch.tensor([row[name] for row in inputs]) for name in ("prompt_ids", "answer_ids")
            )
            return {
                "prompt_ids": prompts,
                "prompt_mask": torch.ones_like(prompts),
                "completion_ids": answers,
                "completion_mask": torch.ones_like(answers),
                "num_items_in_batch": torch.tensor(float(answers.numel())),
            }

    OnGivenAnswers(
        str(task.folder / "student"),
        str(task.folder / "teacher"),
        args=trl.DistillationConfig(**task.arguments(batch_size=2 * task.batch_pairs), beta=0.0),
        train_dataset=task.responses(),
        processing_class=task.tokenizer(),
    ).train()


TRAINERS: dict[str, Callable[[Task], None]] = {
    "adpa dckd": adpa_dckd,
    "trl dpo": trl_dpo,
    "trl gkd": trl_gkd,
    "trl distillation": trl_distillation,
}
"""Each makes a trainer from the task's folder and trains."""


def _with_labels(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Rows of `Task.responses` as GKD's batches."""
    input_ids = torch.tensor([row["prompt_ids"] + row["answer_ids"] for row in rows])
    prompts = torch.tensor([row["prompt_ids"] for row in rows])
    labels = input_ids.clone()
    labels[:, : prompts.shape[1]] = -100
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "labels": labels,
        "prompts": prompts,
        "prompt_attention_mask": torch.ones_like(prompts),
    }


def _trl(module: str) -> Any:
    """Import TRL: a peer, never a dependency."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    return importlib.import_module(module)
