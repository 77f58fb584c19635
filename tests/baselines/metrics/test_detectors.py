import pytest
import torch

from baselines.metrics.detectors import CocoDetector, Detection, DetectorError, open_detector
from tests.baselines.metrics.pictures import blurred, pictures

CPU = torch.device("cpu")


@pytest.mark.parametrize("spoil", [lambda images: images, blurred])
def test_scenes_are_found_exactly_also_when_blurred(spoil):
    scenes, images, _ = pictures(60, 64)
    detector = open_detector("scenes", device=CPU)
    for index, found in enumerate(detector(spoil(images))):
        wanted = {(o.shape, o.colour): o.box for o in scenes.scene(index).objects}
        assert {(d.label, d.colour) for d in found} == wanted.keys()
        for detection in found:
            box = wanted[detection.label, detection.colour]
            assert detection.box == pytest.approx(box, abs=2.5 / 64)


def test_torchvisions_boxes_become_shares_and_labels_names():
    class Network(torch.nn.Module):
        def forward(self, images):
            assert all(float(i.min()) >= 0 and float(i.max()) <= 1 for i in images)
            return [
                {
                    "boxes": torch.tensor([[8.0, 2.0, 16.0, 4.0], [0.0, 0.0, 32.0, 8.0]]),
                    "labels": torch.tensor([2, 1]),
                    "scores": torch.tensor([0.25, 0.75]),
                }
                for _ in images
            ]

    detector = CocoDetector(Network(), ["__background__", "person", "bench", "N/A"], "x")
    assert detector.labels == ("person", "bench")
    found = detector(torch.zeros(2, 3, 8, 32))
    assert len(found) == 2
    assert found[0] == [
        Detection("person", 0.75, (0.0, 0.0, 1.0, 1.0)),
        Detection("bench", 0.25, (0.25, 0.25, 0.5, 0.5)),
    ]


def test_masks_come_with_their_boxes():
    class Network(torch.nn.Module):
        def forward(self, images):
            masks = torch.zeros(2, 1, 4, 4)
            masks[0, 0, 1], masks[1, 0, 2] = 0.5, 0.49
            boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).expand(2, 4)
            return [
                {
                    "boxes": boxes, "labels": torch.tensor([1, 1]), "masks": masks,
                    "scores": torch.tensor([0.3, 0.6]),
                }
            ]  # fmt: skip

    (found,) = CocoDetector(Network(), ["__background__", "person"], "x")(torch.zeros(1, 3, 4, 4))
    assert [d.score for d in found] == pytest.approx([0.6, 0.3])
    assert [int(d.mask.sum()) for d in found] == [0, 4] and found[1].mask[1].all()


def test_a_file_of_weights_is_read_and_a_wrong_one_is_named(tmp_path):
    from torchvision.models import get_model

    name = "fasterrcnn_mobilenet_v3_large_fpn"
    torch.manual_seed(0)
    network = get_model(name, weights=None, weights_backbone=None)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    detector = open_detector(name, file=tmp_path / "weights.pth", device=CPU)
    assert len(detector.labels) == 80 and detector.settings["detector"] == name
    assert isinstance(detector(torch.rand(1, 3, 48, 48) * 2 - 1)[0], list)
    with pytest.raises(DetectorError, match=r"weights.pth: not the weights of .*fcos"):
        open_detector("fcos_resnet50_fpn", file=tmp_path / "weights.pth", device=CPU)
    with pytest.raises(DetectorError, match=r"none.pth: no such file"):
        open_detector(name, file=tmp_path / "none.pth", device=CPU)
    with pytest.raises(DetectorError, match="nearest is 'fcos_resnet50_fpn'"):
        open_detector("fcos", device=CPU)
