"""score-teacher from options to a signal dataset."""

import dataclasses
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.card import write_card
from data.errors import ConfigurationError, DataError, ScoringError
from data.files import sha256_file
from data.home import adpa_home
from data.manifest import FileEntry, Manifest, fingerprint, write_manifest
from data.preferences import read_preferences
from data.rollouts import RolloutDataset
from data.signals import TOKENIZER_FOLDER, SignalDataset
from data.tokenization import EncodedPair, PairEncoder
from data.vocabulary import Vocabulary, check_agreement
from teacher_scoring.assemble import ScoredShard, assemble_shard, missing
from teacher_scoring.engine import Engine, open_engine
from teacher_scoring.loading import load_tokenizer, save_tokenizer
from teacher_scoring.models import FoundModel, engine_request, find_model
from teacher_scoring.options import ScoreOptions, engine_options
from teacher_scoring.passes import PassFile, plan_pass, run_reference_pass, run_teacher_pass
from teacher_scoring.tasks import EncodedShard, pair_rows, write_encoded_shards
from teacher_scoring.workplace import claim_folder, refuse_other_dataset, release_folder

__all__ = ["ScoreOptions", "score_teacher"]

logger = logging.getLogger(__name__)

Report = Callable[[str], None]


def score_teacher(options: ScoreOptions, *, report: Report = logger.info) -> SignalDataset:
    """Score preference data and rollouts, and write a signal dataset.

    Running the same request again continues where it stopped; a finished one is only opened.

    Args:
        options: what to score, with which models, into which folder.
        report: takes lines for the user.
    Raises:
        AdpaError: for unusable options, models or data, before any scoring; or for answers that fail the checks.
    """
    out = Path(options.out)
    teacher, reference = _find_models(options)
    tokenizer = load_tokenizer(
        teacher.folder, option="--teacher", trust_remote_code=options.trust_remote_code
    )
    _check_models(options, teacher, reference, tokenizer, report)
    rollouts = RolloutDataset.open(options.rollouts) if options.rollouts is not None else None
    encoder = PairEncoder(tokenizer, max_length=options.max_length, truncate=options.truncate)
    known = _known_request(options, teacher, reference, encoder, rollouts)
    reader = read_preferences(options.data, split=options.split, need="chosen")
    refuse_other_dataset(out, known)
    if (out / "manifest.json").exists():
        for _ in reader:
            pass
        refuse_other_dataset(out, {**known, "data": reader.data_hash})
        report(f"{out} holds this dataset already; nothing to do")
        return SignalDataset.open(out)

    work = claim_folder(out, known)
    pairs = _encode(reader, encoder)
    rows = pair_rows(pairs, rollouts, truncated=options.truncate)
    shards = list(write_encoded_shards(rows, work, roles=options.roles, shard_pairs=options.shard_pairs))
    report(reader.describe())
    report(encoder.describe())
    encoder.require_rows()
    _check_tasks(options, shards)
    request = {**known, "data": reader.data_hash}

    teacher_files, reference_files = _run_passes(options, teacher, reference, known, shards, report)
    entries = [
        assemble_shard(
            ScoredShard(
                shard,
                {role: file for (index, role), file in teacher_files.items() if index == shard.index},
                {role: file for (index, role), file in reference_files.items() if index == shard.index},
            ),
            out / f"shard-{shard.index:05d}.parquet",
            top_p=options.top_p,
            teacher_vocab_size=teacher.vocab_size,
            reference_vocab_size=reference.vocab_size if reference is not None else None,
            fingerprint=fingerprint(request),
            precision=options.precision,
        )
        for shard in tqdm(shards, desc="writing shards", unit="shard", disable=not sys.stderr.isatty())
    ]
    save_tokenizer(tokenizer, out / TOKENIZER_FOLDER)
    manifest = Manifest(
        kind="signals",
        request=request,
        shards=tuple(entries),
        files=tuple(_file_entries(out, (out / TOKENIZER_FOLDER).iterdir())),
        created=_created(options),
    )
    write_card(out, manifest)
    write_manifest(out, manifest)
    release_folder(out)
    return SignalDataset.open(out)


def _find_models(options: ScoreOptions) -> tuple[FoundModel, FoundModel | None]:
    teacher = find_model(
        "--teacher",
        options.teacher,
        revision=options.teacher_revision,
        adapter=options.teacher_adapter,
        trust_remote_code=options.trust_remote_code,
    )
    if options.reference is None:
        return teacher, None
    reference = find_model(
        "--reference",
        options.reference,
        revision=options.reference_revision,
        adapter=options.reference_adapter,
        trust_remote_code=options.trust_remote_code,
    )
    return teacher, reference


