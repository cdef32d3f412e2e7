"""Image-to-image comparison of stage 1: two images, and what is alike and what differs, made from what is true of each.

UMIT publishes the form of the answer (`Similarities: ...; Differences: ...`) and not the question; the question and the
Chinese words are ours. What is trained should be what is served, so a comparison is the answer to an open question.
Every finding is said in the words in which the node's reports say it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from umit_pacs.handoffs import Language, Task
from umit_pacs.umit_model.samples import Sample, complete
from umit_pacs.vocabulary import SRTemplate, load_templates

COMPARISON_KIND = "comparison"
QUESTION = {
    Language.ENGLISH: "What is alike and what differs between these two images?",
    Language.CHINESE: "这两幅图像有哪些相同点和不同点?",
}
_ANSWER = {
    Language.ENGLISH: "Similarities: {alike}; Differences: {apart}",
    Language.CHINESE: "相同点：{alike}；不同点：{apart}",
}
_ONE = {
    Language.ENGLISH: ("first image: {said}", "second image: {said}", ", ", "none"),
    Language.CHINESE: ("第一幅：{said}", "第二幅：{said}", "，", "无"),
}


def compare(first: Sample, second: Sample, language: Language, id_: str) -> Sample:
    """The comparison of two images of whose findings the same is known.

    Raises ValueError when they are not one image each, of one template and modality, or nothing is known of both.
    """
    if (first.template, first.modality, first.data_set) != (second.template, second.modality, second.data_set):
        raise ValueError("images of different kinds")
    if len(first.images) != 1 or len(second.images) != 1 or first.images == second.images:
        raise ValueError("a comparison is of two single images")
    template = load_templates().by_key(first.template)
    known = [key for key in template.findings if key in first.truth.findings and key in second.truth.findings]
    if not known:
        raise ValueError("no finding is known of both images")
    return complete(
        Sample(
            id=id_,
            study=f"{first.study}|{second.study}",
            group=first.group,
            data_set=first.data_set,
            split=first.split,
            images=(*first.images, *second.images),
            modality=first.modality,
            template=first.template,
            task=Task.VQA,
            language=language,
            question=QUESTION[language],
            answer=_answer(first, second, known, template, language),
            tags={"kind": COMPARISON_KIND},
        )
    )


def _answer(first: Sample, second: Sample, known: list[str], template: SRTemplate, language: Language) -> str:
    of_first, of_second = (
        [
            template.sentence(key, sample.truth.findings[key], sample.truth.sides.get(key, "none"), language)
            for key in known
        ]
        for sample in (first, second)
    )
    one, other, comma, nothing = _ONE[language]
    pairs = list(zip(of_first, of_second, strict=True))
    alike = _joined([a for a, b in pairs if a == b], language) or nothing
    differing = [(a, b) for a, b in pairs if a != b]
    if not differing:
        return _ANSWER[language].format(alike=alike, apart=nothing)
    sides = (_joined([pair[index] for pair in differing], language) for index in (0, 1))
    apart = comma.join(text.format(said=said) for text, said in zip((one, other), sides, strict=True))
    return _ANSWER[language].format(alike=alike, apart=apart)


def _joined(sentences: list[str], language: Language) -> str:
    """Sentences behind one another, without the last one's full stop: the answer goes on."""
    return (" " if language is Language.ENGLISH else "").join(sentences).rstrip(".。")


def comparisons(samples: Sequence[Sample], count: int, seed: int) -> Iterator[Sample]:
    """`count` comparisons of pictures that are drawn by the seed, in both languages in turn.

    Only pictures of one data set, template, modality and split are compared, so no held-out patient is learned from.
    Raises ValueError when there are no two pictures to compare.
    """
    pictures = list({sample.images: sample for sample in samples if _is_comparable(sample)}.values())
    kinds: dict[tuple[str, ...], list[Sample]] = {}
    for sample in pictures:
        kinds.setdefault((sample.data_set, sample.split, sample.template, sample.modality), []).append(sample)
    groups = [group for group in kinds.values() if len(group) > 1]
    if not groups:
        raise ValueError("no two pictures with known findings of one kind and split")
    rng = np.random.default_rng(seed)
    shares = np.array([len(group) for group in groups]) / sum(map(len, groups))
    for number in range(count):
        group = groups[int(rng.choice(len(groups), p=shares))]
        first, second = rng.choice(len(group), 2, replace=False)
        language = tuple(Language)[number % len(Language)]
        yield compare(group[first], group[second], language, f"comparison-{number}")


def _is_comparable(sample: Sample) -> bool:
    known = load_templates().by_key(sample.template).findings
    return len(sample.images) == 1 and bool(known.keys() & sample.truth.findings.keys())
