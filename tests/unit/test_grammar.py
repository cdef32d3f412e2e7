"""An answer that keeps to its grammar can be read, whatever the tokenizer, and its scores stay the model's own."""

from __future__ import annotations

import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import Qwen2Tokenizer

from tests.model_fixtures import radiograph, tiny_engine, tiny_folder  # noqa: F401
from umit_pacs.handoffs import Language, SeriesUID, Task, TaskOrder
from umit_pacs.umit_model.answers import (
    NOTHING,
    ReadBoxes,
    ReadPoint,
    boxes_answer,
    point_answer,
    read_boxes,
    read_point,
)
from umit_pacs.umit_model.generation import GeneratedAnswer, SharedHead, encode_images, generate, split_prompt
from umit_pacs.umit_model.grammar import OptionGrammar, PlaceForm, PlaceGrammar
from umit_pacs.umit_model.instructions import instruction
from umit_pacs.umit_model.processor import END_OF_ANSWER, PADDING, SPECIAL_TOKENS
from umit_pacs.umit_model.token_scores import number_scores
from umit_pacs.umit_model.token_texts import TokenTexts
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
THOUSAND, VOXELS = (1000, 1000), (111, 95, 31)


@cache
def merging_tokenizer(vocabulary_size: int) -> Qwen2Tokenizer:
    """A byte-level BPE that merges digits, brackets and commas across all borders; 270: hardly anything is merged."""
    rng = np.random.default_rng(0)
    corpus = [NOTHING[language] for language in Language] * 40
    for low in rng.integers(0, 90, (400, 3)).tolist():
        high = [value + 5 for value in low]
        corpus += [boxes_answer([(low[:2], high[:2])] * 2, Language.ENGLISH)]
        corpus += [boxes_answer([(low, high)] * 2, Language.CHINESE), point_answer(tuple(low[:2]), Language.ENGLISH)]
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(
        [text.replace("<|box_start|>", "").replace("<|box_end|>", "") for text in corpus], trainer
    )
    bpe = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=bpe["vocab"],
        merges=[tuple(merge) for merge in bpe["merges"]],
        unk_token=None,
        eos_token=END_OF_ANSWER,
        pad_token=PADDING,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (END_OF_ANSWER, PADDING)],
    )


def form(kind: str, language: Language = Language.ENGLISH, *, maximum: int = 3) -> PlaceForm:
    if kind == "point":
        one = two = point_answer((1, 2), language)
        return PlaceForm(one=one, two=two, nothing=NOTHING[language], largest=THOUSAND, includes_last=False, maximum=1)
    largest = THOUSAND if kind == "box" else VOXELS
    one, two = (boxes_answer([(largest, largest)] * count, language) for count in (1, 2))
    return PlaceForm(
        one=one,
        two=two,
        nothing=NOTHING[language],
        largest=largest,
        includes_last=kind == "volume box",
        maximum=maximum,
    )


@cache
def grammar_of(kind: str, vocabulary_size: int, language: Language) -> tuple[PlaceGrammar, Qwen2Tokenizer, int]:
    tokenizer = merging_tokenizer(vocabulary_size)
    end = tokenizer.convert_tokens_to_ids(END_OF_ANSWER)
    return PlaceGrammar(form(kind, language), TokenTexts(tokenizer), [end]), tokenizer, end


KINDS = st.sampled_from(["box", "volume box", "point"])
SIZES = st.sampled_from([270, 900])


def read(kind: str, text: str):
    if kind == "point":
        return read_point(text, THOUSAND)
    return read_boxes(text, THOUSAND if kind == "box" else VOXELS, includes_last=kind == "volume box")


@given(KINDS, SIZES, st.sampled_from(list(Language)), st.lists(st.integers(0, 10**6), min_size=80, max_size=80))
def test_whatever_the_grammar_lets_pass_is_read_without_repair(kind, size, language, draws):
    grammar, tokenizer, end = grammar_of(kind, size, language)
    state, said = grammar.start, []
    for draw in draws:
        allowed = grammar.allowed(state)
        token = allowed[draw % len(allowed)]
        state = grammar.after(state, token)
        assert state is not None
        if token == end:
            break
        said.append(token)
    else:
        assert end in grammar.allowed(state) or not state.is_ended
        return
    found = read(kind, tokenizer.decode(said))
    assert isinstance(found, ReadPoint | ReadBoxes)
    assert found.repairs == ()
    if isinstance(found, ReadBoxes):
        assert len(found.boxes) <= 3


