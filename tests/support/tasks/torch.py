"""Models of a few kinds of task, and their losses, as a user of PyTorch writes them."""

import torch
import torch.nn.functional as F
from torch import nn


def convolution(a, b):
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())


def rows(maps):
    return maps.flatten(2).transpose(1, 2)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.out = convolution(1, 8), convolution(8, 16), convolution(24, 8), nn.Conv2d(8, 3, 1)

    def forward(self, image):
        a = self.a(image)
        b = self.b(F.max_pool2d(a, 2))
        return self.out(self.c(torch.cat([a, F.interpolate(b, scale_factor=2.0)], 1)))


def unet():
    return UNet()


def regressor():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16), nn.ReLU(), nn.Linear(16, 2))


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 16))

    def forward(self, image):
        return F.normalize(self.body(image))


def embedder():
    return Embedder()


def triplet(outputs, labels):
    near = outputs @ outputs.T
    same = labels[:, None] == labels[None]
    worst = torch.where(same, near, 2.0).amin(1)
    best = torch.where(same, -2.0, near).amax(1)
    return (best - worst + 0.3).clamp_min(0).mean()


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.boxes, self.scores = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 2, 1)

    def forward(self, image):
        x = self.body(image)
        return {"boxes": rows(self.boxes(x)), "scores": rows(self.scores(x)).sigmoid()}


def detector():
    return Detector()


def detection_loss(outputs, labels):
    boxes, scores = outputs["boxes"], outputs["scores"]
    cell = ((labels[..., 1] // 8) * 2 + labels[..., 0] // 8).long().clamp_min(0)
    there = labels[..., 4] >= 0
    wanted = torch.zeros_like(scores)
    rows = torch.arange(len(labels))[:, None].expand_as(cell)
    wanted[rows[there], cell[there], labels[..., 4][there].long()] = 1
    off = F.l1_loss(boxes[rows[there], cell[there]] / 8, labels[..., :4][there] / 8)
    return F.binary_cross_entropy(scores.clamp(1e-5, 1 - 1e-5), wanted) + off


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.kind, self.size = nn.Linear(64, 16), nn.Linear(64, 16), nn.Linear(16, 10), nn.Linear(16, 1)

    def forward(self, left, right):
        h = torch.relu(self.a(left) + self.b(right))
        return {"kind": self.kind(h), "size": self.size(h)}


def two_heads():
    return TwoHeads()


def two_losses(outputs, labels):
    off = F.mse_loss(outputs["size"][:, 0], labels["size"])
    return F.cross_entropy(outputs["kind"], labels["kind"]) + off


def halves(n=160):
    """Batches of two digits: the class of the first, and how much ink both have; by name, as a collate_fn makes them."""
    from sklearn.datasets import load_digits
    from torch.utils.data import DataLoader

    found = load_digits()
    x, y = torch.from_numpy(found.data[: 2 * n] / 16).float(), torch.from_numpy(found.target[: 2 * n])
    rows = [(x[i], x[n + i], y[i], (x[i].sum() + x[n + i].sum()) / 40) for i in range(n)]

    def collate(part):
        left, right, kind, size = (torch.stack(column) for column in zip(*part, strict=True))
        return {"left": left, "right": right}, {"kind": kind, "size": size}

    cut = 2 * n // 3
    return DataLoader(rows[:cut], 16, shuffle=True, collate_fn=collate), DataLoader(rows[cut:], 16, collate_fn=collate)


class RawDetector(nn.Module):
    """Offsets and logits of cells at strides 8 and 16, as the zoo's detector returns them, in few layers."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 8, 8, stride=8), nn.Conv2d(8, 8, 2, stride=2)
        self.offsets = nn.ModuleList([nn.Conv2d(8, 4, 1) for _ in range(2)])
        self.logits = nn.ModuleList([nn.Conv2d(8, 10, 1) for _ in range(2)])

    def forward(self, image):
        fine = torch.relu(self.fine(image))
        maps = fine, torch.relu(self.coarse(fine))
        heads = {"box_offsets": self.offsets, "class_logits": self.logits}
        return {name: torch.cat([rows(head(x)) for head, x in zip(each, maps, strict=True)], 1) for name, each in heads.items()}


def raw_detector():
    return RawDetector()
