"""The data sets that UMIT was trained on, by key. A new one is a module with a `DataSet` and a line here."""

from __future__ import annotations

from training.data_sets import (
    chimed_vl,
    isbi_cephalometry,
    iu_xray,
    m3d_cap,
    m3d_seg,
    m3d_vqa,
    medmnist,
    own_files,
    path_vqa,
    peir_gross,
    pmc_oa,
    rsna_pneumonia,
    slake,
    vqa_rad,
)
from training.data_sets.reading import DataSet

#: stage one first, then by task
DATA_SETS: dict[str, DataSet] = {
    data_set.key: data_set
    for data_set in (
        pmc_oa.DATA_SET,
        chimed_vl.ALIGNMENT_SET,
        chimed_vl.INSTRUCTION_SET,
        vqa_rad.DATA_SET,
        slake.DATA_SET,
        path_vqa.DATA_SET,
        m3d_vqa.DATA_SET,
        m3d_cap.DATA_SET,
        iu_xray.DATA_SET,
        peir_gross.DATA_SET,
        medmnist.DATA_SET,
        rsna_pneumonia.DATA_SET,
        m3d_seg.DATA_SET,
        isbi_cephalometry.DATA_SET,
    )
}
#: files in a general form instead of a published layout
FORMS: dict[str, DataSet] = {form.key: form for form in (own_files.OWN, own_files.SWIFT)}
