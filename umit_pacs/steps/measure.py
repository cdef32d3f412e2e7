"""measure: what the model boxed in volumes gets the numbers that the pixels bear out, before anything is worded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from umit_pacs.handoffs import Findings, InputSet, Region, SeriesUID, TaskResult
from umit_pacs.pixels.decoding_process import DecodingProcess
from umit_pacs.pixels.region_measurements import measured_regions
from umit_pacs.settings import ModelSettings
from umit_pacs.store.files import PayloadFiles
from umit_pacs.vocabulary import TemplateLibrary


def measure(
    input_set: InputSet,
    findings: Findings,
    files: PayloadFiles,
    templates: TemplateLibrary,
    settings: ModelSettings,
) -> Findings:
    """The findings with the measurements that the SR template lists for each region's finding.

    Each that cannot be taken is listed with its reason. The same findings and images always give the same numbers.
    """
    wanted = {
        region: keys
        for result in findings.results
        for region in result.regions
        if (keys := _listed(region, result, templates))
    }
    if not wanted:
        return findings
    paths: dict[SeriesUID, list[Path]] = {}
    for instance in input_set.instances:
        paths.setdefault(instance.series_instance_uid, []).append(files.path(instance.relative_path))
    with DecodingProcess(settings) as decoder:
        measured = measured_regions(wanted, paths, decoder)
    return replace(findings, results=tuple(_with(result, measured) for result in findings.results))


def _listed(region: Region, result: TaskResult, templates: TemplateLibrary) -> Sequence[str]:
    """Keys of the measurements that the template of the order lists for the region's finding."""
    for template in templates.templates:
        if template.key == result.order.template and region.label in template.findings:
            return template.findings[region.label].measurements
    return ()


def _with(result: TaskResult, measured: dict[Region, Region]) -> TaskResult:
    regions = tuple(measured.get(region, region) for region in result.regions)
    return result if regions == result.regions else replace(result, regions=regions)
