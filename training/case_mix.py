"""How findings come together in chest radiographs of a hospital, for studies that are to look like a day's work.

Training draws findings apart from one another and often ("balanced"): what is rare must be learned too. "natural" draws
them as the label table of NIH ChestX-ray14 (Data_Entry_2017_v2020.csv) has them: its 67,310 PA radiographs of 28,868
patients, counted by which of the simulator's five findings they are labelled with. Consolidation is Consolidation or
Pneumonia there, nodule is Nodule or Mass. The labels were mined from reports; their other nine are passed over.

The table may be used without restriction, with its source: X. Wang et al., ChestX-ray8: Hospital-scale Chest X-ray
Database and Benchmarks on Weakly-Supervised Classification and Localization of Common Thorax Diseases, CVPR 2017,
pp. 3462-3471; data provider: NIH Clinical Center, https://nihcc.app.box.com/v/ChestXray-NIHCC. It names no sides.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

CaseMix = Literal["balanced", "natural"]

#: in the order of the columns below
FINDINGS = ("pleural_effusion", "consolidation", "pneumothorax", "cardiomegaly", "nodule")
#: findings by the first letters of their names, E C P H (heart) N -> radiographs labelled with exactly these
_COUNTS = {
    "": 50300,
    "N": 5217,
    "E": 4055,
    "P": 2276,
    "C": 1124,
    "H": 950,
    "EN": 870,
    "EP": 520,
    "EH": 433,
    "PN": 376,
    "EC": 345,
    "CN": 309,
    "ECN": 145,
    "EPN": 91,
    "CP": 64,
    "EHN": 48,
    "HN": 43,
    "CH": 35,
    "ECP": 25,
    "ECH": 22,
    "CPN": 17,
    "ECPN": 13,
    "EPH": 11,
    "PH": 9,
    "ECHN": 6,
    "EPHN": 3,
    "CHN": 1,
    "ECPH": 1,
    "ECPHN": 1,
}
NATURAL: dict[frozenset[str], int] = {
    frozenset(name for name, letter in zip(FINDINGS, "ECPHN", strict=True) if letter in letters): count
    for letters, count in _COUNTS.items()
}


def draw_together(rng: np.random.Generator) -> frozenset[str]:
    """Keys of the findings of one radiograph, as often as they come together."""
    counts = np.array([*NATURAL.values()], np.float64)
    return [*NATURAL][rng.choice(len(counts), p=counts / counts.sum())]
