"""What whole volumes are asked for inside the language model."""

import torch

from training.alignment import SLICES_PER_UNIT, StudyProbe, TokenGrid
from training.truth import Examiner, Truth
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.coordinate_frames import CoordinateFrame
from umit_pacs.vocabulary import load_templates

EDGE_PX, SLICES = 112, 32
GRID = TokenGrid(tokens_xy=(4, 4), extent=(EDGE_PX, EDGE_PX))
#: its middle is in the second token of the third row, it ends behind slice 14
BOX = ((30.0, 60.0, 9.0), (44.0, 80.0, 15.0))


def probe(width=64):
    template = load_templates().by_key("chest_ct")
    frame = CoordinateFrame.parse(f"voxel:{SLICES}x{EDGE_PX}x{EDGE_PX}")
    examiner = Examiner(template=template, located=tuple(template.findings), detection=Task.DETECTION_3D, frame=frame)
    return StudyProbe(examiner, GRID, SLICES, width)


def truth(*boxes):
    return Truth(
        template="chest_ct",
        modality="CT",
        extent=(EDGE_PX, EDGE_PX, SLICES),
        boxes={"nodule": boxes} if boxes else {},
        sides={"nodule": "right"} if boxes else {},
    )


def test_a_box_is_told_by_the_token_at_its_middle_in_the_first_slice_behind_it():
    asked = probe()
    targets = asked.targets([truth(BOX), truth()])
    (place,) = zip(*targets.ended.nonzero(), strict=True)
    finding = asked.findings.index("nodule")
    token = 15 * 16 + 2 * 4 + 1
    assert place == (0, token, finding)
    middle = torch.tensor([42.0, 70.0, 15.0])
    unit = torch.tensor([28.0, 28.0, SLICES_PER_UNIT])
    corners = torch.from_numpy(targets.corners[0, token, finding]).view(2, 3) * unit + middle
    assert torch.allclose(corners, torch.tensor(BOX))
    # [(30,60,9),(43,79,14)]: both ends are inside
    digits = [[3, 0, 10], [6, 0, 10], [9, 10, -1], [4, 3, 10], [7, 9, 10], [1, 4, 10]]
    assert targets.box_digits[0, token].tolist() == digits
    assert targets.presence[:, finding].tolist() == [[0, 1], [0, 0]]


def test_a_box_in_the_last_slice_is_told_there():
    targets = probe().targets([truth(((0.0, 0.0, 30.0), (10.0, 10.0, 32.0)))])
    assert targets.ended[0].nonzero()[0].tolist() == [31 * 16]


def test_a_probe_can_learn_everything_that_it_is_asked():
    torch.manual_seed(0)
    asked = probe(width=600)
    seen = torch.randn(1, SLICES * 16, 600)
    targets = asked.targets([truth(BOX)])
    optimiser = torch.optim.Adam(asked.parameters(), lr=3e-3)
    losses = []
    for _ in range(300):
        losses.append(asked.loss(seen, targets))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1].item() < 0.1 < losses[0].item()
