"""Non-maximum suppression with the same contract as the compiled operator, slower."""

from __future__ import annotations

import torch
from torch import Tensor


def box_area(boxes: Tensor) -> Tensor:
    """Return the areas of boxes given as (x1, y1, x2, y2) rows."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Return the matrix of intersection over union between two sets of (x1, y1, x2, y2) rows."""
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[None, :, :2])
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])
    sides = (bottom_right - top_left).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    return shared / (box_area(boxes1)[:, None] + box_area(boxes2)[None, :] - shared)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Return the indices of the boxes to keep, best score first.

    A box is dropped when it overlaps a better one that was kept by more than `iou_threshold`.
    """
    waiting = scores.argsort(descending=True, stable=True)
    kept = []
    while waiting.numel():
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        overlap = box_iou(boxes[best][None], boxes[waiting])[0]
        waiting = waiting[~(overlap > iou_threshold)]
    return torch.stack(kept) if kept else scores.new_empty(0, dtype=torch.long)
