"""Rows with the columns of public preference data, all text our own: what a form must read out of each."""

import json
from typing import Any, NamedTuple

from data.preferences.messages import Message

Q, GOOD, BAD = "Name a river.", "The Danube.", "Water."


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


class Schema(NamedTuple):
    """Rows of one public data set, and the pairs they hold.

    Attributes:
        name: of the data set.
        form: the form that has to be detected.
        rows: its rows.
        pairs: prompt, chosen and rejected of every pair.
        dropped: counts by reason.
        unread: columns that hold something and are not read.
    """

    name: str
    form: str
    rows: list[dict[str, Any]]
    pairs: list[tuple[Any, Any, Any]]
    dropped: dict[str, int] = {}  # noqa: RUF012
    unread: tuple[str, ...] = ()


TEXT = [(Q, GOOD, BAD)]

TURNS = [((Message("user", Q),), GOOD, BAD)]

SYSTEM = [((Message("system", "Be brief."), Message("user", Q)), GOOD, BAD)]

TRANSCRIPT = "\n\nHuman: How long?\n\nAssistant: Which egg?\n\nHuman: A soft one.\n\nAssistant:"

HH_PROMPT = (Message("user", "How long?"), Message("assistant", "Which egg?"), Message("user", "A soft one."))

PAIRS = [
    Schema(
        "Anthropic/hh-rlhf",
        "hh-rlhf",
        [
            {
                "chosen": f"{TRANSCRIPT} Six minutes.",
                "rejected": f"{TRANSCRIPT} No idea.",
            }
        ],
        [(HH_PROMPT, "Six minutes.", "No idea.")],
    ),
    Schema(
        "Dahoas/full-hh-rlhf",
        "pairs",
        [
            {
                "prompt": "\n\nHuman: How long?\n\nAssistant: Which egg?\n\nHuman: A soft one.\n\nAssistant:",
                "response": " Six minutes.",
                "chosen": "Six minutes.",
                "rejected": "No idea.",
            }
        ],
        [(HH_PROMPT, "Six minutes.", "No idea.")],
        unread=("response",),
    ),
    Schema(
        "Intel/orca_dpo_pairs",
        "orca",
        [{"system": "Be brief.", "question": Q, "chosen": GOOD, "rejected": BAD}],
        SYSTEM,
    ),
    Schema(
        "argilla/distilabel-intel-orca-dpo-pairs",
        "input-pairs",
        [
            {
                "system": "Be brief.",
                "input": Q,
                "chosen": GOOD,
                "rejected": BAD,
                "generations": [BAD, GOOD],
                "order": ["rejected", "chosen"],
                "rating": [3.0, 9.0],
                "status": "swapped",
                "in_gsm8k_train": False,
            }
        ],
        SYSTEM,
        unread=("generations", "order", "rating", "status", "in_gsm8k_train"),
    ),
    Schema(
        "TRL, explicit prompts",
        "pairs",
        [{"prompt": [user(Q)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]}],
        TURNS,
    ),
    Schema(
        "TRL, implicit prompts",
        "conversations",
        [{"chosen": [user(Q), assistant(GOOD)], "rejected": [user(Q), assistant(BAD)]}],
        TURNS,
    ),
    Schema(
        "princeton-nlp/llama3-ultrafeedback",
        "conversations",
        [
            {
                "prompt_id": "af",
                "prompt": Q,
                "all_generated_responses": [GOOD, BAD],
                "all_rm_scores": [0.2, 0.1],
                "chosen": [user(Q), assistant(GOOD)],
                "rejected": [user(Q), assistant(BAD)],
            }
        ],
        TURNS,
        unread=("prompt_id", "all_generated_responses", "all_rm_scores"),
    ),
    Schema(
        "OpenAI preferences",
        "openai",
        [
            {
                "input": {"messages": [user(Q)], "tools": [], "parallel_tool_calls": True},
                "preferred_output": [assistant(GOOD)],
                "non_preferred_output": [assistant(BAD)],
            }
        ],
        TURNS,
    ),
    Schema(
        "LLaMA-Factory, alpaca ranking",
        "alpaca-pairs",
        [{"instruction": "Name this.", "input": "A river.", "chosen": GOOD, "rejected": BAD, "system": ""}],
        [("Name this.\nA river.", GOOD, BAD)],
    ),
    Schema(
        "LLaMA-Factory, alpaca with history",
        "alpaca-pairs",
        [{"instruction": Q, "input": "", "history": [["Hello.", "Hi."]], "chosen": GOOD, "rejected": BAD}],
        [((Message("user", "Hello."), Message("assistant", "Hi."), Message("user", Q)), GOOD, BAD)],
    ),
    Schema(
        "LLaMA-Factory, older alpaca ranking",
        "alpaca-outputs",
        [{"instruction": Q, "input": "", "output": [GOOD, BAD]}],
        TEXT,
    ),
    Schema(
        "LLaMA-Factory, sharegpt ranking",
        "sharegpt-pairs",
        [{"conversations": [human(Q)], "chosen": gpt(GOOD), "rejected": gpt(BAD)}],
        TURNS,
    ),
    Schema(
        "axolotl, chat_template",
        "messages-pairs",
        [{"messages": [user(Q)], "chosen": assistant(GOOD), "rejected": assistant(BAD)}],
        TURNS,
    ),
    Schema(
        "axolotl, chatml.argilla",
        "responses",
        [{"system": "Be brief.", "instruction": Q, "chosen_response": GOOD, "rejected_response": BAD}],
        SYSTEM,
    ),
    *(
        Schema(
            f"answers named {better} and {worse}",
            "responses",
            [{prompt: Q, better: GOOD, worse: BAD, "source": "own"}],
            TEXT,
            unread=("source",),
        )
        for prompt, better, worse in (
            ("query", "preferred", "dispreferred"),
            ("prompt", "accepted", "rejected"),
            ("problem", "better", "worse"),
            ("input", "y_w", "y_l"),
            ("question", "answer_chosen", "answer_rejected"),
        )
    ),
    Schema(
        "whole conversations under other names",
        "responses",
        [{"positive": [user(Q), assistant(GOOD)], "negative": [user(Q), assistant(BAD)]}],
        TURNS,
    ),
    *(
        Schema(
            f"chosen beside {prompt}", f"{prompt}-pairs", [{prompt: Q, "chosen": GOOD, "rejected": BAD}], TEXT
        )
        for prompt in ("query", "problem", "context")
    ),
    Schema(
        "kakao/diatool-dpo, JSON text",
        "conversations",
        [
            {
                "chosen": json.dumps([user(Q), assistant(GOOD)]),
                "rejected": json.dumps([user(Q), assistant(BAD)]),
            }
        ],
        TURNS,
    ),
    Schema(
        "pandas, messages printed by Python",
        "conversations",
        [
            {
                "chosen": repr([user(Q), assistant(GOOD)]),
                "rejected": repr([user(Q), assistant(BAD)]),
            }
        ],
        TURNS,
    ),
    Schema(
        "content as text parts",
        "pairs",
        [
            {
                "prompt": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "Name "}, {"type": "text", "text": "a river."}],
                    }
                ],
                "chosen": [{"role": "assistant", "content": [{"type": "text", "text": GOOD, "image": None}]}],
                "rejected": [assistant(BAD)],
            }
        ],
        TURNS,
    ),
    Schema(
        "datasets, lists side by side",
        "conversations",
        [
            {
                "chosen": {"role": ["user", "assistant"], "content": [Q, GOOD]},
                "rejected": {"role": ["user", "assistant"], "content": [Q, BAD]},
            }
        ],
        TURNS,
    ),
]

