"""`signals report`: a dataset, or two side by side, as one self-contained HTML file."""

import importlib.resources
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from data.errors import ConfigurationError
from data.files import write_atomic
from data.report.conversations import Row, conversation, index_entry, token_ids
from data.report.panels import common_pairs, key_figures, statistics_panel, token_panel
from data.report.rollout_summary import RolloutSummary, rollout_tokenizer, summarize_rollouts
from data.report.statistics import DatasetSummary
from data.report.summary import summarize_dataset
from data.report.translated import translation_section
from data.report.verdicts import Verdict, rollout_verdicts, signal_verdicts
from data.signals.dataset import SignalDataset
from data.signals.fingerprint import describe_request
from data.signals.manifest import Manifest
from data.signals.rollouts import RolloutDataset
from data.tokens.token_text import TokenText


@dataclass(frozen=True, slots=True)
class Side:
    """One of the datasets of a report.

    Attributes:
        summary: its statistics.
        pairs: conversations to show, each with all its responses.
        texts: the text of its tokens.
    """

    summary: DatasetSummary | RolloutSummary
    pairs: Sequence[Sequence[Row]]
    texts: TokenText

    @property
    def verdicts(self) -> list[Verdict]:
        """What its numbers mean."""
        summary = self.summary
        if isinstance(summary, RolloutSummary):
            return rollout_verdicts(summary)
        return signal_verdicts(summary)

    @property
    def name(self) -> str:
        """How the report calls it."""
        return self.summary.dataset.path.name


def write_report(
    dataset: SignalDataset | RolloutDataset,
    out: str | os.PathLike[str],
    *,
    compare: SignalDataset | RolloutDataset | None = None,
    num_conversations: int = 200,
    max_groups: int | None = 64,
    tokenizer: Path | None = None,
) -> None:
    """Write the report of a dataset.

    Args:
        dataset: what to report on.
        out: the HTML file.
        compare: a second dataset of the same kind, to show beside the first.
        num_conversations: pairs to show token by token: half of them evenly spread over the dataset, and of those that
            statistics were taken of, half with the most extreme margins.
        max_groups: row groups to take statistics from, evenly spread; None takes all.
        tokenizer: for rollouts, the folder of the student's tokenizer; None looks where the student was.
    Raises:
        ConfigurationError: for two datasets of different kinds.
        ShardError: when a shard cannot be read, or the file not be written.
    """
    if compare is not None and compare.kind != dataset.kind:
        raise ConfigurationError(
            f"compare: {compare.path} is a dataset of {compare.kind}, {dataset.path} of {dataset.kind}; "
            "give two of the same kind"
        )
    summary = _summarize(dataset, max_groups)
    pairs = [dataset.pair(index) for index in _chosen_pairs(summary, num_conversations)]
    sides = [Side(summary, pairs, _texts(dataset, tokenizer))]
    if compare is not None:
        wanted = {pair[0].pair_id for pair in pairs}
        found = [index for index, pair_id in enumerate(compare.pair_ids) if pair_id in wanted]
        beside = [compare.pair(index) for index in found]
        sides.append(Side(_summarize(compare, max_groups), beside, _texts(compare, tokenizer)))
    write_atomic(out, render_report(*sides))


def _summarize(
    dataset: SignalDataset | RolloutDataset, max_groups: int | None
) -> DatasetSummary | RolloutSummary:
    if isinstance(dataset, RolloutDataset):
        return summarize_rollouts(dataset, max_groups=max_groups)
    return summarize_dataset(dataset, max_groups=max_groups)


