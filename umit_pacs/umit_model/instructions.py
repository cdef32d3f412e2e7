"""UMIT's instruction templates, and a task order written as one of them.

Templates and their punctuation are verbatim from the figures that UMIT publishes (arXiv 2503.15892, repository
dz-osamu/UMIT), including the blank after `<|object_ref_start|>`, the two blanks in the volume report, the half-width
comma after 图像 and the full-width colons of Chinese options. UMIT publishes Chinese templates for VQA alone; the other
Chinese ones, and the English report of a single image that is no chest radiograph, are ours in the same manner. Each
constant says which it is.

Training and serving both build their instructions here, so what is trained is what is served.
"""

from __future__ import annotations

import dataclasses

from umit_pacs.handoffs import Language, Task, TaskOrder
from umit_pacs.vocabulary import SRTemplate

ENGLISH, CHINESE = Language.ENGLISH, Language.CHINESE

#: published
VQA_CLOSED = {
    ENGLISH: "Given this image, choose one option from: {options} to answer the question: {question}",
    CHINESE: "根据给定的图像, 请从：{options} 中选择一个选项回答问题：{question}",
}
#: published
VQA_OPEN = {
    ENGLISH: "Given this image, please answer the question: {question}",
    CHINESE: "根据给定的图像, 请简洁回答问题：{question}",
}
#: English published; Chinese ours
CLASSIFICATION = {
    ENGLISH: "Given this image, choose one option from the {options}, to answer the question: {question}",
    CHINESE: "根据给定的图像, 请从：{options} 中选择一个类别回答问题：{question}",
}
#: English published; Chinese ours
REPORT_CHEST_RADIOGRAPH = {
    ENGLISH: "Please review the chest X-ray image and generate a report that assesses any abnormalities.",
    CHINESE: "请阅读这张胸部X线图像, 并生成一份评估异常情况的报告。",
}
#: English published; Chinese ours
REPORT_VOLUME = {
    ENGLISH: "Given a series of medical images,  generate a report that assesses any abnormalities.",
    CHINESE: "根据给定的一组医学图像, 请生成一份评估异常情况的报告。",
}
#: ours in both languages
REPORT_IMAGE = {
    ENGLISH: "Please review the medical image and generate a report that assesses any abnormalities.",
    CHINESE: "请阅读这张医学图像, 并生成一份评估异常情况的报告。",
}
#: English published; Chinese ours
DETECTION = {
    ENGLISH: "Find <|object_ref_start|> {target}<|object_ref_end|> in this image",
    CHINESE: "请在图像中找出<|object_ref_start|> {target}<|object_ref_end|>",
}
#: English published; Chinese ours
DETECTION_3D = {
    ENGLISH: "Given this image, find the {target}, please respond with a bounding box",
    CHINESE: "根据给定的图像, 请找出{target}, 请用边界框回答",
}
#: English published; Chinese ours
LANDMARK = {
    ENGLISH: "Given this image, find the {target}, the response is given in the format of the coordinates [x,y]",
    CHINESE: "根据给定的图像, 请找出{target}, 请按坐标[x,y]的格式回答",
}

#: Number of the first option: UMIT counts from 0 in classification and from 1 in VQA.
FIRST_OPTION = {Task.CLASSIFICATION: 0, Task.VQA: 1}

_PROJECTION_MODALITIES = frozenset({"CR", "DX"})
_VOLUME_MODALITIES = frozenset({"CT", "MR", "PT"})


def complete_order(order: TaskOrder, template: SRTemplate) -> TaskOrder:
    """The order with the template's own question and classes where a classification names none.

    Raises ValueError when a classification has neither options nor a template that brings classes.
    """
    if order.task is not Task.CLASSIFICATION or (order.question and order.options):
        return order
    if template.classification is None:
        raise ValueError(f"classification without options, and template {template.key} has no classes")
    return dataclasses.replace(
        order,
        question=order.question or template.classification.question[order.language],
        options=order.options or tuple(template.classification.classes),
    )


def option_texts(order: TaskOrder, template: SRTemplate) -> tuple[str, ...]:
    """The options as the model reads them: a class key of the template becomes the class's name, others stay."""
    classes = template.classification.classes if order.task is Task.CLASSIFICATION and template.classification else {}
    return tuple(classes[o].names[order.language] if o in classes else o for o in order.options)


def numbered_option(index: int, text: str, task: Task, language: Language) -> str:
    """One option as instruction and answer write it: `1:yes`, `2：心脏`; counted as `task` counts."""
    colon = "：" if language is CHINESE else ":"
    return f"{index + FIRST_OPTION[task]}{colon}{text}"


def instruction(order: TaskOrder, template: SRTemplate, *, modality: str) -> str:
    """The instruction that asks `order`, without images and chat marks.

    modality: the series' Modality; it chooses among the report templates.
    Raises ValueError when a closed question cannot be asked (see complete_order).
    """
    order = complete_order(order, template)
    language = order.language
    target = _without_marks(template.finding_name(order.target, language))
    match order.task:
        case Task.REPORT:
            return _report_templates(template, modality)[language]
        case Task.DETECTION:
            return DETECTION[language].format(target=target)
        case Task.DETECTION_3D:
            return DETECTION_3D[language].format(target=target)
        case Task.LANDMARK:
            return LANDMARK[language].format(target=target)
        case Task.VQA if not order.options:
            return VQA_OPEN[language].format(question=_without_marks(order.question))
        case Task.VQA:
            text = VQA_CLOSED[language]
        case Task.CLASSIFICATION:
            text = CLASSIFICATION[language]
    options = [
        numbered_option(index, _without_marks(option), order.task, language)
        for index, option in enumerate(option_texts(order, template))
    ]
    # The published Chinese template has a blank after the line break, the English one has none.
    separator = "\n " if language is CHINESE else "\n"
    return text.format(options=separator.join(options), question=_without_marks(order.question))


def _without_marks(text: str) -> str:
    # A question is text; `<|image_pad|>` in it would otherwise become an image without pixels.
    return text.replace("<|", "< |")


def _report_templates(template: SRTemplate, modality: str) -> dict[Language, str]:
    if modality in _VOLUME_MODALITIES:
        return REPORT_VOLUME
    is_chest = template.key == "chest_radiograph" or "CHEST" in template.body_parts
    return REPORT_CHEST_RADIOGRAPH if is_chest and modality in _PROJECTION_MODALITIES else REPORT_IMAGE