VOTES = [
    Schema(
        "PKU-Alignment/PKU-SafeRLHF",
        "votes",
        [
            {
                "prompt": Q,
                "response_0": BAD,
                "response_1": GOOD,
                "prompt_source": "own",
                "is_response_0_safe": True,
                "is_response_1_safe": True,
                "better_response_id": 1,
                "safer_response_id": 0,
            }
        ],
        TEXT,
        unread=("prompt_source", "is_response_0_safe", "is_response_1_safe", "safer_response_id"),
    ),
    Schema(
        "stanfordnlp/SHP",
        "shp",
        [
            {
                "post_id": "a",
                "history": Q,
                "human_ref_A": GOOD,
                "human_ref_B": BAD,
                "labels": 1,
                "score_A": 9,
                "score_B": 2,
            },
            {
                "post_id": "b",
                "history": "r",
                "human_ref_A": "x",
                "human_ref_B": "y",
                "labels": 0,
                "score_A": 2,
                "score_B": 9,
            },
        ],
        [*TEXT, ("r", "y", "x")],
        unread=("post_id", "score_A", "score_B"),
    ),
    Schema(
        "lmsys/chatbot_arena_conversations",
        "votes",
        [
            {
                "question_id": "1",
                "model_a": "m",
                "model_b": "n",
                "winner": winner,
                "conversation_a": [user(Q + tag), assistant(GOOD)],
                "conversation_b": [user(Q + tag), assistant(BAD)],
                "turn": 1,
                "language": "English",
            }
            for winner, tag in (("model_a", ""), ("model_b", "!"), ("tie", "?"), ("tie (bothbad)", "."))
        ],
        [*TURNS, ((Message("user", Q + "!"),), BAD, GOOD)],
        {"tie": 2},
        ("question_id", "model_a", "model_b", "turn", "language"),
    ),
    Schema(
        "lmarena-ai/arena-human-preference-140k, several turns",
        "votes",
        [
            {
                "id": "v",
                "model_a": "m",
                "model_b": "n",
                "winner": "model_b",
                "conversation_a": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": Q, "image": None, "mimeType": None}],
                    },
                    {
                        "role": "assistant",
                        "content": [{"type": "text", "text": BAD, "image": None, "mimeType": None}],
                    },
                    {"role": "user", "content": [{"type": "text", "text": "More."}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
                ],
                "conversation_b": [user(Q), assistant(GOOD), user("More."), assistant("The Rhine.")],
            }
        ],
        [
            (
                (Message("user", Q),),
                (Message("assistant", GOOD), Message("user", "More."), Message("assistant", "The Rhine.")),
                (Message("assistant", BAD), Message("user", "More."), Message("assistant", "No.")),
            )
        ],
        unread=("model_a", "model_b"),
    ),
    Schema(
        "lmarena-ai/arena-human-preference-55k",
        "arena-texts",
        [
            {
                "id": str(number),
                "model_a": "m",
                "model_b": "n",
                "prompt": '["Name a river."]',
                "response_a": '["The Danube."]',
                "response_b": '["Water."]',
                "winner_model_a": a,
                "winner_model_b": b,
                "winner_tie": tie,
            }
            for number, (a, b, tie) in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1)])
        ],
        [*TURNS, ((Message("user", Q),), BAD, GOOD)],
        {"tie": 1},
        ("model_a", "model_b"),
    ),
    Schema(
        "nvidia/HelpSteer3",
        "helpsteer-preference",
        [
            {
                "domain": "general",
                "language": "english",
                "context": [user(f"{Q}{preference}")],
                "response1": GOOD,
                "response2": BAD,
                "overall_preference": preference,
                "individual_preference": [
                    {"score": preference, "reasoning": "r", "feedback1": "f", "feedback2": "g"}
                ],
            }
            for preference in (-3, 1, 0)
        ],
        [((Message("user", Q + "-3"),), GOOD, BAD), ((Message("user", Q + "1"),), BAD, GOOD)],
        {"tie": 1},
        ("domain", "language", "individual_preference"),
    ),
    Schema(
        "nvidia/HelpSteer2, preference",
        "helpsteer-preference",
        [{"prompt": Q, "response_1": BAD, "response_2": GOOD, "preference_strength": 2, "split": "train"}],
        TEXT,
        unread=("split",),
    ),
    Schema(
        "alpaca_eval annotations",
        "alpaca-eval",
        [
            {
                "instruction": f"{Q} {preference}",
                "output_1": GOOD,
                "generator_1": "gpt4_turbo",
                "output_2": BAD,
                "generator_2": "m",
                "dataset": "koala",
                "annotator": "weighted_alpaca_eval_gpt4_turbo",
                "preference": preference,
            }
            for preference in (1.0000048889, 1.97, 1.5, 0, None)
        ],
        [(f"{Q} 1.0000048889", GOOD, BAD), (f"{Q} 1.97", BAD, GOOD)],
        {"tie": 2, "no preference given": 1},
        ("generator_1", "generator_2", "dataset", "annotator"),
    ),
]

