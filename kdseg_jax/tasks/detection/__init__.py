"""Boxes in images: assignment of ground truth to anchors and points, heads' losses, suppression."""
