"""The tiny checkpoint and its evaluation, made once per test process."""

from __future__ import annotations

import pytest

from tests.model_fixtures import tiny_engine, tiny_folder, tiny_settings  # noqa: F401
from tests.unit.evaluation.tiny_data import write_tiny_data
from umit_pacs.evaluation.evaluate import EvaluationRequest, evaluate, read_data
from umit_pacs.vocabulary import load_templates


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def evaluated(tiny_engine, tiny_folder, data):  # noqa: F811
    request = EvaluationRequest(replicates=20)
    return evaluate(tiny_engine, read_data(data), load_templates(), tiny_settings(tiny_folder), request)