@settings(max_examples=30)
@given(KINDS, SIZES, st.lists(st.integers(0, 10**6), max_size=25))
def test_the_mask_holds_exactly_the_tokens_that_may_follow(kind, size, draws):
    grammar, tokenizer, end = grammar_of(kind, size, Language.CHINESE)
    state = grammar.start
    for draw in draws:
        allowed = grammar.allowed(state)
        token = allowed[draw % len(allowed)]
        if token == end:
            break
        state = grammar.after(state, token)
    assert set(grammar.allowed(state)) == {
        token for token in range(len(tokenizer)) if grammar.after(state, token) is not None
    }


BOXES = st.lists(
    st.tuples(st.integers(0, 999), st.integers(0, 999), st.integers(1, 1000), st.integers(1, 1000)).map(
        lambda v: ((v[0], v[1]), (max(v[2], v[0] + 1), max(v[3], v[1] + 1)))
    ),
    max_size=3,
)


@given(BOXES, SIZES, st.sampled_from(list(Language)))
def test_every_answer_as_it_is_written_for_training_is_allowed(boxes, size, language):
    grammar, tokenizer, end = grammar_of("box", size, language)
    state = grammar.start
    for token in [*tokenizer.encode(boxes_answer(boxes, language), add_special_tokens=False), end]:
        state = grammar.after(state, token)
        assert state is not None


@pytest.mark.parametrize(
    ("said", "digits"),
    [
        ("[(", "0123456789"),
        ("[(11", "01,"),
        ("[(1", "0123456789,"),
        ("[(0", ","),
        ("[(12", ","),
        ("[(111", ","),
        ("[(30,7,2),(", "13456789"),
        ("[(30,7,2),(3", "0123456789"),
        ("[(30,7,2),(2", ""),
        ("[(30,7,2),(10", "0123456789"),
        ("[(30,7,2),(40,7,", "123456789"),
        ("[(30,7,2),(40,7,3", "01)"),
        ("[(30,7,2),(40,7,1", "0123456789"),
    ],
)
def test_numbers_keep_to_the_frame_and_the_second_corner_behind_the_first(said, digits):
    texts = TokenTexts(merging_tokenizer(270))
    grammar = PlaceGrammar(form("volume box"), texts, [texts_end()])
    state = grammar.start
    for symbol in texts.of_text(said):
        state = grammar._step(state, symbol) if state is not None else None
    following = "" if state is None else "".join(s for s in "0123456789,)" if grammar._step(state, s) is not None)
    assert set(following) == set(digits)


def texts_end() -> int:
    return int(merging_tokenizer(270).convert_tokens_to_ids(END_OF_ANSWER))


def test_a_mark_counts_only_as_its_own_token():
    tokenizer = merging_tokenizer(270)
    grammar, _, _ = grammar_of("box", 270, Language.ENGLISH)
    assert grammar.after(grammar.start, tokenizer.convert_tokens_to_ids("<|box_start|>")) is not None
    assert grammar.after(grammar.start, tokenizer.convert_tokens_to_ids("<")) is None
    assert TokenTexts(tokenizer).of_text("<|box_end|>无") == ("<|box_end|>", *"æĹł")


def test_options_part_where_their_tokens_do_and_close_by_themselves():
    grammar = OptionGrammar([(1, 5, 9), (1, 5, 0, 9), (2, 5, 9)])
    assert set(grammar.allowed(grammar.start)) == {1, 2}
    assert grammar.after(grammar.start, 5) is None
    assert grammar.rest(grammar.start) is None
    assert grammar.rest(grammar.after(grammar.start, 2)) == (5, 9)
    shared = grammar.after(grammar.after(grammar.start, 1), 5)
    assert set(grammar.allowed(shared)) == {9, 0}
    assert grammar.rest(grammar.after(shared, 0)) == (9,)


def test_the_most_places_close_the_answer():
    grammar, tokenizer, end = grammar_of("box", 270, Language.ENGLISH)
    one = tokenizer.encode(boxes_answer([((1, 2), (3, 4))], Language.ENGLISH), add_special_tokens=False)
    state = grammar.start
    for count in range(3):
        assert grammar.rest(state) is None
        for token in one:
            state = grammar.after(state, token)
        assert end in grammar.allowed(state), count
    assert grammar.rest(state) == (end,)


# --- with a model --------------------------------------------------------------------------------------------------


def asked(engine, task: Task, **fields):
    """Head and tail of an order about the radiograph."""
    processor, network = engine._loaded.processor, engine._loaded.network
    order = TaskOrder(
        task=task,
        language=Language.ENGLISH,
        series_instance_uid=SeriesUID("1.2"),
        template="chest_radiograph",
        **fields,
    )
    text = instruction(order, TEMPLATES.by_key("chest_radiograph"), modality="DX")
    features = encode_images(network, processor, [radiograph().images[0].pixels])
    head, tail = split_prompt(processor, processor.prompt(text, features.grid_thw.tolist()))
    return SharedHead(input_ids=torch.tensor([head]), features=features), tail


