"""Fixtures of the measures' tests."""

from tests.numerics.conftest import double_precision  # noqa: F401
