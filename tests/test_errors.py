"""What a user can mend is one class, and each kind is the built-in error that Python programs expect."""

from __future__ import annotations

import pytest
import torch

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


class Broken(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        try:
            raise OSError("cut off")
        except OSError as error:
            raise errors.InputError(f"Row {index}: it is cut off. Mend it.") from error


def test_in_a_worker_the_message_is_the_same_without_a_traceback():
    loader = torch.utils.data.DataLoader(Broken(), num_workers=1)
    with pytest.raises(errors.InputError) as raised:
        next(iter(loader))
    assert str(raised.value) == "Row 0: it is cut off. Mend it."