SCORES = [
    Schema(
        "openbmb/UltraFeedback",
        "scored",
        [
            {
                "source": "own",
                "instruction": Q,
                "models": ["a", "b", "c"],
                "completions": [
                    {
                        "model": "a",
                        "principle": "p",
                        "response": "A lake.",
                        "overall_score": 5.0,
                        "critique": "c",
                    },
                    {"model": "b", "principle": "p", "response": GOOD, "overall_score": 9.5, "critique": "c"},
                    {"model": "c", "principle": "p", "response": BAD, "overall_score": 1.0, "critique": "c"},
                ],
                "correct_answers": ["None"],
                "incorrect_answers": ["None"],
            }
        ],
        TEXT,
        unread=("source", "models", "correct_answers", "incorrect_answers"),
    ),
    Schema(
        "berkeley-nest/Nectar",
        "scored",
        [
            {
                "prompt": "\n\nHuman: How long?\n\nAssistant: Which egg?\n\nHuman: A soft one.\n\nAssistant: ",
                "answers": [
                    {"answer": "Six minutes.", "model": "m", "rank": 1.0},
                    {"answer": "Ask a hen.", "model": "n", "rank": 2.0},
                    {"answer": "No idea.", "model": "o", "rank": 3.0},
                ],
                "turns": 2,
                "num_responses": 3,
                "source": ["own"],
                "good_natured": True,
            }
        ],
        [(HH_PROMPT, "Six minutes.", "No idea.")],
        unread=("turns", "num_responses", "source", "good_natured"),
    ),
    Schema(
        "lists side by side",
        "scored",
        [
            {"prompt": Q, "responses": [BAD, GOOD, "A lake."], "scores": [0.1, 0.9, 0.5]},
            {"prompt": "r", "responses": ["x", "y"], "scores": [0.5, 0.5]},
            {"prompt": "s", "responses": ["x", "y"], "scores": [0.5, None]},
        ],
        TEXT,
        {"tie": 1, "fewer than two scored answers": 1},
    ),
]