def _check_models(
    options: ScoreOptions, teacher: FoundModel, reference: FoundModel | None, tokenizer: Any, report: Report
) -> None:
    """Refuse before any work what would fail or mislead after hours of it."""
    if options.top_k > teacher.vocab_size:
        raise ConfigurationError(
            f"--top-k: {options.top_k} is above the teacher's vocabulary of {teacher.vocab_size} tokens"
        )
    if reference is None:
        return
    other = load_tokenizer(
        reference.folder, option="--reference", trust_remote_code=options.trust_remote_code
    )
    notes = check_agreement(
        Vocabulary.from_tokenizer(tokenizer),
        Vocabulary.from_tokenizer(other),
        teacher_name=options.teacher,
        student_name=str(options.reference),
    )
    for note in notes:
        report(f"note: {note}")


def _known_request(
    options: ScoreOptions,
    teacher: FoundModel,
    reference: FoundModel | None,
    encoder: PairEncoder,
    rollouts: RolloutDataset | None,
) -> dict[str, Any]:
    """The determining part of the manifest, but for the hash of data that have not been read yet."""
    return {
        **engine_request(options),
        "teacher": teacher.identity,
        "reference": reference.identity if reference is not None else None,
        "tokenizer": encoder.tokenizer_hash,
        "chat_template": encoder.template_hash,
        "rollouts": rollouts.manifest.fingerprint if rollouts is not None else None,
        "roles": list(options.roles),
        "top_k": options.top_k,
        "top_p": options.top_p,
        "max_length": options.max_length,
        "truncate": options.truncate,
        "precision": options.precision,
        "shard_pairs": options.shard_pairs,
    }


def _encode(reader: Iterable, encoder: PairEncoder) -> Iterable[EncodedPair]:
    rows = tqdm(reader, desc="encoding", unit="pair", disable=not sys.stderr.isatty())
    return (encoded for row in rows if (encoded := encoder.encode(row)) is not None)


def _check_tasks(options: ScoreOptions, shards: Sequence[EncodedShard]) -> None:
    found = {task.role for shard in shards for task in shard.tasks}
    for role in options.roles:
        if role not in found:
            if role == "student":
                raise DataError(
                    f"{options.rollouts}: none of its pairs is in {options.data}; sample from the same data"
                )
            raise DataError(f"{options.data}: no {role} response to score; leave it out of --score")


def _run_passes(
    options: ScoreOptions,
    teacher: FoundModel,
    reference: FoundModel | None,
    known: Mapping[str, Any],
    shards: Sequence[EncodedShard],
    report: Report,
) -> tuple[dict[tuple[int, str], PassFile], dict[tuple[int, str], PassFile]]:
    """Run the teacher over all tasks, then the reference; one model in memory at a time."""
    cache = Path(options.pass_cache) if options.pass_cache is not None else adpa_home() / "passes"
    request = {**engine_request(options), "model": teacher.identity, "top_k": options.top_k}
    teacher_files = plan_pass(shards, cache, request)

    def teacher_pass(engine: Engine, files: Sequence[PassFile], done: Callable[[PassFile], None]) -> None:
        run_teacher_pass(engine, files, options.top_k, done)

    _run_pass(options, teacher, list(teacher_files.values()), teacher_pass, report)
    if reference is None:
        return teacher_files, {}
    reference_files = plan_pass(
        shards, cache, {**engine_request(options), "model": reference.identity}, teacher_files
    )
    _run_pass(options, reference, list(reference_files.values()), run_reference_pass, report)
    return teacher_files, reference_files


def _run_pass(
    options: ScoreOptions,
    model: FoundModel,
    files: Sequence[PassFile],
    run: Callable[[Engine, Sequence[PassFile], Callable[[PassFile], None]], None],
    report: Report,
) -> None:
    todo = missing(files)
    total = sum(file.task.positions for file in files)
    remaining = sum(file.task.positions for file in todo)
    name = model.option.removeprefix("--")
    report(f"{name}: {total:,} positions, {total - remaining:,} of them scored before")
    if not todo:
        return
    settings = engine_options(
        options,
        str(model.folder),
        str(model.adapter) if model.adapter is not None else None,
        max_length=options.max_length,
    )
    engine = open_engine(options.engine, settings)
    try:
        if engine.vocab_size != model.vocab_size:
            raise ScoringError(
                f"{model.option}: the engine's logits are {engine.vocab_size} wide, config.json says {model.vocab_size}"
            )
        with tqdm(
            total=remaining, desc=name, unit="pos", unit_scale=True, disable=not sys.stderr.isatty()
        ) as bar:

            def advance(file: PassFile) -> None:
                bar.update(file.task.positions)

            run(engine, todo, advance)
    finally:
        engine.close()


def _file_entries(out: Path, paths: Iterable[Path]) -> Iterable[FileEntry]:
    for path in sorted(paths):
        yield FileEntry(path.relative_to(out).as_posix(), path.stat().st_size, sha256_file(path))


def _created(options: ScoreOptions) -> dict[str, Any]:
    """What is worth knowing of how the dataset came about but does not determine it."""
    given = dataclasses.asdict(options)
    return {
        "by": f"adpa {version('adpa')}",
        "teacher": given["teacher"],
        "reference": given["reference"],
        "data": given["data"],
        "rollouts": given["rollouts"],
    }