def _chosen_pairs(summary: DatasetSummary | RolloutSummary, number: int) -> list[int]:
    """Which pairs to show, in the dataset's order, so that each block is decoded once."""
    num_pairs = summary.dataset.num_pairs
    extremes = [] if isinstance(summary, RolloutSummary) else summary.margins.extremes(number // 2)
    number = min(number, num_pairs)
    spread = [index * num_pairs // number for index in range(number)]
    # As many of the spread ones as there is room for, again evenly spread.
    others = [index for index in spread if index not in set(extremes)]
    room = number - len(extremes)
    kept = [others[index * len(others) // room] for index in range(room)] if room and others else []
    return sorted({*extremes, *kept})


def _texts(dataset: SignalDataset | RolloutDataset, tokenizer: Path | None) -> TokenText:
    if isinstance(dataset, RolloutDataset):
        return TokenText(tokenizer or rollout_tokenizer(dataset))
    return TokenText(dataset.tokenizer_folder)


def render_report(side: Side, other: Side | None = None) -> str:
    """The report's HTML.

    Args:
        side: the dataset.
        other: a second one, of the same kind, to show beside it; its pairs are found by their ids.
    """
    sides = [side] if other is None else [side, other]
    conversations = _conversations(side, other)
    texts: dict[int, str] = {}
    for shown in conversations:
        texts |= {token_id: side.texts[token_id] for token_id in token_ids(shown)}
    index = [index_entry(pair, shown) for pair, shown in zip(side.pairs, conversations, strict=True)]
    scale = max(one.summary.colour_scale for one in sides)
    settings = {"scale": scale, "who": _who(side.summary)}
    data = [
        _json_element("settings", settings),
        _json_element("index", index),
        _json_element("texts", {str(token_id): texts[token_id] for token_id in sorted(texts)}),
    ]
    data += [_json_element(f"conversation-{number}", shown) for number, shown in enumerate(conversations)]
    title = " and ".join(one.name for one in sides)
    title = f"{'Signals' if isinstance(side.summary, DatasetSummary) else 'Rollouts'} of {title}"
    parts = [f"<h1>{escape(title)}</h1>"]
    parts += _beside([_head(one, named=other is not None) for one in sides])
    if other is not None:
        parts.append(common_pairs(side.summary, other.summary))
    parts += _beside(
        [statistics_panel(one.summary, [s.summary for s in sides if s is not one]) for one in sides]
    )
    kept = [one.summary.dataset.manifest.created.get("translation") for one in sides]
    if any(kept):
        parts += _beside(["" if one is None else translation_section(one) for one in kept])
    parts.append(_browser(index, settings, coloured=_is_coloured(side.summary)))
    parts += _beside(
        [token_panel(one.summary, one.texts) for one in sides if isinstance(one.summary, DatasetSummary)]
    )
    return fill_page(title=title, body="\n".join(parts), data="\n".join(data))


def fill_page(*, title: str, body: str, data: str) -> str:
    """A page that needs no network: `page.html` with its style sheet and script inserted.

    Args:
        title: text for the browser's window.
        body: HTML of what is seen.
        data: HTML elements that hold what the script reads.
    """
    folder = importlib.resources.files("data.report")
    style, script, page = (
        (folder / name).read_text(encoding="utf-8") for name in ("style.css", "script.js", "page.html")
    )
    return Template(page).substitute(title=escape(title), style=style, body=body, data=data, script=script)


def _conversations(side: Side, other: Side | None) -> list[dict[str, Any]]:
    if other is None:
        return [conversation(pair, side.texts) for pair in side.pairs]
    beside = {pair[0].pair_id: pair for pair in other.pairs}
    names = (side.name, other.name)
    return [
        conversation(pair, side.texts, names=names, beside=beside.get(pair[0].pair_id, ()))
        for pair in side.pairs
    ]


def _beside(parts: Sequence[str]) -> list[str]:
    """Parts of the page for each dataset: side by side where there are two."""
    if len(parts) < 2 or not any(parts):
        return list(parts)
    return ["<div class=sides>" + "".join(f"<div>{part}</div>" for part in parts) + "</div>"]


def _head(side: Side, *, named: bool) -> str:
    manifest = side.summary.dataset.manifest
    name = f"<h2>{escape(side.name)}</h2>" if named else ""
    marks = {True: "✓", False: "!", None: "·"}
    cards = "".join(
        f"<li class='{verdict.mark if verdict.is_good is not None else 'neutral'}'>"
        f"<i aria-label='{verdict.mark}'>{marks[verdict.is_good]}</i>"
        f"<div><h3>{escape(verdict.question)}</h3><p>{escape(verdict.answer)}</p></div></li>"
        for verdict in side.verdicts
    )
    made = [
        ("fingerprint", manifest.fingerprint),
        *((name, value) for name, value in manifest.created.items() if name != "translation"),
        *describe_request(manifest.request),
    ]
    rows = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in made)
    facts = "".join(
        f"<div><b>{escape(value)}</b>{escape(label)}</div>" for value, label in key_figures(side.summary)
    )
    return (
        f"{name}<p class=muted>{escape(_origin(manifest))}</p><ul class=verdicts>{cards}</ul>"
        f"<div class=facts>{facts}</div>"
        f"<details class=panel><summary>Provenance</summary><table>{rows}</table></details>"
    )


def _origin(manifest: Manifest) -> str:
    """Who made a dataset, in one line."""
    request = manifest.request
    models = [request.get(name) for name in ("teacher", "reference", "student")]
    names = [str(model["source"]) for model in models if isinstance(model, dict) and "source" in model]
    engine = request.get("engine")
    parts = [" against ".join(names)] if names else []
    if isinstance(engine, dict):
        parts.append(f"{engine.get('name')} {engine.get('version')}")
    return " · ".join([*parts, f"fingerprint {manifest.fingerprint[:12]}"])


def _who(summary: DatasetSummary | RolloutSummary) -> str:
    return "teacher" if isinstance(summary, DatasetSummary) else "student"


def _is_coloured(summary: DatasetSummary | RolloutSummary) -> bool:
    return isinstance(summary, RolloutSummary) or summary.dataset.has_advantages


def _browser(index: Sequence[dict[str, Any]], settings: dict[str, Any], *, coloured: bool) -> str:
    """The list of conversations and the place where the chosen one is drawn."""
    if not index:
        return ""
    by_student = settings["who"] == "student"
    hint = f"Point at a token for what the {settings['who']} thought of it"
    hint += ". " if by_student else " and would have said. "
    colours = ""
    scale = ""
    if coloured:
        limit = f"{settings['scale']:g}"
        ends = (f"−{limit} nats", "0") if by_student else (f"−{limit} nats", f"+{limit}")
        colours = (
            "Each token is coloured by its log-probability under the student. "
            if by_student
            else "Each token is coloured by its advantage, the teacher's log-probability minus its reference's. "
        )
        kind = " class=one" if by_student else ""
        scale = f"<span class=scale>{ends[0]}<i{kind}></i>{ends[1]}</span>"
    sorts = [("order", "dataset's order"), ("longest", "longest first"), ("shortest", "shortest first")]
    if any(entry["margin"] is not None for entry in index):
        sorts[1:1] = [("disagreement", "disagreement with the label"), ("margin", "largest margin")]
    options = "".join(f"<option value={value}>{text}</option>" for value, text in sorts)
    keys = "Keys: <kbd>←</kbd> <kbd>→</kbd> the next one, <kbd>/</kbd> search."
    return (
        f"<h2 id=conversations>Conversations</h2><p>{colours}{hint}{keys}</p><div class=choose>"
        "<button id=previous title='the one before' aria-label='previous conversation'>←</button>"
        "<button id=next title='the next one' aria-label='next conversation'>→</button>"
        "<input id=search type=search placeholder='search texts and ids' aria-label='search conversations'>"
        f"<label>sort by <select id=sort>{options}</select></label>"
        f"<output id=count></output>{scale}</div>"
        "<div class=browse><div id=list role=listbox aria-label='conversations'></div>"
        "<div id=conversation></div></div>"
    )


def _json_element(name: str, value: Any) -> str:
    # A text that holds "</script>" must not end the element.
    content = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{content}</script>'
