"""Verdicts on disk, so that a demo that is run again judges nothing twice."""

import json
from pathlib import Path

import numpy as np

from data.files import write_atomic
from data.models import resolve_model
from small_world.judge import Judge, Verdict

__all__ = ["judge_once"]


def judge_once(judge: Judge, checkpoint: Path, path: Path) -> Verdict:
    """The verdict on a checkpoint: read from `path` where that fits, else found and written there.

    A kept verdict fits when the weights, the world and the judge's settings are the same.
    """
    _, identity = resolve_model(str(checkpoint))
    about = {
        "weights_sha256": identity.weights_sha256,
        "world": judge.world.seed,
        "prompts": judge.num_prompts,
        "samples": judge.num_samples,
        "seed": judge.seed,
    }
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["about"] == about:
            return _from_json(kept["verdict"])
    verdict = judge.judge(checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"about": about, "verdict": _to_json(verdict)}))
    return verdict


def _to_json(verdict: Verdict) -> dict[str, object]:
    return {
        "sampled": verdict.sampled.tolist(),
        "greedy": verdict.greedy.tolist(),
        "entropy": verdict.entropy,
        "matched_temperature": verdict.matched_temperature,
        "matched": verdict.matched.tolist(),
    }


def _from_json(kept: dict) -> Verdict:
    return Verdict(
        sampled=np.array(kept["sampled"]),
        greedy=np.array(kept["greedy"]),
        entropy=kept["entropy"],
        matched_temperature=kept["matched_temperature"],
        matched=np.array(kept["matched"]),
    )
