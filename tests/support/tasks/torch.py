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
