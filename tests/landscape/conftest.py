"""Fixtures of the landscape tests."""

from tests.numerics.conftest import double_precision  # noqa: F401
