"""What the pipeline starts from: the world's data as files, and untrained models."""

import numpy as np

from small_world.language import prompt_text
from small_world.models import save_untrained_student, save_untrained_teacher
from small_world.pairs import draw_conversations, draw_pairs, write_conversations, write_pairs, write_prompts
from small_world.plan import Plan
from small_world.workshop import Workshop
from small_world.world import World

__all__ = ["make_beginnings"]


def make_beginnings(shop: Workshop, world: World, plan: Plan) -> None:
    """Write data and untrained models that are not there yet.

    Each kind of data draws from a generator of its own, so that the size of one does not change another.
    """
    conversations, pairs, held_out = (shop.data(name) for name in ("conversations", "pairs", "held-out"))
    if not conversations.exists():
        rng = np.random.default_rng((world.seed, 1))
        write_conversations(conversations, draw_conversations(world, rng, plan.num_conversations))
    if not pairs.exists():
        write_pairs(pairs, draw_pairs(world, np.random.default_rng((world.seed, 2)), plan.num_pairs))
    if not held_out.exists():
        write_prompts(held_out, map(prompt_text, world.held_out_prompts[: plan.judged_prompts]))
    for name, save in (
        ("untrained-teacher", save_untrained_teacher),
        ("untrained-student", save_untrained_student),
    ):
        if not (shop.model(name) / "tokenizer.json").exists():  # written last
            save(shop.model(name), seed=world.seed)
