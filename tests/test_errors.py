"""What a user can mend is one class, and each kind is the built-in error that Python programs expect."""

from __future__ import annotations

import pytest

from hf_immunize import NonFiniteLossError, errors


@pytest.mark.parametrize(
    ("kind", "built_in"),
    [
        ("InputError", ValueError),
        ("InputTypeError", TypeError),
        ("MissingFileError", FileNotFoundError),
        ("OutputExistsError", FileExistsError),
        ("MissingPackageError", ModuleNotFoundError),
        ("HubConnectionError", ConnectionError),
    ],
)
def test_each_kind_is_a_mistake_of_the_user_and_a_built_in_error(kind, built_in):
    kind = getattr(errors, kind)
    assert issubclass(kind, errors.UserError)
    with pytest.raises(built_in, match="what to do"):
        raise kind("what to do")


def test_all_kinds_are_offered():
    kinds = {name for name, one in vars(errors).items() if isinstance(one, type)}
    assert kinds == set(errors.__all__)
    assert issubclass(NonFiniteLossError, errors.UserError)
