"""Findings of the literature on loss landscapes, as the callback shows them: docs/gallery/."""