@pytest.mark.parametrize("kind", ["box", "volume box", "point"])
def test_a_model_that_wants_to_say_something_else_is_kept_to_the_form(tiny_engine, kind):  # noqa: F811
    processor, network = tiny_engine._loaded.processor, tiny_engine._loaded.network
    head, tail = asked(tiny_engine, Task.REPORT)
    grammar = PlaceGrammar(form(kind), TokenTexts(processor.tokenizer), tiny_engine._stop_ids)
    watched = list(range(len(processor.tokenizer)))
    options = {"stop_ids": tiny_engine._stop_ids, "maximum_new_tokens": 90, "watched_ids": watched}
    free, kept = generate(network, head, [tail, tail], grammars=[None, grammar], **options)
    assert kept.is_complete
    assert kept.overruled > 0
    assert isinstance(read(kind, processor.tokenizer.decode(kept.token_ids)), ReadPoint | ReadBoxes)
    # The scores are the model's own, over the whole vocabulary, and those of a free answer where nothing was overruled.
    np.testing.assert_allclose(kept.watched[0], free.watched[0], atol=1e-5)
    np.testing.assert_allclose(np.exp(kept.watched.astype(np.float64)).sum(axis=1), 1.0, atol=1e-2)
    first = kept.watched[0][[watched.index(token) for token in grammar.allowed(grammar.start)]]
    assert kept.first_share == pytest.approx(float(np.exp(first).sum()), rel=1e-3)
    assert kept.log_probabilities[0] == pytest.approx(kept.watched[0][kept.token_ids[0]])


def test_a_grammar_that_the_model_agrees_with_changes_nothing(tiny_engine):  # noqa: F811
    processor, network = tiny_engine._loaded.processor, tiny_engine._loaded.network
    head, tail = asked(tiny_engine, Task.DETECTION, target="nodule")
    grammar = PlaceGrammar(form("box"), TokenTexts(processor.tokenizer), tiny_engine._stop_ids)
    options = {"stop_ids": tiny_engine._stop_ids, "maximum_new_tokens": 64}
    free, kept = generate(network, head, [tail, tail], grammars=[None, grammar], **options)
    assert kept.token_ids == free.token_ids
    assert kept.overruled == 0
    np.testing.assert_allclose(kept.log_probabilities, free.log_probabilities, atol=1e-5)


def test_an_answer_that_was_hardly_on_the_models_mind_is_none(tiny_engine):  # noqa: F811
    order = TaskOrder(
        task=Task.VQA,
        language=Language.ENGLISH,
        series_instance_uid=SeriesUID("1.2"),
        template="chest_radiograph",
        question="Is there a mass?",
        options=("yes", "no"),
    )
    sure = tiny_engine.answer(radiograph(), [order], TEMPLATES)[0]
    assert sure.abstention is None
    network = tiny_engine._loaded.network
    one, two = (tiny_engine._loaded.processor.tokenizer.convert_tokens_to_ids(digit) for digit in "12")

    def without_options(module, args, output):
        output[..., [one, two]] -= 20.0

    handle = network.lm_head.register_forward_hook(without_options)
    try:
        unsure = tiny_engine.answer(radiograph(), [order], TEMPLATES)[0]
    finally:
        handle.remove()
    assert unsure.abstention is not None
    assert unsure.abstention.reason == "unknown_option"
    assert unsure.option_index is None


def test_a_numbers_scores_are_those_of_every_token_that_holds_a_digit_of_it():
    tokenizer = merging_tokenizer(270)
    cut = [["[", "253", ",", "610", "]"], ["[25", "3,6", "10]"]]
    spelt = {token: "".join(TokenTexts(tokenizer).of_token(token)) for token in range(len(tokenizer))}
    for pieces, groups in zip(cut, ([[1], [3]], [[0, 1], [1, 2]]), strict=True):
        new = [piece for piece in pieces if piece not in spelt.values()]
        wide = Qwen2Tokenizer(vocab=tokenizer.get_vocab() | {p: 900 + i for i, p in enumerate(new)}, merges=[])
        ids = tuple(wide.convert_tokens_to_ids(piece) for piece in pieces)
        scores = np.arange(len(pieces), dtype=np.float32)
        answer = GeneratedAnswer(token_ids=ids, log_probabilities=scores, watched=scores[:, None], is_complete=True)
        found = number_scores(answer, SimpleNamespace(tokenizer=wide), "[253,610]")
        assert [group.tolist() for group in found] == groups