TWO_SCORES = [
    Schema(
        "two scored answers",
        "two-scores",
        [
            {"prompt": Q, "response_a": GOOD, "response_b": BAD, "score_a": 3, "score_b": 1, "source": "own"},
            {
                "prompt": "r",
                "response_a": "x",
                "response_b": "y",
                "score_a": 2,
                "score_b": 2,
                "source": "own",
            },
            {
                "prompt": "s",
                "response_a": "x",
                "response_b": "y",
                "score_a": 2,
                "score_b": None,
                "source": "own",
            },
        ],
        TEXT,
        {"tie": 1, "no preference given": 1},
        ("source",),
    ),
]

SINGLES = [
    Schema(
        "trl-lib/kto-mix-14k",
        "labels",
        [
            {"prompt": [user("r")], "completion": [assistant("x")], "label": True},
            {"prompt": [user(Q)], "completion": [assistant(GOOD)], "label": True},
            {"prompt": [user(Q)], "completion": [assistant(BAD)], "label": False},
        ],
        TURNS,
        {"unpaired answer": 1},
    ),
    Schema(
        "LLaMA-Factory, KTO",
        "labels",
        [
            {"messages": [user(Q), assistant(BAD)], "label": False},
            {"messages": [user(Q), assistant(GOOD)], "label": True},
        ],
        TURNS,
    ),
]

ANSWERS = [
    Schema(
        "TRL, prompt and completion",
        "prompt-completion",
        [{"prompt": Q, "completion": GOOD}],
        [(Q, GOOD, None)],
    ),
    Schema(
        "TRL, prompt and completion as messages",
        "prompt-completion",
        [{"prompt": [user(Q)], "completion": [assistant(GOOD)]}],
        [((Message("user", Q),), GOOD, None)],
    ),
    Schema(
        "OpenAI, messages",
        "messages",
        [{"messages": [user(Q), assistant(GOOD)]}],
        [((Message("user", Q),), GOOD, None)],
    ),
    Schema(
        "tatsu-lab/alpaca",
        "alpaca",
        [{"instruction": "Name this.", "input": "A river.", "output": GOOD, "text": "all of it"}],
        [("Name this.\nA river.", GOOD, None)],
        unread=("text",),
    ),
    Schema(
        "ShareGPT",
        "sharegpt",
        [{"id": "s", "conversations": [{"from": "system", "value": "Be brief."}, human(Q), gpt(GOOD)]}],
        [((Message("system", "Be brief."), Message("user", Q)), GOOD, None)],
    ),
    Schema(
        "Magpie, instruction and conversation that agree",
        "sharegpt",
        [{"instruction": Q, "output": GOOD, "conversations": [human(Q), gpt(GOOD)]}],
        [((Message("user", Q),), GOOD, None)],
        unread=("instruction", "output"),
    ),
    Schema("openai/gsm8k", "question-answer", [{"question": Q, "answer": GOOD}], [(Q, GOOD, None)]),
]
