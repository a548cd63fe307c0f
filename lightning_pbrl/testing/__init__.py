"""Checks of methods, teachers, query strategies and data modules, like Gymnasium's ``check_env`` of environments.

For instance::

    from lightning_pbrl.testing import check_method

    def test_my_method():
        check_method(MyMethod)

The library's own classes pass the same checks in its own tests.
"""

from lightning_pbrl.testing.method import MethodCheck, check_method
from lightning_pbrl.testing.parts import check_datamodule, check_query, check_teacher

__all__ = ["MethodCheck", "check_datamodule", "check_method", "check_query", "check_teacher"]
