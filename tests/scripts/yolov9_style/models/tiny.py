"""A network that fits one number to a picture: as small as one can be and still learn."""

from __future__ import annotations

import torch
from torch import nn


class Tiny(nn.Module):
    """Two convolutions with batch norm, and the mean of what they see."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.seen = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1)
        )

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Return one number for each picture."""
        return self.seen(pictures).mean(dim=(1, 2, 3))
